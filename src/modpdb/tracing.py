"""How the program runs between stops: bdb steps it, the engine wakes bdb."""

from __future__ import annotations

import bdb
import contextlib
import os
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any, NoReturn

from modpdb.breakpoints.engine import Engine, is_ringing
from modpdb.breakpoints.locator import Locator
from modpdb.breakpoints.uncompiled import keep_uncompiled
from modpdb.interrupts import Interrupts
from modpdb.line_breaks import LineBreaks
from modpdb.own_code import is_ours
from modpdb.repairs import Quit, RepairedPdb


class PerThread:
    """An attribute that bdb keeps once in the debugger (all versions): each thread steps by
    itself, and with one for all breakpoints are met twice or not at all."""

    def __init__(self, default: Any = None) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        return instance.thread.__dict__.get(self._name, self._default)

    def __set__(self, instance: Any, value: Any) -> None:
        instance.thread.__dict__[self._name] = value


class TracingPdb(Interrupts, LineBreaks, RepairedPdb):
    """RepairedPdb with the engine: traced is only what somebody steps through."""

    botframe = PerThread()
    stopframe = PerThread()
    returnframe = PerThread()
    stoplineno = PerThread(-1)
    frame_returning = PerThread()
    enterframe = PerThread()
    currentbp = PerThread(0)
    _traces = PerThread(False)
    _tracer_before = PerThread()
    _untraced = PerThread(False)
    stopping_for = PerThread()  # the breakpoint

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.thread = threading.local()
        self.engine = Engine(self)
        self.locator = Locator(self.engine.wiring, self.canonic)
        self._prompt_lock = threading.RLock()
        keep_uncompiled(self.trace_dispatch)
        super().__init__(*args, **kwargs)
        self.ended = False  # post-mortem: nothing runs any more
        self.waiting: list[str] = []  # lines to run at the next stop
        self._launched = False
        self.reset()  # bdb and pdb miss attributes (curframe, botframe) before the first stop

    # -- woken by the engine -----------------------------------------------------------------------

    def wake(self, frame: types.FrameType) -> None:
        """Stop at the next line event of *frame*."""
        self._set_stopinfo(frame, None)
        self.trace_from(frame)

    def stop_now(self, frame: types.FrameType) -> None:
        """Stop in *frame*, whose line event this is."""
        with self._stopping_in(frame):
            super().user_line(frame)

    def wake_at_return(self, frame: types.FrameType) -> None:
        """Stop at the return event of *frame*, which is about to come."""
        self._set_stopinfo(frame.f_back, frame)
        self.trace_from(frame)

    def stop_at_return(self, frame: types.FrameType, value: object) -> None:
        """Stop in *frame*, which returns *value* now."""
        with self._stopping_in(frame):
            self.frame_returning = frame
            try:
                self.user_return(frame, value)
            finally:
                self.frame_returning = None
            if self.stopframe is frame and self.stoplineno != -1:
                self._set_stopinfo(None, None)  # `n` or `unt`, as bdb's dispatch_return has it

    @contextlib.contextmanager
    def _stopping_in(self, frame: types.FrameType) -> Iterator[None]:
        """For a stop that no trace function makes."""
        self._set_stopinfo(None, None)
        if self.botframe is None:
            self.botframe = _bottom(frame)
        self._untraced = True
        try:
            yield
        finally:
            self._untraced = False
        if self.quitting:
            self._leave()

    def stops_anyway(self, frame: types.FrameType, line: int = sys.maxsize) -> bool:
        """Whether stepping stops, or has stopped, at this line event of *frame*.

        *line*: of the event; the frame of a hook has none. Then breakpoints are not asked, as
        bdb does not ask them.
        """
        # Asked at every hit: the attributes of a thread are slow to get.
        if self.engine.stepped and self._has_stopped_at(frame):
            return True
        if frame.f_trace is None or not self._traces:
            return False
        stop = self.stopframe
        return stop is None or (stop is frame and 0 <= self.stoplineno <= line)

    def user_line(self, frame: types.FrameType) -> None:
        at, line = frame.f_lasti, frame.f_lineno
        super().user_line(frame)
        wiring = self.engine.wiring
        jumped = frame.f_lasti != at  # then no alarm follows
        if wiring.rings_after_line_event and not jumped and wiring.waits_at(frame.f_code, line):
            self.engine.stepped[threading.get_ident()] = id(frame), at

    def _has_stopped_at(self, frame: types.FrameType) -> bool:
        """Whether a tracer's line event has stopped where now the alarm rings."""
        return self.engine.stepped.get(threading.get_ident()) == (id(frame), frame.f_lasti)

    # pdb says `--Call--` and the like before interaction() has the prompt to itself.

    def user_call(self, frame: types.FrameType, argument_list: Any) -> None:
        with self._prompt_lock:
            super().user_call(frame, argument_list)

    def user_return(self, frame: types.FrameType, return_value: Any) -> None:
        with self._prompt_lock:
            super().user_return(frame, return_value)

    def user_exception(self, frame: types.FrameType, exc_info: Any) -> None:
        with self._prompt_lock:
            super().user_exception(frame, exc_info)

    def _execute(self, code: types.CodeType) -> None:
        """Up to 3.12 what is assigned reaches the frame only when a trace function returns."""
        super()._execute(code)
        if self._untraced and sys.version_info < (3, 13):
            _write_back(self.curframe, self.curframe_locals)

    # -- tracing -----------------------------------------------------------------------------------

    def trace_dispatch(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        if is_ours(frame.f_code.co_filename) or is_ringing():
            return None  # our own code, where stepping leaves the script, or a condition
        if self.in_forked_child():
            sys.settrace(None)  # the child of one that is stepped through
            return None
        if self.engine.wiring.tracer.look(frame, event, arg):
            return frame.f_trace
        if event == "call" and not self._may_stop_in(frame):
            return frame.f_trace
        if not self._traces:
            self._trace()  # run() and its like install bdb's trace function by themselves
        try:
            traced = super().trace_dispatch(frame, event, arg)
        except Quit:
            self._leave()
        # After a line that resumes the frame has the tracer back that it had before.
        return traced if self._traces else frame.f_trace

    def _may_stop_in(self, frame: types.FrameType) -> bool:
        """Whether bdb may want to stop in a call, asked in no time: `n` over a call that takes an
        hour asks this for every call in it."""
        stop = self.stopframe
        return stop is None or stop is frame or self.botframe is None

    def reset(self) -> None:
        super().reset()
        self._traces = False
        self.thread.frames_before = []

    def trace_from(self, frame: types.FrameType) -> None:
        """Trace *frame* and its callers, down to the script's first."""
        if self.botframe is None:
            self.botframe = _bottom(frame)
        self._trace()
        before: list[tuple[types.FrameType, Any]] = self.thread.frames_before
        for each in _callers(frame, self.botframe):
            if each.f_trace is not None and each.f_trace != self.trace_dispatch:
                before.append((each, each.f_trace))
            each.f_trace = self.trace_dispatch

    def _trace(self) -> None:
        """Trace this thread, and remember who did before."""
        if not self._traces:
            self._traces = True
            self._tracer_before = self._other_tracer()
            self.thread.frames_before = []
        sys.settrace(self.trace_dispatch)

    def _other_tracer(self) -> Any:
        """Who traces this thread beside modpdb."""
        tracer = sys.gettrace()
        return (
            None if tracer in (self.trace_dispatch, self.engine.wiring.tracer.function) else tracer
        )

    def _stop_tracing(self) -> None:
        """Give the tracer that was there before its thread and its frames back."""
        if not self._traces:
            return
        self._traces = False
        self._give_back_opcodes()
        tracer = self.engine.wiring.tracer
        for each in _callers(sys._getframe(), self.botframe):
            if each.f_trace == self.trace_dispatch:
                each.f_trace = tracer.local(each)
        for each, function in self.thread.frames_before:
            each.f_trace = function
        self.thread.frames_before = []
        sys.settrace(self._tracer_before)
        self._tracer_before = None
        tracer.start()

    def _give_back_opcodes(self) -> None:
        """Since 3.13 set_trace() notes every frame of the stack, and only bdb's set_continue()
        lets them go."""
        noted = getattr(self, "frame_trace_lines_opcodes", None)
        if noted:
            for frame, (lines, opcodes) in noted.items():
                frame.f_trace_lines, frame.f_trace_opcodes = lines, opcodes
            noted.clear()

    def set_continue(self) -> None:
        """bdb's goes on tracing while there are breakpoints (all versions)."""
        self.settle()
        self._set_stopinfo(self.botframe, None, -1)
        self._stop_tracing()

    def set_quit(self) -> None:
        super().set_quit()
        self._leaving = True
        self.engine.end()  # what is run on the way out stops nowhere

    def _leave(self) -> NoReturn:
        """The user's `q`: out of the script, from whatever thread it was typed in."""
        if threading.current_thread() is threading.main_thread():
            raise Quit from None
        if self._launched:
            self._quit_in_main_thread()
        raise SystemExit from None  # what threading lets a thread end by without a word

    @contextlib.contextmanager
    def at_prompt(self) -> Iterator[None]:
        """While commands are taken: of one thread at a time, and with all breakpoints at rest for
        what is evaluated."""
        with self._prompt_lock, self.engine.resting():
            if self._leaving and threading.current_thread() is not threading.main_thread():
                raise SystemExit  # another thread's `q`, while this one waited
            self._interrupted = False
            self._in_interaction = True
            self._prompting = threading.get_ident()
            try:
                yield
            except BrokenPipeError:  # `modpdb … | head`: nobody reads what is said here
                if not self._launched:
                    raise
                self._say_no_more()
                self.set_quit()
                self._leave()
            finally:
                self._in_interaction = False
                self.settle()

    def _say_no_more(self) -> None:
        """What is left to be written is not complained of when Python ends, either."""
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stdout.fileno())

    def stop_is_over(self) -> bool:
        """Whether the breakpoint that stops this thread was cleared or disabled at the prompt of
        another, for which this one has waited."""
        breakpoint, self.stopping_for = self.stopping_for, None
        if breakpoint is None or breakpoint.temporary:
            return False
        return breakpoint not in bdb.Breakpoint.bpbynumber or not breakpoint.enabled

    def settle(self) -> None:
        """Let the engine wire what commands have changed, and say what that costs."""
        for said in self.engine.wiring.settle():
            self.message(said)

    # -- breakpoints: the engine notices them ------------------------------------------------------

    def break_here(self, frame: types.FrameType) -> bool:
        return False

    def break_anywhere(self, frame: types.FrameType) -> bool:
        return False

    # -- running -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self.engine.begin()
        try:
            with super().running():
                yield
        finally:
            self._stop_tracing()
            self.engine.end()

    def set_trace(
        self, frame: types.FrameType | None = None, commands: list[str] | None = None
    ) -> None:
        """bdb's goes down to the interpreter's first frame (all versions)."""
        bottom = self.botframe if self._launched else None
        self.engine.begin()
        frame = frame or sys._getframe().f_back
        before = self._tracer_before if self._traces else self._other_tracer()
        frames = [(each, each.f_trace) for each in _callers(frame, None)]
        others = [each for each in frames if each[1] not in (None, self.trace_dispatch)]
        super().set_trace(frame)
        self._traces, self._tracer_before = True, before
        self.thread.frames_before = others
        if bottom is not None:
            self.botframe = bottom  # the stack ends at the script, not in the launcher
        self.waiting += commands or []

    def launch(self, code: types.CodeType, namespace: dict[str, Any], stop: bool) -> None:
        """Run the script; *stop* at its first line, else at the first breakpoint or stage."""
        self.reset()
        self._launched = True
        self._leaving = False
        before = sys.gettrace()
        self.engine.begin()
        code = self.engine.wiring.instrument(code, main=True)
        try:
            if stop:
                self._trace()
            else:
                self.botframe = sys._getframe()
                self.set_continue()
                self.engine.wiring.tracer.start()
            exec(code, namespace)
        except BaseException:
            if self._leaving:
                raise Quit from None  # the script made another exception of it
            raise
        finally:
            self._stop_tracing()
            sys.settrace(before)
            if not _others_run():  # else their breakpoints hold until Python has waited for them
                self.engine.end()
            self._launched = False
        if self._leaving:
            raise Quit  # the script swallowed it

    def leave(self) -> None:
        """The script has ended: look for nothing more, unless threads run on."""
        if not _others_run():
            self.locator.close()

    def get_stack(self, f: types.FrameType | None, t: types.TracebackType | None) -> Any:
        """pdbpp's stack without our own frames: those below the script's, and that of the handler
        in which Ctrl-C has raised KeyboardInterrupt."""
        stack, index = super().get_stack(f, t)
        theirs = [n for n, (frame, _) in enumerate(stack) if not is_ours(frame.f_code.co_filename)]
        if not theirs:
            return stack, index
        first, last = theirs[0], theirs[-1]
        behind = len(stack) - 1 - last
        self.fullstack = self.fullstack[first : len(self.fullstack) - behind]  # for hf_unhide
        return stack[first : last + 1], min(max(0, index - first), last - first)

    def in_forked_child(self) -> bool:
        """A forked child has the breakpoints but nobody who types: it never stops."""
        raise NotImplementedError

    def at_terminal(self) -> bool:
        """Whether a person types and reads."""
        raise NotImplementedError


def _callers(
    frame: types.FrameType | None, bottom: types.FrameType | None
) -> Iterator[types.FrameType]:
    """*frame* and those that called it, down to *bottom*."""
    while frame is not None:
        yield frame
        if frame is bottom:
            return
        frame = frame.f_back


def _others_run() -> bool:
    """Whether threads run on for which Python waits at its end."""
    return any(
        not each.daemon and each is not threading.current_thread() for each in threading.enumerate()
    )


def _bottom(frame: types.FrameType) -> types.FrameType:
    *_, last = _callers(frame, None)
    return last


def _write_back(frame: types.FrameType, edited: dict[str, Any]) -> None:
    """Give *frame* the values in *edited*, its f_locals (up to 3.12).

    PyFrame_LocalsToFast does nothing unless f_locals was read since it last ran, and reading
    f_locals overwrites what was edited.
    """
    import ctypes

    kept = dict(edited)
    fresh = frame.f_locals
    for name in fresh.keys() - kept.keys():
        del fresh[name]
    fresh.update(kept)
    ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(1))
