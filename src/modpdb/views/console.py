"""Where views are printed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from typing import IO

from rich.console import Console, RenderableType

_UNLIMITED = 10_000


def print_to(file: IO[str], renderables: Iterable[RenderableType], *, color: bool) -> None:
    """Print to *file*: as wide as the terminal or COLUMNS says, unlimited into a pipe, without
    trailing blanks."""
    width = _UNLIMITED
    if file.isatty() or os.environ.get("COLUMNS", "").isdigit():
        width = shutil.get_terminal_size().columns
    console = Console(
        file=file,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        markup=False,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    with console.capture() as capture:
        for each in renderables:
            console.print(each, crop=False)  # text to copy is longer than a line at times
    for line in capture.get().splitlines():
        file.write(line.rstrip() + "\n")
