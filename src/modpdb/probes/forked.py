"""Run code in a forked copy of the process: whatever it does, the debugged program is as it was.

The copy has the program's modules, patches and objects, which a fresh interpreter would lack. It
prints nothing, is not traced, collects no garbage (a finalizer may delete files), flushes no file
of the program's and ends without running what was registered for the exit.

Random state, gradients, buffers and caches stay as they are here. Not copied are files and sockets
(the copy writes to them and moves their positions), memory that is shared on purpose, and
accelerators. Of the threads only this one goes on there; a lock that another holds is never
released. OpenMP's pool is gone as well: torch, which would wait for it, computes on one thread.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

from modpdb.probes._torch import torch_or_none

Result = TypeVar("Result")

_SLOW = 1.0  # seconds after which somebody who waits is told
_STREAMS: list[Any] = []  # in the copy: the program's


class ForkError(RuntimeError):
    """Why the copy gave no result: what was raised in it, or how it ended."""


def in_fork(
    function: Callable[[], Result],
    slow: Callable[[], None] = lambda: None,
    *,
    timeout: float | None = None,
) -> Result:
    """What *function* returns in a forked copy; it must be plain data, which is pickled.

    *slow* is called once if that takes over a second. Raises ForkError, also where it takes longer
    than *timeout* seconds. KeyboardInterrupt while it runs ends the copy.
    """
    if not hasattr(os, "fork"):
        raise ForkError("this system cannot fork a process")
    receive, send = os.pipe()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12+: other threads are running
            child = os.fork()
    except OSError as error:
        os.close(receive)
        os.close(send)
        raise ForkError(f"the process cannot be forked: {error.strerror}") from None
    if child == 0:
        _run(function, send)
    os.close(send)
    received = b""
    try:
        received = b"".join(_received(receive, slow, timeout))
    finally:
        os.close(receive)
        status = _end(child, kill=not received)
    if not received:
        raise ForkError(f"the forked copy of the process {_ending(status)}")
    outcome, value = pickle.loads(received)
    if outcome == "raised":
        raise ForkError(value)
    return value


def _received(receive: int, slow: Callable[[], None], timeout: float | None) -> Iterator[bytes]:
    """What the copy sends until it ends."""
    waiting = select.poll()  # select() takes no descriptor over 1,023
    waiting.register(receive)
    began = time.monotonic()
    if not waiting.poll(_SLOW * 1000):
        slow()
    while True:
        rest = None if timeout is None else began + timeout - time.monotonic()
        if rest is not None and (rest <= 0 or not waiting.poll(rest * 1000)):
            raise ForkError(f"the forked copy took longer than {timeout:.0f} s and was ended")
        part = os.read(receive, 1 << 16)
        if not part:
            return
        yield part


def _end(child: int, *, kill: bool) -> int | None:
    """The copy's wait status; None where the program's own code has reaped it."""
    try:
        if kill:
            os.kill(child, signal.SIGKILL)
        return os.waitpid(child, 0)[1]
    except (ChildProcessError, ProcessLookupError):
        return None


def _ending(status: int | None) -> str:
    if status is None:
        return "ended without a result"
    number = os.waitstatus_to_exitcode(status)
    return f"died: {signal.Signals(-number).name}" if number < 0 else f"ended with status {number}"


# -- in the copy -----------------------------------------------------------------------------------


def _run(function: Callable[[], Any], send: int) -> NoReturn:
    status = 1
    try:
        _detach()
        try:
            answer = pickle.dumps(("returned", function()))
        except BaseException as error:
            answer = pickle.dumps(("raised", error_line(error)))
        with open(send, "wb") as pipe:
            pipe.write(answer)
        status = 0
    finally:
        os._exit(status)


def _detach() -> None:
    """Take away from the copy whatever could be noticed outside of it."""
    sys.settrace(None)
    sys.setprofile(None)
    threading.settrace(None)
    gc.disable()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch = torch_or_none()
    if torch is not None:
        torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    # New objects, and the old ones are kept: freed, they would flush what the program has written.
    _STREAMS.extend((sys.stdin, sys.stdout, sys.stderr))
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")


def error_line(error: BaseException) -> str:
    """The type of an exception and the first line that it says."""
    try:
        said = str(error).strip().partition("\n")[0]
    except Exception:  # its __str__ is the user's code
        said = ""
    name = type(error).__name__
    return f"{name}: {said}" if said else name
