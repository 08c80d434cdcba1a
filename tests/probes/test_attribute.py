"""attribute and assignments: what Python really does, over every odd kind of module."""

import copy
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from modpdb.probes.assignment import VALUES, Assignment, Value, assignments
from modpdb.probes.attribute import Attribute, attribute


def states(found: Attribute) -> dict[str, str]:
    return {place.where.rpartition(": ")[2]: place.state for place in found.places}


def where(obj: object, name: str) -> str:
    found = attribute(obj, name).found
    return "" if found is None else found.where.rpartition(": ")[2]


# -- reading -------------------------------------------------------------------------------------


def test_the_order_in_which_python_looks() -> None:
    found = attribute(nn.Linear(2, 2), "bias")
    assert states(found) == {
        "data descriptor of the class": "not there",
        "instance __dict__": "not there",
        "any attribute of the class": "not there",
        "_parameters": "found",
    }
    assert found.found and found.found.what == "Parameter [2] f32"
    assert where(nn.BatchNorm1d(2), "running_mean") == "_buffers"
    assert where(nn.Sequential(nn.ReLU()), "0") == "_modules"
    assert where(nn.Linear(2, 2), "in_features") == "instance __dict__"
    assert where(nn.Linear(2, 2), "forward") == "any attribute of the class"


def test_a_parameter_behind_the_instances_dict() -> None:
    layer = nn.Linear(2, 2)
    vars(layer)["weight"] = torch.ones(2, 2)
    found = states(attribute(layer, "weight"))
    assert (found["instance __dict__"], found["_parameters"]) == ("found", "hidden")


def test_a_module_behind_a_class_attribute_and_a_property() -> None:
    class Outer(nn.Module):
        head = None

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 2)
            self.tail = nn.Linear(2, 2)

        @property
        def tail(self) -> nn.Module:
            raise AssertionError("run")

    outer = Outer()
    assert states(attribute(outer, "head"))["_modules"] == "hidden" and outer.head is None
    assert states(attribute(outer, "tail"))["_modules"] == "hidden"
    assert "property of Outer, not run" in attribute(outer, "tail").places[0].what


def test_a_property_that_reads_what_is_not_there() -> None:
    class Odd(nn.Module):
        @property
        def depth(self) -> int:
            return self.missing + len(self._modules)

        @property
        def width(self) -> int:
            return self.missing

    odd = Odd()
    (note,) = attribute(odd, "depth").places[0].notes
    assert note.startswith("guess: the getter reads self.missing, which is not there")
    assert note.endswith("goes on to __getattr__ and reports 'depth' as missing")
    with pytest.raises(AttributeError, match="no attribute 'depth'"):
        _ = odd.depth
    odd._modules["width"] = nn.ReLU()
    (note,) = attribute(odd, "width").places[0].notes
    assert note.endswith("comes to Module.__getattr__: _modules")
    assert isinstance(odd.width, nn.ReLU)


def test_slots_classes_python_modules_and_what_is_not_there() -> None:
    class Slots:
        __slots__ = ("empty", "full")

    thing = Slots()
    thing.full = 3
    assert (
        attribute(thing, "full").found and "slot of Slots: 3" in attribute(thing, "full").found.what
    )
    assert attribute(thing, "empty").found is None
    assert where(dict, "fromkeys") == "the class and its bases"
    assert where(int, "__name__") == "data descriptor of the metaclass"
    assert where(sys, "path") == "instance __dict__"
    assert attribute(nn.Linear(2, 2), "wieght").near == ("weight",)


def test_code_of_the_objects_own_is_not_run_and_said_to_decide() -> None:
    class Own(nn.Module):
        def __getattr__(self, name: str) -> Any:
            raise AssertionError("run")

    class All:
        x = 1

        def __getattribute__(self, name: str) -> Any:
            raise AssertionError("run")

    class Falling(Own):
        @property
        def p(self) -> int:
            return self.gone

    falling = attribute(Falling(), "p")
    assert [place.state for place in falling.places] == ["found"]
    assert falling.places[0].notes == (
        "should the getter raise AttributeError, Python comes to Own.__getattr__",
    )
    own = attribute(Own(), "x")
    assert own.undecided and own.undecided.where == "Own.__getattr__" and own.found is None
    every = attribute(All(), "x")
    assert every.undecided and states(every)["any attribute of the class"] == "perhaps"


def test_parametrized_is_not_computed() -> None:
    class Counted(nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            type(self).calls += 1
            return x

    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", Counted())
    calls = Counted.calls
    place = attribute(layer, "weight").places[0]
    assert place.notes[0].startswith(
        "computed at each read by Counted from parametrizations.weight"
    )
    assert Counted.calls == calls


def test_functional_call_puts_a_plain_tensor_there() -> None:
    class Looking(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(attribute(self, "weight").found)
            return super().forward(x)

    seen: list[Any] = []
    torch.func.functional_call(Looking(2, 2), {"weight": torch.ones(2, 2)}, torch.ones(1, 2))
    assert "functional_call is under way" in seen[0].notes[0]


def test_compiled_passes_on() -> None:
    model = torch.compile(nn.Linear(2, 2))
    assert where(model, "weight") == "_parameters"
    assert where(model, "_orig_mod") == "_modules"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: nn.LazyLinear(3), "weight"),
        (lambda: nn.Linear(2, 2, device="meta"), "weight"),
        (lambda: torch.jit.script(nn.Linear(2, 2)), "weight"),
        (
            lambda: torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 2)))[0],
            "weight",
        ),
        (lambda: nn.Module.__new__(nn.Linear), "weight"),
    ],
)
def test_every_odd_module_is_shown(make: Callable[[], nn.Module], name: str) -> None:
    module = make()
    assert attribute(module, name).places and assignments(module, name).outcomes


# -- assigning -----------------------------------------------------------------------------------

NAMES = ("x", "constant", "computed", "settable", "forward")


class Target(nn.Module):
    constant = 3

    @property
    def computed(self) -> int:
        return 4

    @property
    def settable(self) -> int:
        return 4

    @settable.setter
    def settable(self, value: object) -> None:
        vars(self)["set"] = True


def value_of(kind: Value) -> object:
    values: dict[Value, Callable[[], object]] = {
        "Parameter": lambda: nn.Parameter(torch.ones(1)),
        "Module": nn.ReLU,
        "Buffer": lambda: nn.Buffer(torch.ones(1)),
        "tensor": lambda: torch.ones(1),
        "None": lambda: None,
        "anything else": lambda: 7,
    }
    return values[kind]()


def holders(module: nn.Module, name: str) -> set[str]:
    state = vars(module)
    found = {"instance __dict__"} if name in state else set()
    for registry in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        if name in state.get(registry, ()):
            found.add(registry)
    return found


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.sets(st.sampled_from(["instance __dict__", "_parameters", "_buffers", "_modules"])),
    st.booleans(),
    st.booleans(),
    st.sampled_from(VALUES),
)
def test_assignment_is_what_torch_does(
    name: str, held: set[str], transient: bool, started: bool, kind: Value
) -> None:
    module = Target() if started else nn.Module.__new__(Target)
    if started:
        put = {
            "_parameters": nn.Parameter(torch.ones(2)),
            "_buffers": torch.ones(2),
            "_modules": nn.ReLU(),
        }
        for registry in held - {"instance __dict__"}:
            vars(module)[registry][name] = put[registry]
        if transient and "_buffers" in held:
            vars(module)["_non_persistent_buffers_set"].add(name)
    if "instance __dict__" in held:
        vars(module)[name] = torch.ones(3)
    before = holders(module, name)
    (said,) = (each for each in assignments(module, name).outcomes if each.value == kind)
    assert holders(module, name) == before
    check(module, name, value_of(kind), said, before)


def check(module: nn.Module, name: str, value: object, said: Assignment, before: set[str]) -> None:
    try:
        setattr(module, name, value)
    except Exception as error:
        kind, _, words = said.error.partition(": ")
        assert type(error).__name__ == kind, said
        assert words.partition(" it ")[0][:20] in str(error)
        assert holders(module, name) == before - set(said.removed_from)
        return
    assert not said.error
    after = holders(module, name)
    flag = (
        {"_non_persistent_buffers_set"} if said.value == "Buffer" else set()
    )  # a Buffer has its own
    assert before - after - flag == set(said.removed_from) - {said.place}
    if "stays non-persistent" in said.notes:
        assert "_non_persistent_buffers_set" in after
    if said.place == "setter":
        assert vars(module).pop("set")
        return
    assert said.place in after
    state = vars(module)
    stored = state if said.place == "instance __dict__" else state[said.place]
    assert stored[name] is value
    if said.hidden_by:
        assert getattr(module, name) is not value
    elif said.place != "instance __dict__":
        assert getattr(module, name) is value


@pytest.fixture
def hooks() -> Iterator[list[object]]:
    handles: list[Any] = []
    yield handles
    for handle in handles:
        handle.remove()


def test_registration_hooks_may_replace(hooks: list[object]) -> None:
    other = nn.Tanh()
    hooks.append(nn.modules.module.register_module_module_registration_hook(lambda m, n, v: other))
    outcomes = {each.value: each for each in assignments(Target(), "x").outcomes}
    (hook,) = outcomes["Module"].hooks
    assert hook.function.name.endswith("<lambda>") and not outcomes["Parameter"].hooks
    module = Target()
    module.x = nn.ReLU()
    assert module.x is other


def test_a_setter_of_the_classs_own_is_named() -> None:
    class Own(nn.Module):
        def __setattr__(self, name: str, value: object) -> None:
            raise AssertionError("run")

    found = assignments(nn.Module.__new__(Own), "x")
    assert found.setter_of == "Own" and found.setter and found.setter.line
    assert assignments(nn.Linear(1, 1), "x").setter is None


def test_objects_that_are_no_modules() -> None:
    class Slots:
        __slots__ = ("a",)

    def only(obj: object, name: str) -> Assignment:
        (outcome,) = assignments(obj, name).outcomes
        return outcome

    assert only(Slots(), "a").place == "slot"
    assert only(Slots(), "b").error.startswith("AttributeError")
    assert only(Slots, "b").place == "class __dict__"
    assert only(copy, "b").place == "instance __dict__"
