"""What exists in the process: functions, and frames that have begun to run.

gc.get_objects() is not used: while it is held, another thread's tuple(generator) fails with a
SystemError, for it holds the tuple that is being built (all versions).
"""

from __future__ import annotations

import builtins
import gc
import sys
import time
import types
from collections.abc import Container, Iterable, Iterator, Mapping

from modpdb.breakpoints.loaded import namespace

Suspended = types.GeneratorType | types.CoroutineType | types.AsyncGeneratorType

_MODULE_DICT = vars(types.ModuleType)["__dict__"]


_FROZEN_BY_PYTHON = 1_000  # no more: 3.12 has 375 objects frozen when it starts
_KEPT_FOR = 1.0  # seconds: threads that do not stand at the prompt make functions meanwhile


class _Kept:
    """The functions that were found last, while commands follow each other that look for some."""

    wanted = False
    functions: list[types.FunctionType] | None = None
    until = 0.0


def keep(wanted: bool) -> None:
    """Whether what `functions` finds may serve the next call too, as nothing runs in between: no
    longer than that. To look takes 0.2 s where torch and transformers are loaded."""
    _Kept.wanted = wanted
    if not wanted:
        _Kept.functions = None


def functions() -> list[types.FunctionType]:
    """Every Python function there is, but for those that run with builtins of their own.

    After gc.freeze() the collector does not show those frozen: then, what modules and their
    classes hold.
    """
    if _Kept.functions is not None and time.monotonic() < _Kept.until:
        return _Kept.functions
    # A function refers to the builtins.
    candidates: Iterable[object] = gc.get_referrers(builtins.__dict__)
    if gc.get_freeze_count() > _FROZEN_BY_PYTHON:
        candidates = [*candidates, *functions_of()]
    found = [each for each in candidates if type(each) is types.FunctionType]
    if _Kept.wanted:
        _Kept.functions, _Kept.until = found, time.monotonic() + _KEPT_FOR
    return found


def functions_of(files: Container[str] | None = None) -> Iterator[types.FunctionType]:
    """The functions that modules hold, and the methods of their classes: of all modules, or of
    those of these files."""
    for module in list(sys.modules.values()):
        if issubclass(type(module), types.ModuleType):
            variables = _MODULE_DICT.__get__(module)
            file = variables.get("__file__")
            if files is None or (type(file) is str and file in files):
                yield from functions_in(variables)


def functions_in(variables: Mapping[str, object]) -> Iterator[types.FunctionType]:
    """The functions among *variables*, and the methods of the classes among them."""
    for value in list(dict(variables).values()):
        if type(value) is types.FunctionType:
            yield value
        elif issubclass(type(value), type):  # never asks for a foreign __class__
            for member in list(namespace(value).values()):  # type: ignore[arg-type]
                if type(member) in (classmethod, staticmethod):
                    member = member.__func__
                if type(member) is types.FunctionType:
                    yield member


def stacks() -> Iterator[tuple[int, types.FrameType]]:
    """Every frame on the stack of a thread, with the thread's id."""
    for thread, top in sys._current_frames().items():
        frame: types.FrameType | None = top
        while frame is not None:
            yield thread, frame
            frame = frame.f_back


def suspended(codes: Iterable[types.CodeType]) -> Iterator[Suspended]:
    """Every generator and coroutine of these codes that has not come to its end."""
    kinds = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)
    for each in gc.get_referrers(*codes):
        if type(each) in kinds and frame_of(each) is not None:
            yield each


def frame_of(each: Suspended) -> types.FrameType | None:
    """The frame of a generator or coroutine, None once it has ended."""
    if isinstance(each, types.GeneratorType):
        return each.gi_frame
    if isinstance(each, types.CoroutineType):
        return each.cr_frame
    return each.ag_frame
