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
    _, found, rest = source.file.rpartition("site-packages/")
    here = os.path.join(os.getcwd(), "")
    file = f"…/{rest}" if found else source.file.removeprefix(here)
    return f"{printable(file)}:{source.line}"
