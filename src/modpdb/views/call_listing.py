"""The calls of a source line by line, with what a run has shown of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from rich.cells import cell_len
from rich.console import RenderableType
from rich.text import Text

from modpdb.probes.matching import Line
from modpdb.probes.observing import Seen
from modpdb.probes.source_calls import Called
from modpdb.views.folding import folded
from modpdb.views.grid import Grid
from modpdb.views.places import short_file
from modpdb.views.text import printable, shape

# What operators do with memory within themselves: in a table of calls it hides the rest.
_ALLOCATION = frozenset({"as_strided", "empty", "empty_strided", "empty_like", "resize_"})
_MOST = 4  # operators that are named of a module that calls many
_INDENT = "  "
_WIDEST = 38  # of a call's text, beside which there is room for what it means


@dataclass(frozen=True, slots=True)
class _Row:
    """A call, or with no *what* the condition that those below stand under."""

    line: int
    text: Text
    what: Text | None


def aligned(rows: Sequence[_Row]) -> Iterator[RenderableType]:
    """Calls as columns of equal widths throughout; conditions and long texts across all."""
    numbers = max(len(str(row.line)) for row in rows)
    lengths = [cell_len(row.text.plain) for row in rows if row.what is not None]
    width = min(max(lengths, default=0), _WIDEST)
    cells: list[tuple[Text, Text, Text]] = []
    for row in rows:
        number = Text((str(row.line) if row.line else "").rjust(numbers), "dim")
        text = row.text.copy()
        if row.what is None or cell_len(text.plain) > width:
            yield Grid(cells)
            cells = []
            yield Grid([(number, text)])
            number, text = Text(" " * numbers), Text()
        text.pad_right(width - cell_len(text.plain))
        if row.what is not None:
            cells.append((number, text, row.what))
    yield Grid(cells)


class Listing:
    """Makes the rows of calls. *told*: with what a run has shown of them."""

    def __init__(self, told: bool) -> None:
        self._told = told
        self.left_out = 0

    def rows(self, lines: Sequence[Line], level: int) -> Iterator[_Row]:
        under: tuple[str, ...] = ()
        last = 0
        for line in _folded(lines):
            called = line.called
            if called is None:
                number, last = (
                    (line.seen[0].line if line.seen[0].line != last else 0),
                    line.seen[0].line,
                )
                yield _Row(number, Text(_INDENT * level), _named(line.seen, "also "))
                continue
            if self._told and called.under and not line.seen and not line.unclear:
                self.left_out += 1 + len(called.inner)
                continue
            yield from _conditions(under, called.under, level)
            under = called.under
            inside = level + len(under)
            text = Text(f"{_INDENT * inside}{printable(called.text)}")
            number, last = (called.line if called.line != last else 0), called.line
            yield _Row(number, text, self._what(line))
            if line.seen or not self._told:
                yield from self.rows(line.inner, inside + 1)

    def _what(self, line: Line) -> Text:
        assert line.called is not None
        certain = replace(line.called, certainty="read") if line.seen else line.called
        what = _meaning(certain)
        if self._told and line.seen and line.called.kind == "run time":
            return Text("known at run time", "yellow").append_text(_ran(line.seen))
        if not self._told or line.unclear or (line.seen and line.inner):
            return what
        if not line.seen:
            return what.append("  not seen", "dim")
        if line.called.kind == "module":
            return what.append("  → ", "green").append_text(_inside(line.seen))
        if line.called.operator:
            return what.append("  → ", "green").append(_operands(line.seen), "default")
        return what.append("  → ", "green").append(most(line.seen), "default")


def _conditions(before: tuple[str, ...], now: tuple[str, ...], level: int) -> Iterator[_Row]:
    """The conditions of *now* that the call before did not stand under."""
    common = 0
    while common < min(len(before), len(now)) and before[common] == now[common]:
        common += 1
    for depth, condition in enumerate(now[common:], common):
        indent = _INDENT * (level + depth)
        yield _Row(0, Text(f"{indent}{printable(condition)}:", "dim"), None)


def _folded(lines: Sequence[Line]) -> Iterator[Line]:
    """The same call of `layers.0`, `layers.1`, … as one of `layers.{0…25}`."""

    def key(line: Line) -> Called | int:
        called = line.called
        if called is None or called.kind != "module":
            return id(line)
        return replace(called, path="", means="")

    for _, group in groupby(lines, key):
        together = list(group)
        if len(together) < 2:
            yield from together
            continue
        named = [(each.called.path, each.called.means) for each in together if each.called]
        for path, _, means in folded(named):
            alike = [each for each in together if each.called and each.called.means == means]
            seen = tuple(found for each in alike for found in each.seen)
            first = alike[0].called
            assert first is not None
            yield Line(replace(first, path=path, means=means), seen)


def _meaning(called: Called) -> Text:
    text = Text()
    if called.kind == "module":
        text.append(printable(called.path)).append(f"  {printable(called.means)}", "cyan")
    elif called.kind == "run time":
        text.append("known at run time", "yellow")
        text.append(f": {printable(called.means)}" if called.means else "", "dim")
    elif called.operator:
        text.append(called.operator)
        text.append("  guessed" if called.certainty == "guessed" else "", "yellow")
    elif called.source is not None:
        file = short_file(called.source.file).rpartition("/")[2]
        text.append(f"{file}:{called.source.line}", "dim")
        text.append("" if called.inner else "  not read", "dim")
    return text


def _ran(seen: Sequence[Seen]) -> Text:
    """Which function a choice at run time has come to, and what that did."""
    text = Text("  → ", "green")
    frame = next((each.via[0] for each in seen if each.via), None)
    if frame is not None:
        file = short_file(frame.file).rpartition("/")[2]
        text.append(printable(frame.name), "default").append(f" {file}:{frame.line}  ", "dim")
    return text.append(most(seen), "default")


def _inside(modules: Sequence[Seen]) -> Text:
    """What modules did: a single operator with its operands, else how many of which."""
    times = f"{len(modules):,} times, " if len(modules) > 1 else ""
    inner = [found for each in modules for found in each.inner]
    if len(inner) == 1 and not inner[0].class_name:
        return Text(f"{inner[0].name} {_operands(inner)}", "default")
    return Text(f"{times}{most(inner)}", "default")


def _named(seen: Sequence[Seen], word: str) -> Text:
    text = Text(word, "dim")
    if len(seen) == 1 and not seen[0].class_name:
        return text.append(f"{seen[0].name} {_operands(seen)}", "default")
    return text.append(most(seen), "default")


def _python_operators(seen: Sequence[Seen]) -> Iterator[Seen]:
    """Those that Python has called, in modules and out of them."""
    for each in seen:
        if each.class_name:
            yield from _python_operators(each.inner)
        else:
            yield each


def most(seen: Sequence[Seen]) -> str:
    """How often which operators ran, the most frequent named."""
    found = Counter(each.name for each in _python_operators(seen)).most_common()
    words = [f"{number:,} {name}" if number > 1 else name for name, number in found[:_MOST]]
    if len(found) > _MOST:
        words.append(f"{sum(number for _, number in found[_MOST:]):,} more")
    return ", ".join(words) or "no operators"


def _operands(seen: Sequence[Seen]) -> str:
    """The operands of an operator and what it calls, of the first of several runs."""
    first = seen[0]
    words = [" ".join(shape(each) for each in first.shapes) or "seen"]
    inner = [each.name for each in first.inner if each.name not in _ALLOCATION]
    words += [f"({', '.join(inner)})"] if inner else []
    words += [f"and {len(seen) - 1:,} more times"] if len(seen) > 1 else []
    return " ".join(words)
