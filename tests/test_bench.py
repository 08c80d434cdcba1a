"""scripts/bench: its arithmetic, its table and file, and that each row measures what it says.

No test here asserts how long something took: that is for scripts/bench itself.
"""

import importlib.util
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import bench
from benchmarks import (
    checkpoints,
    conversions,
    dap,
    debuggers,
    first_prompt,
    forward_passes,
    native_speed,
    pythons,
)
from benchmarks.debuggers import NEVER, Program
from benchmarks.first_prompt import MODPDB, PDBPP, SCRIPT, Debugger, check_no_torch, started
from benchmarks.measuring import (
    BenchError,
    Measured,
    NotHere,
    Result,
    Row,
    interleaved,
    repeated,
    run,
    within,
)
from interpreters import Interpreter


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


def test_those_beside_come_last_and_more_rarely() -> None:
    order: list[str] = []

    def slow() -> float:
        order.append("slow")
        return 8.0

    measured = interleaved(4, *sides(order), {"slow": slow}, every=3)
    assert order[:2] == ["ours", "theirs"]
    assert order[2:] == [
        *("theirs", "ours", "slow", "ours", "theirs"),
        *("theirs", "ours", "ours", "theirs", "slow"),
    ]
    assert measured.beside == {"slow": (8.0, 8.0)}
    assert measured.against(measured.beside["slow"]) == 2.0


@pytest.mark.parametrize(("limit", "verdict"), [(0.5, "ok"), (0.49, "OVER"), (None, "no limit")])
def test_verdict(limit: float | None, verdict: str) -> None:
    assert Result(row(limit), Measured((1.0,), (2.0,))).verdict == verdict


def test_row_that_cannot_be_measured_is_failed_not_raised() -> None:
    def broken(repetitions: int) -> Measured:
        raise BenchError("the reason")

    result = run(Row("name", "what", None, 1.0, broken))
    assert (result.verdict, result.problem) == ("failed", "the reason")


def test_row_that_is_not_for_here_is_skipped() -> None:
    def elsewhere(repetitions: int) -> Measured:
        raise NotHere("the reason")

    result = run(Row("name", "what", None, 1.0, elsewhere))
    assert (result.verdict, result.problem) == ("skipped", "the reason")


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
        "median (min…max) of the repetitions; value: the ratio of the medians, or time",
        "name  what it is",
        "name: the reason",
    ]


def test_table_has_those_beside_as_multiples_of_the_same() -> None:
    measured = Measured((2.02, 2.04, 2.06), (1.0, 2.0, 3.0), {"pdb": (50.0,), "debugpy": (3.0,)})
    hit = Row("hit", "one hit", "pdb", 0.1, lambda repetitions: Measured((1.0,)))
    against_pdb = Result(hit, Measured((4e-7,), (1e-5,), {"pdbpp": (2e-5,)}))
    here = Result(row(1.02, "plain"), measured)
    there = Result(replace(here.row, name="name 3.13.0"), measured)
    assert bench.table([here, there, against_pdb]).splitlines() == [
        "             modpdb               against                   value    limit",
        "name         2.04 s (2.02…2.06)   plain 2.00 s (1.00…3.00)  1.020 ×  1.02 ×  ok",
        "name 3.13.0  2.04 s (2.02…2.06)   plain 2.00 s (1.00…3.00)  1.020 ×  1.02 ×  ok",
        "hit          0.40 µs (0.40…0.40)  pdb 10 µs (10…10)         0.04 ×   0.1 ×   ok",
        "median (min…max) of the repetitions; value: the ratio of the medians, or time",
        "",
        "             times  modpdb  pdb     debugpy  pdbpp",
        "name         plain  1.02 ×  25 ×    1.50 ×",
        "name 3.13.0  plain  1.02 ×  25 ×    1.50 ×",
        "hit          pdb    0.04 ×  1.00 ×           2.00 ×",
        "",
        "name  what it is",
        "hit   one hit",
    ]


@pytest.mark.parametrize(
    ("limit", "seconds", "value", "shown"),
    [
        (0.003, 0.0027, "2.70 ms", "3 ms"),
        (5e-6, 4e-7, "0.40 µs", "5 µs"),
        (None, 4e-7, "0.40 µs", ""),
        (1.0, 0.75, "0.75 s", "1 s"),
    ],
)
def test_value_and_limit_have_the_same_unit(
    limit: float | None, seconds: float, value: str, shown: str
) -> None:
    assert bench.cells(Result(row(limit, None), Measured((seconds,))))[3:5] == (value, shown)


def test_value_that_is_just_over_the_limit_shows_it() -> None:
    result = Result(row(1.02, "plain"), Measured((1.021,), (1.0,)))
    assert bench.cells(result)[3:] == ("1.021 ×", "1.02 ×", "OVER")


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


def test_file_has_those_beside() -> None:
    result = Result(row(1.0, "plain"), Measured((1.0,), (2.0,), {"pdb": (3.0,)}))
    (written,) = json.loads(json.dumps(bench.report([result], 0.25)))["rows"]
    assert written["beside"]["pdb"]["samples"] == [3.0]


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


@pytest.mark.parametrize(
    "name", ["modules-llama", "modules-moe", "statistics", "statistics-memory"]
)
def test_rows_of_tensors_and_modules(name: str) -> None:
    (chosen,) = (each for each in bench.ROWS if each.name == name)
    if chosen.against:
        pytest.importorskip(chosen.against, reason="scripts/bench installs it")
    result = run(chosen, 1)
    assert result.measured is not None, result.problem
    assert len(result.measured.ours) == 1
    assert len(result.measured.theirs) == (1 if chosen.against else 0)


def test_what_is_no_time_has_its_unit() -> None:
    memory = replace(row(64.0, None), unit="MiB")
    result = Result(memory, Measured((40.0, 45.5, 50.0)))
    assert bench.cells(result) == ("name", "46 MiB (40…50)", "", "45.50 MiB", "64 MiB", "ok")
    assert bench.as_json(result)["unit"] == "MiB"


# -- the rows on other Pythons --------------------------------------------------------------------

OTHERS = [Interpreter(Path("/python3.12"), "3.12.1"), Interpreter(Path("/python3.99"), "3.99.0")]


def test_row_that_needs_torch_is_measured_here_alone() -> None:
    here = row()
    assert pythons.on_each(here, OTHERS) == [here]


def test_row_for_every_python_is_measured_on_each_of_them() -> None:
    everywhere = replace(row(), everywhere=True)
    names = [each.name for each in pythons.on_each(everywhere, OTHERS)]
    assert names == ["name", "name 3.12.1", "name 3.99.0"]


def test_row_for_some_pythons_is_measured_on_those() -> None:
    some = replace(row(), everywhere=True, minors=range(99, 100))
    (found,) = pythons.on_each(some, OTHERS)
    assert found.name == "name 3.99.0"


def test_row_for_no_python_here_is_skipped() -> None:
    (found,) = pythons.on_each(replace(row(), minors=range(98, 99)), [])
    assert run(found).problem == "it is for Python 3.98"


def test_row_elsewhere_is_given_that_python(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Path] = []

    def measure(repetitions: int, python: Path) -> Measured:
        given.append(python)
        return Measured((1.0,))

    monkeypatch.setattr(pythons, "environment", lambda interpreter, _: interpreter.executable)
    elsewhere = replace(row(), measure=measure, everywhere=True, minors=range(99, 100))
    (found,) = pythons.on_each(elsewhere, OTHERS)
    assert run(found, 1).measured == Measured((1.0,))
    assert given == [Path("/python3.99")]


# -- debuggers that run a program to its end ------------------------------------------------------

needs_debugpy = pytest.mark.skipif(
    importlib.util.find_spec("debugpy") is None, reason="debugpy: scripts/bench installs it"
)
WAYS = [
    "modpdb",
    "pdb",
    "pdbpp",
    pytest.param("debugpy", marks=needs_debugpy),
]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Two lines, the second with a breakpoint whose condition is asked once."""
    script = tmp_path / "two.py"
    script.write_text("number = 1\nnumber += 1\n")
    places = (dap.Breakpoint(script, 2, NEVER),)
    return Program(Path(sys.executable), (str(script),), places, seen=1)


@pytest.mark.parametrize("way", WAYS)
def test_debugger_asks_the_condition_and_does_not_stop(program: Program, way: str) -> None:
    ran = getattr(debuggers, way)(program)
    assert ran.output.count(debuggers.SEEN) == 1 and ran.seconds > 0


@pytest.mark.parametrize("way", WAYS)
def test_condition_that_is_not_asked_is_found_out(program: Program, way: str) -> None:
    unasked = replace(program, breakpoints=(replace(program.breakpoints[0], condition="False"),))
    with pytest.raises(BenchError, match="printed 0 times, not 1"):
        getattr(debuggers, way)(unasked)


@pytest.mark.parametrize("way", WAYS)
def test_breakpoint_that_is_not_taken_is_found_out(program: Program, way: str) -> None:
    nowhere = replace(program.breakpoints[0], file=Path(program.command[0]).with_name("gone.py"))
    with pytest.raises(BenchError):
        getattr(debuggers, way)(replace(program, breakpoints=(nowhere,)))


@pytest.mark.parametrize("way", ["plain", *WAYS])
def test_script_that_fails_is_found_out(program: Program, way: str) -> None:
    Path(program.command[0]).write_text("number = 1\nraise SystemExit(3)\n")
    with pytest.raises(BenchError, match="ended with 3"):
        getattr(debuggers, way)(program)


@needs_debugpy
def test_debugpy_that_stops_is_found_out(program: Program) -> None:
    true = replace(program.breakpoints[0], condition="number == 1")
    with pytest.raises(BenchError, match="stopped at a breakpoint"):
        debuggers.debugpy(replace(program, breakpoints=(true,)))


def test_debugpy_that_does_not_start_is_found_out(program: Program, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no debugpy here >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(BenchError, match=r"ended before it listened; printed: no debugpy here"):
        debuggers.debugpy(replace(program, python=python))


@pytest.fixture
def adapter() -> Iterator[tuple[dap.Client, socket.socket]]:
    """A client, and the end of its connection at which the adapter would be."""
    ours, theirs = socket.socketpair()
    with theirs, dap.Client(ours) as client:
        yield client, theirs


def sent(**message: object) -> bytes:
    body = json.dumps(message).encode()
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def test_dap_keeps_what_comes_before_what_is_awaited(
    adapter: tuple[dap.Client, socket.socket],
) -> None:
    client, theirs = adapter
    theirs.sendall(sent(type="event", event="initialized"))
    answer = {"type": "response", "request_seq": 1, "success": True, "command": "threads"}
    theirs.sendall(sent(**answer, body={"threads": []}))
    assert client.request("threads", sort=True) == {"threads": []}
    assert client.event("initialized", "terminated") == "initialized"
    header, _, body = theirs.recv(1000).partition(b"\r\n\r\n")
    assert header == b"Content-Length: %d" % len(body)
    assert json.loads(body)["arguments"] == {"sort": True}


@pytest.mark.parametrize(
    ("received", "problem"),
    [
        (
            sent(type="response", request_seq=1, success=False, command="attach", message="why"),
            "refused attach: why",
        ),
        (b"Content-Length: 10\r\n\r\n{", "no event initialized: the connection ended"),
        (b"", "no event initialized: the connection ended"),
    ],
)
def test_dap_that_goes_wrong_is_a_bench_error(
    adapter: tuple[dap.Client, socket.socket], received: bytes, problem: str
) -> None:
    client, theirs = adapter
    client.send("attach", {})
    theirs.sendall(received)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(BenchError, match=problem):
        client.event("initialized")


def test_dap_does_not_wait_for_ever(adapter: tuple[dap.Client, socket.socket]) -> None:
    with pytest.raises(BenchError, match=r"no event initialized within 0\.05 s"):
        adapter[0].event("initialized", timeout=0.05)


# -- the rows of native speed, small --------------------------------------------------------------


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Those that are installed; the rows then go without the others."""
    found = [name for name in debuggers.PEERS if importlib.util.find_spec(name)]
    monkeypatch.setattr(native_speed, "PEERS", {name: debuggers.PEERS[name] for name in found})
    return found


@pytest.mark.parametrize("name", ["loop", "calls"])
def test_loop_row(peers: list[str], name: str) -> None:
    measured = native_speed.loop(1, name=name, rounds=200)
    assert len(measured.ours) == len(measured.theirs) == 1
    assert list(measured.beside) == peers


def test_false_condition_row(peers: list[str]) -> None:
    measured = native_speed.false_condition(1, rounds=500)
    assert list(measured.beside) == [name for name in peers if name != "pdb"]
    assert measured.theirs[0] > 1e-6  # pdb's hit takes longer than a call


def test_imports_row(peers: list[str]) -> None:
    measured = native_speed.imports(1, modules=2)
    assert len(measured.ours) == 1 and list(measured.beside) == peers


def test_generated_modules_have_500_lines_and_breakpoints_where_functions_begin(
    tmp_path: Path,
) -> None:
    from benchmarks.generated_modules import write_modules

    places = write_modules(tmp_path, 3, 5, "False")
    assert len(places) == 15 and len({place.file for place in places}) == 3
    for place in places:
        lines = place.file.read_text().splitlines()
        assert 500 <= len(lines) <= 501 and lines[place.line - 1] == "    total = 0"


def test_output_without_the_time_is_found_out(program: Program) -> None:
    with pytest.raises(BenchError, match="did not print its time"):
        native_speed.seconds_printed(debuggers.plain, program)


def test_patching_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_speed, "INSTRUCTIONS", 20)
    if sys.version_info >= (3, 12):
        with pytest.raises(NotHere, match=r"sys\.monitoring"):
            native_speed.patching(2)
    else:
        assert len(native_speed.patching(2).ours) == 2


@pytest.mark.parametrize("file", ["conversion/base.py", "convert_hf_to_gguf.py"])
def test_place_in_the_conversion_is_found_in_old_and_new_trees(tmp_path: Path, file: str) -> None:
    (tmp_path / "conversion").mkdir()
    (tmp_path / "convert_hf_to_gguf.py").write_text("import conversion\n")
    (tmp_path / file).write_text("class B:\n    def map_tensor_name(self):\n        return 1\n")
    place = conversions.place(tmp_path)
    assert (place.file, place.line) == (tmp_path / file, 3)


@pytest.mark.parametrize(
    "measure", [forward_passes.forward_recorded, forward_passes.forward_checked]
)
def test_rows_of_a_forward_pass(measure: Callable[..., Measured]) -> None:
    measured = measure(1, size="tiny")
    assert len(measured.ours) == len(measured.theirs) == 1 and not measured.beside


@pytest.mark.conversion
def test_conversion_row() -> None:
    measured = conversions.conversion_with_preset(1, size="tiny")
    assert len(measured.ours) == len(measured.theirs) == 1 and not measured.beside


@pytest.mark.conversion
def test_ahead_row() -> None:
    measured = conversions.looking_ahead(1, size="tiny")
    assert 0 < measured.ours[0] < 60 and not measured.theirs


# -- ckpt ---------------------------------------------------------------------------------------


def test_ckpt_beside_json_and_safetensors(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    measured = checkpoints.checkpoint_of_shards(1, shards=3, tensors=1_000)
    assert len(measured.ours) == len(measured.theirs) == len(measured.beside["safetensors"]) == 1
    monkeypatch.setattr(checkpoints, "checkpoint_printed", lambda folder: "1 tensor")
    with pytest.raises(BenchError, match="does not show 1,000 tensors"):
        checkpoints.checkpoint_of_shards(1, shards=3, tensors=1_000)


def test_what_ckpt_is_measured_on(tmp_path: Path) -> None:
    checkpoints.make(tmp_path, 4, 2_000)
    opened = checkpoints.opened(tmp_path)
    assert len(opened) == 2_000 and {dtype for _, dtype, _ in opened} == {"BF16"}
    assert sum(len(each) for each in checkpoints.parsed(tmp_path)[1:]) == 2_000 + 4
