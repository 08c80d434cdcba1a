"""Notices by sys.settrace what cannot be noticed otherwise.

Every call of the program then comes by here, which makes a loop of calls many times slower. So it
is on only while there is code that needs it.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable
from opcode import opmap
from typing import TYPE_CHECKING, Any

from modpdb.breakpoints.lines import entry_offset
from modpdb.breakpoints.uncompiled import keep_uncompiled

if TYPE_CHECKING:
    from modpdb.breakpoints.engine import WatchedCode


# Where a call that returns stands. One that raises ends with a return event too, with None.
_RETURNS = {opmap[name] for name in ("RETURN_VALUE", "RETURN_CONST") if name in opmap}

Traced = dict[int, "tuple[types.CodeType, WatchedCode | None]"]
"""Code to trace, by its id: for a place, or None to see it return. The code object itself stands
there for its id, which must not be reused."""


class Tracer:
    """Traces the code objects it is given, in the threads that it is started in and in new ones.

    They come by id, with the place that is meant: on 3.11 a place may have copies.
    """

    def __init__(self) -> None:
        self._traced: Traced = {}
        self._for_new_threads: Any = None  # what threading.settrace() was given before
        self.on_return: Callable[[types.FrameType], None] = lambda frame: None
        keep_uncompiled(self.function)
        keep_uncompiled(self._local)

    def trace(self, codes: Traced) -> None:
        """Trace these too."""
        self.trace_only({**self._traced, **codes})

    def trace_only(self, codes: Traced) -> None:
        self._traced = dict(codes)
        others = threading.gettrace()
        if self._traced and others != self.function:
            self._for_new_threads = others
            threading.settrace(self.function)
        elif not self._traced and others == self.function:
            threading.settrace(self._for_new_threads)
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
            if not self._traced:  # another thread has ended it
                sys.settrace(None)
            return None
        self.look(frame, event, arg)
        return frame.f_trace or self._local

    def _local(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        self.look(frame, event, arg)
        return frame.f_trace

    def look(self, frame: types.FrameType, event: str, arg: Any) -> bool:
        """Whether the event was stopped at: for whoever traces in this thread."""
        found = self._traced.get(id(frame.f_code))
        if found is None:
            return False
        place = found[1]
        if event == "return":
            self.on_return(frame)
            if place is not None and place.exit and frame.f_code.co_code[frame.f_lasti] in _RETURNS:
                return place.returns(frame, arg)
        elif place is None:
            return False
        elif event == "line" and frame.f_lineno in place.lines:
            return place.at_line(frame, frame.f_lineno)
        elif event == "call" and place.entry and frame.f_lasti == entry_offset(frame.f_code):
            place.entered(frame)
        return False
