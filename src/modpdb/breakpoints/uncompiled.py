"""Keeps torch.compile away from what notices that the program comes by.

Where a compiled function calls Python, torch.compile looks at every call made from there, and at
those that a tracer makes: it would compile the prompt, and warn of what it finds there.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

_told_later: set[types.CodeType] = set()


def keep_uncompiled(function: Callable[..., Any]) -> None:
    """Have *function*, and what is called from there, run as it is, as soon as torch is loaded."""
    _told_later.add(function.__code__)


def tell_torch() -> None:
    """Up to torch 2.5 there is no way to say it of a code object."""
    frames = sys.modules.get("torch._C._dynamo.eval_frame")
    if frames is None or not _told_later:
        return
    codes = set(_told_later)
    _told_later.clear()
    if hasattr(frames, "set_code_exec_strategy"):
        strategy = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.SKIP)
        for code in codes:
            frames.set_code_exec_strategy(code, strategy)
