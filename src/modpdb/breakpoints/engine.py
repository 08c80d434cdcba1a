"""The alarm clock: wakes bdb up on the right frame, and decides nothing about stepping.

bdb keeps the books and does all stepping. Somebody who waits for a function or a line has the
engine watch its code object; what it takes to notice that the program comes by is a wiring's
matter, chosen by Python version: sys.monitoring from 3.12 on, hook calls in the code object on
3.11, sys.settrace where neither is to be had.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from modpdb.breakpoints.settrace import Tracer

Reached = Callable[[types.FrameType], bool]
"""Asked when the program comes by: stop there? Must not raise; may be asked in any thread."""

Begins = Callable[[types.CodeType, str | None], None]
"""Told of code that is about to run, and the name of its module where that is known."""


class Debugger(Protocol):
    """What the engine wakes."""

    def wake(self, frame: types.FrameType) -> object:
        """Stop at the next line event of *frame*, which is about to come."""

    def stop_now(self, frame: types.FrameType) -> object:
        """Stop in *frame*, whose line event this is."""


class Watch:
    """Somebody who waits: whom to ask, and for which debugger."""

    __slots__ = ("engine", "reached")

    def __init__(self, reached: Reached, engine: Engine) -> None:
        self.reached = reached
        self.engine = engine


class Place:
    """A code object in which somebody waits: at its entry, at some of its lines.

    The tuples are replaced and never changed: other threads may be going through them.
    """

    def __init__(self, code: types.CodeType) -> None:
        self.code = code
        self.entry: tuple[Watch, ...] = ()
        self.lines: dict[int, tuple[Watch, ...]] = {}

    def add(self, watch: Watch, line: int | None) -> None:
        if line is None:
            self.entry += (watch,)
        else:
            self.lines = {**self.lines, line: (*self.lines.get(line, ()), watch)}

    def remove(self, engine: Engine, reached: Reached) -> bool:
        """Whether there was such a watch."""

        def without(watches: tuple[Watch, ...]) -> tuple[Watch, ...]:
            return tuple(w for w in watches if w.engine is not engine or w.reached != reached)

        before = self.entry, self.lines
        self.entry = without(self.entry)
        kept = {line: without(watches) for line, watches in self.lines.items()}
        self.lines = {line: watches for line, watches in kept.items() if watches}
        return before != (self.entry, self.lines)

    def is_watched(self) -> bool:
        return bool(self.entry or self.lines)

    def entered(self, frame: types.FrameType) -> None:
        """*frame*, a new call, stands before its first line."""
        for engine in who_stops(self.entry, frame):
            engine.debugger.wake(frame)

    def at_line(self, frame: types.FrameType, line: int) -> bool:
        """This is the line event of *line*; whether it was stopped at."""
        stopped = who_stops(self.lines.get(line, ()), frame)
        for engine in stopped:
            engine.debugger.stop_now(frame)
        return bool(stopped)


class _Thread(threading.local):
    """Debuggers at their prompt in this thread: what is evaluated there rings no alarm."""

    resting: tuple[Engine, ...] = ()


_thread = _Thread()
_at_work: list[Engine] = []  # the last is woken: as bdb's instances, only one traces at a time


def who_stops(watches: tuple[Watch, ...], frame: types.FrameType) -> list[Engine]:
    """All are asked: a stage must see a call even where a breakpoint stops it already."""
    stops: list[Engine] = []
    at_work = _at_work[-1] if _at_work else None
    resting = _thread.resting
    for watch in watches:
        engine = watch.engine
        if engine is at_work and engine not in resting and watch.reached(frame):
            stops.append(engine)
    return stops[:1]


class Wiring:
    """How a process notices that a place is reached. One for all debuggers.

    This one notices nothing by itself; what cannot be wired is left to ``tracer``.
    """

    rings_after_line_event = False
    """Whether a tracer sees the line event before the alarm rings."""
    sees_copies = False
    """Whether new code is told of when it first runs, wherever it is from; else when executed."""

    def __init__(self) -> None:
        from modpdb.breakpoints.settrace import Tracer

        self.tracer: Tracer = Tracer()
        self.problem = ""  # why this is not the wiring that it should be
        self._begins: list[Begins] = []
        self._auditing = False
        self._imported: types.CodeType | None = None  # what an import is about to run
        self._places: dict[int, Place] = {}

    def place(self, code: types.CodeType) -> Place:
        code = self.original(code)
        place = self._places.get(id(code))
        if place is None:
            place = self._places[id(code)] = Place(code)
        return place

    def waits_at(self, code: types.CodeType, line: int) -> bool:
        place = self._places.get(id(self.original(code)))
        return place is not None and line in place.lines

    def places(self) -> list[Place]:
        return list(self._places.values())

    def original(self, code: types.CodeType) -> types.CodeType:
        """The code object of which *code* is a hooked copy, or itself."""
        return code

    def changed(self, place: Place) -> None:
        """Somebody has come to wait at *place*, or has gone."""
        if place.is_watched():
            self.tracer.trace({id(place.code): (place.code, place)})
        else:
            self.tracer.forget(place.code)

    def instrument(self, code: types.CodeType, main: bool = False) -> types.CodeType:
        """What to run in the place of a module's *code*, which has not begun to run.

        *main*: of the script, where breakpoints will be set while it runs.
        """
        if _at_work:
            self.tracer.start()
        self._imported = code
        return code

    def settle(self) -> list[str]:
        """Wire all that has changed in code that is loaded already; sentences about what that
        costs where it does."""
        return []

    def watch_new_code(self, begins: Begins) -> None:
        """From now on tell *begins* of code that no import of a file has brought.

        Where sys.monitoring does not tell, that is an audit hook, which cannot be taken away again
        and makes id(), open() and the like 0.2 µs slower. It tells of exec() only.
        """
        if begins not in self._begins:
            self._begins.append(begins)
            if len(self._begins) == 1:
                self._see_new_code()

    def forget_new_code(self, begins: Begins) -> None:
        if begins in self._begins:
            self._begins.remove(begins)

    def _see_new_code(self) -> None:
        if not self._auditing:
            self._auditing = True
            sys.addaudithook(self._audit)

    def _audit(self, event: str, args: tuple[object, ...]) -> None:
        if event == "exec" and self._begins and type(args[0]) is types.CodeType:
            code = args[0]
            # Imports go by exec(), too: these have been told of.
            if code is not self._imported and not code.co_filename.startswith("<"):
                self._tell(code, None)
                self._executing(code)

    def _tell(self, code: types.CodeType, module: str | None) -> None:
        for begins in tuple(self._begins):
            begins(code, module)

    def _executing(self, code: types.CodeType) -> None:
        """*code* is about to run as it is."""
        self.tracer.start()

    def after_fork(self) -> None:
        """In a forked child: ring no more."""
        for place in self.places():
            place.entry, place.lines = (), {}
            self.changed(place)
        self.tracer.trace_only({})


@functools.cache
def wiring() -> Wiring:
    """The wiring of this process."""
    chosen = _best_wiring()
    os.register_at_fork(after_in_child=chosen.after_fork)
    return chosen


def _best_wiring() -> Wiring:
    if sys.version_info < (3, 12):
        from modpdb.breakpoints.patching import Patching

        return Patching()
    from modpdb.breakpoints.monitoring import Monitoring, NoToolId

    try:
        return Monitoring()
    except NoToolId as error:
        fallback = Wiring()
        fallback.problem = f"{error}: breakpoints use sys.settrace, which slows the script down"
        return fallback


class Engine:
    """A debugger's way to the wiring."""

    def __init__(self, debugger: Debugger) -> None:
        self.debugger = debugger

    @property
    def wiring(self) -> Wiring:
        return wiring()

    def watch(self, code: types.CodeType, reached: Reached, line: int | None = None) -> None:
        """Ask *reached* whenever *code* is entered, once per call; with *line*, whenever a line
        event of that line is about to come."""
        place = wiring().place(code)
        place.add(Watch(reached, self), line)
        wiring().changed(place)

    def unwatch(self, reached: Reached) -> None:
        for place in wiring().places():
            if place.remove(self, reached):
                wiring().changed(place)

    def begin(self) -> None:
        """The program runs under this debugger from now on, and under no other."""
        self.end()
        _at_work.append(self)

    def end(self) -> None:
        """Under the debugger before, if there is one."""
        if self in _at_work:
            _at_work.remove(self)

    @staticmethod
    def original(code: types.CodeType) -> types.CodeType:
        """The code object of which *code* is a hooked copy, or itself."""
        return wiring().original(code)

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """In this thread, while the debugger is at its prompt."""
        before = _thread.resting
        _thread.resting = (*before, self)
        try:
            yield
        finally:
            _thread.resting = before
