"""untracked and remedy: what a module holds past its registries, and lines that really register it."""

import re
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pytest
import torch
from test_modules import one_rank  # noqa: F401
from torch import Tensor, nn
from transformers import Gemma3TextConfig, MixtralConfig, T5Config
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextModel
from transformers.models.mixtral.modeling_mixtral import MixtralModel
from transformers.models.t5.modeling_t5 import T5Model

from modpdb.probes.attribute import attribute
from modpdb.probes.hooks import hook_report
from modpdb.probes.internals import internals
from modpdb.probes.registered import parameters
from modpdb.probes.remedies import remedy
from modpdb.probes.untracked import MOST, Findings, Untracked, untracked


class Holder(nn.Module):
    def __init__(self, **held: Any) -> None:
        super().__init__()
        for name, value in held.items():
            setattr(self, name, value)


def find(module: nn.Module) -> Findings:
    return untracked([("", module)])


def paths(module: nn.Module) -> list[str]:
    return [f"{each.attribute}{''.join(each.inside)}" for each in find(module).found]


def test_where_they_are_found() -> None:
    @dataclass
    class State:
        cache: Tensor
        steps: int = 0

    one = torch.ones(1)
    held = {
        "plain": one,
        "items": [one.clone(), 3, (one.clone(), {"k": one.clone()})],
        "queue": deque([one.clone()]),
        "state": State(one.clone()),
        "by": OrderedDict(a=nn.ReLU()),
        "number": 3,
    }
    assert paths(Holder(**held)) == [
        *("plain", "items[0]", "items[2][0]", "items[2][1]['k']", "queue[0]", "state.cache"),
        "by['a']",
    ]


def test_a_cycle_and_too_much_end() -> None:
    items: list[Any] = [torch.ones(1)]
    items.append(items)
    assert paths(Holder(items=items)) == ["items[0]"]
    found = find(Holder(items=[0] * (MOST + 1)))
    assert (found.found, found.cut) == ((), ("",))


def test_what_is_registered_elsewhere_is_left_out_where_nothing_is_lost() -> None:
    model = Holder(a=nn.Linear(2, 2))
    model.again = [model.a, model.a.weight]
    assert find(model).found == ()
    model.register_buffer("mask", torch.ones(2, 2))
    model.other = {"mask": model.mask, "row": model.mask[0]}
    also, part = find(model).found
    assert (also.also, also.view, part.also, part.view) == ("mask", False, "mask", True)
    assert remedy([also]).line == "" and "also registered as mask" in remedy([also]).reason
    model.to(torch.bfloat16)
    assert model.other["mask"].dtype == torch.float32  # as is said: it stays behind


def test_a_shadowed_parameter() -> None:
    model = Holder(layer=nn.Linear(2, 2))
    vars(model.layer)["weight"] = torch.ones(2, 2)
    (each,) = find(model).found
    assert (each.module, each.hides) == ("layer", "_parameters")
    assert apply(model.layer, [each]) and isinstance(model.layer.weight, nn.Parameter)
    assert find(model).found == ()


@pytest.mark.filterwarnings("ignore")
def test_what_is_computed_before_each_forward_is_not_to_be_registered() -> None:
    layer = torch.nn.utils.weight_norm(nn.Linear(2, 2))
    (each,) = find(layer).found
    fix = remedy([each])
    assert each.what == "computed tensor" and fix.line == ""
    assert fix.reason == "set before each forward by WeightNorm: leave it"


def test_of_a_class() -> None:
    class WithMask(nn.Module):
        mask = torch.ones(2)

    (each,) = find(nn.Sequential(WithMask(), WithMask())).found
    assert (each.module, each.of_class) == ("0", "WithMask")
    assert remedy([each]).reason == "of the class WithMask; in __init__ instead"


# -- the lines -----------------------------------------------------------------------------------


def apply(module: nn.Module, alike: list[Untracked]) -> str:
    """Execute the proposed line in place of what assigned the attribute; the line."""
    line, name = remedy(alike).line, alike[0].attribute
    if "…" not in line:
        exec(line, {"nn": nn}, {"self": module})
        return line
    value = vars(module)[name]
    if remedy(alike).reason == "each under a name of its own":
        value = eval(f"value{''.join(alike[0].inside)}")
    else:
        delattr(module, name)
    exec(line.replace("…", "value"), {"nn": nn, "self": module, "value": value})
    return line


TRAINED: Callable[[], Tensor] = lambda: torch.ones(2, requires_grad=True)  # noqa: E731
CASES = {
    "mask": (lambda: torch.ones(2), 'self.register_buffer("mask", …, persistent=False)'),
    "running_mean": (lambda: torch.ones(2), 'self.register_buffer("running_mean", …)'),
    "scale": (TRAINED, "self.scale = nn.Parameter(…)"),
    "blocks": (lambda: [nn.ReLU(), nn.Linear(2, 2)], "self.blocks = nn.ModuleList(…)"),
    "pair": (lambda: (nn.ReLU(), nn.ReLU()), "self.pair = nn.ModuleList(…)"),
    "heads": (lambda: {"a": nn.ReLU()}, "self.heads = nn.ModuleDict(…)"),
    "byint": (lambda: {1: nn.ReLU()}, "self.byint = nn.ModuleDict({str(k): v for k, v in (…).items()})"),
    "scales": (lambda: [nn.Parameter(torch.ones(2))], "self.scales = nn.ParameterList(…)"),
    "gains": (lambda: {"a": nn.Parameter(torch.ones(2))}, "self.gains = nn.ParameterDict(…)"),
    "leaves": (lambda: [TRAINED()], "self.leaves = nn.ParameterList(…)"),
    "means": (lambda: [torch.ones(2)], 'for k, t in enumerate(…): self.register_buffer(f"means_{k}", t)'),
    "stats": (lambda: {"a": torch.ones(2)}, 'for k, t in (…).items(): self.register_buffer(f"stats_{k}", t)'),
    "mixed": (lambda: [nn.ReLU(), 3], 'self.add_module("mixed_0", …)'),
    "deep": (lambda: [[torch.ones(2)]], 'self.register_buffer("deep_0_0", …)'),
    "lists": (lambda: [[nn.Parameter(torch.ones(2))]], 'self.register_parameter("lists_0_0", …)'),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_line_registers_it(name: str) -> None:
    make, line = CASES[name]
    module = Holder(**{name: make()})
    found = find(module).found
    assert found
    for _, alike in groupby(found, key=lambda each: each.what):
        assert apply(module, list(alike)) == line
    registered = [*module.parameters(), *module.buffers(), *list(module.modules())[1:]]
    assert registered
    left = find(module).found
    assert all(each.also for each in left if each.what == "tensor") and not [
        each for each in left if each.what != "tensor"
    ]
    assert all(t.dtype == torch.float16 for t in module.half().state_dict().values())


def test_put_past_setattr() -> None:
    module = Holder()
    vars(module).update(layer=nn.Linear(2, 2), weight=nn.Parameter(torch.ones(2)))
    layer, weight = find(module).found
    assert apply(module, [layer]) and apply(module, [weight])
    assert len(list(module.parameters())) == 3 and find(module).found == ()


# -- models --------------------------------------------------------------------------------------

SMALL = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [
        lambda: Gemma3TextModel(Gemma3TextConfig(**SMALL)),
        lambda: MixtralModel(MixtralConfig(**SMALL, num_local_experts=2)),
        lambda: T5Model(T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2)),
        lambda: nn.LSTM(2, 2),
        lambda: nn.MultiheadAttention(4, 2),
        lambda: torch.compile(nn.Linear(2, 2)),
        lambda: nn.LazyLinear(2),
        lambda: nn.Module.__new__(nn.Linear),
        lambda: torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
    ],
)  # fmt: skip
def test_modules_without_fault(make: Callable[[], nn.Module]) -> None:
    """No false alarm; what is said of a transformers model is what `.to()` really leaves behind."""
    torch.manual_seed(0)
    model = make()
    state = torch.get_rng_state()
    found = find(model).found
    assert torch.equal(torch.get_rng_state(), state)
    if found:
        model.to(torch.float16)
        for each in found:
            owner = model.get_submodule(each.module)
            held = eval(f"value{''.join(each.inside)}", {"value": vars(owner)[each.attribute]})
            assert re.match(r"\w+", each.attribute) and held.dtype == torch.float32, each


def test_fsdp2(one_rank: torch.distributed.device_mesh.DeviceMesh) -> None:  # noqa: F811
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(nn.Linear(64, 64))
    fully_shard(model[0], mesh=one_rank)
    assert find(model).found == ()
    assert attribute(model[0], "weight").found
    assert {each.name: each for each in internals(model[0]).own}["_parameters"].entries == 2
    kinds = [hook.kind for each in hook_report([("", model)]).hooked for hook in each.hooks]
    assert {"forward pre-hook", "forward hook"} <= set(kinds)
    row, _ = parameters(model, stats=True)
    assert row.initialisation and row.initialisation.functions[0].endswith("nn.Linear's")


def test_of_a_part_the_whole_model_is_asked() -> None:
    model = Holder(a=nn.Linear(2, 2), b=Holder())
    model.b.borrowed = [model.a.weight]
    assert len(untracked([("", model.b)]).found) == 1
    assert untracked([("", model)], [("b", model.b)]).found == ()
