"""call-path's probes: ways of every kind of module, and runs that leave everything as it was."""

import os
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from modpdb.probes.builtins import is_operator, operator
from modpdb.probes.call_path import call_path, code_of
from modpdb.probes.matching import disagreement, matched
from modpdb.probes.observing import Run, Seen, missing_arguments, run_once
from modpdb.probes.scripting import try_script

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def run(target, *args, **kwargs) -> Run:
    return run_once(target, args, kwargs, code_of(target))


def flat(seen: tuple[Seen, ...]) -> list[Seen]:
    return [each for one in seen for each in (one, *flat(one.inner))]


# -- a run leaves everything as it was -----------------------------------------------------------


class Busy(nn.Module):
    """Changes all that a forward can change."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.calls = 0

    def forward(self, x, cache):
        self.calls += 1
        cache.append(x)
        print("noise")
        x.mul_(2)
        y = self.norm(self.linear(F.dropout(x, 0.5, True)))
        self.register_buffer("late", torch.zeros(1))
        self.eval()
        y.sum().backward()
        return y


@forks
def test_nothing_is_left_behind(capfd):
    module, x, cache = Busy(), torch.randn(3, 4), []
    fired: list[int] = []
    module.linear.register_forward_hook(lambda *_: fired.append(1))
    state = {name: value.clone() for name, value in module.state_dict().items()}
    random, threads, value = torch.get_rng_state(), torch.get_num_threads(), x.clone()
    call, keys = nn.Module.__call__, set(vars(module))
    seen = run(module, x, cache)
    assert not seen.error and not seen.not_run
    assert {each.name for each in flat(seen.seen)} >= {"batch_norm", "linear", "bernoulli_"}
    assert (module.calls, cache, fired, module.training) == (0, [], [], True)
    assert torch.equal(x, value) and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(now, state[name]) for name, now in module.state_dict().items())
    assert all(each.grad is None for each in module.parameters())
    assert torch.get_num_threads() == threads
    assert nn.Module.__call__ is call and set(vars(module)) == keys
    assert not torch.autograd._profiler_enabled()
    assert capfd.readouterr() == ("", "")


@forks
def test_it_runs_after_the_thread_pool_has_been_used():
    a = torch.randn(400, 400)
    (a @ a).exp().sum()
    assert run(nn.Linear(400, 400), a).result == "Tensor [400, 400]"


@forks
def test_the_one_thread_of_a_run_has_its_own_prediction():
    layer, x = nn.Conv2d(4, 6, 1), torch.randn(2, 4, 5, 5)
    seen = run(layer, x)
    assert seen.prediction is not None and disagreement(seen.prediction, seen) == ""


@forks
def test_what_it_raises_is_an_observation():
    class Fails(nn.Module):
        def forward(self, x):
            x.exp()
            raise SystemExit("no\nmore")

    seen = run(Fails(), torch.zeros(2))
    assert seen.error == "SystemExit: no" and [each.name for each in seen.seen] == ["exp"]


def test_what_cannot_be_run_is_said(monkeypatch):
    from torch.autograd.profiler_legacy import profile

    module, x = nn.ReLU(), torch.zeros(2)
    with profile() as outer:
        assert "profiler" in run(module, x).not_run
    assert [event.name for event in outer.function_events] == []
    monkeypatch.delattr(os, "fork", raising=False)
    assert run(module, x).not_run == "this system cannot fork a process"


@forks
def test_modules_and_lines_are_told_apart():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return outside(x) + 1

    def outside(x):
        return x.exp()

    module, x = Two(), torch.zeros(1, 3)
    seen = run(module, x)
    first = Two.forward.__code__.co_firstlineno
    found = [(each.name, each.class_name, each.line - first) for each in seen.seen]
    assert found == [
        ("layers.0", "Linear", 2),
        ("layers.1", "Linear", 2),
        ("exp", "", 3),
        ("add", "", 3),
    ]
    assert [frame.name for frame in seen.seen[2].via] == ["outside"]
    assert seen.seen[0].inner[0].shapes == ((1, 3), (3, 3), (3,))
    lines = matched(call_path(module, "m", ((x,), {})).reading.calls, seen.seen)
    assert all(line.called is not None and line.seen for line in lines)
    assert [line.called.path or line.called.text for line in lines] == [
        "layers.0",
        "layers.1",
        "outside(x)",
        "… + 1",
    ]
    assert lines[2].inner[0].seen[0].name == "exp"


@forks
def test_a_debuggers_own_forward_frame_is_not_taken_for_the_runs():
    class Again(nn.Module):
        def forward(self, x, depth=1):
            if depth:
                return run(self, x, 0)
            return x.exp()

    seen = Again()(torch.zeros(1))
    assert seen.seen[0].line == Again.forward.__code__.co_firstlineno + 3


# -- ways ----------------------------------------------------------------------------------------


class Half(nn.Module):
    def __init__(self):
        self.early = 1

    def forward(self, x):
        return x.exp()


def test_every_kind_of_module_has_a_way():
    x = torch.zeros(2, 4)
    replaced = nn.ReLU()
    replaced.forward = lambda x: x.exp()
    compiled_in_place = nn.ReLU()
    compiled_in_place.compile()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kinds = {
            "compiled": torch.compile(nn.Linear(4, 2)),
            "scripted": torch.jit.script(nn.Linear(4, 2)),
            "set on the instance": replaced,
            "missing": nn.ModuleList(),
            "the class's own": torch.ao.quantization.quantize_dynamic(
                nn.Sequential(nn.Linear(4, 2)), {nn.Linear}
            )[0],
        }
    for state, module in kinds.items():
        assert call_path(module, "m", ((x,), {})).forward.state == state
        assert call_path(module).forward.state == state
    assert call_path(compiled_in_place).forward.state == "compiled"
    assert call_path(kinds["compiled"]).reading.calls[0].operator == "aten::linear"
    half = call_path(Half.__new__(Half))
    assert not half.initialised and half.reading.calls
    lazy = call_path(nn.LazyLinear(2), given=((x,), {}))
    assert lazy.prediction.branch.certainty == "not known" and lazy.hooks
    weighted = call_path(parametrizations.weight_norm(nn.Linear(4, 2)), given=((x,), {}))
    assert weighted.prediction.branch.certainty == "not known"


@forks
def test_what_is_compiled_runs_eagerly():
    seen = run(torch.compile(nn.Sequential(nn.Linear(4, 2))), torch.zeros(1, 4))
    assert ("0", "Linear") in [(each.name, each.class_name) for each in flat(seen.seen)]
    assert "linear" in [each.name for each in flat(seen.seen)]


def test_hooks_wrappers_and_owner():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        @torch.no_grad()
        def forward(self, x):
            return self.act(x)

        def __call__(self, *args):
            return super().__call__(*args)

    block = Block()
    block.register_forward_pre_hook(lambda *_: None)
    way = call_path(block)
    assert [hook.kind for hook in way.hooks] == ["forward pre-hook"]
    assert way.call.name.endswith("Block.__call__")
    assert [each.name for each in way.forward.wrappers] == [
        "context_decorator.<locals>.decorate_context"
    ]
    assert way.forward.source.name.endswith("Block.forward")
    assert call_path(block.act, owner=block).held_in == "_modules['act'] of Block"


def test_functions_have_a_way():
    q = torch.zeros(1, 2, 3, 8)
    way = call_path(F.scaled_dot_product_attention, given=((q, q, q), {}))
    assert way.prediction.among == ("_scaled_dot_product_flash_attention_for_cpu",)
    assert way.operators[0].name == "aten::scaled_dot_product_attention" and way.notes
    assert call_path(F.layer_norm).reading.calls[0].operator == "aten::layer_norm"
    assert call_path(torch.nn.ReLU().forward).reading.calls
    for other in (3, "x", nn.Linear, object()):
        with pytest.raises(TypeError, match="neither a module nor a function"):
            call_path(other)


def test_operators_tell_binding_schema_and_kernels():
    found = operator("aten::layer_norm", "cpu")
    assert found.schemas[0].startswith("aten::layer_norm(Tensor input, SymInt[] normalized_shape")
    assert [each.name for each in found.bindings] == ["torch.layer_norm"]
    assert {kernel.kind for kernel in found.kernels} == {"math kernel"}
    view = operator("aten::view", "cpu")
    assert [each.name for each in view.bindings] == ["torch.Tensor.view"]
    assert view.bindings[0].signature == "view(*shape) -> Tensor"
    assert [kernel.key for kernel in view.kernels] == ["AutogradCPU", "CPU"]
    assert operator("aten::no_such", "cpu").schemas == () and not is_operator("aten::no_such")


def test_arguments_that_lack_are_named():
    assert missing_arguments(nn.Linear(2, 2), (), {}) == "input"
    assert missing_arguments(nn.MultiheadAttention(2, 1), (1,), {"value": 1}) == "key"
    assert missing_arguments(F.layer_norm, (), {}) == "input, normalized_shape"
    assert missing_arguments(F.linear, (), {}) == ""  # a builtin does not tell
    assert missing_arguments(nn.ReLU(), (1,), {}) == ""


# -- TorchScript ---------------------------------------------------------------------------------


class Yields(nn.Module):
    def forward(self, x):
        return generated(x)


def generated(x):
    yield x


@forks
def test_whether_it_scripts(capfd):
    assert try_script(nn.Linear(2, 2)).reason == ""
    refused = try_script(Yields())
    assert refused.reason.startswith("Yield")
    assert refused.at.line == generated.__code__.co_firstlineno + 1
    assert refused.at.file == __file__ and refused.text == "yield x"
    assert capfd.readouterr() == ("", "")


# -- transformers --------------------------------------------------------------------------------


def models():
    transformers = pytest.importorskip("transformers")
    tiny = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 64,
    }
    configs = {
        "gemma3": transformers.Gemma3TextConfig(**tiny, head_dim=8),
        "llama": transformers.LlamaConfig(**tiny),
        "mixtral": transformers.MixtralConfig(**tiny, num_local_experts=4),
    }
    for name, config in configs.items():
        yield name, transformers.AutoModelForCausalLM.from_config(config).eval()


@forks
def test_models_of_transformers():
    ids = torch.arange(5)[None]
    for name, model in models():
        seen = run(model, ids)
        assert not seen.error and not seen.not_run, name
        ran = [each.name for each in flat(seen.seen)]
        assert ran.count("_scaled_dot_product_flash_attention_for_cpu") == 2
        lines = matched(call_path(model, name, ((ids,), {})).reading.calls, seen.seen)
        paths = [line.called.path for line in lines if line.called and line.seen]
        assert "model" in paths and "lm_head" in paths
        inner = call_path(model.model, given=((ids,), {})).reading.calls
        layers = [each.path for each in inner if each.path.startswith("layers.")]
        assert layers == ["layers.0", "layers.1"]
        norm = call_path(model.model.norm, given=((torch.zeros(1, 32),), {})).reading.calls
        called = [each for one in norm for each in (one, *one.inner)]
        assert {"aten::rsqrt", "aten::pow", "aten::mean"} <= {each.operator for each in called}


@forks
def test_an_attention_of_transformers_line_by_line():
    _, model = next(models())
    attention, x = model.model.layers[0].self_attn, torch.zeros(1, 5, 32)
    rotary = model.model.rotary_emb(x, torch.arange(5)[None], "sliding_attention")
    options = {"position_embeddings": rotary, "attention_mask": None}
    seen = run_once(attention, (x,), options, code_of(attention))
    assert not seen.error
    lines = matched(call_path(attention, given=((x,), options)).reading.calls, seen.seen)
    told = {line.called.text: line for line in lines if line.called is not None}
    assert told["self.q_proj(hidden_states)"].seen[0].inner[0].name == "linear"
    chosen = told["attention_interface(…)"]
    assert chosen.called.kind == "run time"
    assert "get_interface" in chosen.called.means
    assert {frame.name for each in chosen.seen for frame in each.via} == {"sdpa_attention_forward"}
    rope = next(line for text, line in told.items() if text.startswith("apply_rotary_pos_emb"))
    assert [line.called.operator for line in rope.inner if line.called][:3] == [
        "aten::unsqueeze",
        "aten::unsqueeze",
        "aten::mul",
    ]
    assert all(line.seen for line in rope.inner)
