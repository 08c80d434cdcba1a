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
import types
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import TYPE_CHECKING, Protocol

from modpdb.breakpoints.uncompiled import tell_torch

if TYPE_CHECKING:
    from modpdb.breakpoints.settrace import Tracer

Reached = Callable[[types.FrameType], bool]
"""Asked when the program comes by: stop there? Must not raise; may be asked in any thread."""
Returned = Callable[[types.FrameType, object], bool]
"""The same, of a call that is about to return: its frame and what it returns."""

# A stop in what makes the stops would stop there anew.
_MACHINERY = tuple(os.sep + name for name in ("bdb.py", "pdb.py", "pdbpp.py"))

Begins = Callable[[types.CodeType, str | None], None]
"""Told of code that is about to run, and the name of its module where that is known."""


class Debugger(Protocol):
    """What the engine wakes."""

    def wake(self, frame: types.FrameType) -> object:
        """Stop at the next line event of *frame*, which is about to come."""

    def stop_now(self, frame: types.FrameType) -> object:
        """Stop in *frame*, whose line event this is."""

    def wake_at_return(self, frame: types.FrameType) -> object:
        """Stop at the return event of *frame*, which is about to come."""

    def stop_at_return(self, frame: types.FrameType, value: object) -> object:
        """Stop in *frame*, which returns *value* now."""


class Watch:
    """Somebody who waits: whom to ask, and for which debugger. *looks*: one who never stops, and
    is asked whichever debugger is at work."""

    __slots__ = ("engine", "looks", "reached")

    def __init__(self, reached: Reached | Returned, engine: Engine, looks: bool = False) -> None:
        self.reached = reached
        self.engine = engine
        self.looks = looks

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Watch):
            return NotImplemented
        return self.engine is other.engine and self.reached == other.reached

    __hash__ = None  # type: ignore[assignment]


class WatchedCode:
    """A code object in which somebody waits: at its entry, at some of its lines, at its return.

    The tuples are replaced and never changed: other threads may be going through them.
    """

    def __init__(self, code: types.CodeType) -> None:
        self.code = code
        self.entry: tuple[Watch, ...] = ()
        self.lines: dict[int, tuple[Watch, ...]] = {}
        self.exit: tuple[Watch, ...] = ()

    def add(self, watch: Watch, line: int | None) -> None:
        if watch in (self.entry if line is None else self.lines.get(line, ())):
            return
        if line is None:
            self.entry += (watch,)
        else:
            self.lines = {**self.lines, line: (*self.lines.get(line, ()), watch)}

    def add_exit(self, watch: Watch) -> None:
        if watch not in self.exit:
            self.exit += (watch,)

    def remove(self, engine: Engine, reached: Reached | Returned) -> bool:
        """Whether there was such a watch."""

        def without(watches: tuple[Watch, ...]) -> tuple[Watch, ...]:
            return tuple(w for w in watches if w.engine is not engine or w.reached != reached)

        before = self.entry, self.lines, self.exit
        self.entry, self.exit = without(self.entry), without(self.exit)
        kept = {line: without(watches) for line, watches in self.lines.items()}
        self.lines = {line: watches for line, watches in kept.items() if watches}
        return before != (self.entry, self.lines, self.exit)

    def is_watched(self) -> bool:
        return bool(self.entry or self.lines or self.exit)

    def entered(self, frame: types.FrameType) -> None:
        """*frame*, a new call, stands before its first line."""
        wake(self.entry, frame)

    def at_line(self, frame: types.FrameType, line: int) -> bool:
        """This is the line event of *line*; whether it was stopped at."""
        return at_line(self.lines.get(line, ()), frame)

    def will_return(self, frame: types.FrameType, value: object) -> None:
        """*frame* stands before its return of *value*."""
        engine = who_stops(self.exit, frame, value)
        if engine is not None:
            _quietly(engine.debugger.wake_at_return, frame)

    def returns(self, frame: types.FrameType, value: object) -> bool:
        """This is the return event of *frame*; whether it was stopped at."""
        engine = who_stops(self.exit, frame, value)
        if engine is not None:
            engine.debugger.stop_at_return(frame, value)
        return engine is not None


# By thread: where somebody is asked just now, and the debuggers at their prompt. What is evaluated
# there rings no alarm. (No threading.local: its attributes take longer, and every hit asks.)
_ringing: set[int] = set()
_resting: dict[int, tuple[Engine, ...]] = {}
_at_work: list[Engine] = []  # the last is woken: as bdb's instances, only one traces at a time


def who_stops(watches: tuple[Watch, ...], frame: types.FrameType, *value: object) -> Engine | None:
    """The engine whose debugger is to stop. All are asked: a stage must see a call even where a
    breakpoint stops it already."""
    if not _at_work:
        return None
    at_work = _at_work[-1]
    thread = get_ident()
    if thread in _ringing or (_resting and at_work in _resting.get(thread, ())):
        return None
    _ringing.add(thread)
    stops = False
    try:
        for watch in watches:
            mine = watch.engine is at_work
            if (mine or watch.looks) and watch.reached(frame, *value):
                stops |= mine
    finally:
        _ringing.discard(thread)
    return at_work if stops else None


def at_line(watches: tuple[Watch, ...], frame: types.FrameType) -> bool:
    """This is the line event that *watches* wait for; whether it was stopped at."""
    engine = who_stops(watches, frame)
    if _at_work and _at_work[-1].stepped:
        _at_work[-1].stepped.pop(get_ident(), None)
    if engine is None:
        return False
    engine.debugger.stop_now(frame)
    return True


def wake(watches: tuple[Watch, ...], frame: types.FrameType) -> None:
    """Ask *watches*; let the debugger of one that stops do so at the next line event of *frame*."""
    engine = who_stops(watches, frame)
    if engine is not None:
        _quietly(engine.debugger.wake, frame)


def _quietly(wake: Callable[[types.FrameType], object], frame: types.FrameType) -> None:
    """A breakpoint in what this calls does not ring."""
    _ringing.add(get_ident())
    try:
        wake(frame)
    finally:
        _ringing.discard(get_ident())


def is_ringing() -> bool:
    """Whether somebody is asked just now, in this thread."""
    return get_ident() in _ringing


def debugger_at_work() -> Debugger | None:
    """Whose breakpoints ring now."""
    return _at_work[-1].debugger if _at_work else None


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
        self._imported: dict[int, types.CodeType] = {}  # what imports are about to run
        self._faults: list[str] = []
        self.odd_files: set[str] = set()
        """Names of files like ``<generated>`` that somebody waits for."""
        self._places: dict[int, WatchedCode] = {}
        self._files: set[str] = set()  # in whose code anybody has ever waited

    def place(self, code: types.CodeType) -> WatchedCode:
        code = self.original(code)
        place = self._places.get(id(code))
        if place is None:
            place = self._places[id(code)] = WatchedCode(code)
            self._files.add(code.co_filename)
        return place

    def waits_at(self, code: types.CodeType, line: int) -> bool:
        place = self._places.get(id(self.original(code)))
        return place is not None and line in place.lines

    def places(self) -> list[WatchedCode]:
        return list(self._places.values())

    def original(self, code: types.CodeType) -> types.CodeType:
        """The code object of which *code* is a hooked copy, or itself."""
        return code

    def changed(self, place: WatchedCode) -> None:
        """Somebody has come to wait at *place*, or has gone."""
        if place.is_watched():
            self.tracer.trace({id(place.code): (place.code, place)})
        else:
            self.tracer.forget(place.code)

    def instrument(self, code: types.CodeType, main: bool = False) -> types.CodeType:
        """What to run in the place of a module's *code*, which has not begun to run.

        *main*: of the script, where breakpoints will be set while it runs.
        """
        tell_torch()
        if _at_work:
            self.tracer.start()
        if self._auditing:
            self._imported[id(code)] = code
        return code

    def settle(self) -> list[str]:
        """Wire all that has changed in code that is loaded already; sentences about what that
        costs where it does."""
        tell_torch()
        said, self._faults = self._faults, []
        return said

    def fault(self, error: Exception) -> None:
        """Note what went wrong where it must not reach the script: it is said at the next stop."""
        self._faults.append(f"*** breakpoints: {type(error).__name__}: {error}")

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

            # No bound method: Python asks for an attribute of it at each event, and a method's
            # error for not having that takes longer than all the rest (3.11).
            def audit(event: str, args: tuple[object, ...]) -> None:
                if event == "exec":
                    self._executed(args[0])

            sys.addaudithook(audit)

    def _executed(self, code: object) -> None:
        if not self._begins or type(code) is not types.CodeType:
            return
        # Imports go by exec(), too: these have been told of.
        if self._imported.pop(id(code), None) is not None:
            return
        if code.co_filename.startswith("<") and code.co_filename not in self.odd_files:
            return  # namedtuples, dataclasses, conditions
        try:
            self._tell(code, None)
            self._executing(code)
        except Exception as error:  # it would be raised by the script's exec()
            self.fault(error)

    def _tell(self, code: types.CodeType, module: str | None) -> None:
        for begins in tuple(self._begins):
            begins(code, module)

    def _executing(self, code: types.CodeType) -> None:
        """*code* is about to run as it is."""
        self.tracer.start()

    def forget_all(self) -> None:
        """Nobody waits any more, and no debugger is at work."""
        _at_work.clear()
        self._begins.clear()
        for place in self.places():
            if place.is_watched():
                place.entry, place.lines, place.exit = (), {}, ()
                self.changed(place)
        self.tracer.trace_only({})

    def after_fork(self) -> None:
        """In a forked child: ring no more."""
        _ringing.clear()
        _resting.clear()
        self.forget_all()


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
        self.stepped: dict[int, tuple[int, int]] = {}
        """By thread: frame and offset of the line event at which stepping has stopped, where the
        alarm for it is yet to ring."""

    @property
    def wiring(self) -> Wiring:
        return wiring()

    def watch(
        self,
        code: types.CodeType,
        reached: Reached,
        line: int | None = None,
        *,
        looks: bool = False,
    ) -> None:
        """Ask *reached* whenever *code* is entered, once per call; with *line*, whenever a line
        event of that line is about to come. *looks*: *reached* never stops, and is asked under a
        second debugger as well."""
        if code.co_filename.endswith(_MACHINERY):
            return
        place = wiring().place(code)
        place.add(Watch(reached, self, looks), line)
        wiring().changed(place)

    def watch_return(
        self, code: types.CodeType, returned: Returned, *, looks: bool = False
    ) -> None:
        """Ask *returned* whenever a call of *code* is about to return: not where it raises, and of
        a generator not where it yields. On 3.11 calls that run already are seen if there was a
        breakpoint in *code* when they began. *looks*: *returned* never stops, and is asked under
        a second debugger as well."""
        place = wiring().place(code)
        place.add_exit(Watch(returned, self, looks))
        wiring().changed(place)

    def unwatch(self, reached: Reached | Returned) -> None:
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

    def is_awake(self) -> bool:
        """Whether this debugger is woken in this thread now, if it is for somebody who notices by
        himself: it is at work and not at its prompt, and nobody is asked."""
        thread = get_ident()
        at_work = _at_work[-1] if _at_work else None
        return at_work is self and thread not in _ringing and self not in _resting.get(thread, ())

    def wake(self, frame: types.FrameType) -> None:
        """Have the debugger stop at the next line event of *frame*."""
        _quietly(self.debugger.wake, frame)

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """In this thread, while the debugger is at its prompt."""
        thread = get_ident()
        before = _resting.get(thread, ())
        _resting[thread] = (*before, self)
        try:
            yield
        finally:
            _resting[thread] = before
            if not before:
                del _resting[thread]
