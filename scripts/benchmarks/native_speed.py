"""What waiting breakpoints cost a program, and what one costs that is met and does not stop.

The programs time themselves and print it: how long a debugger takes to start is the matter of
other rows. pdb and pdbpp, which can be a hundred times slower, go a part of the rounds of a loop,
and their time is multiplied.
"""

from __future__ import annotations

import dis
import re
import sys
import tempfile
import types
from pathlib import Path

from benchmarks.dap import Breakpoint
from benchmarks.debuggers import NEVER, PEERS, SEEN, Program, Way, modpdb, pdb, plain
from benchmarks.generated_modules import write_modules
from benchmarks.measuring import (
    BenchError,
    Measured,
    NotHere,
    Side,
    interleaved,
    repeated,
    timed,
)

PROGRAMS = Path(__file__).with_name("programs")
HERE = Path(sys.executable)
ONCE_AT_THE_END = f"number < 0 and {NEVER}"
"""True of no call that is timed; see the programs."""
PARTS = {"pdb": 20, "pdbpp": 20}
"""By which the rounds of a loop are divided for these, and their time multiplied."""
SOMETIMES = 3
"""The peers take part in every third repetition."""


def seconds_printed(way: Way, program: Program) -> float:
    """What the program says that it took. Raises BenchError where it does not say."""
    output = way(program).output
    found = re.findall(r"bench-seconds ([\d.]+)", output)
    if len(found) != 1:
        raise BenchError(f"{program.command} did not print its time, but: {output[-1000:]}")
    return float(found[0])


def looped(python: Path, name: str, rounds: int) -> Program:
    """A program of PROGRAMS with a breakpoint at its marked line."""
    file = PROGRAMS / f"{name}.py"
    lines = file.read_text().splitlines()
    (line,) = (n for n, text in enumerate(lines, 1) if text.endswith("# breakpoint"))
    breakpoints = (Breakpoint(file, line, ONCE_AT_THE_END),)
    return Program(python, (str(file), str(rounds)), breakpoints, seen=1)


# -- breakpoints that are not met -------------------------------------------------------------


def loop(repetitions: int, *, name: str, rounds: int, python: Path = HERE) -> Measured:
    """A loop of the program `name`, with a breakpoint where it does not go."""

    def side(way: Way, part: int = 1) -> Side:
        program = looped(python, name, rounds // part)
        return lambda: seconds_printed(way, program) * part

    peers = {peer: side(way, PARTS.get(peer, 1)) for peer, way in PEERS.items()}
    return interleaved(repetitions, side(modpdb), side(plain), peers, every=SOMETIMES)


def imports(
    repetitions: int, *, modules: int = 200, breakpoints: int = 5, python: Path = HERE
) -> Measured:
    """Importing modules of 500 lines with breakpoints in each, from their .pyc files."""
    with tempfile.TemporaryDirectory(prefix="modpdb-bench-") as name:
        folder = Path(name)
        places = tuple(write_modules(folder, modules, breakpoints, ONCE_AT_THE_END))
        command = (str(PROGRAMS / "imports.py"), str(folder))
        program = Program(python, command, places, seen=len(places))

        def side(way: Way) -> Side:
            return lambda: seconds_printed(way, program)

        peers = {name: side(way) for name, way in PEERS.items()}
        # Once: debugpy needs 20 s until it has taken the breakpoints.
        return interleaved(repetitions, side(modpdb), side(plain), peers, every=repetitions)


# -- breakpoints and tracepoints that are met -------------------------------------------------


def false_condition(repetitions: int, *, rounds: int = 100_000, python: Path = HERE) -> Measured:
    """Seconds for one hit: a call of a function with the breakpoint, less one without."""
    program = looped(python, "hits", rounds)

    def side(way: Way) -> Side:
        return lambda: extra(way, program, rounds)

    beside = {name: side(way) for name, way in PEERS.items() if name != "pdb"}
    return interleaved(repetitions, side(modpdb), side(pdb), beside, every=SOMETIMES)


def tracepoint(repetitions: int, *, rounds: int = 20_000, python: Path = HERE) -> Measured:
    """Seconds for one event of a tracepoint that prints a constant, the printing included."""
    text = " + ".join(f'"{part}"' for part in SEEN.partition("-"))
    command = (str(PROGRAMS / "hits.py"), str(rounds))
    program = Program(python, command, seen=rounds + 1, typed=(f"trace-point visited, {text}",))
    return repeated(repetitions, lambda: extra(modpdb, program, rounds))


def extra(way: Way, program: Program, rounds: int) -> float:
    """How much longer one of the rounds takes than plainly, both measured now."""
    return (seconds_printed(way, program) - seconds_printed(plain, program)) / rounds


# -- patching ---------------------------------------------------------------------------------

BLOCK = """\
    for step in range(number):
        if step % 2:
            total += step
        else:
            total -= 1
"""
INSTRUCTIONS = 360


def patching(repetitions: int) -> Measured:
    """Giving every line of a function of 360 instructions a hook. Raises NotHere where nothing is
    patched."""
    if sys.version_info >= (3, 12):
        raise NotHere("Python has sys.monitoring: nothing is patched")
    from modpdb.breakpoints.injection import Hooks, inject

    code = code_of(INSTRUCTIONS)
    lines = {line for _, _, line in code.co_lines() if line}
    hooks = Hooks("__modpdb_entry__", {line: f"__modpdb_{line}__" for line in lines})
    if len(inject(code, hooks).co_code) < len(code.co_code) + 40 * len(lines) // 2:
        raise BenchError("patching changed next to nothing")
    return repeated(repetitions, timed(lambda: inject(code, hooks)))


def code_of(instructions: int) -> types.CodeType:
    """The code of a function of loops and branches that has so many, or a few more."""
    source = "def long(number):\n    total = 0\n"
    while True:
        source += BLOCK
        names: dict[str, types.FunctionType] = {}
        exec(source, names)
        code = names["long"].__code__
        if len(list(dis.get_instructions(code))) >= instructions:
            return code
