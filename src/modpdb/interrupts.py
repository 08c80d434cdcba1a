"""Ctrl-C, and the way out of threads: what reaches the script from outside of its own run."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from modpdb.breakpoints.engine import is_ringing
from modpdb.repairs import Quit


class Interrupts:
    """Brings the prompt up where Ctrl-C is typed. Mixed into TracingPdb."""

    if TYPE_CHECKING:
        stdout: Any
        _in_interaction: bool

        def at_terminal(self) -> bool: ...
        def trace_from(self, frame: types.FrameType) -> None: ...
        def _set_stopinfo(self, stopframe: Any, returnframe: Any, stoplineno: int = 0) -> None: ...

    _interrupted = False
    _leaving = False
    _prompting = 0  # the thread whose prompt it is

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

    def _quit_in_main_thread(self) -> None:
        """By SIGINT, which wakes it up from what it may be waiting for; and not by a second
        exception beside that, which may leave threading's locks locked."""
        if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, self._interrupt):
            os.kill(os.getpid(), signal.SIGINT)  # launch() makes a Quit of what that raises
        elif (main := threading.main_thread().ident) is not None:
            _raise_in(main, Quit)

    def _interrupt(self, signum: int, frame: types.FrameType | None) -> None:
        if self._leaving:
            raise Quit
        if is_ringing():
            raise KeyboardInterrupt  # of a condition that takes long
        if self._in_interaction and self._prompting != threading.get_ident():
            _raise_in(self._prompting, KeyboardInterrupt)  # it is that thread's command
            return
        if self._in_interaction or self._interrupted or frame is None:
            self._interrupted = False
            raise KeyboardInterrupt
        self._interrupted = True
        print(
            "\ninterrupted: stopping at the next line (Ctrl-C again: KeyboardInterrupt there)",
            file=self.stdout,
        )
        self._set_stopinfo(None, None)
        self.trace_from(frame)


def _raise_in(thread: int, error: type[BaseException]) -> None:
    """Raise *error* in a thread, at its next instruction."""
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))
