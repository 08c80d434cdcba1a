"""Plain lines, for input that is no terminal: no escape codes, no warnings."""

from __future__ import annotations

import select
from typing import IO, Any


class PlainInput:
    """Reads lines from *stdin*, writing the prompt to *stdout*."""

    def __init__(self, stdin: IO[str], stdout: IO[str]) -> None:
        self.stdin = stdin
        self._stdout = stdout
        self._ahead: str | None = None

    def read(self, prompt: str) -> str:
        """The next line without its end. Raises EOFError."""
        self._stdout.write(prompt)
        self._stdout.flush()
        line, self._ahead = self._ahead, None
        if line is None:
            try:
                line = self.stdin.readline()
            except UnicodeDecodeError as error:
                self._stdout.write(f"*** input that cannot be read: {error}\n")
                return "!"  # nothing to do
            except (OSError, ValueError):  # closed, as in a multiprocessing child
                line = ""
        if not line:
            self._stdout.write("\n")
            raise EOFError
        return line.rstrip("\r\n")

    def at_end(self) -> bool:
        """Whether there is no further line. Somebody who has typed none yet may still do so: a
        person, or a program that waits for the prompt."""
        if self._ahead is None:
            try:
                if self.stdin.isatty() or _would_wait(self.stdin):
                    return False
                self._ahead = self.stdin.readline()
            except (OSError, ValueError):  # closed, or not readable
                self._ahead = ""
        return not self._ahead


def _would_wait(stream: Any) -> bool:
    """Whether nothing has come from the pipe that *stream* is, which is open."""
    try:
        waiting = select.poll()
        waiting.register(stream.fileno())
        return not waiting.poll(0)
    except (AttributeError, OSError, ValueError):  # no pipe, or no poll() here
        return False
