"""Run something in a forked copy of the process, so that nothing of it happens in this one."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

_PATIENCE = 1.0  # seconds after which `waiting` is told


class ForkFailed(Exception):
    """Why there is no result: one sentence."""


def in_fork(
    call: Callable[[], Any], *, timeout: float = 300, waiting: Callable[[], None] = lambda: None
) -> Any:
    """What *call* returns, run in a child with its output thrown away; it must be picklable.

    The child has a copy of all memory: random state, gradients, buffers and caches of this
    process stay as they are. Not copied are files and sockets (the child writes to them and
    moves their positions), memory that is shared on purpose, and accelerators. Of the threads
    only this one goes on in the child; a lock that another holds is never released there, and
    OpenMP's pool is gone, so that torch hangs unless *call* sets one thread first.

    *waiting* is told after a second. Raises ForkFailed where the system cannot fork, *call*
    raises, the child dies or takes longer than *timeout* seconds.
    """
    if not hasattr(os, "fork"):
        raise ForkFailed("this system cannot fork a process")
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12+: other threads are running
        pid = os.fork()
    if pid == 0:
        _child(call, writing)
    os.close(writing)
    try:
        answer = b"".join(_received(reading, timeout, waiting))
    except BaseException:  # Ctrl-C too: the child must not outlive the command
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(reading)
    _, status = os.waitpid(pid, 0)
    if not answer:
        raise ForkFailed(f"the forked copy died: {_cause(status)}")
    error, value = pickle.loads(answer)
    if error:
        raise ForkFailed(error)
    return value


def _child(call: Callable[[], Any], writing: int) -> None:
    """Runs *call*, sends (error, value) and is gone, with no exit handler and no `finally` run."""
    try:
        # A prompt in the child, or a finalizer that deletes a file, would reach out of it.
        sys.settrace(None)
        sys.setprofile(None)
        gc.disable()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        sys.stdout = sys.stderr = open(nowhere, "w", encoding="utf-8")  # noqa: SIM115
        try:
            answer = pickle.dumps(("", call()))
        except BaseException as problem:
            answer = pickle.dumps((error_line(problem), None))
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(answer)
    finally:
        os._exit(0)


def error_line(problem: BaseException) -> str:
    """The type of an exception and the first line that it says."""
    try:
        said = str(problem).strip().partition("\n")[0]
    except Exception:  # its __str__ is the user's code
        said = ""
    name = type(problem).__name__
    return f"{name}: {said}" if said else name


def _received(reading: int, timeout: float, waiting: Callable[[], None]) -> Iterator[bytes]:
    started, told = time.monotonic(), False
    while True:
        rest = timeout - (time.monotonic() - started)
        if rest <= 0:
            raise ForkFailed(f"the forked copy took longer than {timeout:.0f} s and was ended")
        ready, _, _ = select.select([reading], [], [], rest if told else min(rest, _PATIENCE))
        if not ready:
            if not told:
                waiting()
            told = True
            continue
        part = os.read(reading, 1 << 16)
        if not part:
            return
        yield part


def _cause(status: int) -> str:
    number = os.waitstatus_to_exitcode(status)
    return signal.Signals(-number).name if number < 0 else f"exit status {number}"
