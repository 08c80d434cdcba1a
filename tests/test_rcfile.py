"""Which .modpdbrc files are read, and which are refused."""

import os
from pathlib import Path

import pytest

from modpdb.rcfile import read_rc_files, why_untrusted


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str, mode: int = 0o600) -> Path:
    file = folder / ".modpdbrc"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_home_first_then_here(here: Path) -> None:
    write(Path(os.environ["HOME"]), "# mine\nalias pp1 p 1\n\n")
    write(here, "b f\n  c  \n")
    files = read_rc_files()
    assert list(files.lines) == ["alias pp1 p 1", "b f", "c"]
    assert [line.where for line in files.lines] == [
        "~/.modpdbrc:2",
        "./.modpdbrc:1",
        "./.modpdbrc:2",
    ]
    assert files.loaded == ("~/.modpdbrc", "./.modpdbrc")


def test_none_is_nothing(here: Path) -> None:
    assert read_rc_files().lines == () == read_rc_files().refused


def test_an_explicit_file_alone(here: Path, tmp_path: Path) -> None:
    write(here, "b f\n")
    (tmp_path / "my.rc").write_text("c\n")
    assert list(read_rc_files("my.rc").lines) == ["c"]
    with pytest.raises(FileNotFoundError):
        read_rc_files("missing.rc")


def test_writable_by_all_is_refused(here: Path) -> None:
    write(here, "c\n", 0o602)
    files = read_rc_files()
    assert files.lines == ()
    assert files.refused == (
        "./.modpdbrc not run: everybody can write it (mode 602); chmod go-w it",
    )


@pytest.mark.skipif(os.getuid() != 0, reason="needs to give files away")
def test_of_somebody_else_is_refused(here: Path) -> None:
    file = write(here, "c\n")
    os.chown(file, 65534, -1)
    assert "neither to you nor to root" in str(why_untrusted(file))
    os.chown(file, 0, 65534)
    assert why_untrusted(file) is None
    file.chmod(0o660)
    assert "can write it (mode 660); chmod g-w it" in str(why_untrusted(file))


def test_loaded_and_bad_lines_are_said_and_the_rest_runs(modpdb_run, here: Path) -> None:
    (here / "s.py").write_text("def f():\n    return 1\nf()\n")
    write(here, "alias hello p 'hi'\nnosuchthing = undefined_name\nb f\np 40 + 2\nb 99\nhello\n")
    done = modpdb_run(["s.py"], "c\nw\nq\n", cwd=here)
    assert "loaded ./.modpdbrc\n" in done.stdout
    assert "*** ./.modpdbrc:2: NameError: name 'undefined_name' is not defined" in done.stdout
    assert "*** ./.modpdbrc:5: s.py:99 does not exist: the file has 3 lines; the nearest" in (
        done.stdout
    )
    assert "\n42\n'hi'\n" in done.stdout
    assert "> [1]" in done.stdout and "f()" in done.stdout


def test_breakpoints_hold_before_the_first_line(modpdb_run, here: Path) -> None:
    (here / "s.py").write_text("def f(n):\n    return n\nf(1)\nf(2)\n")
    write(here, "b f, n == 2\ncommands 1\np 'n is', n\nend\n")
    done = modpdb_run(["--stop", "save", "s.py"], "p n + 40\nc\n", cwd=here)
    assert "('n is', 2)" in done.stdout and "\n(ModPdb) 42\n" in done.stdout
    assert done.returncode == 0


def test_after_a_line_that_resumes_all_waits_in_order(modpdb_run, here: Path) -> None:
    (here / "s.py").write_text("x = 1\nx = 2\nx = 3\n")
    write(here, "n\np 'first', x\nb 3\nc\np 'second', x\n")
    done = modpdb_run(["s.py"], "q\n", cwd=here)
    assert done.stdout.index("('first', 1)") < done.stdout.index("('second', 2)")


def test_a_named_file_and_none(modpdb_run, here: Path) -> None:
    (here / "s.py").write_text("x = 1\n")
    write(here, "p 'default'\n")
    (here / "my.rc").write_text("p 'named'\n")
    named = modpdb_run(["--rc", "my.rc", "s.py"], "q\n", cwd=here).stdout
    assert "'named'" in named and "'default'" not in named
    assert "'default'" not in modpdb_run(["--no-rc", "s.py"], "q\n", cwd=here).stdout
    missing = modpdb_run(["--rc", "none.rc", "s.py"], "q\n", cwd=here)
    assert missing.returncode == 2 and "--rc: can't read 'none.rc'" in missing.stderr


def test_lines_that_never_had_a_stop_are_named(modpdb_run, here: Path) -> None:
    (here / "s.py").write_text("print('ran')\n")
    write(here, "p 1\n")
    done = modpdb_run(["--stop", "save", "s.py"], cwd=here)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert "modpdb: no stop came for what was to be run at one: `p 1`" in done.stderr


PROGRAM = "def g(number):\n    return number\ndef f():\n    return g(1)\nf()\n"


def test_semicolons_keep_the_order(modpdb_run, here: Path) -> None:
    (here / "s.py").write_text(PROGRAM)
    write(here, "b g ;; p 'one' ;; p 'two'\np 'three'\n")
    said = modpdb_run(["s.py"], "p 4 ;; p 5\nq\n", cwd=here).stdout
    assert "Breakpoint 1 at" in said
    assert said.index("'one'") < said.index("'two'") < said.index("'three'")
    assert "4\n5\n" in said


def test_end_after_a_resuming_command_is_swallowed(modpdb_run, here: Path) -> None:
    (here / "s.py").write_text(PROGRAM)
    write(here, "b g\ncommands 1\nsilent\np 'hit', number\nc\nend\np 'waits'\n")
    done = modpdb_run(["s.py"], "b f\ncommands 2\np 'f'\nc\nend\nc\n", cwd=here)
    assert done.returncode == 0 and "***" not in done.stdout
    assert done.stdout.index("'waits'") < done.stdout.index("'f'") < done.stdout.index("'hit'")


def test_waiting_lines_survive_a_breakpoints_commands(modpdb_run, here: Path) -> None:
    (here / "s.py").write_text(PROGRAM + "f()\n")
    write(here, "p 'waited'\nb g\ncommands 1\np 'hit'\nc\nend\n")
    done = modpdb_run(["--stop", "save", "s.py"], cwd=here)
    assert done.stdout.count("'hit'") == 2
    assert "no stop came for what was to be run at one: `p 'waited'`" in done.stderr


def test_every_line_is_survived_before_there_is_a_frame(modpdb_run, here: Path) -> None:
    (here / "s.py").write_text("x = 1\n")
    write(here, "sticky\nhf_unhide\nhf_hide\nl\nx?\nw\nup\ncommands 7\nend\ndisplay x\n10modules\n")
    done = modpdb_run(["s.py"], "p 'alive'\nq\n", cwd=here)
    assert done.returncode == 1 and "'alive'" in done.stdout and done.stderr == ""


def test_blocks_in_a_pipe_are_read_to_their_end(modpdb_run, here: Path) -> None:
    (here / "s.py").write_text("x = 1\n")
    typed = "for k in range(2):\n    z = k\n    print('z', z)\n\ndef two():\n    a = 1\n    return a\n\np two() + 1\nq\n"
    said = modpdb_run(["s.py"], typed, cwd=here).stdout
    assert said.count("z 0\n") == said.count("z 1\n") == 1 and "2\n" in said.splitlines(True)[-2]
