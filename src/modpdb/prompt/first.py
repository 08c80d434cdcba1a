"""The first prompt, before what reads it has been imported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import IO


@contextlib.contextmanager
def prompt_at_once(prompt: str, stdin: IO[str], stdout: IO[str]) -> Iterator[None]:
    """Show *prompt* and keep the keys typed meanwhile, uninterpreted, for who reads them then.

    prompt_toolkit takes 90 ms to import, more than all before it; it draws the prompt again in
    the same place.
    """
    import termios
    import tty

    stdout.write(f"{prompt}\r")
    stdout.flush()
    descriptor = stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
