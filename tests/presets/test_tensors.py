"""The places of a preset where a tensor is handled, found in code and asked of frames."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from modpdb.breakpoints.locations import Spec
from modpdb.presets import TensorSpec
from modpdb.presets.tensors import TensorPlaces, calling_lines


def spec(at: str, tensor: str = "name", **options: Any) -> TensorSpec:
    also = options.pop("also", None)
    parts: dict[str, Any] = {"name": at, "on": (), "calling": (), "side": "s", "says": "x"}
    return TensorSpec(
        at=(Spec.parse(at),),
        tensor=compile(tensor, "<tensor>", "eval"),
        also=compile(also, "<also>", "eval") if also else None,
        **{**parts, **options},
    )


class Writer:
    def add(self, name: str, look: Callable[[Any], object]) -> None:
        look(sys._getframe())


class Model:
    def __init__(self) -> None:
        self.writer = Writer()

    def modify(self, name: str, look: Callable[[Any], object]) -> None:
        look(sys._getframe())

    def prepare(self, look: Callable[[Any], object]) -> None:
        for name, rest in (("a", 1), ("b", 2)):
            look(sys._getframe())
            new_name = name.upper() * rest
            self.writer.add(
                new_name,
                look,
            )


class Derived(Model):
    def modify(self, name: str, look: Callable[[Any], object]) -> None:
        look(sys._getframe())
        super().modify(name + "!", look)


def found_in(places: TensorPlaces, *functions: Any) -> None:
    for function in functions:
        assert places.matches(__name__, function.__code__), function


def names(places: TensorPlaces, act: Callable[[Callable[[Any], None]], object]) -> list[Any]:
    met: list[Any] = []
    act(lambda frame: met.extend((s.names, s.also) for s in places.sightings(frame)))
    return met


def test_the_outermost_entry_gives_the_name() -> None:
    places = TensorPlaces(None, "@x", (spec("*.modify", on=("writer",)),))
    found_in(places, Model.modify, Derived.modify)
    assert places.lines(Model.modify.__code__) == {None}
    assert names(places, lambda look: Derived().modify("n", look)) == [(("n",), ())]
    assert names(places, lambda look: Model().modify("n", look)) == [(("n",), ())]


def test_an_object_without_the_attributes_is_another() -> None:
    places = TensorPlaces(None, "@x", (spec("*.modify", on=("reader",)),))
    found_in(places, Model.modify)
    assert names(places, lambda look: Model().modify("n", look)) == []


def test_lines_that_call_are_found_in_the_code() -> None:
    places = TensorPlaces(None, "@x", (spec("*.prepare", "new_name", calling=("add",)),))
    found_in(places, Model.prepare)
    (line,) = places.lines(Model.prepare.__code__)
    assert line == Model.prepare.__code__.co_firstlineno + 4
    # Only there: at other lines new_name is not bound yet, or that of the tensor before.
    assert names(places, lambda look: Model().prepare(look)) == []
    traced: list[Any] = []

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code is Model.prepare.__code__ and event == "line":
            traced.extend(s.names for s in places.sightings(frame))
        return trace

    sys.settrace(trace)
    try:
        Model().prepare(lambda frame: None)
    finally:
        sys.settrace(None)
    assert list(dict.fromkeys(traced)) == [("A",), ("BB",)]


def test_a_function_without_such_a_call_is_no_place() -> None:
    places = TensorPlaces(None, "@x", (spec("*.modify", calling=("add",)),))
    assert not places.matches(__name__, Model.modify.__code__)
    assert calling_lines(Model.modify.__code__, ["look"]) == {
        Model.modify.__code__.co_firstlineno + 1
    }


@pytest.mark.parametrize(
    ("tensor", "also", "expected"),
    [
        ("name", "[name + '_scale', name.upper()]", (("n",), ("n_scale", "N"))),
        ("[name + str(i) for i in range(2)]", None, (("n0", "n1"), ())),
        ("{name: 1}", None, (("n",), ())),
        ("[name, 3, None]", None, (("n",), ())),
        ("unbound", "[name]", ((), ())),
        ("name.gone", None, ((), ())),
        ("3", None, ((), ())),
        ("[name + each for each in (self.gone,)]", None, ((), ())),
    ],
)
def test_expressions(tensor: str, also: str | None, expected: Any) -> None:
    places = TensorPlaces(None, "@x", (spec("*.modify", tensor, also=also),))
    found_in(places, Model.modify)
    assert names(places, lambda look: Model().modify("n", look)) == [expected]


def test_a_patched_copy_is_the_same_place() -> None:
    places = TensorPlaces(None, "@x", (spec("*.modify"),))
    found_in(places, Model.modify)
    original = Model.modify.__code__
    Model.modify.__code__ = original.replace(co_consts=(*original.co_consts, "patched"))
    try:
        assert names(places, lambda look: Model().modify("n", look)) == [(("n",), ())]
    finally:
        Model.modify.__code__ = original
