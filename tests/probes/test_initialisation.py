"""initialisation: torch.nn.init's own are recognised, trained and mixed values are not."""

import math
import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import init

from modpdb.probes.initialisation import LEAST, SAMPLE, Initialisation, fans, initialisation
from modpdb.probes.registered import parameters
from modpdb.probes.tensors import statistics

LINEAR = "kaiming_uniform_(a=√5), as nn.Linear's"
SHAPES = st.sampled_from([(64, 100), (300, 200), (32, 3, 7, 7), (1000, 20)])
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])
SEEDS = st.integers(0, 1 << 30)


def guess(tensor: Tensor) -> Initialisation | None:
    return initialisation(tensor, statistics(tensor), fans(tuple(tensor.shape)))


def functions(tensor: Tensor) -> tuple[str, ...]:
    found = guess(tensor)
    return () if found is None else found.functions


def made(shape: tuple[int, ...], seed: int) -> tuple[Tensor, torch.Generator]:
    return torch.empty(shape), torch.Generator().manual_seed(seed)


# A true one is missed in 1 of 200: each is tried with a few seeds, and most must be recognised.
@settings(max_examples=6, deadline=None)
@given(SHAPES, DTYPES, SEEDS)
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (init.xavier_uniform_, "xavier_uniform_"),
        (init.xavier_normal_, "xavier_normal_"),
        (init.kaiming_uniform_, "kaiming_uniform_"),
        (init.kaiming_normal_, "kaiming_normal_"),
        (
            lambda t, generator: init.kaiming_uniform_(t, a=math.sqrt(5), generator=generator),
            LINEAR,
        ),
        (lambda t, generator: init.normal_(t, 0, 0.02, generator=generator), "normal_(0, 0.02)"),
        (
            lambda t, generator: init.trunc_normal_(t, 0, 0.02, generator=generator),
            "normal_(0, 0.02)",
        ),
        (init.normal_, "normal_()"),
        (init.uniform_, "uniform_(0, 1)"),
        (init.trunc_normal_, "trunc_normal_(std=1, a=-2, b=2)"),
    ],
)
def test_what_torch_init_leaves(
    function: Callable[..., Tensor],
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    seed: int,
) -> None:
    tries = []
    for each in range(3):
        tensor, generator = made(shape, seed + each)
        found = functions(function(tensor, generator=generator).to(dtype))
        tries.append(any(each.rstrip("0123456789") == name.rstrip("0123456789") for each in found))
    assert sum(tries) >= 2


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from(["student", "rows", "sum", "outliers", "zeros", "trend"]), DTYPES)
def test_mixtures_and_heavy_tails_are_no_initialisation(
    seed: int, kind: str, dtype: torch.dtype
) -> None:
    tensor, generator = made((300, 200), seed)
    normal = init.normal_(tensor, 0, 0.02, generator=generator)
    scale = torch.rand((300, 1), generator=generator)
    tensor = {
        "student": lambda: normal / torch.rand((300, 200), generator=generator).clamp(0.1).sqrt(),
        "rows": lambda: normal * (0.5 + scale),
        "sum": lambda: normal + 0.01 * torch.rand((300, 200), generator=generator),
        "outliers": lambda: normal.index_fill(1, torch.tensor([3]), 0.3),
        "zeros": lambda: normal.where(torch.rand((300, 200), generator=generator) < 0.9, 0),
        "trend": lambda: init.uniform_(normal, -0.1, 0.1, generator=generator) + 0.05 * scale,
    }[kind]()
    assert not any("_(" in name or name.endswith("_") for name in functions(tensor.to(dtype)))


@settings(max_examples=12, deadline=None)
@given(SEEDS, st.floats(0.011, 0.9))
def test_a_deviation_of_no_function_names_none(seed: int, std: float) -> None:
    tensor, generator = made((64, 1000), seed)
    known = [
        0.02,
        0.05,
        0.1,
        math.sqrt(2 / 1064),
        math.sqrt(2 / 1000),
        math.sqrt(2 / 64),
        1 / math.sqrt(1000),
    ]
    assume(all(abs(std / each - 1) > 0.04 for each in known))
    assert functions(init.normal_(tensor, 0, std, generator=generator)) == ()


def test_trained_weights_are_not_called_initialised() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 32))
    x = torch.randn(256, 32)
    y = x.roll(1, 1) * x
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    assert [functions(p) for p in model.parameters() if p.ndim == 2] == [(LINEAR,)] * 2
    for _ in range(100):
        optimiser.zero_grad()
        (model(x) - y).square().mean().backward()
        optimiser.step()
    assert [functions(p) for p in model.parameters() if p.ndim == 2] == [()] * 2


def test_both_ends_must_reach_the_bound() -> None:
    bound = 1 / math.sqrt(200)
    generator = torch.Generator().manual_seed(0)
    lopsided = torch.empty(300, 200).uniform_(-bound / 2, bound, generator=generator)
    assert functions(lopsided) == ("uniform_(-0.0354, 0.0707)",)


def test_constants_are_observed() -> None:
    assert guess(torch.zeros(3)) == Initialisation("constant", ("zeros_",))
    assert guess(torch.ones(3)) == Initialisation("constant", ("ones_",))
    assert guess(torch.full((2, 2), 0.5)) == Initialisation("constant", ("constant_(0.5)",))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1),
        torch.arange(LEAST * 2),
        torch.tensor([1.0, math.nan] * LEAST),
        torch.empty(0),
        torch.randn(10, 100).to(torch.float8_e4m3fn),
    ],
)
def test_nothing_is_said_of_these(tensor: Tensor) -> None:
    assert guess(tensor) is None


def test_too_few() -> None:
    assert guess(torch.rand(LEAST - 1)) == Initialisation("too few")


def test_a_bias_goes_by_its_weight() -> None:
    torch.manual_seed(1)
    weight, bias = parameters(nn.Linear(100, 1000), stats=True)
    assert weight.initialisation == bias.initialisation == Initialisation("uniform", (LINEAR,))


def test_buffers_are_not_guessed_at() -> None:
    (row, *_) = parameters(nn.BatchNorm1d(4), "buffers", stats=True)
    assert row.initialisation is None and row.statistics is not None


def test_any_strides_a_bounded_sample_and_no_random_numbers() -> None:
    torch.manual_seed(0)
    large = init.normal_(torch.empty(64 * SAMPLE // 512, 512 * 2), 0, 0.02)
    before = torch.get_rng_state()
    assert (
        functions(large) == functions(large.T) == functions(large[:, ::2]) == ("normal_(0, 0.02)",)
    )
    assert torch.equal(torch.get_rng_state(), before)
    known = statistics(large)
    start = time.perf_counter()
    initialisation(large, known, None)
    assert time.perf_counter() - start < 1
