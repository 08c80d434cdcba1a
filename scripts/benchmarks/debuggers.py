"""Runs a program to its end: plainly, under modpdb, and under those that one would use instead.

The program's breakpoints are set before its first line. Their conditions are never true, but print
SEEN once they are asked for what the program does last (`number < 0 and print(…)`): that they were
asked proves that the debugger was there, and is checked for every run.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from benchmarks import dap
from benchmarks.dap import Breakpoint
from benchmarks.first_prompt import environment
from benchmarks.measuring import BenchError

ROOT = Path(__file__).resolve().parent.parent.parent
UNDER_PDB = Path(__file__).with_name("under_pdb.py")
SEEN = "bench-seen"
NEVER = f'print("{SEEN}")'
"""A condition that is false, and leaves a trace."""
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(4 << 30)}
"""For both sides: glibc then keeps the memory of tensors that are dropped. Else it gives it back,
and has it zeroed anew, or not, by what happens to lie at the end of the heap: a conversion of 5 s
takes half a second longer for that, with a debugger or without."""


@dataclass(frozen=True, slots=True)
class Program:
    """A script with its arguments, and how it is looked at.

    `typed` are further lines for modpdb's prompt. `seen` is how often SEEN must be printed.
    """

    python: Path
    command: tuple[str, ...]
    breakpoints: tuple[Breakpoint, ...] = ()
    seen: int = 0
    typed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ran:
    """A run that ended well: seconds of the whole process; what it printed, errors included."""

    seconds: float
    output: str


Way = Callable[[Program], Ran]
"""Runs the program to its end. Raises BenchError where it did not run as it should."""


def plain(program: Program) -> Ran:
    """Without a debugger."""
    return _run(program)


def modpdb(program: Program, *, options: tuple[str, ...] = (), stops: int = 0) -> Ran:
    """Under modpdb, going on from the first line and from `stops` stages of the preset."""
    typed = [*map(_as_typed, program.breakpoints), *program.typed, *["c"] * (1 + stops)]
    ran = _run(program, ["-m", "modpdb", "--no-rc", *options], typed)
    _check_set(program, ran)
    return _checked(program, ran)


def _pdb(module: str, program: Program) -> Ran:
    typed = [*map(_as_typed, program.breakpoints), "c"]
    ran = _run(program, [str(UNDER_PDB), module], typed)
    _check_set(program, ran)
    return _checked(program, ran)


def debugpy(program: Program) -> Ran:
    """Under debugpy, with a client attached as an editor does it."""
    port = dap.free_port()

    def attend(process: subprocess.Popen[str]) -> None:
        with dap.connected(port, alive=lambda: process.poll() is None) as client:
            dap.run_to_the_end(client, program.breakpoints)

    before = ["-m", "debugpy", "--listen", f"{dap.HOST}:{port}", "--wait-for-client"]
    return _checked(program, _run(program, before, attend=attend))


pdb: Way = partial(_pdb, "pdb")
pdbpp: Way = partial(_pdb, "pdbpp")
PEERS: dict[str, Way] = {"pdb": pdb, "pdbpp": pdbpp, "debugpy": debugpy}


# -- running ----------------------------------------------------------------------------------


def _as_typed(breakpoint: Breakpoint) -> str:
    return f"b {breakpoint.file}:{breakpoint.line}, {breakpoint.condition}"


def _run(
    program: Program,
    before: Sequence[str] = (),
    typed: Sequence[str] = (),
    attend: Callable[[subprocess.Popen[str]], None] | None = None,
) -> Ran:
    """The program behind these arguments of Python. `attend` is called as it starts."""
    command = [str(program.python), *before, *program.command]
    with tempfile.TemporaryDirectory(prefix="modpdb-bench-") as name:
        home = Path(name)
        (home / "typed").write_text("".join(f"{line}\n" for line in typed))
        with open(home / "typed") as stdin, open(home / "printed", "w+") as printed:
            began = time.perf_counter()
            try:
                with _started(command, home, stdin, printed) as process:
                    if attend is not None:
                        attend(process)
                    status = process.wait()
            except BenchError as error:
                raise BenchError(f"{error}; printed: {_end_of(printed)}") from None
            seconds = time.perf_counter() - began
            if status != 0:
                raise BenchError(f"{command[1:]} ended with {status}: {_end_of(printed)}")
        return Ran(seconds, (home / "printed").read_text(errors="replace"))


def _end_of(printed: IO[str]) -> str:
    printed.seek(0)
    return printed.read()[-1000:].strip()


@contextmanager
def _started(
    command: Sequence[str], home: Path, stdin: IO[str], printed: IO[str]
) -> Iterator[subprocess.Popen[str]]:
    """The process, in a group of its own, which is killed where it is not done at the end."""
    process = subprocess.Popen(
        command,
        env=_environment(home),
        stdin=stdin,
        stdout=printed,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _environment(home: Path) -> dict[str, str]:
    kept = environment(home)
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # nothing is compiled anew in each run
    # pdbpp would take the place of pdb, and modpdb is not installed in every environment.
    return kept | ALLOCATOR | {"PDBPP_HIJACK_PDB": "0", "PYTHONPATH": str(ROOT / "src")}


def _check_set(program: Program, ran: Ran) -> None:
    """Raises BenchError where a debugger with a prompt did not take every breakpoint."""
    taken = len(re.findall(r"Breakpoint \d+ (?:at|pending)", ran.output))
    if taken != len(program.breakpoints):
        raise BenchError(f"{taken} of {len(program.breakpoints)} breakpoints: {ran.output[:1000]}")


def _checked(program: Program, ran: Ran) -> Ran:
    """The same run. Raises BenchError where its conditions were not asked as they should be."""
    if (seen := ran.output.count(SEEN)) != program.seen:
        raise BenchError(
            f"{SEEN} was printed {seen:,} times, not {program.seen:,}: {ran.output[-1000:]}"
        )
    return ran
