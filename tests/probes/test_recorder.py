"""A recording is what plain forward hooks see, and recording changes nothing."""

import copy
import io
import itertools
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from modpdb.probes import recorder as recorder_module
from modpdb.probes.recorder import Recorder
from modpdb.probes.recording import Call, Recording
from modpdb.probes.recording_file import RecordingWriter, read_recording
from modpdb.probes.tensors import statistics

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "vocab_size": 32}
IDS = torch.tensor([[3, 1, 4, 1, 5, 9]])


def gemma3() -> nn.Module:
    config = Gemma3TextConfig(
        **SMALL, num_hidden_layers=3, intermediate_size=24, head_dim=8, num_key_value_heads=1
    )
    return Gemma3ForCausalLM(config)


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**SMALL, num_hidden_layers=2, intermediate_size=24))


def mixtral() -> nn.Module:
    config = MixtralConfig(
        **SMALL,
        num_hidden_layers=2,
        intermediate_size=24,
        num_key_value_heads=1,
        num_local_experts=4,
    )
    return MixtralForCausalLM(config)


def t5() -> nn.Module:
    config = T5Config(
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        vocab_size=32,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)


MODELS = {"gemma3": gemma3, "llama": llama, "mixtral": mixtral, "t5": t5}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


def run(model: nn.Module) -> Any:
    more = {"decoder_input_ids": IDS} if isinstance(model, T5ForConditionalGeneration) else {}
    with torch.no_grad():
        return model(input_ids=IDS, **more)


@contextmanager
def recorded(
    wanted: Callable[[str, str], bool] = lambda root, path: True, **options: Any
) -> Iterator[Recording]:
    recording = Recording("1", "every module")
    recorder = Recorder(recording, wanted, **options)
    recorder.start()
    try:
        yield recording
    finally:
        recorder.stop()
        assert recording.problems == []


def tensors(value: Any) -> list[torch.Tensor]:
    """In tuples, lists and dicts, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return (
        [each for one in value for each in tensors(one)] if isinstance(value, (tuple, list)) else []
    )


class Seen:
    """What plain hooks on every module see: begin, end, inputs and outputs, copied."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: list[list[Any]] = []
        self.stack: list[list[Any]] = []
        self.handles: list[Any] = []
        for path, module in model.named_modules():
            self.handles.append(
                module.register_forward_pre_hook(self.before(path), with_kwargs=True)
            )
            self.handles.append(module.register_forward_hook(self.after))

    def before(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            call = [path, len(self.stack), [each.clone() for each in tensors((args, kwargs))], None]
            self.calls.append(call)
            self.stack.append(call)

        return hook

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        self.stack.pop()[3] = [each.clone() for each in tensors(output)]

    def remove(self) -> None:
        for each in self.handles:
            each.remove()


def test_a_recording_is_what_plain_hooks_see(model: nn.Module, tmp_path: Any) -> None:
    seen = Seen(model)
    run(model)
    seen.remove()
    writer = RecordingWriter(tmp_path / "run.safetensors", values=True)
    with recorded(store=writer.store) as recording:
        run(model)
    writer.finish(recording)
    read, values = read_recording(tmp_path / "run.safetensors")
    assert read.calls == recording.calls
    assert [(call.path, call.depth) for call in recording.calls] == [
        (p, d) for p, d, *_ in seen.calls
    ]
    for call, (_, _, inputs, outputs) in zip(recording.calls, seen.calls, strict=True):
        assert (call.root, call.raised) == ("model", False)
        for notes, expected in ((call.inputs, inputs), (call.outputs, outputs)):
            assert [note.shape for note in notes] == [tuple(each.shape) for each in expected]
            for note, tensor in zip(notes, expected, strict=True):
                assert note.statistics == statistics(tensor, quick=True)
                if note.zeros is not None:
                    assert note.zeros == int((tensor == 0).sum())
                else:
                    assert tensor.min() < 0 < tensor.max()
                stored = torch.cat([*values.chunks(note.stored)]).view(tensor.shape)
                assert stored.dtype == tensor.dtype and torch.equal(stored, tensor)


def test_safetensors_reads_the_file(tmp_path: Any) -> None:
    from safetensors.torch import load_file

    model = llama().eval()
    path = tmp_path / "run.safetensors"
    writer = RecordingWriter(path, values=True)
    with recorded(store=writer.store) as recording:
        logits = run(model).logits
    writer.finish(recording)
    assert torch.equal(load_file(path)["model.lm_head#1.out"], logits)
    assert [each.name for each in tmp_path.iterdir()] == ["run.safetensors"]


def test_recording_leaves_everything_as_it_is(model: nn.Module) -> None:
    def state() -> tuple[Any, ...]:
        pickled = io.BytesIO()
        torch.save(model.state_dict(), pickled)
        dicts = {
            path: {k: repr(v) for k, v in vars(m).items() if "hooks" in k}
            for path, m in model.named_modules()
        }
        modes = [m.training for m in model.modules()]
        return pickled.getvalue(), dicts, modes, torch.get_rng_state().tolist()

    before, plain = state(), run(model)
    with recorded():
        during = run(model)
        twin = copy.deepcopy(model)
        data = pickle.dumps(model)
        assert b"modpdb" not in data
        assert state() == before
    for one, two in zip(tensors(plain.to_tuple()), tensors(during.to_tuple()), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(run(pickle.loads(data))[0], run(twin)[0])
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks
    assert not nn.modules.module._global_forward_hooks_always_called


def test_gradients_are_the_same() -> None:
    def gradient(model: nn.Module) -> torch.Tensor:
        model.zero_grad()
        torch.manual_seed(1)
        model.train()(input_ids=IDS, labels=IDS).loss.backward()
        return model.model.layers[0].mlp.up_proj.weight.grad.clone()

    model = llama()
    plain = gradient(model)
    with recorded() as recording:
        assert torch.equal(gradient(model), plain)
    assert recording.calls


# -- what is called what -------------------------------------------------------------------------


class Adds(nn.Module):
    """Calls one module twice, one that is in no dict, and one that is made on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.same = self.layer
        self.hidden = [nn.Linear(2, 2)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.Tanh()(self.hidden[0](self.same(self.layer(x))))


def paths(recording: Recording) -> list[tuple[str, int, int]]:
    return [(call.full_path, call.nth, call.depth) for call in recording.calls]


def test_shared_untracked_and_new_modules() -> None:
    net = Adds()
    with recorded() as recording:
        net(torch.ones(1, 2))
    assert paths(recording) == [
        ("net", 1, 0),
        ("net.layer", 1, 1),
        ("net.layer", 2, 1),
        ("net.(Linear)", 1, 1),
        ("net.(Tanh)", 1, 1),
    ]
    assert [call.ended for call in recording.calls] == [5, 1, 2, 3, 4]


def test_a_part_is_named_by_the_model_that_a_caller_holds() -> None:
    model = llama()
    with recorded() as recording:
        model.lm_head(torch.ones(1, 16))
        model.model.layers[1].mlp(torch.ones(1, 1, 16))
    assert paths(recording)[:2] == [("model.lm_head", 1, 0), ("model.model.layers.1.mlp", 1, 0)]


def test_several_models() -> None:
    def helper(net: nn.Module) -> None:
        net(torch.ones(1, 2))

    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    with recorded() as recording:
        helper(one)
        helper(two)
        nn.Identity()(torch.ones(1))
    names = [call.full_path for call in recording.calls]
    assert names[0] == "net" and names[1] != "net" and names[2] == "Identity"
    assert recording.several_roots() and recording.label(recording.calls[2]) == "Identity"


def test_generation_counts_calls() -> None:
    model = t5()
    with recorded(lambda root, path: path in ("", "encoder", "decoder")) as recording:
        model.generate(IDS, max_new_tokens=3, do_sample=False)
    assert paths(recording)[:3] == [
        ("model.encoder", 1, 0),
        ("model", 1, 0),
        ("model.decoder", 1, 1),
    ]
    assert [call.nth for call in recording.calls if call.path == "decoder"] == [1, 2, 3]


def test_a_module_that_is_registered_later() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with recorded() as recording:
        model(torch.ones(1, 2))
        model.append(nn.ReLU())
        model(torch.ones(1, 2))
    assert paths(recording)[-1] == ("model.1", 1, 1)


def test_only_what_is_wanted() -> None:
    model = llama()
    with recorded(lambda root, path: path.endswith("mlp")) as recording:
        run(model)
    assert paths(recording) == [
        ("model.model.layers.0.mlp", 1, 0),
        ("model.model.layers.1.mlp", 1, 0),
    ]


def test_values_that_are_not_lone_tensors() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor, *, more: Any) -> Any:
            return {"a": [x, (x, 3)], "b": None, 7: x, "deep": [[[[[x]]]]]}

    odd = Odd()
    with recorded() as recording:
        odd(torch.ones(1), more=[torch.zeros(2)])
    (call,) = recording.calls
    assert [note.name for note in call.inputs] == ["0", "more.0"]
    assert [note.name for note in call.outputs] == ["a.0", "a.1.0", "7"]


# -- in-place, versions --------------------------------------------------------------------------


def test_inputs_are_noted_before_they_are_written_to() -> None:
    layer = nn.ReLU(inplace=True)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), recorded() as recording:
            layer(torch.tensor([-3.0, 2.0]))
        (call,) = recording.calls
        assert call.inputs[0].statistics.minimum == -3  # type: ignore[union-attr]
        assert call.outputs[0].statistics.minimum == 0  # type: ignore[union-attr]
        assert (call.inputs[0].zeros, call.outputs[0].zeros) == (None, 1)


def test_a_tensor_met_again_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from modpdb.probes import tensor_notes

    read = []
    monkeypatch.setattr(
        tensor_notes,
        "statistics",
        lambda tensor, **how: read.append(id(tensor)) or statistics(tensor, **how),
    )
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad(), recorded():
        model(torch.ones(1, 2))
    assert len(read) == 3


# -- exceptions, threads -------------------------------------------------------------------------


class Fails(nn.Module):
    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error
        self.inner = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.inner(x)
        raise self.error("stop")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nesting_after_an_exception(error: type[BaseException]) -> None:
    class Catches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fails = Fails(error)
            self.after = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                self.fails(x)
            except BaseException:
                pass
            return self.after(x)

    net, other = Catches(), nn.Identity()
    with recorded() as recording:
        net(torch.ones(1))
        with pytest.raises(error):
            net.fails(torch.ones(1))
        other(torch.ones(1))
    assert [(call.path, call.depth, call.parent) for call in recording.calls] == [
        ("", 0, 0),
        ("fails", 1, 1),
        ("fails.inner", 2, 2),
        ("after", 1, 1),
        ("fails", 0, 0),
        ("fails.inner", 1, 5),
        ("", 0, 0),
    ]
    assert [call.raised for call in recording.calls] == [
        False,
        error is RuntimeError,
        False,
        False,
        error is RuntimeError,
        False,
        False,
    ]
    assert recording.calls[1].outputs == ()


def test_threads_nest_on_their_own() -> None:
    class Waits(nn.Module):
        def __init__(self, barrier: threading.Barrier) -> None:
            super().__init__()
            self.inner = nn.Identity()
            self.barrier = barrier

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.barrier.wait(20)
            return self.inner(x)

    barrier = threading.Barrier(4)
    models = [Waits(barrier) for _ in range(4)]
    with recorded() as recording:
        threads = [
            threading.Thread(target=each, args=(torch.ones(1),), name=f"t{n}")
            for n, each in enumerate(models)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert [call.number for call in recording.calls] == list(range(1, 9))
    for call in recording.calls:
        if call.path:
            assert recording.calls[call.parent - 1].thread == call.thread != ""
    assert len({call.root for call in recording.calls}) == 4


def test_begun_and_stopped_in_the_middle() -> None:
    recording = Recording("1", "")
    recorder = Recorder(recording, lambda root, path: True)
    model = nn.Sequential(nn.Identity(), nn.Identity(), nn.Identity())
    model[0].register_forward_hook(lambda *_: recorder.start())
    model[1].register_forward_hook(lambda *_: recorder.stop())
    model(torch.ones(1))
    assert [(call.path, call.ended) for call in recording.calls] == [("1", 1)]
    assert recording.problems == []


def test_no_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "MOST_CALLS", 3)
    layer = nn.Identity()
    with recorded() as recording:
        for _ in range(5):
            layer(torch.ones(1))
    assert (len(recording.calls), recording.left_out) == (3, 2)


# -- compiled, traced, without data --------------------------------------------------------------


@pytest.mark.parametrize("before", [True, False])
def test_compiled(before: bool) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    x = torch.ones(1, 2)
    plain = compiled(x) if before else net(x)
    with recorded() as recording:
        assert torch.equal(compiled(x), plain)
    torch._dynamo.reset()
    assert [(call.class_name, call.depth) for call in recording.calls] == [("OptimizedModule", 0)]
    assert recording.calls[0].unseen.startswith("compiled")


def test_scripted_and_traced() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    x = torch.ones(1, 2)

    def graph(traced: Any) -> str:
        return re.sub(r"___torch_mangle_\d+\.", "", str(traced.graph))

    plain = graph(torch.jit.trace(net, x))
    with recorded() as recording:
        scripted = torch.jit.script(net)
        scripted(x)
        traced = torch.jit.trace(net, x)
    assert graph(traced) == plain
    assert recording.calls[0].class_name == "Sequential"
    assert recording.calls[0].unseen.startswith("scripted")


def test_tensors_without_data() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("meta"):
        layer = nn.Linear(2, 3)
    with recorded() as recording:
        layer(torch.ones(1, 2, device="meta"))
        with FakeTensorMode():
            nn.Linear(2, 3)(torch.ones(1, 2))
    whys = [call.outputs[0].no_statistics for call in recording.calls]
    assert whys == ["on the meta device", "a fake tensor"]
    assert [call.outputs[0].shape for call in recording.calls] == [(1, 3), (1, 3)]


def test_modes_of_the_program_see_none_of_it() -> None:
    seen: list[str] = []

    class Mode(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    layer = nn.Linear(2, 2)
    with Mode():
        layer(torch.ones(1, 2))
    plain = [*seen]
    seen.clear()
    with recorded() as recording, Mode(), FlopCounterMode(display=False):
        layer(torch.ones(1, 2))
    assert seen == plain
    assert recording.calls[0].outputs[0].statistics is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    layer, x = nn.Linear(64, 64), torch.randn(8, 64)
    with torch.no_grad(), torch.autocast("cpu", dtype), recorded() as recording:
        out = layer(x)
    note = recording.calls[0].outputs[0]
    assert out.dtype == dtype and note.statistics == statistics(out, quick=True)
    assert recording.calls[0].inputs[0].statistics == statistics(x, quick=True)


def test_hostile_modules_and_values() -> None:
    class Hostile(nn.Module):
        awake = False

        def __getattribute__(self, name: str) -> Any:
            if Hostile.awake and name in ("__class__", "__dict__"):
                raise SystemExit(name)
            return super().__getattribute__(name)

        def __repr__(self) -> str:
            raise SystemExit

        __eq__ = __len__ = __bool__ = __repr__  # type: ignore[assignment]
        __hash__ = nn.Module.__hash__

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            Hostile.awake = False
            return args

    class Bag(dict):
        def items(self) -> Any:
            raise SystemExit

        __iter__ = __len__ = keys = items  # type: ignore[assignment]

    class Thing:
        @property
        def __class__(self) -> Any:
            raise SystemExit

        __getattr__ = __eq__ = __bool__ = property(lambda self: 1 / 0)

    hostile = Hostile()
    with recorded() as recording:
        Hostile.awake = True
        hostile(Bag(x=torch.ones(1)), Thing(), more=[Thing()])
    assert [note.name for note in recording.calls[0].inputs] == ["0.x"]
    assert [note.name for note in recording.calls[0].outputs] == ["0.x"]


def test_an_error_of_ours_is_kept_from_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    from modpdb.probes.tensor_notes import TensorNoter

    def broken(*args: Any) -> Any:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(TensorNoter, "notes", broken)
    recording = Recording("1", "")
    recorder = Recorder(recording, lambda root, path: True)
    recorder.start()
    model = nn.Sequential(nn.Identity())
    model(torch.ones(1))
    recorder.stop()
    assert recording.problems == ["ZeroDivisionError: ours"]
    assert [(call.path, call.depth) for call in recording.calls] == [("", 0), ("0", 1)]


def test_what_a_function_returned() -> None:
    import sys

    def rotate(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        recorder.returned(sys._getframe(), (x, x + 1))
        return x, x + 1

    class Rotates(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return rotate(x)[1]

    recording = Recording("1", "")
    recorder = Recorder(recording, lambda root, path: True)
    recorder.start()
    net = nn.Sequential(Rotates())
    net(torch.zeros(2))
    rotate(torch.zeros(2))
    recorder.stop()
    inner, outside = (call for call in recording.calls if call.path.endswith("()"))
    assert (inner.path, inner.parent, inner.depth) == (
        f"0.{rotate.__qualname__.replace('<locals>.', '')}()",
        2,
        2,
    )
    assert [note.zeros for note in inner.outputs] == [2, 0]
    assert (outside.root, outside.parent) == ("", 0)


def test_numbers_are_places(model: nn.Module) -> None:
    with recorded() as recording:
        run(model)
    assert [call.number for call in recording.calls] == [*range(1, len(recording.calls) + 1)]
    assert sorted(call.ended for call in recording.calls) == [*range(1, len(recording.calls) + 1)]
    by_number = dict(zip(itertools.count(1), recording.calls))
    assert all(_within(by_number, call) for call in recording.calls)


def _within(calls: dict[int, Call], call: Call) -> bool:
    parent = calls.get(call.parent)
    return parent is None or (parent.ended > call.ended and parent.depth == call.depth - 1)
