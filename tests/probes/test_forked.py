"""A forked copy of the process: what comes back, what stays here, how it ends."""

import os
import signal
import sys
import time

import pytest

from modpdb.probes.forked import ForkFailed, in_fork

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def test_what_it_gives_comes_back_and_nothing_else(capfd):
    held = [1]

    def call():
        held.append(2)
        print("noise")
        os.write(2, b"noise")
        return held, os.getpid()

    (given, pid) = in_fork(call)
    assert given == [1, 2] and held == [1]
    assert pid != os.getpid()
    assert capfd.readouterr() == ("", "")


def test_it_is_not_traced_and_reads_no_input():
    before = sys.gettrace()
    sys.settrace(lambda *args: None)
    try:
        assert in_fork(lambda: (sys.gettrace(), os.read(0, 1))) == (None, b"")
    finally:
        sys.settrace(before)


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("hostile")


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (Mute(), "Mute"),
    ],
)
def test_what_it_raises_is_one_line(raised, said):
    def call():
        raise raised

    with pytest.raises(ForkFailed) as failed:
        in_fork(call)
    assert str(failed.value) == said


def test_what_cannot_be_sent_back_is_said():
    with pytest.raises(ForkFailed, match="pickle"):
        in_fork(lambda: lambda: None)


def test_a_child_that_dies_is_told():
    with pytest.raises(ForkFailed, match="died: SIGKILL"):
        in_fork(lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ForkFailed, match="died: exit status 7"):
        in_fork(lambda: os._exit(7))


def test_one_that_hangs_is_ended():
    started, told = time.monotonic(), []
    with pytest.raises(ForkFailed, match="longer than 1 s"):
        in_fork(lambda: time.sleep(60), timeout=1.2, waiting=lambda: told.append(1))
    assert time.monotonic() - started < 10 and told == [1]
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_ctrl_c_ends_it():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_fork(lambda: time.sleep(60), waiting=interrupted)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_large_answer_comes_whole():
    assert in_fork(lambda: b"x" * 3_000_000) == b"x" * 3_000_000
