"""Code run from a prompt with breakpoints at work: under a second debugger, as pdb's `debug`.

At a prompt the debugger rests: what is evaluated there stops nowhere, and the stop at hand must
still be there afterwards. So a second one, at the same input and output, runs the code. Its
prompt is `((ModPdb))`; there `c` runs on, and `q` gives the code up and leads back.
"""

from __future__ import annotations

import bdb
import contextlib
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from typing import TypeVar

from modpdb._pdbpp import pdbpp
from modpdb.breakpoints.books import NamedBreakpoint, named_breakpoints
from modpdb.commands.registry import UsageError
from modpdb.debugger import ModPdb
from modpdb.own_code import strip_traceback
from modpdb.repairs import Quit

Result = TypeVar("Result")

# What belongs to the person at the prompt, whichever debugger it is of: the same objects in both.
_SHARED = ("aliases", "commands", "commands_doprompt", "commands_silent", "_shadowing", "plumbing")
_HANDED_OVER = ("sticky", "show_hidden_frames")  # and back


class Left(Exception):
    """The code was given up by the user's `q`; or it raised what is the cause of this."""


class InnerPdb(ModPdb):
    """The debugger that runs code from the prompt of *outer*.

    ``stopped``: whether it has had a prompt, so that a time taken around it tells nothing.
    """

    def __init__(self, outer: ModPdb) -> None:
        self._outer = outer
        self._placed: list[tuple[NamedBreakpoint, list[Callable[[], None]]]] = []
        self._known = named_breakpoints()
        self.stopped = False
        super().__init__(
            outer.completekey,
            outer.stdin,
            outer.stdout,
            Config=outer.ConfigFactory,
            nosigint=True,
            readrc=False,
        )
        self.prompt = f"({outer.prompt.strip()}) "
        for name in (*_SHARED, *_HANDED_OVER):
            setattr(self, name, getattr(outer, name))

    def call(self, function: Callable[[], Result]) -> Result:
        """What *function* returns, run to the first breakpoint. Raises Left for `q`."""
        self.reset()
        self.engine.begin()
        try:
            self.botframe = sys._getframe()
            self.set_continue()
            self.engine.wiring.tracer.start()
            result = function()
        except BaseException:
            if self._leaving:
                raise Left from None
            raise
        finally:
            self._stop_tracing()
            self.engine.end()
        if self._leaving:
            raise Left  # swallowed, or typed in another thread
        return result

    def set_trace(
        self, frame: types.FrameType | None = None, commands: list[str] | None = None
    ) -> None:
        """Of a `breakpoint()` in the code: the stack goes on ending where the code begins."""
        bottom = self.botframe
        super().set_trace(frame or sys._getframe().f_back, commands)
        self.botframe = bottom

    @contextlib.contextmanager
    def at_prompt(self) -> Iterator[None]:
        self.stopped = True
        with super().at_prompt():
            yield

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """Ctrl-C brings the inner prompt up while the code runs; at the outer one it would end
        the command."""
        before = signal.getsignal(signal.SIGINT)
        usual = before in (signal.default_int_handler, self._outer._interrupt)
        main = threading.current_thread() is threading.main_thread()
        if not (usual and main and self.at_terminal()):
            yield
            return
        signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def look_at(self, error: Exception) -> None:
        """Say *error*, and open the prompt where it was raised."""
        self.error("".join(traceback.format_exception_only(error)).strip())
        strip_traceback(error)
        if error.__traceback__ is not None and not self.input_at_end():
            with contextlib.suppress(Quit):
                self.post_mortem(error)

    # -- breakpoints are those of the outer debugger ----------------------------------------------

    def _search_for(self, breakpoint: NamedBreakpoint) -> None:
        known = len(breakpoint.when_deleted)
        super()._search_for(breakpoint)
        self._placed.append((breakpoint, breakpoint.when_deleted[known:]))

    def hand_back(self) -> None:
        """Watch for nothing any more; the outer debugger finds what was set meanwhile, and forgets
        what was cleared."""
        outer = self._outer
        for breakpoint, removers in self._placed:
            for remove in removers:
                if remove in breakpoint.when_deleted:
                    breakpoint.when_deleted.remove(remove)
                    remove()
        for file, line in list(self._lines):
            self._forget_line(file, line)
        self.locator.close()
        for file, line in bdb.Breakpoint.bplist:
            if line not in outer.breaks.get(file, ()):
                outer._add_to_breaks(file, line)
        for file, lines in list(outer.breaks.items()):
            for line in list(lines):
                if (file, line) not in bdb.Breakpoint.bplist:
                    outer._prune_breaks(file, line)
        for breakpoint in named_breakpoints():
            if breakpoint not in self._known:
                outer._search_for(breakpoint)
        outer.settle()
        for name in _HANDED_OVER:
            setattr(outer, name, getattr(self, name))


@contextlib.contextmanager
def second_debugger(outer: ModPdb) -> Iterator[InnerPdb]:
    """The debugger for what is run from the prompt of *outer*, which must go by
    sys.call_tracing: a trace function or hook is on the stack, and in it nothing is traced."""
    traced, last = sys.gettrace(), getattr(pdbpp.local, "GLOBAL_PDB", None)
    sys.settrace(None)
    try:
        inner = InnerPdb(outer)
        try:
            with inner.interrupts():
                yield inner
        finally:
            inner.hand_back()
    finally:
        pdbpp.local.GLOBAL_PDB = last
        sys.settrace(traced)


def run_from_prompt(outer: ModPdb, function: Callable[[InnerPdb], Result]) -> Result:
    """What *function*, given the debugger that runs it, returns. At the prompt of *outer*.

    An exception is said, and looked at as at a script's end where somebody types. Raises Left
    after that and for the user's `q`; UsageError, a command's own sentence, passes.
    """
    with second_debugger(outer) as inner:
        try:
            return sys.call_tracing(inner.call, (lambda: function(inner),))
        except (Left, UsageError):
            raise
        except Exception as error:
            inner.look_at(error)
            raise Left from error
