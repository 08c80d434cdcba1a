"""What was observed of a call, set beside what was read from its source and what was predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from modpdb.probes.known_calls import Prediction
from modpdb.probes.linear_branch import Op
from modpdb.probes.observing import Run, Seen
from modpdb.probes.profiling import first_difference
from modpdb.probes.source_calls import Called


@dataclass(frozen=True, slots=True)
class Line:
    """A call of the source with what was observed of it.

    called is None for what was observed where the source names nothing. unclear: an equal call
    on the same line may have been the one that was observed.
    """

    called: Called | None
    seen: tuple[Seen, ...]
    inner: tuple[Line, ...] = ()
    unclear: bool = False


def matched(calls: Sequence[Called], seen: Sequence[Seen]) -> tuple[Line, ...]:
    """*calls* in order, each with what was observed on its lines.

    A module is known by its path, an operator by its name, a function by its frame; a call
    known at run time gets what other functions did on its line. The rest comes after the calls
    of the line on which it was observed, that of no line last.
    """
    left = list(seen)
    found: dict[int, list[Seen]] = {}
    exact = [place for place, each in enumerate(calls) if each.kind != "run time"]
    other = [place for place, each in enumerate(calls) if each.kind == "run time"]
    for place in (*exact, *other):
        found[place] = _taken(calls[place], left)
    lines: list[Line] = []
    names: set[tuple[int, str]] = set()
    for place, called in enumerate(calls):
        lines += _rest(left, called.line - 1)
        key = (called.line, called.text.partition("(")[0])
        unclear = key in names and not found[place]
        names.add(key)
        if called.inner:
            deeper = [_deeper(called, each) for each in found[place]]
            lines.append(Line(called, tuple(found[place]), matched(called.inner, deeper), unclear))
        else:
            lines.append(Line(called, tuple(found[place]), unclear=unclear))
    lines += _rest(left, None)
    return tuple(lines)


def _taken(called: Called, left: list[Seen]) -> list[Seen]:
    """Takes out of *left* what *called* did."""
    mine = [each for each in left if called.line <= each.line <= called.end]
    mine = [each for each in mine if _is_of(called, each)]
    once = called.kind in ("module", "builtin", "method", "operator")
    if once and not any(each.startswith(("for ", "while ")) for each in called.under):
        mine = mine[:1]
    _take_out(left, mine)
    return mine


def _take_out(left: list[Seen], taken: Sequence[Seen]) -> None:
    chosen = {id(each) for each in taken}
    left[:] = [each for each in left if id(each) not in chosen]


def _is_of(called: Called, seen: Seen) -> bool:
    match called.kind:
        case "module":
            return bool(seen.class_name) and seen.name == called.path
        case "function":
            if called.operator and f"aten::{seen.name}" == called.operator:
                return True
            return _frame(called, seen) is not None
        case "run time":
            return bool(seen.via or seen.class_name)
    return not seen.class_name and not seen.via and f"aten::{seen.name}" == called.operator


def _frame(called: Called, seen: Seen) -> int | None:
    """Which of the frames is that of the function *called*: decorators may stand before it."""
    source = called.source
    if source is None:
        return None
    name = source.name.rpartition(".")[2]
    for place, frame in enumerate(seen.via):
        if frame.name == name and frame.file == source.file:
            return place
    return None


def _deeper(called: Called, seen: Seen) -> Seen:
    """*seen* as it is from within the function *called*."""
    place = _frame(called, seen)
    if place is None:
        return seen
    return replace(seen, line=seen.via[place].line, via=seen.via[place + 1 :])


def _rest(left: list[Seen], until: int | None) -> Iterator[Line]:
    """Takes what was observed up to line *until*, None for all, as lines without a call."""
    ready = [each for each in left if until is None or 0 < each.line <= until]
    _take_out(left, ready)
    for line in sorted({each.line for each in ready}):
        yield Line(None, tuple(each for each in ready if each.line == line))


def disagreement(prediction: Prediction, run: Run) -> str:
    """Where prediction and run part, in words; "" where they agree.

    What hooks and decorators did is no part of it. Not to be asked of what is not known.
    """
    branch = prediction.branch
    if branch.certainty == "refused":
        return "" if run.error else "it ran, though predicted to be refused"
    if run.error:
        return f"it raised {run.error}"
    own = [each for each in run.seen if each.line] or run.seen
    ops = tuple(as_op(each) for each in own)
    if branch.ops and (where := first_difference(branch.ops, ops)):
        return where
    names = {each.name for each in _within(ops)}
    for name in prediction.among:
        if name not in names:
            return f"{name} was predicted and did not run"
    for name in prediction.never:
        if name in names:
            return f"{name} ran, and was predicted not to"
    return ""


def as_op(seen: Seen) -> Op:
    return Op(seen.name or seen.class_name, tuple(as_op(each) for each in seen.inner))


def _within(ops: Sequence[Op]) -> Iterator[Op]:
    for each in ops:
        yield each
        yield from _within(each.inner)
