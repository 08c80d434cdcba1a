"""Relations between tensors that were made with them."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from modpdb.probes import pairs
from modpdb.probes import relations as probe
from modpdb.probes.relations import find_relation, relations

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])
SEEDS = st.integers(0, 1 << 30)
SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple)


def random(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@settings(max_examples=60, deadline=None)
@given(SHAPES, DTYPES, DTYPES, SEEDS)
def test_casts(shape, before: torch.dtype, after: torch.dtype, seed: int) -> None:
    source = random(shape, seed, before)
    target = source.to(after)
    found = find_relation(source, target)
    assert found is not None and (found.kind, found.exact) == ("identical", True)
    if before is after:
        assert found.cast is None
    else:
        assert found.cast is not None
        assert found.cast.rounded == int((source.double() != target.double()).sum())
        assert found.cast.overflow == 0


def test_a_cast_that_overflows() -> None:
    source = torch.tensor([1.0, 1e6, math.nan, math.inf])
    found = find_relation(source, source.half())
    assert found is not None and found.cast is not None
    assert (found.cast.rounded, found.cast.overflow) == (1, 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), DTYPES, SEEDS)
def test_transposed(rows: int, columns: int, dtype: torch.dtype, seed: int) -> None:
    source = random((rows, columns), seed)
    found = find_relation(source, source.T.to(dtype))
    assert found is not None and (found.kind, found.words) == ("transposed", "transposed")


def test_permuted_dimensions_reshaped_and_squeezed() -> None:
    source = random((2, 3, 4), 0)
    for target, words in (
        (source.permute(2, 0, 1).contiguous(), "permute(2, 0, 1)"),
        (source.reshape(6, 4), "reshaped"),
        (source.unsqueeze(1), "unsqueezed"),
    ):
        found = find_relation(source, target)
        assert found is not None and found.words == words
    assert find_relation(source.unsqueeze(0), source).words == "squeezed"


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([4, 8, 16]), DTYPES, SEEDS)
def test_ropes_permutation_names_the_heads(heads, size, dtype, seed: int) -> None:
    source = random((heads * size, 5), seed)
    # LlamaModel.permute of llama.cpp's conversion.
    target = source.reshape(heads, 2, size // 2, 5).swapaxes(1, 2).reshape(source.shape)
    found = find_relation(source, target.to(dtype))
    assert found is not None and found.kind == "rope" and heads in found.heads
    back = find_relation(target, source)
    assert back is not None and back.kind == "rope"
    bias = find_relation(source[:, 0].contiguous(), target[:, 0].contiguous())
    assert bias is not None and bias.kind == "rope" and heads in bias.heads


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(9)), DTYPES, SEEDS)
def test_other_orders_of_rows(order: list[int], dtype: torch.dtype, seed: int) -> None:
    source = random((9, 7), seed)
    found = find_relation(source, source[order].to(dtype))
    moved = sum(place != row for place, row in enumerate(order))
    assert found is not None
    assert found.kind == ("permuted" if moved else "identical")
    if moved:
        assert f"{moved:,} of 9 moved" in found.words


CONSTANTS = st.sampled_from([1.0, -1.0, 0.5, 2.0, 3.0, 0.1, 127.0, -0.625])


@settings(max_examples=80, deadline=None)
@given(CONSTANTS, DTYPES, DTYPES, SEEDS)
def test_plus_a_constant(constant, before, after, seed: int) -> None:
    source = random((20, 11), seed, before)
    target = (source + constant).to(after)
    found = find_relation(source, target)
    assert found is not None and (found.kind, found.exact) == ("plus", True)
    assert found.constant == pytest.approx(constant, rel=2e-2)


@settings(max_examples=80, deadline=None)
@given(CONSTANTS | st.integers(2, 9000).map(math.sqrt), DTYPES, DTYPES, SEEDS)
def test_times_a_constant(constant, before, after, seed: int) -> None:
    assume(constant != 1.0)
    source = random((20, 11), seed, before)
    target = (source * constant).to(after)
    assume(not target.isinf().any())
    found = find_relation(source, target)
    assert found is not None and found.kind == "times"
    assert found.constant == pytest.approx(constant, rel=2e-2)


@settings(max_examples=30, deadline=None)
@given(DTYPES, DTYPES, SEEDS)
def test_negated_exponential(before, after, seed: int) -> None:
    source = random((20, 3), seed, before)
    found = find_relation(source, (-source.float().exp()).to(after))
    assert found is not None and (found.kind, found.exact) == ("negated exp", True)


@settings(max_examples=60, deadline=None)
@given(st.data(), DTYPES, SEEDS)
def test_parts(data: st.DataObject, dtype: torch.dtype, seed: int) -> None:
    source = random((12, 10), seed)
    start = data.draw(st.integers(0, 10))
    length = data.draw(st.integers(1, 12 - start))
    assume(length < 12)
    part = source[start : start + length].to(dtype)
    found = find_relation(source, part)
    assert found is not None and (found.kind, found.words) == (
        "slice",
        f"rows {start}:{start + length} of the 12",
    )
    whole = find_relation(part, source)
    assert whole is not None and whole.kind == "stacked"
    stacked = torch.stack([source - 1, source, source + 1])
    assert find_relation(source, stacked).words == "number 1 of the 3"
    assert find_relation(stacked, source).kind == "slice"
    assert find_relation(source, source[:, 2:5]).words == "columns 2:5 of the 10"


@settings(max_examples=60, deadline=None)
@given(SHAPES, DTYPES, SEEDS, st.integers(0, 10_000))
def test_one_changed_value_is_no_relation(shape, dtype, seed: int, place: int) -> None:
    source = random(shape, seed, dtype)
    assume(math.prod(shape) > 6)
    target = source.clone().flatten()
    target[place % target.numel()] += 5
    found = find_relation(source, target.reshape(shape))
    assert found is None or not found.exact


def test_a_changed_value_that_no_sample_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "CHUNK", 100)
    source = random((64, 64), 0)
    for target in (source.clone(), source.T.clone(), source + 1, source.half()):
        for place in (1, 2049, 4094):
            changed = target.contiguous().clone()
            changed.view(-1)[place] *= 1.5
            assert find_relation(source, target) is not None
            assert find_relation(source, changed) is None


def test_several_that_hold_come_the_simplest_first() -> None:
    zeros = torch.zeros(8, 8)
    kinds = [each.kind for each in relations(zeros, zeros.half())]
    assert kinds[:3] == ["identical", "transposed", "rope"]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (torch.zeros(0, 3), torch.zeros(3, 0)),
        (torch.randn(3), torch.tensor(5.0)),
        (torch.full((3,), math.nan), torch.ones(3)),
        (torch.arange(6), torch.randn(2, 3)),
        (torch.randn(2, 3), torch.randn(5, 7, 2)),
        (torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)),
    ],
)
def test_none_is_found(source: torch.Tensor, target: torch.Tensor) -> None:
    assert probe.find_relation(source, target) is None
