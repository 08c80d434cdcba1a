"""What exists in the process: functions, and frames that have begun to run."""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Iterable, Iterator

Suspended = types.GeneratorType | types.CoroutineType | types.AsyncGeneratorType


def functions() -> Iterator[types.FunctionType]:
    """Every Python function there is.

    After gc.freeze() the collector does not show those frozen: then, what modules and their
    classes hold.
    """
    candidates: Iterable[object] = gc.get_objects()
    if gc.get_freeze_count():
        candidates = [*candidates, *_held_by_modules()]
    for each in candidates:
        if type(each) is types.FunctionType:
            yield each


def _held_by_modules() -> Iterator[object]:
    for module in list(sys.modules.values()):
        for value in list(getattr(module, "__dict__", {}).values()):
            yield value
            if issubclass(type(value), type):  # never asks for a foreign __class__
                for member in value.__dict__.values():
                    yield getattr(member, "__func__", member)


def stacks() -> Iterator[tuple[int, types.FrameType]]:
    """Every frame on the stack of a thread, with the thread's id."""
    for thread, top in sys._current_frames().items():
        frame: types.FrameType | None = top
        while frame is not None:
            yield thread, frame
            frame = frame.f_back


def suspended() -> Iterator[Suspended]:
    """Every generator and coroutine that has not come to its end."""
    for each in gc.get_objects():
        if type(each) in (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType):
            if frame_of(each) is not None:
                yield each


def frame_of(each: Suspended) -> types.FrameType | None:
    """The frame of a generator or coroutine, None once it has ended."""
    if isinstance(each, types.GeneratorType):
        return each.gi_frame
    if isinstance(each, types.CoroutineType):
        return each.cr_frame
    return each.ag_frame
