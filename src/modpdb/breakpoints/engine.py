"""The alarm clock: wakes bdb up on the right frame, and decides nothing about stepping.

bdb keeps the books and does all stepping. While the program runs on, the engine watches for the
entry into functions that somebody waits for and for files with line breakpoints; so far with
sys.settrace, which is asked for every call and looks into those only.
"""

from __future__ import annotations

import dis
import sys
import types
from collections.abc import Callable
from typing import Any

Reached = Callable[[types.FrameType], bool]
"""Asked as a frame enters a watched function: stop there?"""


class TraceEngine:
    """Watches by sys.settrace.

    ``dispatch`` is bdb's trace function; ``has_lines`` tells whether code may hit a line
    breakpoint.
    """

    def __init__(self, dispatch: Any, has_lines: Callable[[types.CodeType], bool]) -> None:
        self._dispatch = dispatch
        self._has_lines = has_lines
        # By identity: hashing a code object costs more than the call it stands for.
        self._watched: dict[int, tuple[types.CodeType, int, list[Reached]]] = {}
        self._at_lines: dict[int, list[tuple[int, Reached]]] = {}
        self._waits = False
        self._lines = False

    def watch(self, code: types.CodeType, reached: Reached, line: int | None = None) -> None:
        """Ask *reached* whenever *code* is entered: once per call, not when a generator goes
        on; or whenever a line event at *line* of it is about to happen."""
        if line is not None:
            self._watched.setdefault(id(code), (code, entry_offset(code), []))
            self._at_lines.setdefault(id(code), []).append((line, reached))
            if self._waits:
                sys.settrace(self._waiting)
            return
        entry = self._watched.setdefault(id(code), (code, entry_offset(code), []))
        entry[2].append(reached)
        if self._waits:
            sys.settrace(self._waiting)

    def unwatch(self, reached: Reached) -> None:
        for key, lines in list(self._at_lines.items()):
            lines[:] = [each for each in lines if each[1] != reached]
            if not lines:
                del self._at_lines[key]
        for code, _, callbacks in list(self._watched.values()):
            callbacks[:] = [each for each in callbacks if each != reached]
            if not callbacks and id(code) not in self._at_lines:
                del self._watched[id(code)]

    def has_lines(self, code: types.CodeType) -> bool:
        return id(code) in self._at_lines

    def reaches(self, frame: types.FrameType) -> bool:
        """Whether somebody wants to stop at the line of *frame* for which an event is at hand."""
        lines = self._at_lines.get(id(frame.f_code), ())
        return any([reached(frame) for line, reached in lines if line == frame.f_lineno])  # noqa: C419

    def enters(self, frame: types.FrameType) -> bool:
        """Whether somebody wants to stop in *frame*, for which a call event is at hand.

        All are asked: a stage must see a call even where a breakpoint stops it already.
        """
        watched = self._watched.get(id(frame.f_code))
        if watched is None or frame.f_lasti != watched[1]:
            return False
        return any([reached(frame) for reached in watched[2]])  # noqa: C419  each is asked

    def wait(self, lines: bool) -> None:
        """The program runs on: trace what matters only, from the next call on.

        *lines*: there are line breakpoints. With nothing to wait for nothing is traced, until a
        function to watch is loaded.
        """
        self._waits = True
        self._lines = lines
        sys.settrace(self._waiting if lines or self._watched else None)

    def rest(self) -> None:
        """The program has stopped: bdb traces it from here on."""
        self._waits = False

    def _waiting(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code  # asked for every call there is
        if id(code) in self._watched or (self._lines and self._has_lines(code)):
            return self._dispatch(frame, event, arg)
        return None


def entry_offset(code: types.CodeType) -> int:
    """The offset of the RESUME at which a call event of a *new* call arrives.

    A generator that goes on raises call events too, at other RESUMEs.
    """
    for instruction in dis.get_instructions(code):
        if instruction.opname == "RESUME":
            return instruction.offset
    return 0
