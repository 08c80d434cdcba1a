"""Whether TorchScript can compile a module, and if not, where and why not."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modpdb.probes._torch import torch_or_none
from modpdb.probes.builtins import Source
from modpdb.probes.forked import ForkError, in_fork

_PLACE = re.compile(r'File "(?P<file>.+?)", line (?P<line>\d+)')


@dataclass(frozen=True, slots=True)
class Scripted:
    """reason: torch.jit.script's own, "" where it compiles; at: the line that it names, and its
    text. not_tried: why it was not even asked."""

    reason: str = ""
    at: Source | None = None
    text: str = ""
    not_tried: str = ""


def try_script(module: Any, waiting: Callable[[], None] = lambda: None) -> Scripted:
    """Ask `torch.jit.script(module)` in a forked copy of the process.

    It warns of its own end, and keeps types and compiled functions for the rest of a process:
    none of that comes back from the copy.
    """
    if not hasattr(torch_or_none().jit, "script"):
        return Scripted(not_tried="this torch has no torch.jit.script")
    try:
        error = in_fork(lambda: _script(module), waiting, timeout=300)
    except ForkError as problem:
        return Scripted(not_tried=str(problem))
    return _told(error)


def _script(module: Any) -> str:
    torch = torch_or_none()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.jit.script(module)
        except Exception as problem:
            return str(problem).strip() or type(problem).__name__
    return ""


def _told(error: str) -> Scripted:
    """The reason, the innermost place and the line that an error of TorchScript's compiler names.

    It names the place of the error first, then those that led there.
    """
    reason = error.partition("\n")[0].rstrip(": ")
    place = _PLACE.search(error)
    if place is None:
        return Scripted(reason)
    lines = error[place.end() :].partition("\n")[2].splitlines()
    marked = next((n for n, line in enumerate(lines) if "<--- HERE" in line), 0)
    text = lines[marked - 1].strip() if marked else ""
    return Scripted(reason, Source("", place["file"], int(place["line"])), text)
