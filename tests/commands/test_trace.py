"""`trace-point` prints on the way by, through the command line."""

import re
from pathlib import Path

import pytest

SCRIPT = """\
import helper
class K:
    def method(self, n):
        total = n
        for i in range(2):
            total = helper.add(total, i)
        return total
def numbers(n):
    yield n
    yield n + 1
for i in range(3):
    K().method(i)
print("sum", sum(numbers(1)))
"""
HELPER = "def add(a, b):\n    both = a + b\n    return both\n"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py"


def printed(done) -> list[str]:
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout.rpartition("(ModPdb) ")[2].splitlines()


def test_functions_loaded_or_not(modpdb_run, script: Path) -> None:
    typed = 'trace-point helper:add, a, f"{a, b}"\ntp K.method, n\ntp numbers\nc\n'
    done = modpdb_run([script], typed)
    assert "Tracepoint 1 pending: helper:add is not imported yet\n" in done.stdout
    assert f"Tracepoint 2 at {script}:3\n" in done.stdout
    assert printed(done) == [
        *("K.method  n = 0", "add  a = 0 · f\"{a, b}\" = '(0, 0)'"),
        *("add  a = 0 · f\"{a, b}\" = '(0, 1)'", "K.method  n = 1"),
        *("add  a = 1 · f\"{a, b}\" = '(1, 0)'", "add  a = 1 · f\"{a, b}\" = '(1, 1)'"),
        *("K.method  n = 2", "add  a = 2 · f\"{a, b}\" = '(2, 0)'"),
        *("add  a = 2 · f\"{a, b}\" = '(2, 1)'", "numbers", "sum 3"),
    ]


def test_lines_of_functions_and_of_the_script(modpdb_run, script: Path) -> None:
    done = modpdb_run([script], "tp 6, i, total\ntp 12, i\ntp helper.py:3, both\nc\n")
    lines = printed(done)
    assert lines[:5] == [
        *("script.py:12  i = 0", "K.method:6  i = 0 · total = 0", "add:3  both = 0"),
        *("K.method:6  i = 1 · total = 0", "add:3  both = 1"),
    ]
    assert len([line for line in lines if line.startswith("add:3  both = ")]) == 6


def test_pdbs_commands_work_on_it(modpdb_run, script: Path) -> None:
    typed = (
        "tp K.method, n\ntp helper:add, a\ncondition 1 n != 1\nignore 2 4\nb\n"
        "b helper:add, b == 1\nc\ninfo breakpoints\ndisable 1\nclear 2\nclear 3\nc\n"
    )
    done = modpdb_run([script], typed)
    assert done.returncode == 0
    assert "1   tracepoint   keep yes  __main__:K.method\n" in done.stdout
    assert "\tprints n\n" in done.stdout and "\tprint only if n != 1\n" in done.stdout
    assert "\ttracepoint already hit 1 time\n" in done.stdout
    assert re.findall(r"(?:method|add)  \w = .*", done.stdout) == ["method  n = 0"]


def test_errors_are_said_once_and_the_script_runs_on(modpdb_run, script: Path) -> None:
    done = modpdb_run([script], "tp helper:add, a / 0, b\nb 13\nc\ninfo breakpoints\nc\n")
    assert done.returncode == 0 and done.stdout.endswith("sum 3\n")
    assert done.stdout.count("*** 'a / 0' of tracepoint 1 at helper:add: ZeroDivision") == 1
    assert done.stdout.count("add  a / 0 = ? · b = ") == 6
    assert "\ta / 0 failed 6 times\n" in done.stdout


def test_bad_input_is_one_sentence(modpdb_run, script: Path) -> None:
    done = modpdb_run([script], "tp\ntp K.method, a b\ntp 500, i\ntp gone/where:3\ntp 1 1\nq\n")
    said = re.findall(r"^(?:\(ModPdb\) )?\*\*\* (.*)", done.stdout, re.MULTILINE)
    assert said == [
        "trace-point needs a place: trace-point PLACE[, EXPR…]",
        "'a b' are no expressions: invalid syntax. Perhaps you forgot a comma?",
        "script.py:500 does not exist: the file has 13 lines; the nearest line that can stop is 13",
        f"'gone/where' not found: looked in sys.path and in {Path.cwd()}",
        "'1 1' is no place: expected FILE:LINE, LINE, a function, Class.method, "
        "module:qualname, a glob of names, or a function + lines below its first",
    ]


def test_from_an_rc_file_and_never_reached(modpdb_run, script: Path, tmp_path: Path) -> None:
    rc = tmp_path / "rc"
    rc.write_text("trace-point helper:add, b\ntrace-point gone:away, b\n")
    rc.chmod(0o600)
    done = modpdb_run(["--rc", rc, script], "c\n")
    assert done.stdout.count("add  b = ") == 6
    assert done.stderr == "modpdb: tracepoint 2 was never reached: no gone:away was loaded\n"
