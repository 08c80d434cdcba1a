"""Places that outlive an edit of the file."""

import bdb
import sys
from pathlib import Path

import pytest

from modpdb.breakpoints.books import NamedBreakpoint
from modpdb.breakpoints.locations import Spec
from modpdb.breakpoints.saving import CannotBeWritten, module_name, place_of, setting_line, settings

SOURCE = """\
import os
def function(n):
    total = 0
    return [
        each
        for each in range(n)
    ]
class Model:
    size = 1
    def method(self):
        def inner():
            return 1
        return inner
    @property
    def prop(self):
        return 1
    @prop.setter
    def prop(self, value):
        pass
def one(): return 1
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "saved.py").write_text(SOURCE)
    return str(tmp_path / "pkg" / "saved.py")


@pytest.mark.parametrize(
    ("line", "place"),
    [
        (1, "pkg/saved.py:1"),
        (2, "pkg/saved.py:2"),  # the def statement
        (3, "pkg.saved:function+1"),
        (5, "pkg.saved:function+3"),  # in a comprehension, or inlined since 3.12
        (9, "pkg/saved.py:9"),  # a class body
        (12, "pkg.saved:Model.method.inner+1"),
        (13, "pkg.saved:Model.method+3"),
        (16, "pkg/saved.py:16"),  # two functions have that name
        (20, "pkg/saved.py:20"),  # module and function at once
    ],
)
def test_places(file: str, tmp_path: Path, line: int, place: str) -> None:
    assert place_of(bdb.Breakpoint(file, line), str(tmp_path), "") == place


def test_places_elsewhere(file: str, tmp_path: Path) -> None:
    assert place_of(bdb.Breakpoint(file, 1), "/elsewhere", "") == f"{file}:1"
    assert place_of(bdb.Breakpoint(file, 3), "/elsewhere", file) == "__main__:function+1"
    assert place_of(bdb.Breakpoint("<made>", 3), "/elsewhere", file) == "<made>:3"
    by_name = bdb.Breakpoint(file, 2, funcname="function")
    by_name.line = 3  # 3.13's pdb files it under its first line that can stop
    assert place_of(by_name, "/elsewhere", "") == "pkg.saved:function"


def test_what_cannot_be_written(file: str) -> None:
    for condition in ("a ;; b", "a\nb", "a ==", "x == ';;'"):
        with pytest.raises(CannotBeWritten, match="its condition"):
            setting_line(bdb.Breakpoint(file, 3, cond=condition), "/", "")
    with pytest.raises(CannotBeWritten, match="comma"):
        setting_line(bdb.Breakpoint("/a,b.py", 3), "/elsewhere", "")


def test_all_that_belongs_to_a_breakpoint(file: str) -> None:
    line = bdb.Breakpoint(file, 3, temporary=True, cond="n, 1")
    line.ignore = 2
    assert setting_line(line, "/", "") == "tbreak pkg.saved:function+1, n, 1"
    assert list(settings(line)) == ["ignore $bpnum 2"]
    named = NamedBreakpoint(Spec.parse("*.modify_tensors"), False, "bid == 0")
    named.disable()
    assert setting_line(named, "/", "") == "b *.modify_tensors, bid == 0"
    assert list(settings(named)) == ["disable $bpnum"]


def test_names_of_modules(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module_name(file) == "pkg.saved"
    assert module_name(str(tmp_path / "pkg" / "__init__.py")) == "pkg"
    assert module_name(str(tmp_path / "some-script.py")) is None
    assert module_name("/nowhere/at/all.py") is None
    assert module_name(sys.modules["bdb"].__file__ or "") == "bdb"
