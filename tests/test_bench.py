"""scripts/bench: its arithmetic, its table and file, and that each row measures what it says.

No test here asserts how long something took: that is for scripts/bench itself.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import bench
from benchmarks import first_prompt
from benchmarks.first_prompt import MODPDB, PDBPP, SCRIPT, Debugger, check_no_torch, started
from benchmarks.measuring import (
    BenchError,
    Measured,
    Result,
    Row,
    interleaved,
    repeated,
    run,
    within,
)


def row(limit: float | None = 0.5, against: str | None = "peer") -> Row:
    return Row("name", "what it is", against, limit, lambda repetitions: Measured((1.0,)))


def sides(order: list[str]) -> tuple[Callable[[], float], Callable[[], float]]:
    """Ours and a peer's that note when they are called."""

    def ours() -> float:
        order.append("ours")
        return 1.0

    def theirs() -> float:
        order.append("theirs")
        return 4.0

    return ours, theirs


# -- measuring ----------------------------------------------------------------------------------


def test_value_is_the_ratio_of_medians() -> None:
    assert Measured((1.0, 2.0, 9.0), (4.0, 1.0, 100.0)).value == 0.5


def test_value_without_a_peer_is_the_median_in_seconds() -> None:
    assert Measured((1.0, 2.0, 9.0)).value == 2.0


def test_sides_take_turns_at_beginning_after_a_run_that_is_not_counted() -> None:
    order: list[str] = []
    measured = interleaved(2, *sides(order))
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert measured == Measured((1.0, 1.0), (4.0, 4.0))


def test_without_a_peer_the_first_run_is_not_counted_either() -> None:
    seconds = iter([9.0, 1.0, 2.0])
    assert repeated(2, lambda: next(seconds)) == Measured((1.0, 2.0))


@pytest.mark.parametrize(("limit", "verdict"), [(0.5, "ok"), (0.49, "OVER"), (None, "no limit")])
def test_verdict(limit: float | None, verdict: str) -> None:
    assert Result(row(limit), Measured((1.0,), (2.0,))).verdict == verdict


def test_row_that_cannot_be_measured_is_failed_not_raised() -> None:
    def broken(repetitions: int) -> Measured:
        raise BenchError("the reason")

    result = run(Row("name", "what", None, 1.0, broken))
    assert (result.verdict, result.problem) == ("failed", "the reason")


def test_row_that_hangs_is_ended() -> None:
    def hangs(repetitions: int) -> Measured:
        time.sleep(60)
        return Measured((60.0,))

    result = run(Row("name", "what", None, None, hangs, timeout=0.05))
    assert (result.verdict, result.problem) == ("failed", "not done within 0.05 s")


def test_alarm_is_gone_afterwards() -> None:
    with within(0.05):
        pass
    time.sleep(0.1)


def test_repetitions_of_the_command_line_win() -> None:
    asked: list[int] = []

    def noted(repetitions: int) -> Measured:
        asked.append(repetitions)
        return Measured((1.0,))

    run(Row("name", "what", None, None, noted, repetitions=7))
    run(Row("name", "what", None, None, noted, repetitions=7), 2)
    assert asked == [7, 2]


# -- the table and the file ---------------------------------------------------------------------


RESULTS = (
    Result(row(1.6, "pdbpp"), Measured((0.09, 0.1, 0.12), (0.07, 0.08, 0.09))),
    Result(row(1.0, None), Measured((0.7, 0.75, 1.2))),
    Result(row(None), None, "the reason"),
)


def test_table() -> None:
    assert bench.table(RESULTS).splitlines() == [
        "      modpdb              against              value   limit",
        "name  100 ms (90…120)     pdbpp 80 ms (70…90)  1.25 ×  1.6 ×  ok",
        "name  750 ms (700…1,200)                       0.75 s  1 s    ok",
        "name                                                          failed",
        "median (min…max) of the repetitions; value: the ratio of the medians, or seconds",
        "name  what it is",
        "name  what it is",
        "name  what it is",
        "name: the reason",
    ]


def test_file_has_every_figure() -> None:
    report = json.loads(json.dumps(bench.report(RESULTS, 0.25)))
    assert report["machine"]["cpus"] and report["machine"]["packages"]["pdbpp"]
    assert report["load_before"] == 0.25
    first, second, third = report["rows"]
    assert first["value"] == pytest.approx(1.25)
    assert (first["unit"], first["limit"], first["verdict"]) == ("ratio", 1.6, "ok")
    assert first["seconds"]["modpdb"]["samples"] == [0.09, 0.1, 0.12]
    assert first["seconds"]["peer"] == {
        "median": 0.08,
        "min": 0.07,
        "max": 0.09,
        "samples": [0.07, 0.08, 0.09],
    }
    assert (second["unit"], second["seconds"]["peer"]) == ("s", None)
    assert (third["value"], third["seconds"], third["problem"]) == (None, {}, "the reason")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """`command(rows, *args)`: scripts/bench.py with these rows; its exit status."""

    def call(rows: tuple[Row, ...], *args: str) -> int:
        monkeypatch.setattr(bench, "ROWS", rows)
        monkeypatch.setattr(sys, "argv", ["bench", "--json", str(tmp_path / "bench.json"), *args])
        return bench.main()

    return call


@pytest.mark.parametrize(("limit", "status"), [(1.0, 0), (None, 0), (0.9, 1)])
def test_exit_status(command: Callable[..., int], limit: float | None, status: int) -> None:
    assert command((row(limit, None),)) == status


def test_row_that_failed_fails_the_bench_though_it_has_no_limit(
    command: Callable[..., int], tmp_path: Path
) -> None:
    def broken(repetitions: int) -> Measured:
        raise BenchError("the reason")

    assert command((Row("broken", "what", None, None, broken),)) == 1
    assert json.loads((tmp_path / "bench.json").read_text())["rows"][0]["verdict"] == "failed"


def test_rows_are_chosen_by_name(command: Callable[..., int], tmp_path: Path) -> None:
    rows = (row(), Row("other", "what", None, None, lambda repetitions: Measured((1.0,))))
    assert command(rows, "other") == 0
    written = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert [each["name"] for each in written] == ["other"]


def test_unknown_row_is_refused(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command((row(),), "nmae")
    assert ended.value.code == 2
    assert "no row nmae; there is: name" in capsys.readouterr().err


def test_names_of_rows_are_different() -> None:
    names = [each.name for each in bench.ROWS]
    assert len(names) == len(set(names))


# -- the rows -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / SCRIPT).write_text("x = 1\n")
    return tmp_path


@pytest.mark.parametrize("terminal", [False, pytest.param(True, marks=pytest.mark.pty)])
@pytest.mark.parametrize("debugger", [MODPDB, PDBPP], ids=["modpdb", "pdbpp"])
def test_first_prompt_comes_before_the_line_is_run(
    folder: Path, debugger: Debugger, terminal: bool
) -> None:
    with started(debugger, folder, terminal=terminal) as session:
        session.read_until(debugger.prompt)
        session.send("p str('x' in globals()).upper()")
        assert session.read_until(b"TRUE|FALSE")[0] == b"FALSE"


@pytest.mark.parametrize("terminal", [False, pytest.param(True, marks=pytest.mark.pty)])
def test_no_torch_at_the_first_prompt(folder: Path, terminal: bool) -> None:
    check_no_torch(folder, terminal=terminal)


def test_torch_at_the_first_prompt_is_found_out(folder: Path) -> None:
    # Not torch itself: a name in sys.modules is what is looked at, and it is quicker.
    (folder / "torch.py").touch()
    eager = Debugger(
        (
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, ''); import torch; {PDBPP.command[-1]}",
        ),
        PDBPP.prompt,
    )
    with pytest.raises(BenchError, match=r"torch is in sys\.modules"):
        check_no_torch(folder, terminal=False, debugger=eager)


def test_debugger_that_ends_is_told_from_a_slow_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def problem(program: str) -> str:
        debugger = Debugger((sys.executable, "-c", program), b"never")
        with (
            started(debugger, folder, terminal=False) as session,
            pytest.raises(BenchError) as error,
        ):
            session.read_until(debugger.prompt)
        return str(error.value)

    assert problem("print('bye')") == r"it ended before b'never' was printed, but: b'bye\n'"
    monkeypatch.setattr(first_prompt, "TIMEOUT", 0.2)
    assert problem("import time; time.sleep(60)").startswith("0.2 s went by before b'never'")


@pytest.mark.parametrize("name", ["modules-llama", "modules-moe"])
def test_modules_row(name: str) -> None:
    (chosen,) = (each for each in bench.ROWS if each.name == name)
    if chosen.against:
        pytest.importorskip(chosen.against, reason="scripts/bench installs it")
    result = run(chosen, 1)
    assert result.measured is not None, result.problem
    assert len(result.measured.ours) == 1
    assert len(result.measured.theirs) == (1 if chosen.against else 0)
