"""Notices by sys.monitoring (3.12 and later): events set on single code objects.

A LINE event is not bdb's line event: on a jump back to the same line (`for …: s += i`) it does not
fire, and on 3.13 and 3.14 not in one-line functions and lambdas. LINE, JUMP and, for a line on
which the function is entered, a PY_START whose callback never disables it together are exact.
"""

from __future__ import annotations

import atexit
import sys
import types
from collections.abc import Callable
from typing import Any

from modpdb.breakpoints.engine import Begins, WatchedCode, Wiring, at_line
from modpdb.breakpoints.lines import entry_line, walk
from modpdb.breakpoints.uncompiled import keep_uncompiled, tell_torch

_TOOL_IDS = (3, 4)  # 0, 1, 2 and 5 are for debuggers, coverage, profilers and optimizers


class NoToolId(Exception):
    """Every id of sys.monitoring that we may take is taken."""


class Monitoring(Wiring):
    """Sets events on the code objects of places, under a tool id of our own."""

    rings_after_line_event = True
    sees_copies = True

    def __init__(self) -> None:
        super().__init__()
        self._monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
        self._disable = self._monitoring.DISABLE
        self._tool = self._take_tool_id()
        self._positions: dict[int, list[int | None]] = {}
        self._at_entry: set[int] = set()  # ids of code whose PY_START is not disabled
        self._new: set[int] = set()  # ids of code whose events may have been disabled before
        events = self._monitoring.events
        self._at_lines = events.LINE | events.JUMP
        self._callbacks: dict[int, Callable[..., Any]] = {
            events.PY_START: self._started,
            events.LINE: self._at_line,
            events.JUMP: self._jumped,
            events.PY_RETURN: self._returning,
        }
        for event, callback in self._callbacks.items():
            keep_uncompiled(callback)
            self._monitoring.register_callback(self._tool, event, callback)
        atexit.register(self._stop)

    def _take_tool_id(self) -> int:
        for tool in _TOOL_IDS:
            try:
                self._monitoring.use_tool_id(tool, "modpdb")
                return tool
            except ValueError:  # in use
                continue
        names = " and ".join(str(self._monitoring.get_tool(tool)) for tool in _TOOL_IDS)
        raise NoToolId(f"sys.monitoring's tool ids 3 and 4 are taken by {names}")

    def _stop(self) -> None:
        """The process ends: callbacks would soon miss what they need."""
        for event in self._callbacks:
            self._monitoring.register_callback(self._tool, event, None)

    def changed(self, place: WatchedCode) -> None:
        events = 0
        if place.lines:
            events = self._at_lines
        self._at_entry.discard(id(place.code))
        if place.entry or entry_line(place.code) in place.lines:
            events |= self._monitoring.events.PY_START
            self._at_entry.add(id(place.code))
        if place.exit:
            events |= self._monitoring.events.PY_RETURN
        self._monitoring.set_local_events(self._tool, place.code, events)
        if events:
            self._new.add(id(place.code))
        else:
            self._new.discard(id(place.code))
            self._places.pop(id(place.code), None)
            self._positions.pop(id(place.code), None)

    def instrument(self, code: types.CodeType, main: bool = False) -> types.CodeType:
        tell_torch()
        if self._new:
            self._new.difference_update(map(id, walk(code)))  # it never ran
            self._restart()
        return code

    def settle(self) -> list[str]:
        self._restart()
        return super().settle()

    def _restart(self) -> None:
        """Have events come again where they were disabled before somebody waited there."""
        if self._new:
            self._new.clear()
            self._monitoring.restart_events()

    def _see_new_code(self) -> None:
        """Everywhere, code that starts for the first time: then the event is disabled there."""
        self._monitoring.set_events(self._tool, self._monitoring.events.PY_START)

    def forget_new_code(self, begins: Begins) -> None:
        super().forget_new_code(begins)
        if not self._begins:
            self._monitoring.set_events(self._tool, 0)

    def _started(self, code: types.CodeType, offset: int) -> Any:
        place = self._places.get(id(code)) or self._new_place(code, sys._getframe(1))
        if place is None or id(code) not in self._at_entry:
            return self._disable
        if place.entry:
            place.entered(sys._getframe(1))
        return None

    def _new_place(self, code: types.CodeType, frame: types.FrameType) -> WatchedCode | None:
        """Tell of code that starts for the first time; its place, if somebody waits there now."""
        name = frame.f_globals.get("__name__")
        try:
            self._tell(code, name if isinstance(name, str) else None)
        except Exception as error:  # it would be raised in the script
            self.fault(error)
        self._new.discard(id(code))
        self._restart()
        return self._places.get(id(code))

    def _at_line(self, code: types.CodeType, line: int) -> Any:
        place = self._places.get(id(code))
        watches = None if place is None else place.lines.get(line)
        if watches is None:
            return self._disable
        at_line(watches, sys._getframe(1))
        return None

    def _jumped(self, code: types.CodeType, offset: int, to: int) -> Any:
        place = self._places.get(id(code))
        if place is None or to > offset:
            return self._disable
        lines = self._positions.get(id(code))
        if lines is None:
            lines = self._positions[id(code)] = [line for line, _, _, _ in code.co_positions()]
        line = lines[to // 2]
        if line is None or line not in place.lines or line != lines[offset // 2]:
            return self._disable
        place.at_line(sys._getframe(1), line)
        return None

    def _returning(self, code: types.CodeType, offset: int, value: object) -> Any:
        place = self._places.get(id(code))
        if place is None or not place.exit:
            return self._disable
        place.returns(sys._getframe(1), value)
        return None
