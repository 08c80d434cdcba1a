"""What is in a state dict, by looking alone: the same keys as state_dict(), and nothing run."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from modpdb.probes.state import State, state_of
from modpdb.probes.state_run import Kept, run_state

transformers = pytest.importorskip("transformers")


def names(state: State) -> list[str]:
    return [row.name for row in state.rows]


def by_name(state: State) -> dict[str, Any]:
    return {row.name: row for row in state.rows}


def observed(module: nn.Module) -> dict[str, Kept]:
    ran = run_state(module, "", lambda: None)
    assert not ran.error
    return {each.name: each for each in ran.keys}


# -- the keys --------------------------------------------------------------------------------------

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 32}
SMALL |= {"intermediate_size": 24, "num_key_value_heads": 1}


def real_models() -> dict[str, nn.Module]:
    t5 = {"d_model": 16, "d_ff": 24, "num_layers": 2, "num_heads": 2, "d_kv": 8, "vocab_size": 32}
    with torch.device("meta"):
        return {
            "llama": transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)),
            "gemma3": transformers.Gemma3ForCausalLM(
                transformers.Gemma3TextConfig(**SMALL, head_dim=8)
            ),
            "mixtral": transformers.MixtralForCausalLM(
                transformers.MixtralConfig(**SMALL, num_local_experts=3)
            ),
            "t5": transformers.T5ForConditionalGeneration(transformers.T5Config(**t5)),
        }


def odd_models() -> dict[str, nn.Module]:
    registered_none = nn.Linear(2, 2, bias=False)
    registered_none.register_buffer("nothing", None)
    shared = nn.Linear(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    return {
        "buffers": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
        "none": registered_none,
        "shared": nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)}),
        "lazy": nn.Sequential(nn.LazyLinear(3)),
        "compiled": torch.compile(nn.Sequential(nn.Linear(2, 2))),
        "scripted": scripted,
        "orthogonal": parametrizations.orthogonal(nn.Linear(4, 4)),
        "weight norm": parametrizations.weight_norm(nn.Linear(4, 4)),
    }


@pytest.mark.parametrize("kind", ["real", "odd"])
def test_the_keys_of_state_dict_in_its_order(kind: str) -> None:
    for name, model in (real_models() if kind == "real" else odd_models()).items():
        found = state_of(model)
        assert names(found) == list(model.state_dict()), name
        for key, tensor in model.state_dict(keep_vars=True).items():
            facts = by_name(found)[key].facts
            if not facts.unsized:
                assert facts.shape == tuple(tensor.shape) and facts.nbytes == tensor.nbytes


def test_a_prefix() -> None:
    assert names(state_of(nn.Linear(2, 2), "a.b")) == ["a.b.weight", "a.b.bias"]


def test_ties_are_named_both_ways() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(3, 2), "head": nn.Linear(2, 3, bias=False)})
    model["head"].weight = model["embed"].weight
    rows = by_name(state_of(model))
    assert rows["embed.weight"].tied == ("head.weight",)
    assert rows["head.weight"].tied == ("embed.weight",)


def test_what_is_left_out() -> None:
    layer = nn.Linear(2, 2)
    layer.register_buffer("scratch", torch.ones(3), persistent=False)
    found = state_of(nn.Sequential(layer))
    assert [row.name for row in found.left_out] == ["0.scratch"]
    assert "0.scratch" not in names(found)


def test_before_super_init() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            pass

    found = state_of(Half())
    assert (found.rows, found.unready, found.class_name) == ((), ("",), "Half")


def test_functional_call_is_seen() -> None:
    seen = []

    class Looking(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(state_of(self))
            return super().forward(x)

    torch.func.functional_call(Looking(2, 2), {"weight": torch.ones(2, 2)}, torch.ones(1, 2))
    assert by_name(seen[0])["weight"].notes == ("plain tensor",)


@pytest.fixture
def one_rank() -> Iterator[Any]:
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    from torch.distributed import HashStore, destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh

    init_process_group("gloo", rank=0, world_size=1, store=HashStore())
    yield init_device_mesh("cpu", (1,))
    destroy_process_group()


def test_fsdp2(one_rank: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(nn.Linear(4, 2))
    fully_shard(model[0], mesh=one_rank)
    found = state_of(model)
    assert names(found) == list(model.state_dict())
    assert by_name(found)["0.weight"].facts.local_shape == (2, 4)


# -- what has a say --------------------------------------------------------------------------------


class Extra(nn.Linear):
    asked = 0

    def get_extra_state(self) -> object:
        Extra.asked += 1
        return {"scale": 1.0}


class Unpicklable(nn.Linear):
    def get_extra_state(self) -> object:
        return lambda: None


class Refused(nn.Linear):
    def get_extra_state(self) -> object:
        return Foreign()


class Foreign:
    pass


class Renaming(nn.Linear):
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}other"] = destination.pop(f"{prefix}bias")


def test_extra_state_is_named_and_not_asked_for() -> None:
    asked = Extra.asked
    (extra,) = state_of(nn.Sequential(Extra(2, 2))).extra
    assert Extra.asked == asked
    assert (extra.path, extra.class_name, extra.source.name) == (
        "0",
        "Extra",
        "Extra.get_extra_state",
    )


def hook(module: nn.Module, *arguments: Any) -> None:
    raise AssertionError("run")


def test_hooks_and_overridden_methods_are_named_and_not_run() -> None:
    model = nn.Sequential(Renaming(2, 2), nn.Linear(2, 2))
    model[1].register_state_dict_pre_hook(hook)
    model[1].register_state_dict_post_hook(hook)
    model[1].register_load_state_dict_pre_hook(hook)
    model[1].register_load_state_dict_post_hook(hook)
    found = [(each.path, each.kind, each.source.name) for each in state_of(model).code]
    assert found == [
        ("0", "_save_to_state_dict", "Renaming._save_to_state_dict"),
        ("1", "state_dict pre-hook", "hook"),
        ("1", "state_dict hook", "hook"),
        ("1", "load_state_dict pre-hook", "hook"),
        ("1", "load_state_dict post-hook", "hook"),
    ]


@pytest.mark.filterwarnings("ignore")
def test_quantised_layers_say_that_they_have_their_own_way() -> None:
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 2)), {nn.Linear})
    found = state_of(model)
    assert found.rows == () and {each.path for each in found.code} == {"0", "0._packed_params"}
    assert list(observed(model)) == list(model.state_dict())


# -- run in a copy ---------------------------------------------------------------------------------


def test_observed_keys_are_those_of_state_dict() -> None:
    model = nn.Sequential(Renaming(2, 2), Extra(2, 2))
    asked = Extra.asked
    found = observed(model)
    assert Extra.asked == asked  # of the copy's class, it was
    assert list(found) == list(model.state_dict())
    extra = found["1._extra_state"]
    assert (extra.class_name, extra.no_pickle, extra.not_loaded) == ("dict", "", "")
    assert extra.pickled > 0


def test_what_does_not_pickle() -> None:
    found = observed(nn.Sequential(Unpicklable(2, 2), Refused(2, 2)))
    assert "Can't pickle local object" in found["0._extra_state"].no_pickle
    refused = found["1._extra_state"]
    assert refused.pickled > 0 and "Foreign was not an allowed global" in refused.not_loaded


def test_a_hook_that_computes_is_not_waited_for_in_vain() -> None:
    """OpenMP's threads do not come along into the copy: torch would wait for them for ever."""
    model = nn.Linear(1000, 1000)

    def doubled(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        state.update({name: (tensor * 2).exp() for name, tensor in state.items()})

    model._register_state_dict_hook(doubled)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.ones(1000, 1000).exp().sum()
        assert list(observed(model)) == ["weight", "bias"]
    finally:
        torch.set_num_threads(threads)


def test_what_state_dict_raises_is_told() -> None:
    model = nn.Linear(2, 2)
    model.register_state_dict_post_hook(hook)
    assert run_state(model, "", lambda: None).error == "AssertionError: run"


def test_looking_changes_nothing() -> None:
    model = real_models()["t5"]
    before, random = {n: vars(m).copy() for n, m in model.named_modules()}, torch.get_rng_state()
    state_of(model)
    run_state(model, "", lambda: None)
    assert {n: vars(m) for n, m in model.named_modules()} == before
    assert torch.equal(torch.get_rng_state(), random)
