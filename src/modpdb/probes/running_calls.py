"""Calls that run, as who notes them knows: what is left of those that ended unseen."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Protocol


class _Call(Protocol):
    @property
    def frame(self) -> types.FrameType: ...


def still_run(calls: Sequence[_Call], frame: types.FrameType) -> int:
    """How many of *calls*, the innermost last, lead to *frame*, which begins now.

    The rest was left by an exception that nobody told of. A frame that has ended keeps its f_back,
    so that only the callers of *frame* tell.
    """
    for left in range(len(calls), 0, -1):
        caller: types.FrameType | None = frame
        while caller is not None and caller is not calls[left - 1].frame:
            caller = caller.f_back
        if caller is not None:
            return left
    return 0
