"""`b` and its kin, typed: what they say, and where the program then stops."""

import bdb
import io
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modpdb import ModPdb
from modpdb.breakpoints.locations import Spec

Answers = Callable[..., list[str]]


def run(function: Callable[[], object], *commands: str) -> list[str]:
    """What each command printed while *function* ran under the debugger."""
    stdin = io.StringIO("".join(f"{line}\n" for line in commands))
    dbg = ModPdb(stdin=stdin, stdout=io.StringIO(), nosigint=True, readrc=False)
    dbg.runcall(function)
    return [part.strip("\n") for part in dbg.stdout.getvalue().split("(ModPdb) ")[1:]]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


class BreakBase:
    def method(self, n: int) -> int:
        total = n
        for k in range(2):
            total += k
        return total

    def xyzzy_plugh(self) -> None: ...


class BreakSub(BreakBase): ...


class BreakSibling(BreakBase): ...


def program() -> None:
    for n in range(4):
        BreakSibling().method(n)
        BreakSub().method(n)


HERE = str(Path(__file__))
FIRST = BreakBase.method.__code__.co_firstlineno
BASE = f"{HERE}:{FIRST} (BreakBase.method, for a BreakSub)"


def test_an_inherited_method() -> None:
    said = run(program, "b BreakSub.method, n == 2", "c", "p n, type(self).__name__", "b", "c")
    assert said[0] == f"Breakpoint 1 at {BASE}"
    assert said[1].endswith("self is a BreakSub: BreakSub.method is BreakBase.method")
    assert said[2] == "(2, 'BreakSub')"
    assert said[3].splitlines() == [
        "Num Type         Disp Enb   Where",
        f"1   breakpoint   keep yes  test_breaks:BreakSub.method  at {BASE}",
        "\tstop only if n == 2",
        "\tbreakpoint already hit 3 times",
    ]
    assert len(said) == 5


def test_the_list_fits_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(Path(__file__).parent)
    assert run(program, "b BreakSub.method", "b", "q")[1].splitlines()[1:] == [
        "1   breakpoint   keep yes  test_breaks:BreakSub.method",
        f"\tBreakBase.method, for a BreakSub  test_breaks.py:{FIRST}",
    ]


def test_a_line_below_a_functions_first() -> None:
    said = run(program, "b BreakBase.method+3, k == 1", "c", "p total, k", "clear 1", "c")
    assert said[0] == f"Breakpoint 1 at {HERE}:{FIRST + 3}"
    assert said[1].splitlines()[1] == "-> total += k" and said[2] == "(0, 1)"


def test_a_line_that_cannot_stop_any_more() -> None:
    said = run(program, "b BreakBase.method+9", "c", "q")
    assert said[0].splitlines() == [
        f"Breakpoint 1 at {HERE}:{FIRST + 4}",
        f"test_breaks:BreakBase.method+9: line {FIRST + 9} cannot stop; "
        f"the nearest that can is {FIRST + 4}",
    ]
    assert said[1].splitlines()[1] == "-> return total"


def test_every_command_by_number() -> None:
    said = run(
        program,
        "tbreak BreakSub.method",
        "b BreakSibling.method",
        "disable 1",
        "condition $bpnum n > 0",
        "ignore $bpnum 1",
        "commands $bpnum",
        "silent",
        "p 'met', n",
        "end",
        "c",
        "enable 1",
        "disable $bpnum",
        "c",
        "p n",
        "b",
        "clear BreakSibling.method",
        "c",
    )
    assert said[2] == "Disabled breakpoint 1 at test_breaks:BreakSub.method"
    assert said[4] == "Will ignore next 1 crossing of breakpoint 2."
    assert "('met', 2)" in said[6]
    assert said[8].startswith("Disabled breakpoint 2")
    assert said[9].startswith("Deleted breakpoint 1 at test_breaks:BreakSub.method\n")
    assert said[9].endswith("self is a BreakSub: BreakSub.method is BreakBase.method")
    assert said[10] == "2"
    assert said[11].splitlines()[1:] == [
        f"2   breakpoint   keep no   test_breaks:BreakSibling.method  at {BASE}".replace(
            "BreakSub", "BreakSibling"
        ),
        "\tstop only if n > 0",
        "\tbreakpoint already hit 3 times",
    ]
    assert said[12] == "Deleted breakpoint 2 at test_breaks:BreakSibling.method"


def test_silent_stops_leave_no_notes_behind() -> None:
    said = run(program, "b BreakSub.method", "commands", "silent", "c", "c")
    assert "self is a" not in "".join(said)


def test_clear_by_place(tmp_path: Path) -> None:
    said = run(
        program,
        *("b *.nothing_like_it", "b nope.py:3", "b BreakBase.method", f"b {HERE}:{FIRST + 1}"),
        *("clear *.nothing_like_it", "clear nope.py:3", "clear BreakBase.method"),
        *(f"clear test_breaks.py:{FIRST + 1}", "clear BreakBase.method", "clear a b", "b"),
        "c",
    )
    assert said[4:8] == [
        "Deleted breakpoint 1 at *.nothing_like_it",
        "Deleted breakpoint 2 at nope.py:3",
        "Deleted breakpoint 3 at test_breaks:BreakBase.method",
        f"Deleted breakpoint 4 at {HERE}:{FIRST + 1}",
    ]
    assert said[8] == "*** no breakpoint at BreakBase.method; `b` lists them"
    assert said[9].startswith("*** 'a b' is no place")
    assert said[10] == "" and not bdb.Breakpoint.bplist


def test_conditions_are_checked_where_they_are_set() -> None:
    said = run(program, "b program, n ==", "b program", "condition 1 n ==", "condition 1", "c")
    assert said[0] == "*** condition 'n ==': invalid syntax"
    assert said[2] == "*** condition 'n ==': invalid syntax"
    assert said[3] == "Breakpoint 1 is now unconditional."


def test_bpnum_is_no_other_breakpoint() -> None:
    said = run(program, "b program", "b 1 2", "disable $bpnum", "b program", "disable $bpnum", "c")
    assert said[2] == "*** $bpnum: the last `b` set no breakpoint"
    assert said[4].startswith("Disabled breakpoint 2")


def test_a_failing_condition_of_a_line() -> None:
    said = run(program, f"b {FIRST + 4}, nope", "c", "q")
    assert said[1].endswith("condition of breakpoint 1: NameError: name 'nope' is not defined")


def test_pending_with_near_misses() -> None:
    said = run(program, "b BreakSubb.method", "b xyzzy_plugh", "b *.xyzzy_pulgh", "q")
    assert said == [
        "Breakpoint 1 pending: BreakSubb.method is not imported yet; did you mean BreakSub.method?",
        "Breakpoint 2 pending: xyzzy_plugh is not imported yet",
        "Breakpoint 3 pending: *.xyzzy_pulgh is not imported yet",
        "",
    ]


def test_the_script_by_its_files_name(modpdb_run: Any, tmp_path: Path) -> None:
    (tmp_path / "run_it.py").write_text("def work(n):\n    return n\n\nwork(1)\n")
    typed = "b run_it:work\nb run_it:*\nb other:work\nc\np n\nclear run_it:work\nq\n"
    said = modpdb_run(["run_it.py"], typed, cwd=tmp_path).stdout.split("(ModPdb) ")
    assert said[1] == f"Breakpoint 1 at {tmp_path}/run_it.py:1\n"
    assert said[2].startswith("Breakpoint 2 at ")
    assert said[3] == "Breakpoint 3 pending: other:work is not imported yet\n"
    assert said[5] == "1\n" and said[6].startswith("Deleted breakpoint 1")


def test_the_scripts_name_where_it_is_a_modules(modpdb_run: Any, tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text("def f():\n    pass\n\nimport twice\nprint('end')\n")
    typed = "n\nn\nb twice:f\nb\nq\n"
    said = modpdb_run(["twice.py"], typed, cwd=tmp_path).stdout.split("(ModPdb) ")
    assert "twice:f " in said[4] and "__main__" not in said[4]


def test_a_class_without_python_code() -> None:
    class Strings(list): ...

    def here() -> object:
        return Strings

    said = run(here, "b Strings.append", "b Strings.nothing", "q")
    assert said[0] == (
        "*** Strings.append is a method_descriptor without Python code to stop in"
    ) or said[0].endswith("is a method_descriptor without Python code to stop in")
    assert said[1].startswith("Breakpoint 1 pending: Strings.nothing is not imported yet")


def test_globs_are_one_breakpoint() -> None:
    said = run(program, "b test_breaks:Break*.method", "b test_breaks:*rogram*", "b", "q")
    assert said[0].startswith("Breakpoint 1 at ")
    assert said[1].startswith("Breakpoint 2 at ")
    assert len(said[2].splitlines()) == 3


# -- files -----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.py").write_text("x = 1\n\n# no\ny = 2\n")
    (tmp_path / "NOTES.md").write_text("# Title\n\nSome words.\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "deep.py").write_text("z = 1\n")
    return tmp_path


def test_files(folder: Path) -> None:
    said = run(
        program,
        *("b plain.py:4", "b plain:1", "b plain.py:2", "b plain.py:99", "b NOTES.md:3"),
        *("b nothing_like:1", "b plian.py:3", "b sub/deeep.py:1", "b sub/deep.py:1", "q"),
    )
    assert said == [
        f"Breakpoint 1 at {folder}/plain.py:4",
        f"Breakpoint 2 at {folder}/plain.py:1",
        "*** plain.py:2 is blank; the nearest line that can stop is 1",
        "*** plain.py:99 does not exist: the file has 4 lines; the nearest line that can stop is 4",
        "*** NOTES.md is not Python that compiles: invalid syntax (line 3)",
        f"*** 'nothing_like' not found: looked in sys.path and in {folder}",
        "Breakpoint 3 pending: plian.py:3 is not imported yet; did you mean plain.py?",
        "Breakpoint 4 pending: sub/deeep.py:1 is not imported yet; did you mean sub/deep.py?",
        f"Breakpoint 5 at {folder}/sub/deep.py:1",
        "",
    ]


def test_a_loaded_file_from_anywhere() -> None:
    import prompt_toolkit.document as document

    line = document.Document.__init__.__code__.co_firstlineno
    said = run(program, f"b prompt_toolkit/document.py:{line}", f"b document.py:{line}", "q")
    assert said[0] == f"Breakpoint 1 at {document.__file__}:{line}"
    assert said[1] == said[0].replace("1", "2", 1)


LATER = """

def later(n):
    total = n
    return total

class Sub(later_base.Base):
    pass
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script that writes a module, imports it and runs it."""
    (tmp_path / "later_base.py").write_text(
        "class Base:\n    def work(self, n):\n        return n\n"
    )
    (tmp_path / "s.py").write_text(
        textwrap.dedent(f"""\
        import sys
        open("made.py", "w").write({"import later_base" + LATER!r})
        import made
        print(made.later(1), made.Sub().work(2), made.later_base.Base().work(3))
        """)
    )
    return tmp_path


def test_what_is_not_loaded_yet(modpdb_run, script: Path) -> None:
    typed = [
        *("b made.py:5", "b made:later+1", "b Sub.work", "b nowhere.py:3", "b Subb.work", "b"),
        *("c", "p 'first', n", "c", "p 'at', total", "c", "p 'sub', n", "c"),
    ]
    done = modpdb_run(["s.py"], "\n".join(typed) + "\n", cwd=script)
    said = done.stdout.split("(ModPdb) ")
    assert said[1] == "Breakpoint 1 pending: made.py:5 is not imported yet\n"
    assert said[2] == "Breakpoint 2 pending: made:later+1 is not imported yet\n"
    assert said[6].splitlines()[1:4] == [
        "1   breakpoint   keep yes  made.py:5  pending: not imported yet",
        "2   breakpoint   keep yes  made:later+1  pending: not imported yet",
        "3   breakpoint   keep yes  Sub.work  pending: not imported yet",
    ]
    assert "made.py(5)later()" in done.stdout and "('at', 1)" in done.stdout
    assert "self is a Sub: Sub.work is Base.work" in done.stdout and "('sub', 2)" in done.stdout
    assert done.stdout.endswith("1 2 3\n")
    assert done.stderr.splitlines() == [
        "modpdb: breakpoint 4 was never reached: no code at line 3 of a file nowhere.py was loaded",
        "modpdb: breakpoint 5 was never reached: no Subb.work was loaded; did you mean Sub.work?",
    ]


def test_bases_that_only_run_time_knows(modpdb_run, tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(
        "class Base:\n    def work(self): return 1\nclass Sub((lambda: Base)()): pass\n"
    )
    (tmp_path / "s.py").write_text("import made\nmade.Sub().work()\n")
    done = modpdb_run(["s.py"], "b Sub.work\nc\n", cwd=tmp_path)
    assert done.stderr == (
        "modpdb: breakpoint 1 was never reached: Sub.work is Base.work, "
        "which its class statement does not show\n"
    )


def test_debug_has_breakpoints_of_inherited_methods() -> None:
    said = run(program, "b BreakSub.method", "debug BreakSub().method(7)", "c", "p n", "c", "q")
    assert any(
        each.startswith("((ModPdb)) 7\n") for each in "".join(said).split("BreakBase.method\n")
    )


def test_places_are_read_in_one_way() -> None:
    """What save-breaks writes and what a listing shows is what `b` takes."""
    said = run(program, "b BreakSub.method+1", "q")
    assert said[0].startswith("Breakpoint 1 at ")
    spec: Any = Spec.parse("test_breaks:BreakSub.method+1")
    assert (spec.module, spec.name, spec.offset) == ("test_breaks", "BreakSub.method", 1)
