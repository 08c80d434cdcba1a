"""`save-breaks`: the next run has the breakpoints again, whatever became of the file's lines."""

import os
import stat
from pathlib import Path

import pytest

from modpdb.rcfile import BEGIN, END, read_rc_files, replace_block

SCRIPT = """\
import lib
total = 0
for n in range(5):
    total += lib.Sub().work(n)
print(total)
"""
LIBRARY = """\
class Base:
    def work(self, n):
        doubled = n * 2
        return doubled
class Sub(Base):
    def other(self):
        return 1
def late():
    return 2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "lib.py").write_text(LIBRARY)
    return tmp_path


def test_the_next_run_has_them_again(modpdb_run, folder: Path) -> None:
    typed = [
        *("b lib.py:4, n > 2", "ignore $bpnum 1", "b Sub.work, n == 2", "tbreak lib:late"),
        *("disable 3", "b script.py:5", "commands", "silent", "p 'the end', total", "c"),
        *("b *.other", "save-breaks", "q"),
    ]
    done = modpdb_run(["script.py"], "\n".join(typed) + "\n", cwd=folder)
    assert done.stdout.split("(ModPdb) ")[-2].splitlines() == [
        f"5 breakpoints in {folder}/.modpdbrc:",
        "  b lib:Base.work+2, n > 2",
        "  b Sub.work, n == 2",
        "  tbreak lib:late",
        "  b script.py:5  (by its line: edits above it will shift it)",
        "  b *.other",
    ]
    assert (folder / ".modpdbrc").read_text().splitlines() == [
        BEGIN,
        "b lib:Base.work+2, n > 2",
        "ignore $bpnum 1",
        "b Sub.work, n == 2",
        "tbreak lib:late",
        "disable $bpnum",
        "b script.py:5",
        "commands $bpnum",
        "silent",
        "p 'the end', total",
        "c",
        "end",
        "b *.other",
        END,
    ]
    (folder / "lib.py").write_text("# a new\n# head\n\n" + LIBRARY)  # what the file is edited to
    typed = ["b", "c", "p 'stop', n", "c", "p 'stop', n", "c"]
    done = modpdb_run(["script.py"], "\n".join(typed) + "\n", cwd=folder)
    assert done.stderr == ""
    listed = done.stdout.split("(ModPdb) ")[1].splitlines()
    assert [line.split()[:4] for line in listed if line[0].isdigit()] == [
        ["1", "breakpoint", "keep", "yes"],
        ["2", "breakpoint", "keep", "yes"],
        ["3", "breakpoint", "del", "no"],
        ["4", "breakpoint", "keep", "yes"],
        ["5", "breakpoint", "keep", "yes"],
    ]
    said = done.stdout[done.stdout.index("(ModPdb) [") :]
    assert "self is a Sub: Sub.work is Base.work\n(ModPdb) ('stop', 2)" in said
    assert "lib.py(7)work()\n-> return doubled\n(ModPdb) ('stop', 4)" in said
    assert "('the end', 20)\n20\n" in said


def test_what_failed_to_be_set_takes_its_settings_along(modpdb_run, folder: Path) -> None:
    (folder / ".modpdbrc").write_text(
        "b lib:late\nb lib.py:77\ndisable $bpnum\ncommands $bpnum\np 'lost'\nc\nend\nb Sub.other\n"
    )
    done = modpdb_run(["script.py"], "b\nq\n", cwd=folder)
    assert done.stdout.count("$bpnum: the last `b` set no breakpoint") == 2
    assert "'lost'" not in done.stdout
    listed = done.stdout.split("(ModPdb) ")[1].splitlines()[1:]
    assert [line.split()[3:5] for line in listed] == [["yes", "lib:late"], ["yes", "Sub.other"]]


def test_other_files(modpdb_run, folder: Path) -> None:
    (folder / "deeper").mkdir()
    rc = folder / "deeper" / "mine.rc"
    typed = ["b 5", "b nope.py:3, x == ';'", f"save-breaks {rc}", "save-breaks missing/rc", "q"]
    done = modpdb_run(["script.py"], "\n".join(typed) + "\n", cwd=folder)
    assert f"  b {folder}/script.py:5  (by its line" in done.stdout
    missing = f"*** save-breaks: {folder}/missing/rc is as it was: No such file or directory\n"
    assert missing in done.stdout
    done = modpdb_run(["--rc", rc, "script.py"], "c\np 'at', n\nc\n", cwd=folder)
    assert "('at', 4)" in done.stdout
    # Relative places are looked for beside the file that has them.
    (folder / "deeper" / "beside.py").write_text("x = 1\n")
    rc.write_text("b beside.py:1\n")
    done = modpdb_run(["--rc", rc, "script.py"], "c\n", cwd=folder)
    assert f"Breakpoint 1 at {folder}/deeper/beside.py:1\n" in done.stdout


def test_nothing_to_save(modpdb_run, folder: Path) -> None:
    typed = "save-breaks\nb 5\nsave-breaks\nclear 1\nsave-breaks\nq\n"
    done = modpdb_run(["script.py"], typed, cwd=folder)
    assert done.stdout.count(f"0 breakpoints in {folder}/.modpdbrc\n") == 2
    assert (folder / ".modpdbrc").read_text() == ""


def test_python_source_is_not_written_into(modpdb_run, folder: Path) -> None:
    (folder / "link").symlink_to("script.py")
    typed = "b 5\nsave-breaks script.py\nsave-breaks link\nsave-breaks new.py\nq\n"
    done = modpdb_run(["script.py"], typed, cwd=folder)
    refused = "is as it was: it is Python source, where debugger commands would be errors\n"
    said = done.stdout.split("(ModPdb) ")
    assert said[2] == f"*** save-breaks: {folder}/script.py {refused}"
    assert said[3] == f"*** save-breaks: {folder}/link {refused}"
    assert said[4].startswith(f"1 breakpoint in {folder}/new.py:\n")
    assert (folder / "script.py").read_text() == SCRIPT


def test_which_lines_edits_shift(modpdb_run, folder: Path) -> None:
    typed = "b late.py:3, x > 1\nb lib:late\nb @blk:5\ntbreak lib.py:5\nsave-breaks\nq\n"
    done = modpdb_run(["script.py"], typed, cwd=folder)
    shifts = "  (by its line: edits above it will shift it)"
    assert done.stdout.split("(ModPdb) ")[5].splitlines()[1:] == [
        f"  b late.py:3, x > 1{shifts}",
        "  b lib:late",
        "  break-module blk:5",
        f"  tbreak lib.py:5{shifts}",  # the line of a class statement
    ]


# -- the file --------------------------------------------------------------------------------------


def test_other_lines_are_kept(tmp_path: Path) -> None:
    file = tmp_path / ".modpdbrc"
    file.write_bytes("# mine é\r\nalias x p 1\x0c".encode())
    replace_block(file, ["b one"])
    assert file.read_bytes().decode() == f"# mine é\r\nalias x p 1\x0c\n{BEGIN}\nb one\n{END}\n"
    with file.open("a") as stream:
        stream.write("alias y p 2")
    replace_block(file, ["b two", "b three"])
    assert file.read_bytes().decode() == (
        f"# mine é\r\nalias x p 1\x0c\n{BEGIN}\nb two\nb three\n{END}\nalias y p 2"
    )
    replace_block(file, [])
    assert file.read_bytes().decode() == "# mine é\r\nalias x p 1\x0c\nalias y p 2"


@pytest.mark.parametrize("text", [BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}\n{BEGIN}\n{END}"])
def test_marks_that_are_no_pair(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rc"
    file.write_text(text)
    with pytest.raises(ValueError, match="it has not one line"):
        replace_block(file, ["b one"])
    assert file.read_text() == text and os.listdir(tmp_path) == ["rc"]


def test_modes_and_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = os.umask(0)
    try:
        replace_block(tmp_path / ".modpdbrc", ["b one"])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / ".modpdbrc").stat().st_mode) == 0o600
    assert read_rc_files().lines == ("b one",)
    (tmp_path / "real").write_text("")
    (tmp_path / "real").chmod(0o644)
    (tmp_path / "link").symlink_to("real")
    replace_block(tmp_path / "link", ["b two"])
    assert (tmp_path / "link").is_symlink() and "b two" in (tmp_path / "real").read_text()
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o644


def test_a_failed_write_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rc"
    file.write_text("mine\n")

    def full(number: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        replace_block(file, ["b one"])
    assert file.read_text() == "mine\n" and os.listdir(tmp_path) == ["rc"]


def test_a_file_that_would_not_be_run(modpdb_run, folder: Path) -> None:
    (folder / ".modpdbrc").write_text("")
    (folder / ".modpdbrc").chmod(0o666)
    done = modpdb_run(["script.py"], "b 5\nsave-breaks\nq\n", cwd=folder)
    assert "it will not be run as it is: everybody can write it (mode 666)" in done.stdout
