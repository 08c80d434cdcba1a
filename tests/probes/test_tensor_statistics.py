"""Statistics of every kind of tensor, against exact sums."""

import math
import struct
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modpdb.probes import _workers, tensors
from modpdb.probes.tensors import CHUNK, NoStatistics, Statistics, statistics, statistics_of

F32 = st.floats(width=32, allow_nan=True, allow_infinity=True)
F64 = st.floats(allow_nan=True, allow_infinity=True)


def root(value: Fraction) -> float:
    """The square root of a fraction that may be beyond floats."""
    if not value:
        return 0.0
    shift = (value.numerator.bit_length() - value.denominator.bit_length()) // 2
    scaled = value / Fraction(4) ** shift  # about 1
    return math.ldexp(math.isqrt(int(scaled * 2**200)) / 2**100, shift)


def exact(values: list[float]) -> tuple[Fraction, Fraction]:
    """Mean and variance, with no rounding."""
    parts = [Fraction(value) for value in values]
    mean = sum(parts) / len(parts)
    return mean, sum((each - mean) ** 2 for each in parts) / len(parts)


def check(values: list[float], found: Statistics) -> None:
    finite = [value for value in values if math.isfinite(value)]
    assert found.elements == len(values) and not found.partial
    assert found.nan == sum(map(math.isnan, values))
    assert found.inf == sum(map(math.isinf, values))
    if not finite:
        assert (found.minimum, found.maximum, found.mean, found.std) == (None,) * 4
        return
    mean, variance = exact(finite)
    largest = max(map(abs, finite))
    assert (found.minimum, found.maximum) == (min(finite), max(finite))
    # 1e-6 of the result; where values cancel, of what float64's own rounding leaves of them; half
    # of the least number that there is for each value that may have been rounded to it.
    assert abs(Fraction(found.mean) - mean) <= max(
        abs(mean) * Fraction(1e-6),
        Fraction(largest) * Fraction(1e-14),
        Fraction(5e-324) / 2 * len(finite),
    )
    std = root(variance)
    assert found.std == pytest.approx(std, rel=1e-6, abs=max(largest * 1e-14, 5e-324))
    assert found.zeros == finite.count(0.0)


@settings(max_examples=300, deadline=None)
@given(st.lists(F32, max_size=40), st.sampled_from([1, 3, 1 << 18]))
def test_float32_of_any_values(values: list[float], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "CHUNK", chunk)
        check(values, statistics(torch.tensor(values, dtype=torch.float32)))


@settings(max_examples=300, deadline=None)
@given(st.lists(F64, max_size=40), st.sampled_from([1, 3, 1 << 18]))
def test_float64_huge_and_denormal(values: list[float], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "CHUNK", chunk)
        check(values, statistics(torch.tensor(values, dtype=torch.float64)))


@pytest.mark.parametrize(
    "values",
    [
        [1.7e308, -1.7e308, 1.7e308],
        [5e-324, 0.0, 1e-323],
        [0.0, 5e-324],
        [5e-324, 5e-324],
        [math.nan] * 5,
        [],
        [3.5],
        [1e16, 1.0, -1e16],
    ],
)
def test_float64_at_its_ends(values: list[float]) -> None:
    check(values, statistics(torch.tensor(values, dtype=torch.float64)))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=30)
)
def test_what_float16_loses_is_what_a_cast_loses(values: list[float]) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    found, cast = statistics(tensor), tensor.half()
    assert found.f16_overflow == int(cast.isinf().sum())
    assert found.f16_flushed == int(((cast == 0) & (tensor != 0)).sum())
    # A value just below the least normal one may be rounded up to it.
    small = int(((tensor.abs() < 2**-14) & (cast != 0)).sum())
    assert found.f16_subnormal == small


def test_of_many_chunks_in_threads() -> None:
    tensor = (torch.randn(8 * CHUNK + 5, generator=torch.Generator().manual_seed(0)) + 3).bfloat16()
    threads = torch.get_num_threads()
    found, wide = statistics(tensor, bins=10), tensor.double()
    assert found.mean == pytest.approx(float(wide.mean()), rel=1e-12)
    assert found.std == pytest.approx(float(wide.std(correction=0)), rel=1e-10)
    assert found.zeros == int((tensor == 0).sum())
    assert len(found.histogram) == 10 and sum(found.histogram) == found.sampled
    assert tensors.SAMPLE / 2 < found.sampled <= 2 * tensors.SAMPLE
    assert torch.get_num_threads() == threads


def test_the_histogram_counts_every_value_of_a_small_tensor() -> None:
    found = statistics(torch.tensor([0.0, 1.0, 1.0, 9.5, 10.0, math.nan]), bins=10)
    assert found.histogram == (1, 2, 0, 0, 0, 0, 0, 0, 0, 2) and found.sampled == 5
    assert statistics(torch.tensor([-3e38, 0.0, 3e38]), bins=3).histogram == (1, 1, 1)
    assert statistics(torch.ones(4), bins=3).histogram == ()


def test_ctrl_c_leaves_what_there_is() -> None:
    def interrupt(done: int, of: int) -> None:
        assert of == 10 * CHUNK
        if done >= 3 * CHUNK:
            raise KeyboardInterrupt

    tensor = torch.ones(10 * CHUNK, dtype=torch.bfloat16)
    found = statistics(tensor, watch=interrupt, interruptible=True, bins=4)
    assert found.partial and found.elements == 3 * CHUNK and found.mean == 1.0
    with pytest.raises(KeyboardInterrupt):
        statistics(tensor, watch=interrupt)


def test_what_a_thread_raises_comes_out() -> None:
    def fail(chunk: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such kernel\nand more")

    with pytest.raises(NoStatistics, match=r"^no such kernel$"):
        statistics_of((torch.ones(3) for _ in range(9)), 27, each=fail)


def test_of_magnitudes() -> None:
    found = statistics(torch.tensor([3 + 4j, 0j]), each=torch.abs)
    assert (found.minimum, found.maximum, found.zeros) == (0.0, 5.0, 1)


def test_threads_are_left_as_they_were_when_one_stops_early() -> None:
    threads = torch.get_num_threads()
    results = _workers.in_threads(torch, range(100), lambda chunk: chunk)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    results.close()
    assert torch.get_num_threads() == threads


def test_a_subclass_that_computes_is_not_run() -> None:
    class Loud(torch.Tensor):
        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            raise AssertionError("run")

    loud = torch.Tensor._make_wrapper_subclass(Loud, (3,))
    with pytest.raises(NoStatistics, match="whose own __torch_dispatch__"):
        statistics(loud)


def test_the_bits_of_a_float_are_all_there() -> None:
    """Denormal float32, whose squares float32 does not have."""
    tiny = struct.unpack("<f", (1).to_bytes(4, "little"))[0]
    found = statistics(torch.tensor([tiny, 3 * tiny]))
    assert (found.mean, found.std) == (2 * tiny, tiny)


@pytest.mark.parametrize("mean", [0.0, 1.0, 1e4, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_quick_ones_are_near(mean: float, dtype: torch.dtype) -> None:
    """To 1e-5 of the deviation or of what float32 can hold; all else is the same."""
    torch.manual_seed(0)
    tensor = (torch.randn(70_000, dtype=torch.float64) * 2 + mean).to(dtype)
    tensor[7], tensor[9] = float("nan"), float("inf")
    quick, full = statistics(tensor, quick=True), statistics(tensor)
    assert (quick.minimum, quick.maximum) == (full.minimum, full.maximum)
    assert (quick.nan, quick.inf, quick.elements) == (1, 1, 70_000)
    assert full.std is not None and full.mean is not None
    near = 1e-5 * max(full.std, abs(full.mean))
    assert quick.mean == pytest.approx(full.mean, abs=near)
    assert quick.std == pytest.approx(full.std, abs=near)
