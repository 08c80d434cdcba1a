"""`params --untracked`: what is not registered, and the line that registers it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.remedies import Remedy, remedy
from modpdb.probes.tree import joined
from modpdb.probes.untracked import MOST, Findings, Untracked
from modpdb.views.folding import folded
from modpdb.views.grid import Grid
from modpdb.views.text import numbers, plural, printable, size

_KEYS = 4  # of a dict that are written out
_WHAT = {
    "parameter": "Parameter",
    "trained tensor": "Tensor",
    "computed tensor": "Tensor",
    "tensor": "Tensor",
    "module": "",
}


@dataclass(frozen=True, slots=True)
class _Row:
    """What one attribute holds of one kind: "[{0…2}]", "3 × Linear 20 parameters"."""

    inside: str
    number: int
    what: str
    nbytes: int | None
    remedy: Remedy


def untracked(data: Findings) -> RenderableType:
    """A heading, a row for what is alike, and what the signs in the lines mean."""
    modules = plural(data.modules, "module")
    parts: list[RenderableType] = []
    if not data.found:
        parts.append(Text(f"nothing untracked was found in {modules}"))
    else:
        parts.append(_heading(data.found))
        rows = folded((joined(each.module, each.attribute), row) for each, row in _rows(data.found))
        parts.append(Grid([_cells(*row) for row in rows], right=frozenset({2})))
        parts += [Text(words, "dim") for words in _legend([row.remedy for _, _, row in rows])]
    words = "searched: attributes, lists, tuples, dicts, sets, dataclasses; no other objects"
    parts.append(Text(words, "dim"))
    if data.cut:
        more = f" and {len(data.cut) - 1:,} more" if len(data.cut) > 1 else ""
        words = f"not all: {data.cut[0] or 'the root'}{more} holds over {MOST:,} values"
        parts.append(Text(printable(words), "yellow"))
    return Group(*parts)


def _heading(found: Sequence[Untracked]) -> Text:
    modules = sum(each.what == "module" for each in found)
    counted = [
        plural(number, noun)
        for number, noun in ((len(found) - modules, "tensor"), (modules, "module"))
        if number
    ]
    miss = "parameters(), state_dict() and .to() miss"
    return Text(f"{' and '.join(counted)} that {miss}", "bold")


def _legend(remedies: Sequence[Remedy]) -> Iterator[str]:
    if any("…" in each.line for each in remedies):
        yield "… is what is assigned now"
    if any("persistent=False" in each.line for each in remedies):
        yield "persistent=False, guessed by the name: for what __init__ computes again"


def _rows(found: Sequence[Untracked]) -> Iterator[tuple[Untracked, _Row]]:
    """One row for what an attribute holds of one kind, shape and dtype."""
    for _, group in groupby(found, key=lambda each: (each.module, each.attribute)):
        held = list(group)
        for what in dict.fromkeys(each.what for each in held):
            alike = [each for each in held if each.what == what]
            fix = remedy(alike)
            for words in dict.fromkeys(each.words for each in alike):
                same = [each for each in alike if each.words == words]
                label = f"{_WHAT[what]} {words}".strip()
                nbytes = sum(each.nbytes or 0 for each in same) or None
                yield same[0], _Row(_inside(same), len(same), label, nbytes, fix)


def _inside(same: Sequence[Untracked]) -> str:
    """The ways to all of them within the attribute: [{0…2}], ['a', 'b']."""
    steps = [each.inside[0].strip("[]") for each in same if len(each.inside) == 1]
    if len(steps) < len(same) or any(each.inside[0][:1] == "." for each in same):
        more = f" and {len(same) - 1:,} more" if len(same) > 1 else ""
        return "".join(same[0].inside) + more
    if all(step.isdecimal() for step in steps):
        return f"[{numbers(map(int, steps))}]"
    rest = [f"… {len(steps) - _KEYS} more"] if len(steps) > _KEYS else []
    return f"[{', '.join(steps[:_KEYS] + rest)}]"


def _cells(path: str, copies: int, row: _Row) -> tuple[Text, Text, Text, Text]:
    number = copies * row.number
    what = Text(f"{number:,} × " if number > 1 else "", "bold")
    what.append(printable(row.what), "not bold cyan")
    fix = Text(printable(row.remedy.reason), "yellow")
    if row.remedy.line:
        fix.append(": " if row.remedy.reason else "").append(printable(row.remedy.line), "green")
    nbytes = "" if row.nbytes is None else size(row.nbytes * copies)
    return Text(printable(path + row.inside)), what, Text(nbytes), fix
