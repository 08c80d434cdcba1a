"""How the program runs between stops: bdb steps it, the engine wakes bdb, Ctrl-C interrupts it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from modpdb.breakpoints.engine import TraceEngine
from modpdb.breakpoints.locations import Locator
from modpdb.repairs import Quit, RepairedPdb

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class TracingPdb(RepairedPdb):
    """RepairedPdb with the engine: nothing is traced that nobody waits for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._forget_lines()
        super().__init__(*args, **kwargs)
        self.locator = Locator()
        self.engine = TraceEngine(self.trace_dispatch, self.has_lines)
        self.ended = False  # post-mortem: nothing runs any more
        self.waiting: list[str] = []  # lines to run at the next stop
        self._launched = False
        self._interrupted = False
        self.reset()  # bdb and pdb miss attributes (curframe, botframe) before the first stop

    def trace_dispatch(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            return None  # our own code: where stepping leaves the script
        if event == "call" and not self.quitting and self.engine.enters(frame):
            return self.wake(frame)
        if event == "line" and not self.quitting and self.engine.reaches(frame):
            self._set_stopinfo(frame, None)
        return super().trace_dispatch(frame, event, arg)

    def wake(self, frame: types.FrameType) -> Callable[..., Any]:
        """Let bdb stop at the next line of *frame*."""
        self._set_stopinfo(frame, None)
        return self._trace_from(frame)

    def _trace_from(self, frame: types.FrameType) -> Callable[..., Any]:
        """Trace *frame* and its callers, down to the script's first."""
        each: types.FrameType | None = frame
        while each is not None:
            each.f_trace = self.trace_dispatch
            if each is self.botframe:
                break
            each = each.f_back
        sys.settrace(self.trace_dispatch)
        return self.trace_dispatch

    def stopped_in(self, frame: types.FrameType) -> None:
        """The program stands in *frame*: bdb traces from here, whatever woke it."""
        self.engine.rest()
        self._trace_from(frame)

    def set_continue(self) -> None:
        super().set_continue()
        frame: types.FrameType | None = sys._getframe()
        while frame is not None:
            if frame.f_trace is not None and not self.has_lines(frame.f_code):
                del frame.f_trace
            if frame is self.botframe:
                break
            frame = frame.f_back
        self.engine.wait(lines=any(any(lines) for lines in self.breaks.values()))

    def has_lines(self, code: types.CodeType) -> bool:
        """Whether *code* has a line with a breakpoint."""
        if self.engine.has_lines(code):
            return True
        file = code.co_filename
        if file not in self._lines_of:
            self._lines_of[file] = frozenset(self.breaks.get(self.canonic(file), ()))
        lines = self._lines_of[file]
        if not lines:
            return False
        known = self._has_lines.get(id(code))
        if known is None:
            found = any(line in lines for _, _, line in code.co_lines())
            known = self._has_lines[id(code)] = (found, code)  # the code, for its id
        return known[0]

    def _add_to_breaks(self, filename: str, lineno: int) -> None:
        super()._add_to_breaks(filename, lineno)
        self._forget_lines()

    def _prune_breaks(self, filename: str, lineno: int) -> None:
        super()._prune_breaks(filename, lineno)
        self._forget_lines()

    def _forget_lines(self) -> None:
        self._lines_of: dict[str, frozenset[int]] = {}
        self._has_lines: dict[int, tuple[bool, types.CodeType]] = {}

    def break_anywhere(self, frame: types.FrameType) -> bool:
        """Up to 3.13 bdb asks for the file only, and traces every function of it by lines."""
        return self.has_lines(frame.f_code)

    def set_trace(
        self, frame: types.FrameType | None = None, commands: list[str] | None = None
    ) -> None:
        """bdb's goes down to the interpreter's first frame (all versions)."""
        bottom = self.botframe if self._launched else None
        super().set_trace(frame or sys._getframe().f_back)
        if bottom is not None:
            self.botframe = bottom  # the stack ends at the script, not in the launcher
        self.waiting += commands or []

    def launch(self, code: types.CodeType, namespace: dict[str, Any], stop: bool) -> None:
        """Run the script; *stop* at its first line, else at the first breakpoint or stage."""
        self.reset()
        self._launched = True
        try:
            if stop:
                sys.settrace(self.trace_dispatch)
            else:
                self.botframe = sys._getframe()
                self.set_continue()
            exec(code, namespace)
        except BaseException:
            if self.quitting:
                raise Quit from None  # the script made another exception of it
            raise
        finally:
            self.engine.rest()
            sys.settrace(None)
            self._launched = False
        if self.quitting:
            raise Quit  # the script swallowed it

    def get_stack(self, f: types.FrameType | None, t: types.TracebackType | None) -> Any:
        """pdbpp's stack without our own frames at its bottom."""
        stack, index = super().get_stack(f, t)
        own = sum(frame.f_code.co_filename.startswith(_PACKAGE) for frame, _ in stack)
        if own == len(stack):
            return stack, index
        return stack[own:], max(0, index - own)

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """While the script runs at a terminal, Ctrl-C brings the prompt up.

        A handler that the script installs itself is left alone.
        """
        if not self.at_terminal() or signal.getsignal(signal.SIGINT) != signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            if signal.getsignal(signal.SIGINT) == self._interrupt:
                signal.signal(signal.SIGINT, signal.default_int_handler)

    def _interrupt(self, signum: int, frame: types.FrameType | None) -> None:
        if self._in_interaction or self._interrupted or frame is None:
            self._interrupted = False
            raise KeyboardInterrupt
        self._interrupted = True
        print(
            "\ninterrupted: stopping at the next line (Ctrl-C again: KeyboardInterrupt there)",
            file=self.stdout,
        )
        self._set_stopinfo(None, None)
        self.stopped_in(frame)

    def at_terminal(self) -> bool:
        """Whether a person types and reads."""
        raise NotImplementedError
