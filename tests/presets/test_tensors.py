"""The places of a preset where a tensor is handled, found in code and asked of frames."""

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from modpdb.breakpoints.locations import Spec
from modpdb.presets import TensorSpec, preset_named
from modpdb.presets.tensors import Sighting, TensorPlaces, calling_lines


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


def quoting() -> str:
    return "look"


class Derived(Model):
    def modify(self, name: str, look: Callable[[Any], object]) -> None:
        look(sys._getframe())
        super().modify(name + "!", look)


def found_in(places: TensorPlaces, *functions: Any) -> None:
    for function in functions:
        assert places.matches(__name__, function.__code__), function


def lines(places: TensorPlaces, code: types.CodeType) -> set[int | None]:
    return {line for _, line in places.stops_in(code)}


def names(places: TensorPlaces, act: Callable[[Callable[[Any], None]], object]) -> list[Any]:
    met: list[Any] = []
    act(lambda frame: met.extend((s.names, s.also) for s in places.sightings(frame)))
    return met


def traced(places: TensorPlaces, act: Callable[[], object]) -> list[Sighting]:
    """What is seen at every entry and line to look at while *act* runs."""
    seen: list[Sighting] = []

    def trace(frame: Any, event: str, argument: Any) -> Any:
        at = {"call": None, "line": frame.f_lineno}.get(event, 0)
        if at in lines(places, frame.f_code):
            seen.extend(places.sightings(frame))
        return trace

    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(None)
    return seen


def test_the_outermost_entry_gives_the_name() -> None:
    places = TensorPlaces(None, "@x", tensors=(spec("*.modify", on=("writer",)),))
    found_in(places, Model.modify, Derived.modify)
    assert lines(places, Model.modify.__code__) == {None}
    assert names(places, lambda look: Derived().modify("n", look)) == [(("n",), ())]
    assert names(places, lambda look: Model().modify("n", look)) == [(("n",), ())]


def test_an_object_without_the_attributes_is_another() -> None:
    places = TensorPlaces(None, "@x", tensors=(spec("*.modify", on=("reader",)),))
    found_in(places, Model.modify)
    assert names(places, lambda look: Model().modify("n", look)) == []


def test_lines_that_call_are_found_in_the_code() -> None:
    places = TensorPlaces(None, "@x", tensors=(spec("*.prepare", "new_name", calling=("add",)),))
    found_in(places, Model.prepare)
    (line,) = lines(places, Model.prepare.__code__)
    assert line == Model.prepare.__code__.co_firstlineno + 4
    # Only there: at other lines new_name is not bound yet, or that of the tensor before.
    assert names(places, lambda look: Model().prepare(look)) == []
    seen = traced(places, lambda: Model().prepare(lambda frame: None))
    assert list(dict.fromkeys(each.names for each in seen)) == [("A",), ("BB",)]


def test_a_function_without_such_a_call_is_no_place() -> None:
    places = TensorPlaces(None, "@x", tensors=(spec("*.modify", calling=("add",)),))
    assert not places.matches(__name__, Model.modify.__code__)
    assert calling_lines(quoting.__code__, ["look"]) == set()
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
    places = TensorPlaces(None, "@x", tensors=(spec("*.modify", tensor, also=also),))
    found_in(places, Model.modify)
    assert names(places, lambda look: Model().modify("n", look)) == [expected]


def test_a_patched_copy_is_the_same_place() -> None:
    places = TensorPlaces(None, "@x", tensors=(spec("*.modify"),))
    found_in(places, Model.modify)
    original = Model.modify.__code__
    Model.modify.__code__ = original.replace(co_consts=(*original.co_consts, "patched"))
    try:
        assert names(places, lambda look: Model().modify("n", look)) == [(("n",), ())]
    finally:
        Model.modify.__code__ = original


class Quantised:
    """The ways of llama.cpp's MXFP4 converters that need checkpoints too large to make here:
    their names of functions and variables."""

    def __init__(self) -> None:
        self.gguf_writer = self

    def add_tensor(self, name: str) -> None:
        pass

    repack_mxfp4_blocks = _mxfp4_expert_tensor = add_tensor

    def _write_mxfp4_expert_tensor(self, bid: int) -> None:
        for eid in range(2):
            weight_name = f"layers.{bid}.{eid}.weight"
            scale_name = f"layers.{bid}.{eid}.scale"
            self.repack_mxfp4_blocks(weight_name + scale_name)

    def _write_hash_routing_tensors(self) -> None:
        for bid in range(2):
            name = f"layers.{bid}.tid2eid"
            self.gguf_writer.add_tensor(name.upper())

    def _write_mxfp4_experts(self) -> None:
        groups = {(0, "w1"): {0: ("a.packed", "a.scale"), 1: ("b.packed", "b.scale")}}
        for _, experts in groups.items():
            self._mxfp4_expert_tensor(str(experts))


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (
            lambda: Quantised()._write_mxfp4_expert_tensor(3),
            [(f"layers.3.{n}.weight", f"layers.3.{n}.scale") for n in range(2)],
        ),
        (
            lambda: Quantised()._write_hash_routing_tensors(),
            [("layers.0.tid2eid",), ("layers.1.tid2eid",)],
        ),
        (
            lambda: Quantised()._write_mxfp4_experts(),
            [("a.packed", "a.scale", "b.packed", "b.scale")],
        ),
    ],
)
def test_ours_for_mxfp4_experts(act: Callable[[], object], expected: list[Any]) -> None:
    places = TensorPlaces(None, "@x", tensors=preset_named("llama.cpp").tensors)
    for function in vars(Quantised).values():
        if hasattr(function, "__code__"):
            places.matches(__name__, function.__code__)
    seen = [each for each in traced(places, act) if each.spec.side == "checkpoint"]
    assert [each.names for each in seen] == expected
