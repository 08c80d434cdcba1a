"""pdb's breakpoints on lines, at work: the engine watches the code that a line lies in."""

from __future__ import annotations

import bdb
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from modpdb.breakpoints.books import reached_line
from modpdb.breakpoints.engine import Engine
from modpdb.breakpoints.locator import LineSearch, Locator


class LineBreaks:
    """Keeps what the engine watches in step with bdb's books. Mixed into TracingPdb."""

    if TYPE_CHECKING:
        engine: Engine
        locator: Locator

        def stops_anyway(self, frame: types.FrameType, line: int = ...) -> bool: ...

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lines: dict[tuple[str, int], tuple[LineSearch, Callable[..., bool]]] = {}
        super().__init__(*args, **kwargs)

    def _add_to_breaks(self, filename: str, lineno: int) -> None:
        super()._add_to_breaks(filename, lineno)  # type: ignore[misc]
        if lineno and (filename, lineno) not in self._lines:
            self._watch_line(filename, lineno)

    def _watch_line(self, file: str, line: int) -> None:
        stepped, complain = self.engine.stepped, self.complain
        position = file, line

        def reached(frame: types.FrameType) -> bool:
            # The first is asked here too: this is the way of every false condition.
            if (stepped or frame.f_trace is not None) and self.stops_anyway(frame, line):
                return False
            breakpoint = reached_line(position, frame, complain)
            if breakpoint is None:
                return False
            self.stopped_by(breakpoint)
            return True

        def found(code: types.CodeType) -> None:
            self.engine.watch(code, reached, line)

        self._lines[file, line] = self.locator.search_line(file, line, found), reached

    def _prune_breaks(self, filename: str, lineno: int) -> None:
        super()._prune_breaks(filename, lineno)  # type: ignore[misc]
        if (filename, lineno) not in bdb.Breakpoint.bplist:
            self._forget_line(filename, lineno)

    def _forget_line(self, file: str, line: int) -> None:
        if (file, line) in self._lines:
            search, reached = self._lines.pop((file, line))
            self.engine.unwatch(reached)
            self.locator.forget(search)

    def clear_all_breaks(self) -> Any:
        for file, line in list(self._lines):
            self._forget_line(file, line)
        return super().clear_all_breaks()  # type: ignore[misc]

    def stopped_by(self, breakpoint: bdb.Breakpoint) -> None:
        """*breakpoint* stops the program now."""
        raise NotImplementedError

    def complain(self, problem: str) -> None:
        """Say what went wrong with a breakpoint."""
        raise NotImplementedError
