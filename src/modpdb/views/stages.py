"""The table of `stages`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.views.grid import Grid
from modpdb.views.text import count, duration


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage: how often its outermost call was seen, first and last at how many seconds of the
    script's running, and whether it stops."""

    name: str
    says: str
    passed: int
    first: float
    last: float
    stops: bool
    here: bool
    found: bool


def stage_table(preset: str, rows: Sequence[StageRow]) -> RenderableType:
    """A line each: → here, ● stops; the name; how often it was passed; when first and last; what
    it is."""
    cells = [
        (
            Text("→" if row.here else "●" if row.stops else " ", "yellow" if row.stops else ""),
            Text(row.name, "bold" if row.stops or row.here else ""),
            Text(_state(row), "" if row.passed else "dim"),
            *(Text(each, "cyan") for each in _times(row)),
            Text(row.says, "" if row.passed else "dim"),
        )
        for row in rows
    ]
    head = Text(f"preset {preset}")
    if any(row.stops for row in rows):
        head.append("  ● stops", "dim")
    if not any(row.passed for row in rows):  # no times: no columns for them
        return Group(head, Grid([(*row[:3], row[-1]) for row in cells]))
    return Group(head, Grid(cells, right=frozenset({3})))


def _state(row: StageRow) -> str:
    if row.passed > 1:
        return f"{count(row.passed)} ×"
    if row.here:
        return "here"
    if row.passed:
        return "passed"
    return "to come" if row.found else "not loaded"


def _times(row: StageRow) -> tuple[str, str]:
    """When it was passed first, and last where that differs."""
    if not row.passed:
        return "", ""
    first, last = duration(row.first), duration(row.last)
    return first, f"… {last}" if first != last else ""
