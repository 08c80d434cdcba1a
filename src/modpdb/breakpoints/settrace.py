"""Notices by sys.settrace what cannot be noticed otherwise.

Every call of the program then comes by here: it takes about 1.4 times as long, a loop of calls
alone several times. So it is on only while there is code that needs it.
"""

from __future__ import annotations

import dis
import functools
import sys
import threading
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modpdb.breakpoints.engine import Place


class Tracer:
    """Traces the code objects it is given, in the threads that it is started in and in new ones.

    They come by id, with the place that is meant: on 3.11 a place may have copies.
    """

    def __init__(self) -> None:
        # The code object itself stands here for its id: it must not be reused.
        self._traced: dict[int, tuple[types.CodeType, Place]] = {}
        self._for_new_threads: Any = None  # what threading.settrace() was given before
        self.on_return: Callable[[types.FrameType], None] = lambda frame: None

    def trace(self, codes: Mapping[int, tuple[types.CodeType, Place]]) -> None:
        """Trace these too."""
        self.trace_only({**self._traced, **codes})

    def trace_only(self, codes: Mapping[int, tuple[types.CodeType, Place]]) -> None:
        self._traced = dict(codes)
        others = threading.gettrace()
        if self._traced and others != self.function:
            self._for_new_threads = others
            threading.settrace(self.function)
        elif not self._traced and others == self.function:
            threading.settrace(self._for_new_threads)  # type: ignore[arg-type]
        if not self._traced and sys.gettrace() == self.function:
            sys.settrace(None)

    def forget(self, code: types.CodeType) -> None:
        self.trace_only({key: each for key, each in self._traced.items() if key != id(code)})

    def traces(self, key: int) -> bool:
        return key in self._traced

    def start(self) -> None:
        """Trace this thread from now on, unless somebody else does."""
        if self._traced and sys.gettrace() is None:
            sys.settrace(self.function)

    def local(self, frame: types.FrameType) -> Any:
        """The trace function that *frame* should have while nobody steps."""
        return self._local if id(frame.f_code) in self._traced else None

    def function(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        """The trace function of a thread in which nobody steps."""
        if id(frame.f_code) not in self._traced:  # asked for every call there is
            return None
        self.look(frame, event)
        return frame.f_trace or self._local

    def _local(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        self.look(frame, event)
        return frame.f_trace

    def look(self, frame: types.FrameType, event: str) -> bool:
        """Whether the event was stopped at: for whoever traces in this thread."""
        found = self._traced.get(id(frame.f_code))
        if found is None:
            return False
        place = found[1]
        if event == "line" and frame.f_lineno in place.lines:
            return place.at_line(frame, frame.f_lineno)
        if event == "call" and place.entry and frame.f_lasti == entry_offset(frame.f_code):
            place.entered(frame)
        elif event == "return":
            self.on_return(frame)
        return False


@functools.lru_cache(maxsize=1024)
def entry_offset(code: types.CodeType) -> int:
    """The offset of the RESUME at which a call event of a *new* call arrives.

    A generator that goes on raises call events too, at other RESUMEs.
    """
    for instruction in dis.get_instructions(code):
        if instruction.opname == "RESUME":
            return instruction.offset
    return 0
