"""``Sub.method`` where Sub inherits it: which calls are meant, of classes loaded and to come."""

import gc
import importlib
import importlib.machinery
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, ClassVar

import pytest

from modpdb.breakpoints.books import NamedBreakpoint
from modpdb.breakpoints.class_statements import base_names, is_static
from modpdb.breakpoints.engine import Wiring
from modpdb.breakpoints.inheritance import inherited
from modpdb.breakpoints.lines import walk
from modpdb.breakpoints.locations import Spec
from modpdb.breakpoints.locator import Locator
from modpdb.breakpoints.placement import Placement


class Watching:
    """An engine that knows what it was told, and asks when a test says that code is entered."""

    def __init__(self) -> None:
        self.watched: list[tuple[CodeType, Callable[[FrameType], bool]]] = []

    def watch(self, code: CodeType, reached: Any, line: int | None = None) -> None:
        self.watched.append((code, reached))

    def unwatch(self, reached: Any) -> None:
        self.watched = [each for each in self.watched if each[1] != reached]

    def original(self, code: CodeType) -> CodeType:
        return code


class Hits:
    """What a breakpoint at *place* stops at while a program runs."""

    made: ClassVar[list["Hits"]] = []

    def __init__(self, place: str) -> None:
        Hits.made.append(self)
        self.engine = Watching()
        self.notes: list[str] = []
        self.told: list[str] = []
        self.breakpoint = NamedBreakpoint(Spec.parse(place), False, None)
        self.locator = Locator(Wiring(), os.path.abspath)
        self.placement = Placement(
            self.breakpoint, self.engine, self.locator, self._stops, self.told.append
        )

    def _stops(self, breakpoint: NamedBreakpoint, frame: FrameType, note: str | None) -> bool:
        self.notes.append(note or "")
        return True

    def during(self, program: Callable[[], object]) -> list[str]:
        """The notes of the stops that *program* makes."""
        self.notes.clear()

        def trace(frame: FrameType, event: str, arg: Any) -> None:
            for code, reached in list(self.engine.watched):
                if code is frame.f_code and event == "call":
                    reached(frame)

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            program()
        finally:
            sys.settrace(before)
        return list(self.notes)

    @property
    def names(self) -> list[str]:
        return [spot.name for spot in self.breakpoint.spots]


FILES = {
    "inh_root": """
        class InhRoot:
            def work(self): return 1
            @classmethod
            def build(cls): return cls()
            @staticmethod
            def free(): return 2
            @property
            def size(self): return 3
        class InhMiddle(InhRoot):
            pass
        """,
    "inh_mixin": """
        class InhMixin:
            def work(self): return super().work()
        """,
    "inh_subs": """
        import inh_mixin
        import inh_root as root
        from inh_root import InhMiddle as Middle
        class InhSub(Middle):
            pass
        class InhSibling(root.InhMiddle):
            pass
        class InhOver(InhSub):
            def work(self): return super().work()
        Alias = InhSub
        class InhMixed(inh_mixin.InhMixin, Alias):
            pass
        def computed(): return InhSub
        class InhComputed(computed()):
            pass
        class Holder:
            class InhNested(Middle):
                pass
        """,
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    importlib.invalidate_caches()
    for name, source in FILES.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for each in Hits.made:
        each.placement.remove()
    Hits.made.clear()
    for name in FILES:
        sys.modules.pop(name, None)
    gc.collect()  # the classes go, too


def hits(place: str, loaded: bool) -> tuple[Hits, ModuleType]:
    """A breakpoint at *place*, set before or after the modules are loaded."""
    if loaded:
        importlib.import_module("inh_subs")
    found = Hits(place)
    if not loaded:
        assert found.names == []
    return found, importlib.import_module("inh_subs")


loaded_or_not = pytest.mark.parametrize("loaded", [True, False], ids=["loaded", "to come"])


@loaded_or_not
def test_only_instances_of_the_class(files: Path, loaded: bool) -> None:
    found, subs = hits("InhSub.work", loaded)
    assert found.names == ["InhRoot.work"]
    assert found.during(lambda: subs.InhSibling().work()) == []
    assert found.during(lambda: subs.InhSub().work()) == [
        "self is a InhSub: InhSub.work is InhRoot.work"
    ]
    # A subclass's own method goes on to it by super().
    assert found.during(lambda: subs.InhOver().work()) == [
        "self is a InhOver: InhSub.work is InhRoot.work"
    ]
    assert found.during(lambda: subs.Holder.InhNested().work()) == []


@loaded_or_not
def test_the_first_in_the_order_of_lookup(files: Path, loaded: bool) -> None:
    found, subs = hits("inh_subs:InhMixed.work", loaded)
    assert found.during(lambda: subs.InhMixed().work()) == [
        "self is a InhMixed: InhMixed.work is InhMixin.work"
    ]


@loaded_or_not
def test_class_methods_and_properties(files: Path, loaded: bool) -> None:
    found, subs = hits("InhSub.build", loaded)
    assert found.during(lambda: subs.InhSibling.build()) == []
    assert found.during(lambda: subs.InhSub.build()) == [
        "cls is InhSub: InhSub.build is InhRoot.build"
    ]
    found.placement.remove()
    assert found.during(lambda: subs.InhSub.build()) == []


@loaded_or_not
def test_properties(files: Path, loaded: bool) -> None:
    found, subs = hits("InhSub.size", loaded)
    assert found.during(lambda: (subs.InhSibling().size, subs.InhSub().size)) == [
        "self is a InhSub: InhSub.size is InhRoot.size"
    ]


@loaded_or_not
def test_a_staticmethod_stops_for_all_and_says_so(files: Path, loaded: bool) -> None:
    found, subs = hits("InhSub.free", loaded)
    assert found.during(lambda: subs.InhSibling.free()) == [""]
    assert found.told == [
        "InhSub.free is InhRoot.free, a staticmethod: it does not know the class that it is "
        "called on, and stops for all"
    ]


@loaded_or_not
def test_nested_classes(files: Path, loaded: bool) -> None:
    found, subs = hits("Holder.InhNested.work", loaded)
    assert len(found.during(lambda: subs.Holder.InhNested().work())) == 1


def test_the_class_that_defines_it_is_no_heir(files: Path) -> None:
    found, subs = hits("InhOver.work", loaded=False)
    assert found.names == ["InhOver.work"]
    assert found.during(lambda: subs.InhOver().work()) == [""]


def test_a_computed_base_is_found_once_the_class_exists(files: Path) -> None:
    found, subs = hits("InhComputed.work", loaded=False)
    assert found.names == []
    code = inherited(Spec.parse("InhComputed.work"))
    assert code is not None and code.co_qualname == "InhRoot.work"
    assert Hits("InhComputed.work").names == ["InhRoot.work"]
    assert subs.InhComputed


def test_nothing_is_searched_for_any_more(files: Path) -> None:
    loader = vars(importlib.machinery.SourceFileLoader)
    before = "get_code" in loader  # an earlier test's debugger may still look
    found, _ = hits("InhSub.work", loaded=False)
    found.placement.remove()
    assert found.engine.watched == []
    assert ("get_code" in loader) == before


def test_a_hostile_metaclass_is_not_asked(files: Path) -> None:
    asked = []

    class Meta(type):
        def __getattribute__(cls, name: str) -> object:
            asked.append(name)
            return super().__getattribute__(name)

        def __eq__(cls, other: object) -> bool:
            asked.append("==")
            return True

        def __hash__(cls) -> int:
            asked.append("hash")
            return 1

    class InhHostileBase(metaclass=Meta):
        def work(self) -> None: ...

    class InhHostile(InhHostileBase): ...

    one = InhHostile()
    asked.clear()
    found = Hits("InhHostile.work")
    assert found.names == ["test_a_hostile_metaclass_is_not_asked.InhHostileBase.work"]
    code, reached = found.engine.watched[0]
    frame = entered(lambda: one.work(), code)
    asked.clear()
    assert reached(frame) and asked == []


def entered(program: Callable[[], object], code: CodeType) -> FrameType:
    frames = []
    before = sys.gettrace()
    sys.settrace(lambda frame, event, arg: frames.append(frame) if frame.f_code is code else None)
    try:
        program()
    finally:
        sys.settrace(before)
    return frames[0]


# -- what the source says ------------------------------------------------------------------------


def bodies(tmp_path: Path, source: str) -> dict[str, CodeType]:
    file = tmp_path / "statements.py"
    file.write_text(textwrap.dedent(source))
    code = compile(file.read_text(), str(file), "exec")
    return {each.co_name: each for each in walk(code)}


def test_names_of_bases(tmp_path: Path) -> None:
    found = bodies(
        tmp_path,
        """
        from a import One as First, Two
        import b as short
        Other = short.Three
        class Plain: ...
        @register("x")
        class Sub(First, short.Four, Two[int], make(), Other, metaclass=Meta): ...
        def function():
            class Inner(Plain): ...
        """,
    )
    assert base_names(found["Plain"]) == set()
    assert base_names(found["Sub"]) == {"First", "One", "Four", "Two", "Other", "Three"}
    assert base_names(found["Inner"]) == {"Plain"}


def test_static_methods_by_their_decorator(tmp_path: Path) -> None:
    found = bodies(
        tmp_path,
        """
        class A:
            @staticmethod
            def static(): ...
            @classmethod
            def method(cls): ...
        """,
    )
    assert is_static(found["static"]) and not is_static(found["method"])


def test_source_that_is_gone(tmp_path: Path) -> None:
    found = bodies(tmp_path, "class A(B): ...")
    (tmp_path / "statements.py").unlink()
    assert base_names(found["A"]) == set()
