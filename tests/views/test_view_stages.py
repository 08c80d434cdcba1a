"""The table of `stages`: times aligned, one line a stage at 80 columns."""

import io

import pytest
from rich.console import Console

from modpdb.views.stages import StageRow, stage_table
from modpdb.views.text import duration


def row(name: str, passed: int = 0, first: float = 0.0, last: float = 0.0, **marks: bool):
    flags = {"stops": False, "here": False, "found": True, **marks}
    return StageRow(name, f"{name} is about to begin", passed, first, last, **flags)


def shown(*rows: StageRow, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(stage_table("mine", rows))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_marks_counts_and_times_in_columns() -> None:
    rows = [
        row("load", 1, 4.274, 4.274, stops=True),
        row("modify", 54, 14.42, 126.5),
        row("here", 1, 3723.0, 3723.0, here=True, stops=True),
        row("again", 2, 1.0, 2.5, here=True),
        row("later"),
        row("never", found=False),
    ]
    assert shown(*rows) == [
        "preset mine  ● stops",
        "●  load    passed         4.27 s              load is about to begin",
        "   modify  54 ×          14.42 s  … 2:06 min  modify is about to begin",
        "→  here    here        1:02:03 h              here is about to begin",
        "→  again   2 ×            1.00 s  … 2.50 s    again is about to begin",
        "   later   to come                            later is about to begin",
        "   never   not loaded                         never is about to begin",
    ]


def test_no_times_no_columns_for_them() -> None:
    assert shown(row("later"), row("never", found=False)) == [
        "preset mine",
        "   later  to come     later is about to begin",
        "   never  not loaded  never is about to begin",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0.0, "0.00 s"), (0.004, "0.00 s"), (9.999, "10.00 s"), (99.99, "99.99 s")),
        *((100.0, "1:40 min"), (3599.9, "59:59 min"), (3600.0, "1:00:00 h")),
        (90061.0, "25:01:01 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
