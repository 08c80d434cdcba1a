"""Parameters and buffers row by row, and their statistics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modpdb.probes import _workers, tensors
from modpdb.probes.registered import TensorRow, parameters
from modpdb.probes.tensors import NoStatistics, short_dtype, statistics


def rows(module: nn.Module, kind: str = "parameters", **options: bool) -> dict[str, TensorRow]:
    return {row.name: row for row in parameters(module, kind, **options)}


def test_names_are_those_of_state_dict() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5), nn.BatchNorm1d(5))
    model[1].weight = model[0].weight
    names = [*rows(model), *rows(model, "buffers")]
    assert sorted(names) == sorted(model.state_dict())
    assert rows(model)["1.weight"].tied == ("0.weight",)
    assert rows(model)["0.weight"].tied == ("1.weight",)


def test_a_shared_module_gives_all_its_names() -> None:
    shared = nn.Linear(2, 2)
    found = rows(nn.ModuleDict({"a": shared, "b": shared}))
    assert list(found) == ["a.weight", "a.bias", "b.weight", "b.bias"]
    assert found["b.bias"].tied == ("a.bias",)


def test_facts() -> None:
    layer = nn.Linear(3, 2, dtype=torch.bfloat16)
    layer.bias.requires_grad_(False)
    weight, bias = parameters(layer, prefix="lm_head")
    assert (weight.name, bias.name) == ("lm_head.weight", "lm_head.bias")
    assert weight.facts is not None
    assert (weight.facts.shape, weight.facts.dtype, weight.facts.nbytes) == ((2, 3), "bf16", 12)
    assert (weight.frozen, bias.frozen) == (False, True)


def test_odd_registrations() -> None:
    model = nn.Module()
    model.register_parameter("gone", None)
    model.register_buffer("kept", torch.zeros(2))
    model.register_buffer("passing", torch.zeros(2), persistent=False)
    model.register_buffer("nothing", None)
    assert rows(model)["gone"].notes == ("None",)
    assert rows(model)["gone"].facts is None
    found = {name: row.notes for name, row in rows(model, "buffers").items()}
    assert found == {"kept": (), "passing": ("not in state_dict",), "nothing": ("None",)}


def test_uninitialised_and_meta_say_why_there_are_no_statistics() -> None:
    lazy = rows(nn.LazyLinear(3), stats=True)["weight"]
    assert lazy.facts is not None
    assert (lazy.facts.shape, lazy.no_statistics) == (None, "uninitialised")
    meta = rows(nn.Linear(2, 2, device="meta"), stats=True)["weight"]
    assert (meta.statistics, meta.no_statistics) == (None, "on the meta device")


@pytest.mark.filterwarnings("ignore")
def test_packed_weights_are_named() -> None:
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 2)), {nn.Linear})
    (row,) = parameters(model)
    assert row.name == "0._packed_params._packed_params"
    assert row.notes == ("packed weights of a quantised layer",)


def test_plain_tensor_under_functional_call() -> None:
    seen = []

    class Looking(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.extend(parameters(self))
            return super().forward(x)

    torch.func.functional_call(Looking(2, 2), {"weight": torch.ones(2, 2)}, torch.ones(1, 2))
    assert [row.notes for row in seen] == [("plain tensor",), ()]


def test_only_wanted_names_are_read() -> None:
    found = parameters(nn.Linear(2, 2), wanted=lambda name: name == "bias", stats=True)
    assert [row.name for row in found] == ["bias"]


# -- statistics ----------------------------------------------------------------------------------

SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DTYPES = st.sampled_from((*FLOATS, torch.int64, torch.int8, torch.uint8, torch.bool))


@settings(max_examples=80, deadline=None)
@given(SHAPES, DTYPES, st.integers(1, 7), st.booleans(), st.integers(0, 1 << 30))
def test_statistics_are_numpys(
    shape: tuple[int, ...], dtype: torch.dtype, chunk: int, turned: bool, seed: int
) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 50
    tensor = values.to(dtype)
    if turned:
        tensor = tensor.permute(tuple(reversed(range(tensor.ndim))))
        tensor = tensor[::2] if tensor.ndim else tensor
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "CHUNK", chunk)
        found = statistics(tensor)
    expected = tensor.to(torch.float64).numpy()
    assert (found.elements, found.nan, found.inf) == (expected.size, 0, 0)
    if not expected.size:
        assert (found.minimum, found.mean) == (None, None)
        return
    assert (found.minimum, found.maximum) == (expected.min(), expected.max())
    assert found.mean == pytest.approx(expected.mean(), rel=1e-9, abs=1e-9)
    assert found.std == pytest.approx(expected.std(), rel=1e-9, abs=1e-9)


def test_more_than_one_chunk_far_from_zero() -> None:
    tensor = torch.randn(3 * tensors.CHUNK + 17, generator=torch.Generator().manual_seed(0)) + 1e4
    found, exact = statistics(tensor), tensor.double()
    assert found.mean == pytest.approx(float(exact.mean()), rel=1e-7)
    assert found.std == pytest.approx(float(exact.std(correction=0)), rel=1e-3)


def test_nan_and_inf_are_counted_and_left_out() -> None:
    found = statistics(torch.tensor([1.0, math.nan, 3.0, math.inf, -math.inf, math.nan]))
    assert (found.nan, found.inf, found.minimum, found.maximum) == (2, 2, 1.0, 3.0)
    assert (found.mean, found.std) == (2.0, 1.0)
    assert statistics(torch.tensor([math.nan])).minimum is None


def test_squares_beyond_float32() -> None:
    found = statistics(torch.tensor([-3e38, 3e38]))
    assert found.std == pytest.approx(3e38, rel=1e-6)


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (torch.ones(3).to_sparse(), "layout sparse_coo"),
        (torch.zeros(2, dtype=torch.complex64), "complex"),
        (torch._empty_affine_quantized([2], scale=0.1, dtype=torch.qint8), "quantised"),
    ],
)
def test_no_statistics(tensor: torch.Tensor, why: str) -> None:
    with pytest.raises(NoStatistics, match=f"^{why}$"):
        statistics(tensor)


def test_reading_leaves_nothing_behind() -> None:
    layer = nn.Linear(4, 4)
    before = (layer.weight._version, torch.get_rng_state().tolist(), layer.weight.tolist())
    with torch.inference_mode():
        parameters(layer, stats=True)
    parameters(layer, stats=True)
    assert before == (layer.weight._version, torch.get_rng_state().tolist(), layer.weight.tolist())
    assert layer.weight.grad is None
    assert torch.is_grad_enabled()


def test_no_full_size_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workers, "WORKERS", 1)  # the profiler sees one thread
    tensor = torch.zeros(8 * tensors.CHUNK, dtype=torch.bfloat16)
    with torch.profiler.profile(profile_memory=True) as profile:
        statistics(tensor.view(2048, -1).T)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert 0 < largest <= 8 * tensors.CHUNK  # a chunk in float64


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("torch.bfloat16", "bf16"),
        ("torch.float8_e4m3fn", "f8_e4m3fn"),
        ("torch.int64", "i64"),
        ("torch.bool", "bool"),
        ("torch.quint8", "quint8"),
        (str(np.dtype("uint8")), "u8"),
        ("BF16", "bf16"),
        ("F8_E4M3", "f8_e4m3"),
    ],
)
def test_short_dtype(name: str, short: str) -> None:
    assert short_dtype(name) == short
