"""A row of the bench on the other Pythons of this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from benchmarks.measuring import BenchError, Measured, NotHere, Row
from interpreters import CORE, Interpreter, InterpreterError, environment, others

REQUIREMENTS = (*CORE, "debugpy")
"""modpdb without torch, and the peers."""


def one_of_each_minor() -> list[Interpreter]:
    """The newest other Python of every 3.x but ours. Asking them all takes seconds."""
    newest: dict[int, Interpreter] = {}
    for each in sorted(others(), key=lambda each: each.version):
        newest[each.minor] = each
    newest.pop(sys.version_info.minor, None)
    return [newest[minor] for minor in sorted(newest)]


def on_each(row: Row, elsewhere: Sequence[Interpreter]) -> list[Row]:
    """The row on this Python and, where it needs no torch, on those elsewhere that it is for.

    Where it is for none of them, one row that is skipped and says so.
    """
    rows = [row] if sys.version_info.minor in row.minors else []
    for each in elsewhere:
        if row.everywhere and each.minor in row.minors:
            measure = partial(_measured_on, each, row.measure)
            rows.append(replace(row, name=f"{row.name} {each.version}", measure=measure))
    return rows or [replace(row, measure=partial(_not_here, row))]


def _measured_on(
    interpreter: Interpreter, measure: Callable[..., Measured], repetitions: int
) -> Measured:
    try:
        python = environment(interpreter, REQUIREMENTS)
    except InterpreterError as error:
        raise BenchError(str(error)) from None
    return measure(repetitions, python=python)


def _not_here(row: Row, repetitions: int) -> Measured:
    first, *later = row.minors
    raise NotHere(f"it is for Python 3.{first}{' and later' if later else ''}")
