"""What is said where NaN or Inf was made."""

from __future__ import annotations

from collections.abc import Sequence

from modpdb.probes.bad_values import Found
from modpdb.probes.gradients import Role
from modpdb.views.text import count, plural, shape

_SHOWN = 6


def in_words(
    path: str,
    put_out: Sequence[Found],
    given: Sequence[Found],
    weights: Sequence[Found],
    maker: str = "",
) -> str:
    """Lines: what the module at *path* put out, what it was given, its weights that are bad, and
    the module in it that has made it."""
    lines = [f"{path or 'the model'} puts out {_bad(put_out[0], 'its output')}"]
    lines += [f"    and {_bad(each, 'its output')}" for each in put_out[1:_SHOWN]]
    if maker:
        lines.append(f"    made inside, by {maker}")
    lines += [f"    its {each.name} holds {_bad(each)}" for each in weights[:_SHOWN]]
    lines += [f"    given {_given(each)}" for each in given[:_SHOWN]]
    if len(given) > _SHOWN:
        lines.append(f"    and {plural(len(given) - _SHOWN, 'tensor')} more")
    return "\n".join(lines)


def gradient_in_words(path: str, role: Role, found: Found) -> str:
    """A line: what the backward pass of the module at *path* gives."""
    bad = _bad(found, f"the gradient of {role.value}")
    if role is Role.PUT_OUT:
        return f"what comes after {path or 'the model'} gives {bad}"
    return f"the backward pass of {path or 'the model'} gives {bad}"


def _bad(found: Found, whole: str = "") -> str:
    """3 NaN and 1 Inf among the 320 values of its output, f32 [1, 5, 64], the first at [0, 2]."""
    stats = found.statistics
    place = f"{whole}[{found.name}]" if whole and found.name else whole
    of = f" of {place}" if place else ""
    if stats is None:
        return f"NaN or Inf among the values{of}, {_kind(found)}"
    kinds = [
        f"{count(number)} {kind}"
        for number, kind in ((stats.nan, "NaN"), (stats.inf, "Inf"))
        if number
    ]
    values = f"among {count(stats.elements)} values{of}"
    if stats.nan + stats.inf == stats.elements:
        values = f"and nothing else, {count(stats.elements)} values{of}"
    first = "" if found.first is None else f", the first at {shape(found.first)}"
    return f"{' and '.join(kinds)} {values}, {_kind(found)}{first}"


def _kind(found: Found) -> str:
    return f"{found.facts.dtype} {shape(found.facts.shape)}"


def _given(found: Found) -> str:
    head = f"{found.name}: {_kind(found)}"
    stats = found.statistics
    if stats is None:
        return head
    if found.is_bad:
        return f"{found.name}: {_bad(found)}"
    if stats.minimum is None or stats.maximum is None:
        return head
    return f"{head}, {stats.minimum:.4g} to {stats.maximum:.4g}"
