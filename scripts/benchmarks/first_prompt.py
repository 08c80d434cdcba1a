"""How long from the start of the process until the debugger's first prompt can be read."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import BenchError, Measured, Side, interleaved

SCRIPT = "script.py"
TIMEOUT = 20.0
"""Seconds for one prompt."""
USER_VARIABLES = (
    *("PYTHONBREAKPOINT", "MODPDB_DEBUG", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"),
    *("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"),
)
WINDOW = struct.pack("HHHH", 24, 80, 0, 0)
"""Rows and columns of the terminal; a new one has 0 of both."""


@dataclass(frozen=True, slots=True)
class Debugger:
    """How it is started on SCRIPT, and the prompt that it then shows, a regular expression."""

    command: tuple[str, ...]
    prompt: bytes


MODPDB = Debugger((sys.executable, "-m", "modpdb", SCRIPT), rb"\(ModPdb\)")
# `python -m pdbpp` ends in a NameError: running the script clears the __main__ that it lives in.
PDBPP = Debugger(
    (sys.executable, "-c", f"import sys, pdbpp; sys.argv = ['pdb', '{SCRIPT}']; pdbpp.main()"),
    rb"\(Pdb\+\+\)",
)


@dataclass(frozen=True, slots=True)
class Session:
    """File descriptors of a debugger that was started: where its output comes, its input goes."""

    output: int
    input: int

    def read_until(self, expected: bytes) -> re.Match[bytes]:
        """Where the regular expression fits what is printed. Raises BenchError if it never does."""
        printed = b""
        deadline = time.monotonic() + TIMEOUT
        while not (found := re.search(expected, printed)):
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self.output], [], [], left)
            piece = self._read() if ready else b""
            if not piece:
                why = "it ended" if ready else f"{TIMEOUT:g} s went by"
                raise BenchError(f"{why} before {expected!r} was printed, but: {printed[-500:]!r}")
            printed += piece
        return found

    def _read(self) -> bytes:
        try:
            return os.read(self.output, 65536)
        except OSError:  # how a terminal says that its other end is closed
            return b""

    def send(self, line: str) -> None:
        os.write(self.input, line.encode() + b"\n")


@contextmanager
def started(debugger: Debugger, folder: Path, *, terminal: bool) -> Iterator[Session]:
    """The debugger on SCRIPT in the folder; killed at the end, whatever it is at."""
    session, stdin, stdout = _terminal() if terminal else _pipes()
    try:
        process = subprocess.Popen(
            debugger.command,
            cwd=folder,
            env=environment(folder),
            stdin=stdin,
            stdout=stdout,
            stderr=stdout,
            start_new_session=True,
        )
    finally:
        _close(stdin, stdout)  # held open here, they would hide that the debugger has ended
    try:
        yield session
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it has not been waited for: the id is still its
        process.wait()
        _close(session.output, session.input)


def _pipes() -> tuple[Session, int, int]:
    """Our ends, and the debugger's standard input and output."""
    output, stdout = os.pipe()
    stdin, input = os.pipe()
    return Session(output, input), stdin, stdout


def _terminal() -> tuple[Session, int, int]:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, WINDOW)
    return Session(ours, ours), theirs, theirs


def _close(*descriptors: int) -> None:
    for descriptor in set(descriptors):
        os.close(descriptor)


def environment(home: Path) -> dict[str, str]:
    """Ours, but without what the user has set up for debuggers, and for a plain terminal."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    for name in USER_VARIABLES:
        kept.pop(name, None)
    # No terminal is there to tell prompt_toolkit where its cursor is (CPR).
    return kept | {"HOME": str(home), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}


def first_prompt(repetitions: int, *, terminal: bool) -> Measured:
    """modpdb's first prompt against pdbpp's. Raises BenchError if torch was imported for it."""
    with tempfile.TemporaryDirectory(prefix="modpdb-bench-") as name:
        folder = Path(name)
        (folder / SCRIPT).write_text("x = 1\n")
        check_no_torch(folder, terminal=terminal)

        def side(debugger: Debugger) -> Side:
            def seconds() -> float:
                began = time.perf_counter()
                with started(debugger, folder, terminal=terminal) as session:
                    session.read_until(debugger.prompt)
                    return time.perf_counter() - began

            return seconds

        return interleaved(repetitions, side(MODPDB), side(PDBPP))


def check_no_torch(folder: Path, *, terminal: bool, debugger: Debugger = MODPDB) -> None:
    """Raises BenchError where torch is in sys.modules at the first prompt."""
    with started(debugger, folder, terminal=terminal) as session:
        session.read_until(debugger.prompt)
        # In capitals, as a terminal shows the question too.
        session.send("p str('torch' in __import__('sys').modules).upper()")
        if session.read_until(b"TRUE|FALSE")[0] == b"TRUE":
            raise BenchError("torch is in sys.modules at the first prompt")
