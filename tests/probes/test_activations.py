"""Where NaN begins, where the scale jumps, which calls are alike; two runs side by side."""

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from modpdb.probes.activations import first_bad, merged_shape, passes, rms
from modpdb.probes.recorder import Recorder
from modpdb.probes.recording import Recording
from modpdb.probes.recording_file import RecordingWriter, SavedValues, read_recording
from modpdb.probes.run_comparison import TOLERANCE, Compared, Misfit, compare_runs
from modpdb.probes.tensors import statistics
from modpdb.views.run_comparison import run_comparison

X = torch.linspace(-1, 1, 8).view(2, 4)
IDS = torch.tensor([[3, 1, 4, 1, 5]])
NAN = float("nan")


def recorded(
    model: nn.Module, *args: Any, wanted: Any = lambda root, path: True, times: int = 1
) -> Recording:
    recording = Recording("1", "every module")
    recorder = Recorder(recording, wanted)
    recorder.start()
    with torch.no_grad():
        for _ in range(times):
            model(*args)
    recorder.stop()
    return recording


def saved(path: Path, model: nn.Module, *args: Any) -> tuple[Recording, SavedValues]:
    writer = RecordingWriter(path, values=True)
    recording = Recording("1", "")
    recorder = Recorder(recording, lambda root, path: True, store=writer.store)
    recorder.start()
    with torch.no_grad():
        model(*args)
    recorder.stop()
    writer.finish(recording)
    return read_recording(path)


def gemma3(layers: int = 4) -> Any:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        num_hidden_layers=layers,
        hidden_size=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=24,
        vocab_size=32,
    )
    return Gemma3ForCausalLM(config).eval()


# -- where NaN begins ----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["NaN", "Inf"])
def test_planted_in_one_layer(bad: Any) -> None:
    model = gemma3()
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[3, 1] = float(bad)
    origin = first_bad(recorded(model, IDS), bad)
    assert origin is not None
    assert (origin.how, origin.call.path) == ("made", "model.layers.2.mlp.down_proj")
    assert origin.note.statistics == statistics_of(origin)


def statistics_of(origin: Any) -> Any:
    return origin.call.outputs[0].statistics


def test_none_where_there_is_none() -> None:
    recording = recorded(gemma3(), IDS)
    assert first_bad(recording, "NaN") is None and first_bad(recording, "Inf") is None


class Between(nn.Module):
    """Makes a NaN between its two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Identity(), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x) * NAN)


def test_made_between_modules() -> None:
    origin = first_bad(recorded(nn.Sequential(nn.Identity(), Between()), X), "NaN")
    assert origin is not None and origin.shows is not None
    assert (origin.how, origin.call.path, origin.shows.path) == ("between", "1", "1.second")


def test_came_from_outside() -> None:
    origin = first_bad(recorded(nn.Sequential(nn.Identity()), X * NAN), "NaN")
    assert origin is not None and (origin.how, origin.call.path) == ("outside", "")


def test_unsure_where_an_input_was_not_read() -> None:
    class Sparse(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.to_dense() * NAN

    origin = first_bad(recorded(Sparse(), X.to_sparse()), "NaN")
    assert origin is not None and origin.how == "unsure"


def test_nan_in_a_mask_that_is_not_used_is_no_origin() -> None:
    class Ignores(nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return x

    assert first_bad(recorded(Ignores(), X, X * NAN), "NaN") is None


# -- what is alike -------------------------------------------------------------------------------


def test_layers_are_one_row_in_order() -> None:
    (run,) = passes(recorded(gemma3(), IDS), lambda call: True)
    (top,) = run.series
    (body, head) = top.below
    layers = body.below[2]
    assert [each.names[0] for each in body.below] == [
        "embed_tokens",
        "rotary_emb",
        "layers.0",
        "norm",
    ]
    assert layers.names == [f"layers.{number}" for number in range(4)]
    assert head.names == ["lm_head"]
    assert [each.names for each in layers.below][:2] == [["input_layernorm"] * 4, ["self_attn"] * 4]


@pytest.mark.parametrize("jumps", [{2: 1000.0}, {1: 0.001}, {0: 1000.0}, {}])
def test_the_first_jump(jumps: dict[int, float]) -> None:
    model = gemma3()
    with torch.no_grad():
        for layer, factor in jumps.items():
            model.model.layers[layer].mlp.down_proj.weight *= factor
    recording = recorded(model, IDS, wanted=lambda root, path: path.endswith("mlp"))
    (run,) = passes(recording, lambda call: True)
    jump = run.series[0].jump()
    if not jumps:
        assert jump is None
        return
    (layer,) = jumps
    assert jump is not None and jump.call.path == f"model.layers.{max(layer, 1)}.mlp"
    before, after = (
        rms(recording.calls[max(layer, 1) - back].outputs[0].statistics) for back in (1, 0)
    )  # type: ignore[arg-type]
    assert jump.ratio == pytest.approx(after / before)  # type: ignore[operator]


def test_passes_of_other_shapes_are_apart() -> None:
    model = gemma3()
    recording = Recording("1", "")
    recorder = Recorder(recording, lambda root, path: True)
    recorder.start()
    model.generate(IDS, max_new_tokens=4, do_sample=False)
    recorder.stop()
    found = passes(recording, lambda call: True)
    assert [run.times for run in found] == [1, 3]
    assert len(found[1].series[0].below[0].below[2].calls) == 4 * 3


def test_sizes_that_differ() -> None:
    model = nn.ModuleDict({"experts": nn.ModuleList([nn.Identity(), nn.Identity()])})
    model.forward = lambda: [each(X[: n + 1]) for n, each in enumerate(model["experts"])]
    (run,) = passes(recorded(model), lambda call: True)
    assert merged_shape(run.series[0].below[0].notes) == ["1…2", "4"]


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50))
@settings(deadline=None)
def test_rms(values: list[float]) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)
    found = rms(statistics(tensor))
    assert found == pytest.approx(float(tensor.square().mean().sqrt()), rel=1e-5, abs=1e-6)


# -- two runs ------------------------------------------------------------------------------------


def test_equal_runs(tmp_path: Path) -> None:
    model = gemma3()
    (a, mine), (b, theirs) = (saved(tmp_path / f"{n}.safetensors", model, IDS) for n in "ab")
    found = compare_runs(a, b, (mine, theirs))
    assert found.first() is None and not found.only_a and not found.only_b
    assert {(each.by, each.error) for each in found.compared} == {("values", 0.0)}


@pytest.mark.parametrize("values", [True, False])
def test_the_first_divergence(tmp_path: Path, values: bool) -> None:
    model = gemma3()
    a = saved(tmp_path / "a.safetensors", model, IDS)
    with torch.no_grad():
        model.model.layers[2].self_attn.v_proj.weight *= 1.01
    b = saved(tmp_path / "b.safetensors", model, IDS)
    found = compare_runs(a[0], b[0], (a[1], b[1]) if values else (None, None))
    first = found.first()
    assert isinstance(first, Compared)
    assert (first.a.path, first.by) == (
        "model.layers.2.self_attn.v_proj",
        "values" if values else "statistics",
    )
    assert first.error == pytest.approx(0.01, rel=1e-3)


def test_rounding_is_tolerated(tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = gemma3().to(dtype)
        a = saved(tmp_path / f"{dtype}a.safetensors", model, IDS)
        model.config._attn_implementation = "eager"
        b = saved(tmp_path / f"{dtype}b.safetensors", model, IDS)
        found = compare_runs(a[0], b[0], (a[1], b[1]))
        assert found.first() is None
        assert max(each.error for each in found.compared if each.error is not None) > 0


number = st.floats(-10, 10).map(lambda value: round(value, 6))


@given(st.lists(st.tuples(number, number), min_size=1, max_size=20))
@settings(deadline=None, max_examples=30)
def test_nmse(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[float, float]]) -> None:
    folder = tmp_path_factory.mktemp("nmse")
    a, b = (torch.tensor(each, dtype=torch.float64) for each in zip(*pairs, strict=True))
    runs = [
        saved(folder / f"{n}.safetensors", nn.Identity(), each) for n, each in (("a", a), ("b", b))
    ]
    (only,) = compare_runs(runs[0][0], runs[1][0], (runs[0][1], runs[1][1])).compared
    if torch.equal(a, b):
        assert only.error == 0
    elif not a.any():
        assert only.error == math.inf
    else:
        expected = float(((a - b).square().sum() / a.square().sum()).sqrt())
        assert only.error == pytest.approx(expected, rel=1e-9)
    assert only.tolerance == TOLERANCE["f64"]


@pytest.mark.parametrize("size", [1e-237, 1e200])
def test_squares_that_a_float64_does_not_hold(tmp_path: Path, size: float) -> None:
    a, b = (torch.tensor([size, each], dtype=torch.float64) for each in (size, size * 1.5))
    runs = [saved(tmp_path / f"{n}.safetensors", nn.Identity(), x) for n, x in (("a", a), ("b", b))]
    (only,) = compare_runs(runs[0][0], runs[1][0], (runs[0][1], runs[1][1])).compared
    assert only.error == pytest.approx(0.5)


@pytest.mark.parametrize("values", [True, False])
def test_nan_in_one_only(tmp_path: Path, values: bool) -> None:
    bad = X.clone()
    bad[0, 1] = NAN
    a = saved(tmp_path / "a.safetensors", nn.Identity(), X)
    b = saved(tmp_path / "b.safetensors", nn.Identity(), bad)
    (only,) = compare_runs(a[0], b[0], (a[1], b[1]) if values else (None, None)).compared
    assert only.bad == 1 and only.differs
    c = saved(tmp_path / "c.safetensors", nn.Identity(), bad)
    (same,) = compare_runs(b[0], c[0], (b[1], c[1]) if values else (None, None)).compared
    assert same.bad == 0 and same.error == 0 and not same.differs


def test_other_shapes_and_other_modules() -> None:
    a = recorded(nn.Sequential(nn.Identity(), nn.ReLU()), X)
    b = recorded(nn.Sequential(nn.Identity(), nn.ReLU(), nn.ReLU()), X[:1], times=2)
    found = compare_runs(a, b)
    assert {each.shapes for each in found.misfits} == {((2, 4), (1, 4))}
    assert isinstance(found.first(), Misfit) and found.first().a.path == "0"  # type: ignore[union-attr]
    assert not found.only_a
    assert {(call.path, call.nth) for call in found.only_b} == {
        ("2", 1),
        ("", 2),
        ("0", 2),
        ("1", 2),
        ("2", 2),
    }


def test_integers_must_be_equal() -> None:
    a, b = (
        recorded(nn.Identity(), torch.tensor([1, 2])),
        recorded(nn.Identity(), torch.tensor([1, 3])),
    )
    (only,) = compare_runs(a, b).compared
    assert (only.tolerance, only.differs) == (0.0, True)


def test_an_output_that_one_run_lacks_is_told() -> None:
    """A run that ended by an exception is not called equal to one that did not."""

    class Last(nn.Module):
        fails = False

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            if self.fails:
                raise ValueError
            return {"x": x, "y": x}

    model = nn.Sequential(nn.Linear(4, 4), Last())
    whole = recorded(model, X)
    Last.fails = True
    with contextlib.suppress(ValueError):
        recorder = Recorder(broken := Recording("2", ""), lambda root, path: True)
        recorder.start()
        model(X)
    recorder.stop()
    found = compare_runs(whole, broken)
    assert [(each.a.path, each.name, each.of) for each in found.lone] == [
        *(("1", "x", "A"), ("1", "y", "A"), ("", "x", "A"), ("", "y", "A")),
    ]
    turned = compare_runs(broken, whole)
    assert {each.of for each in turned.lone} == {"B"} and len(turned.lone) == 4
    console = Console(width=120)
    with console.capture() as said:
        console.print(run_comparison(found, every=False, unfold=False))
    assert "4 outputs in one only, the first of 1 x: in B it raised" in said.get()
