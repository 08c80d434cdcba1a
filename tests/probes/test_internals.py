"""internals: the seventeen and the ten, by torch's own account, and what stands beside them."""

import pytest
import torch
from torch import nn

from modpdb.probes.internals import ATTRIBUTES, GLOBALS, Internal, internals


def own(module: nn.Module) -> dict[str, Internal]:
    return {each.name: each for each in internals(module).own}


def test_they_are_torchs_in_its_order() -> None:
    assert list(vars(nn.Module())) == list(ATTRIBUTES)
    assert [name for name in vars(nn.modules.module) if name.startswith("_global_")] == list(
        GLOBALS
    )


def test_a_fresh_module_is_as_init_left_it() -> None:
    assert all(each.usual for each in own(nn.Module()).values())
    assert [each.name for each in internals(nn.Module()).shared] == list(GLOBALS)


def test_what_differs() -> None:
    model = nn.Linear(2, 3).eval()
    model.register_buffer("seen", torch.zeros(1), persistent=False)
    model.register_parameter("gone", None)
    model.register_forward_hook(print, with_kwargs=True)
    found = own(model)
    assert found["training"].value == "False" and not found["training"].usual
    assert found["_parameters"].value == "weight [3, 2] f32, bias [3] f32, gone None"
    assert found["_buffers"].value == "seen [1] f32 = 0.0"
    assert found["_non_persistent_buffers_set"].value == "seen"
    assert found["_forward_hooks"].value == "print"
    assert found["_forward_hooks_with_kwargs"].value.startswith("hook ")
    changed = {name for name, each in found.items() if not each.usual}
    assert len(changed) == 6


def test_children_by_class_where_they_are_numbered() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    assert own(model)["_modules"].value == "2 × Linear, 1 × ReLU"
    assert own(nn.ModuleDict({"a": nn.ReLU()}))["_modules"].value == "a ReLU"


def test_what_stands_beside_them() -> None:
    model = nn.Module()
    model.mask, model.width, model.act = torch.ones(2), 4, torch.relu
    vars(model)["inner"] = nn.ReLU()
    found = {each.name: (each.kind, each.value) for each in internals(model).further}
    assert found["mask"] == ("tensor", "Tensor [2] f32")
    assert found["width"] == ("value", "4")
    assert found["inner"][0] == "module" and found["act"][0] == "code"


@pytest.mark.filterwarnings("ignore")
def test_half_made_and_odd_modules() -> None:
    half = internals(nn.Module.__new__(nn.Linear))
    assert not half.initialised and all(each.missing for each in half.own)
    compiled = own(torch.compile(nn.Linear(1, 1)))
    assert [name for name, each in compiled.items() if each.missing] == ["training"]
    scripted = own(torch.jit.script(nn.Linear(2, 2)))
    assert scripted["_parameters"].entries == 2
