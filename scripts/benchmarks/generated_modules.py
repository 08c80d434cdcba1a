"""Modules to import, with breakpoints in them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.dap import Breakpoint

FUNCTIONS = 50
FUNCTION = '''\
def function_{number}(number: int) -> int:
    """Goes up and down."""
    total = 0
    for step in range(number):
        if step % 2:
            total += step
        else:
            total -= 1
    return total

'''
LINES = FUNCTION.count("\n")
FIRST = 3
"""The line of a function, counted from 1, that runs first."""


def write_modules(folder: Path, modules: int, breakpoints: int, condition: str) -> list[Breakpoint]:
    """Writes modules of 500 lines and returns that many breakpoints in each, at first lines."""
    found = []
    source = "".join(FUNCTION.format(number=number) for number in range(FUNCTIONS))
    names = ", ".join(f"function_{number}" for number in range(FUNCTIONS))
    for index in range(modules):
        file = folder / f"module_{index:03}.py"
        file.write_text(f"{source}FUNCTIONS = [{names}]\n")
        for number in range(0, FUNCTIONS, FUNCTIONS // breakpoints):
            found.append(Breakpoint(file, number * LINES + FIRST, condition))
    return found
