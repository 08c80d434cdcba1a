"""Where a function is defined, as every view says it."""

from __future__ import annotations

import os

from rich.text import Text

from modpdb.probes.builtins import Source
from modpdb.views.text import printable


def defined(source: Source) -> Text:
    """`Linear.forward  …/torch/nn/modules/linear.py:130`; a builtin's name alone."""
    text = Text(printable(source.name))
    if source.file:
        text.append(f"  {location(source)}", style="dim")
    return text


def location(source: Source) -> str:
    """`FILE:LINE`, the file from an installed package's name or the working directory on; "" for
    a builtin."""
    if not source.file:
        return ""
    return f"{short_file(source.file)}:{source.line}"


def short_file(file: str) -> str:
    """The path from an installed package's name or the working directory on:
    …/torch/nn/modules/linear.py."""
    _, found, rest = file.rpartition("site-packages/")
    here = os.path.join(os.getcwd(), "")
    return printable(f"…/{rest}" if found else file.removeprefix(here))
