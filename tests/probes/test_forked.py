"""Code run in a forked copy: only its answer comes back, and nothing of it is noticed."""

import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from modpdb.probes.forked import ForkError, in_fork


def nothing() -> None: ...


def test_the_answer() -> None:
    assert in_fork(lambda: {"a": (1, 2)}, nothing) == {"a": (1, 2)}
    assert in_fork(os.getpid, nothing) != os.getpid()
    assert in_fork(lambda: b"x" * 10_000_000, nothing) == b"x" * 10_000_000


def test_what_it_changes_stays_there(capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def change() -> int:
        print("noise")
        os.write(2, b"noise")
        os.environ["MODPDB_TEST"] = "1"
        sys.modules["made_in_the_copy"] = sys
        seen.append(1)
        return len(seen)

    assert in_fork(change, nothing) == 1
    assert seen == [] and "MODPDB_TEST" not in os.environ and "made_in_the_copy" not in sys.modules
    assert capfd.readouterr() == ("", "")


def test_no_file_of_the_programs_is_written_or_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    monkeypatch.setattr(sys, "stdout", open(path, "w"))  # noqa: SIM115  its only reference
    folder = tempfile.TemporaryDirectory(dir=tmp_path)
    cycle = [folder]
    cycle.append(cycle)  # type: ignore[arg-type]
    sys.stdout.write("once ")
    in_fork(lambda: [list(range(50)) for _ in range(2000)], nothing)
    assert Path(folder.name).is_dir()
    sys.stdout.close()
    assert path.read_text() == "once "


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("hostile")


def raises(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda: raises(ValueError("first\nsecond")), "ValueError: first"),
        (lambda: raises(SystemExit()), "SystemExit"),
        (lambda: threading.Lock(), "TypeError: cannot pickle '_thread.lock' object"),
        (lambda: os._exit(3), "the forked copy of the process ended with status 3"),
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            "the forked copy of the process died: SIGKILL",
        ),
        (lambda: raises(Mute()), "Mute"),
    ],
)
def test_no_answer(function: object, said: str) -> None:
    with pytest.raises(ForkError, match=said):
        in_fork(function, nothing)  # type: ignore[arg-type]


def test_somebody_who_waits_is_told() -> None:
    told = []
    assert in_fork(lambda: time.sleep(1.3), lambda: told.append(1)) is None
    assert told == [1]
    in_fork(int, lambda: told.append(1))
    assert told == [1]


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    def hang() -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(60)

    def interrupt() -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    other = threading.Thread(target=interrupt)
    other.start()
    with pytest.raises(KeyboardInterrupt):
        in_fork(hang, nothing)
    other.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_one_that_hangs_is_ended() -> None:
    told: list[int] = []
    with pytest.raises(ForkError, match="took longer than 1 s and was ended"):
        in_fork(lambda: time.sleep(60), lambda: told.append(1), timeout=1.2)
    assert told == [1]
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_it_is_not_traced_and_reads_no_input() -> None:
    before = sys.gettrace()
    sys.settrace(lambda *args: None)
    try:
        assert in_fork(lambda: (sys.gettrace(), os.read(0, 1)), nothing) == (None, b"")
    finally:
        sys.settrace(before)
