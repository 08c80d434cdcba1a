"""A breakpoint by name at work: the engine watches wherever its place is found."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Protocol

from modpdb.breakpoints.books import NamedBreakpoint, Spot
from modpdb.breakpoints.inheritance import Inheritance, may_inherit
from modpdb.breakpoints.locations import Spec
from modpdb.breakpoints.locator import Locator

Reached = Callable[[types.FrameType], bool]
Stops = Callable[[NamedBreakpoint, types.FrameType, str | None], bool]
"""Decides whether the breakpoint stops in a frame; with a sentence for the stop."""


class Engine(Protocol):
    """What a placement needs of the engine."""

    def watch(self, code: types.CodeType, reached: Reached, line: int | None = None) -> None: ...

    def unwatch(self, reached: Reached) -> None: ...

    def original(self, code: types.CodeType) -> types.CodeType: ...


class Placement:
    """Keeps *breakpoint* placed in all code that its spec means, now and as modules load.

    ``stops`` decides at a hit. ``tell`` is given a sentence where the place is not quite what
    was asked for.
    """

    def __init__(
        self,
        breakpoint: NamedBreakpoint,
        engine: Engine,
        locator: Locator,
        stops: Stops,
        tell: Callable[[str], None],
    ) -> None:
        self._breakpoint = breakpoint
        self._engine = engine
        self._locator = locator
        self._stops = stops
        self._tell = tell
        self._placed: set[int] = set()  # ids of code objects, which the breakpoint keeps alive
        self._inheritance: Inheritance | None = None
        spec = breakpoint.spec
        self._search = locator.search(spec, self._found)
        if may_inherit(spec):
            self._inheritance = Inheritance(spec, locator, self._inherited, engine.original)
            self._inheritance.start()

    def remove(self) -> None:
        """Stop nowhere any more, and look for nothing."""
        self._engine.unwatch(self._reached)
        self._locator.forget(self._search)
        if self._inheritance is not None:
            self._engine.unwatch(self._reached_by_heir)
            self._inheritance.stop()

    def _found(self, code: types.CodeType) -> None:
        self._place(code, self._reached)

    def _inherited(self, code: types.CodeType, static: bool) -> None:
        if self._inheritance is None or self._is_placed(code):
            return
        if not static:
            self._place(code, self._reached_by_heir, self._inheritance.heir)
            return
        self._place(code, self._reached)
        self._tell(
            f"{self._breakpoint.spec} is {code.co_qualname}, a staticmethod: it does not know "
            "the class that it is called on, and stops for all"
        )

    def _is_placed(self, code: types.CodeType) -> bool:
        return id(self._engine.original(code)) in self._placed

    def _place(self, code: types.CodeType, reached: Reached, heir: str | None = None) -> None:
        if self._is_placed(code):
            return
        code = self._engine.original(code)
        self._placed.add(id(code))
        spec = self._breakpoint.spec
        for part, line in spec.stops_in(code):
            if isinstance(spec, Spec) and spec.offset is not None:
                asked = code.co_firstlineno + spec.offset
                if line != asked:
                    self._tell(f"{spec}: line {asked} cannot stop; the nearest that can is {line}")
            self._breakpoint.add(Spot(part, line, heir))
            self._engine.watch(part, reached, line)

    def _reached(self, frame: types.FrameType) -> bool:
        return self._stops(self._breakpoint, frame, None)

    def _reached_by_heir(self, frame: types.FrameType) -> bool:
        if self._inheritance is None or not self._inheritance.concerns(frame):
            return False
        return self._stops(self._breakpoint, frame, self._inheritance.whose(frame))
