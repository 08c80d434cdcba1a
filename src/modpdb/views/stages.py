"""The table of `stages`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage: how often its outermost call was seen, and whether it stops."""

    name: str
    says: str
    passed: int
    stops: bool
    here: bool
    found: bool


def stage_table(preset: str, rows: Sequence[StageRow]) -> RenderableType:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(
            Text("→" if row.here else " "),
            Text(row.name, style="bold" if row.stops else ""),
            Text("stops" if row.stops else "", style="yellow"),
            Text(_state(row), style="dim" if not row.passed else ""),
            Text(row.says),
        )
    return Group(Text(f"preset {preset}"), table)


def _state(row: StageRow) -> str:
    if row.here:
        return "here"
    if row.passed:
        return "passed" if row.passed == 1 else f"passed {row.passed:,} ×"
    return "to come" if row.found else "not loaded yet"
