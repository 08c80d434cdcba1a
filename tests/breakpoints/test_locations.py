"""What is typed, into code objects: those that exist, and those of modules to come."""

import functools
import importlib
import importlib.machinery
import os
import sys
import textwrap
import traceback
from pathlib import Path

import pytest

from modpdb.breakpoints.engine import Wiring
from modpdb.breakpoints.imports import watch_imports
from modpdb.breakpoints.lines import walk
from modpdb.breakpoints.loaded import function_code
from modpdb.breakpoints.locations import FileLine, Spec
from modpdb.breakpoints.locator import Locator

SOURCE = textwrap.dedent("""\
    def top():
        def inner():
            return [n for n in range(3)]
        return inner
    class Base:
        def method(self):
            return 1
    class Sub(Base):
        class Nested:
            async def method(self): ...
        def other(self): yield 1
    """)


def matching(spec: str, module: str = "pkg.mod") -> set[str]:
    code = compile(SOURCE, "mod.py", "exec")
    parsed = Spec.parse(spec)
    return {each.co_qualname for each in walk(code) if parsed.matches(module, each)}


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("top", {"top"}),
        ("method", set()),  # a bare name is a function, no method
        ("Base.method", {"Base.method"}),
        ("Nested.method", {"Sub.Nested.method"}),
        ("*.method", {"Base.method", "Sub.Nested.method"}),
        ("pkg.mod.Base.method", {"Base.method"}),
        ("mod.top", {"top"}),
        ("pkg.mod:Sub.*", {"Sub.Nested.method", "Sub.other"}),
        ("pkg.*:*.other", {"Sub.other"}),
        ("other.*:*.other", set()),
        ("top.inner", {"top.<locals>.inner"}),
        ("Base", set()),  # a class body is no function
        ("S*.other", {"Sub.other"}),
    ],
)
def test_specs(spec: str, found: set[str]) -> None:
    assert matching(spec) == found


@pytest.mark.parametrize("text", ["", "a b", "x = 1", "f()", ":", "a:b:c", "..", "/x/y.py"])
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(ValueError, match="is no place: expected FILE:LINE"):
        Spec.parse(text)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    importlib.invalidate_caches()
    (tmp_path / "located_module.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "located_module"
    sys.modules.pop("located_module", None)


def test_no_object_is_asked_for_its_class() -> None:
    class Lying:
        @property
        def __class__(self) -> type:  # type: ignore[override]
            raise SystemExit("asked")

    assert function_code(Lying()) is None


def test_found_before_a_module_runs(module: str) -> None:
    locator = Locator(Wiring(), os.path.abspath)
    found: list[str] = []
    search = locator.search(Spec.parse("Sub.other"), lambda code: found.append(code.co_qualname))
    try:
        loaded = importlib.import_module(module)
    finally:
        locator.close()
    assert found == ["Sub.other"]
    assert list(search.codes.values()) == [loaded.Sub.other.__code__]  # the very object that runs
    assert loaded.__spec__.loader.__class__ is importlib.machinery.SourceFileLoader


ODD_NAMES = """
def größe(): ...
ℌ = lambda: 0
def ℜ(): ...
class Own:
    def __secret(self): ...
"""


@pytest.mark.parametrize("written", [True, False], ids=["as source", "as a cached file"])
def test_what_a_module_is_made_of_hides_no_name(tmp_path, monkeypatch, written: bool) -> None:
    (tmp_path / "odd_names.py").write_text(ODD_NAMES, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", written)
    importlib.invalidate_caches()
    if not written:
        importlib.import_module("odd_names")
    for name in ("größe", "R", "<lambda>", "Own.__secret", "*.__secret", "gr*"):
        sys.modules.pop("odd_names", None)
        locator = Locator(Wiring(), os.path.abspath)
        found: list[str] = []
        locator.search(
            Spec.parse(f"odd_names:{name}"), lambda code, f=found: f.append(code.co_name)
        )
        found.clear()  # of the module before, whose functions still exist
        importlib.import_module("odd_names")
        locator.close()
        assert len(found) == 1, name
    assert (tmp_path / "__pycache__").exists() is not written
    sys.modules.pop("odd_names", None)


@pytest.mark.parametrize(
    ("spec", "package", "may"),
    [
        ("f", "torch", True),
        ("torch:f", "torch", True),
        ("torch.nn.*:f", "torch", True),
        ("torch.nn:f", "torchvision", False),
        ("t*:f", "torchvision", True),
        ("*.nn:f", "torch", True),
        ("torch.f", "numpy", True),  # a class called torch, for all that is known
    ],
)
def test_in_which_packages_a_place_may_be(spec: str, package: str, may: bool) -> None:
    assert Spec.parse(spec).may_be_in_package(package) is may


def test_watching_leaves_the_loader_as_it_was(plain_run) -> None:
    program = """
from importlib.machinery import SourceFileLoader as loader
from os.path import abspath
from modpdb.breakpoints.engine import Wiring
from modpdb.breakpoints.locations import Spec
from modpdb.breakpoints.locator import Locator
before = dict(vars(loader)), loader.get_code
one, two = Locator(Wiring(), abspath), Locator(Wiring(), abspath)
searches = [one.search(Spec.parse("a"), print), two.search(Spec.parse("b"), print)]
assert "get_code" in vars(loader)
one.forget(searches[0])
import json.tool
two.forget(searches[1])
assert (dict(vars(loader)), loader.get_code) == before
"""
    assert plain_run(["-c", program]).stderr == ""


def test_found_in_functions_that_exist(module: str) -> None:
    loaded = importlib.import_module(module)
    locator = Locator(Wiring(), os.path.abspath)
    search = locator.search(Spec.parse(f"{module}:Base.*"), lambda code: None)
    found = list(search.codes.values())
    assert any(code is loaded.Base.method.__code__ for code in found)
    locator.forget(search)
    locator.loaded(module, compile(SOURCE, "again.py", "exec"))
    assert list(search.codes.values()) == found


def test_an_error_while_looking_does_not_reach_the_import() -> None:
    wiring = Wiring()
    locator = Locator(wiring, os.path.abspath)

    def found(code: object) -> None:
        raise RuntimeError("while looking")

    search = locator.search(Spec.parse("not_loaded_yet:top"), found)
    code = compile(SOURCE, "mod.py", "exec")
    assert locator.loaded("not_loaded_yet", code) is code
    assert wiring.settle() == ["*** breakpoints: RuntimeError: while looking"]
    locator.forget(search)


def test_found_after_gc_freeze(module: str) -> None:
    import gc

    loaded = importlib.import_module(module)
    gc.freeze()
    try:
        search = Locator(Wiring(), os.path.abspath).search(
            Spec.parse(f"{module}:Base.*"), lambda code: None
        )
    finally:
        gc.unfreeze()
    assert any(code is loaded.Base.method.__code__ for code in search.codes.values())


def test_a_failed_import_has_the_traceback_it_would_have(tmp_path, monkeypatch) -> None:
    (tmp_path / "broken_module.py").write_text("x = (\n")
    monkeypatch.syspath_prepend(tmp_path)

    def attempt() -> str:
        try:
            importlib.import_module("broken_module")
        except SyntaxError:
            return traceback.format_exc()
        raise AssertionError("imported")

    def steps(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("  File")]

    plain = attempt()
    undo = watch_imports(lambda name, code: None)
    try:
        watched = attempt()
    finally:
        undo()
    assert "modpdb/breakpoints" not in watched
    assert steps(watched)[-1] == steps(plain)[-1]


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


class Sample:
    def __init__(self) -> None: ...
    def method(self) -> None: ...

    @classmethod
    def build(cls) -> None: ...

    @staticmethod
    def free() -> None: ...

    @decorated
    def wrapped(self) -> None: ...


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Sample.method, "Sample.method"),
        (Sample().method, "Sample.method"),
        (Sample.build, "Sample.build"),
        (vars(Sample)["free"], "Sample.free"),
        (Sample, "Sample.__init__"),
        (functools.partial(Sample.method, None), "Sample.method"),
        (Sample.wrapped, "Sample.wrapped"),
    ],
)
def test_function_code(value: object, name: str) -> None:
    code = function_code(value)
    assert code is not None and code.co_qualname == name


@pytest.mark.parametrize("value", [len, 3, "text", int, None, object()])
def test_no_python_code(value: object) -> None:
    assert function_code(value) is None


# -- lines ------------------------------------------------------------------------------------


def stops(spec: str) -> list[tuple[str, int | None]]:
    """Names and lines at which *spec* stops in SOURCE."""
    code = compile(SOURCE, "mod.py", "exec")
    parsed = Spec.parse(spec)
    found = [each for each in walk(code) if parsed.matches("pkg.mod", each)]
    return [(part.co_name, line) for each in found for part, line in parsed.stops_in(each)]


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("Base.method", [("method", None)]),
        ("Base.method+1", [("method", 7)]),
        ("pkg.mod:Base.method + 9", [("method", 7)]),  # the nearest that can stop
        ("Sub.other+0", [("other", 11)]),
    ],
)
def test_lines_below_a_functions_first(spec: str, found: list[tuple[str, int | None]]) -> None:
    assert stops(spec) == found


def test_an_offset_reaches_into_a_comprehension() -> None:
    code = compile("def f(x):\n    return [\n        n\n        for n in x]\n", "m.py", "exec")
    spec = Spec.parse("f+2")
    function = next(each for each in walk(code) if each.co_name == "f")
    assert {line for _, line in spec.stops_in(function)} == {3}


@pytest.mark.parametrize("text", ["f", "m:f", "m:C.f+3", "*.f", "a.b.C.f"])
def test_specs_are_written_as_they_are_read(text: str) -> None:
    assert str(Spec.parse(text)) == text
    assert Spec.parse(str(Spec.parse(text))) == Spec.parse(text)


def matching_lines(place: FileLine, file: str) -> list[str]:
    return [
        each.co_name for each in walk(compile(SOURCE, file, "exec")) if place.matches("m", each)
    ]


def test_a_line_of_a_file_to_come() -> None:
    place = FileLine("sub/later.py", 7)
    assert matching_lines(place, "/cache/sub/later.py") == ["method"]
    assert matching_lines(place, "sub/later.py") == ["method"]
    assert matching_lines(place, "/cache/bigsub/later.py") == []
    assert matching_lines(FileLine("<made>", 1), "<made>") == ["<module>"]
    assert matching_lines(FileLine("later.py", 2), "later.py") == ["top"]
