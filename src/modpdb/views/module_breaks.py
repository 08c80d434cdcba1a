"""Which modules a breakpoint stops at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.forwards import is_container
from modpdb.views.folding import folded
from modpdb.views.grid import Grid
from modpdb.views.text import plural, printable

_SHOWN = 6  # rows
_INDENT = "    "


@dataclass(frozen=True, slots=True)
class StopRow:
    """A module at which a breakpoint stops: its path, "" of a whole model; ``also`` are the other
    paths of one that is shared; ``problem`` says why it cannot stop there, "" where it can."""

    path: str
    class_name: str
    also: tuple[str, ...] = ()
    problem: str = ""


def modules_met(place: str, rows: Sequence[StopRow], near: Sequence[str] = ()) -> RenderableType:
    """A sentence that begins with *place*, and below it the modules, those alike as one; of none
    the paths that come *near*."""
    head = Text(printable(f"{place}: {in_words(rows)}"))
    if not rows:
        return Group(head, *(Text(printable(f"{_INDENT}near: {each}")) for each in near))
    stops = [row for row in rows if not row.problem]
    lines = folded((row.path, (row.class_name, row.also)) for row in stops)
    cells = [
        (
            Text(_INDENT + printable(path or "the whole model")),
            Text(printable(name), "cyan"),
            Text(printable(f"also {', '.join(also)}") if also else "", "dim"),
        )
        for path, _, (name, also) in lines[:_SHOWN]
    ]
    table = [Grid(cells, wrap=0)] if cells else []
    return Group(head, *table, *_rest(len(lines)), *_problems(rows, alone=not stops))


def in_words(rows: Sequence[StopRow]) -> str:
    """How many modules stop."""
    stops = sum(not row.problem for row in rows)
    if stops:
        return plural(stops, "module")
    return "it cannot stop there" if rows else "no module of that path is known"


def _problems(rows: Sequence[StopRow], alone: bool) -> list[RenderableType]:
    """Why modules cannot stop, those with one reason as one; containers, which nobody calls, are
    spoken of only where there is nothing else."""
    told = [row for row in rows if row.problem and (alone or not is_container(row.problem))]
    lines = folded((row.path, row.problem) for row in told)
    cells = [
        (Text(f"{_INDENT}{printable(path or 'the whole model')}"), Text(problem, "yellow"))
        for path, _, problem in lines[:_SHOWN]
    ]
    return [Grid(cells, wrap=0), *_rest(len(lines))] if cells else []


def _rest(lines: int) -> list[RenderableType]:
    more = lines - _SHOWN
    return [Text(f"{_INDENT}… and {plural(more, 'row')} more", "dim")] if more > 0 else []
