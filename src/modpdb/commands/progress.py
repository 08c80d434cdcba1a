"""How far a long command is, at a terminal, from its first second on."""

from __future__ import annotations

import time
from types import TracebackType
from typing import IO, Any, Protocol

_SILENT = 1.0  # seconds without a word
_EVERY = 0.1  # seconds between two
_ERASE = "\r\x1b[K"


class Terminal(Protocol):
    """Where somebody may be looking: the debugger, or a shell."""

    stdout: IO[str] | Any

    def at_terminal(self) -> bool: ...


class Progress:
    """`with Progress(dbg) as told: … told("reading", done, of)`; the line is gone at the end."""

    def __init__(self, dbg: Terminal) -> None:
        self._file = dbg.stdout if dbg.at_terminal() else None
        self._next = time.monotonic() + _SILENT
        self._shown = False

    def __call__(self, what: str, done: int, of: int) -> None:
        now = time.monotonic()
        if self._file is None or now < self._next or not of:
            return
        self._next, self._shown = now + _EVERY, True
        self._file.write(f"{_ERASE}{what} {done / of:.0%}  (Ctrl-C ends it)")
        self._file.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._shown and self._file is not None:
            self._file.write(_ERASE)
            self._file.flush()
