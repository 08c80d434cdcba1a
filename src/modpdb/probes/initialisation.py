"""What an initialisation left in a tensor: a guess from its values, `initialisation`.

A tensor is taken for one of a distribution where none of these tests refuses it, each of which
refuses a true one with a probability of about 0.001: the Kolmogorov–Smirnov distance of a sample
of at most SAMPLE values (Massey 1951), the sample's kurtosis, and over all values the extremes,
the mean and the deviation. So a true one is missed in about 1 of 200 cases. Trained weights have
heavier tails, scales that differ by row, or a deviation of no init function.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.tensors import Statistics, local_tensor

SAMPLE = 1 << 15  # values that are sorted at most
LEAST = 256  # values below which uniform and normal cannot be told apart surely

_KS = 1.95  # √m times the distance that a true sample passes with a probability of 0.001
_SIGMAS = 3.3  # deviations of an estimate that it passes with the same
_MISSED = 0.001
_NAMED = 0.055  # how far a deviation may be off, relatively, and still tell an init function
_BOX_MULLER = 5.0  # deviations that torch's normal_ surely reaches: in float32 it ends at 5.8
_STDS = (0.02, 0.01, 0.006, 0.05, 0.1)  # written out in models' own _init_weights
_CUT = 2.0  # deviations at which trunc_normal_ mostly is cut where that is to be seen

Kind = Literal["constant", "uniform", "normal", "truncated normal", "too few"]


@dataclass(frozen=True, slots=True)
class Initialisation:
    """*kind* of the values; *functions* of torch.nn.init that leave such, most special first.

    Of a "constant" the kind is observed, all else is guessed. "too few": fewer than LEAST values.
    """

    kind: Kind
    functions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fans:
    """fan_in and fan_out of a weight, as `torch.nn.init._calculate_fan_in_and_fan_out` counts
    them; a bias goes by those of its weight."""

    into: int
    out: int


def fans(shape: tuple[int, ...] | None) -> Fans | None:
    """None for what has fewer than two dimensions, or no elements."""
    if shape is None or len(shape) < 2 or not math.prod(shape):
        return None
    field = math.prod(shape[2:])
    return Fans(shape[1] * field, shape[0] * field)


def initialisation(tensor: Any, found: Statistics, fan: Fans | None) -> Initialisation | None:
    """What *tensor*, of which *found* are the statistics, looks like; None for nothing known.

    *fan* is the tensor's own or, for a bias, its weight's. Reads at most SAMPLE values, and uses
    no random numbers.
    """
    torch = torch_or_none()
    with undisturbed(torch):
        shard = local_tensor(tensor)
        values = (tensor if shard is None else shard).detach()
        known = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        low, high = found.minimum, found.maximum
        if values.dtype not in known or found.nan or found.inf or low is None or high is None:
            return None
        if low == high:
            return _constant(low) if found.elements > 1 else None
        if found.elements < LEAST:
            return Initialisation("too few")
        if not found.std:  # so small that its square is 0
            return None
        try:
            return _Guess(torch, values, found, low, high).guess(fan)
        except (RuntimeError, TypeError, NotImplementedError):
            return None  # a subclass whose values cannot be picked one by one


def _constant(value: float) -> Initialisation:
    function = {0.0: "zeros_", 1.0: "ones_"}.get(value, f"constant_({value:.4g})")
    return Initialisation("constant", (function,))


class _Guess:
    def __init__(self, torch: Any, values: Any, found: Statistics, low: float, high: float) -> None:
        self._torch = torch
        self._n = found.elements
        self._low, self._high = low, high
        self._mean, self._std = found.mean or 0.0, found.std or 0.0
        self._gap = -math.log(_MISSED) / self._n  # what n values surely leave free at an edge
        self._rounding = float(torch.finfo(values.dtype).eps)
        self._sorted = _sample(torch, values).sort().values

    def guess(self, fan: Fans | None) -> Initialisation | None:
        bound, values = max(-self._low, self._high), self._sorted
        if self._spread_as((values - self._low) / (self._high - self._low)):
            return Initialisation("uniform", tuple(self._uniforms(bound, fan)))
        if self._is_normal():
            return Initialisation("normal", tuple(self._normals(fan)))
        if self._centred(0.0) and self._spread_as(self._truncated(values * _CUT / bound)):
            return self._cut_off(bound)
        return None

    def _spread_as(self, expected: Any) -> bool:
        """Kolmogorov and Smirnov's test, given the cumulative distribution at each of the sample.

        Rounding to bf16 adds to the distance.
        """
        m = self._sorted.shape[0]
        ranks = self._torch.arange(m, dtype=self._torch.float64) / m
        expected = expected.clamp(0, 1)
        distance = max(float((expected - ranks).max()), float((ranks + 1 / m - expected).max()))
        return distance <= _KS / math.sqrt(m) + self._rounding / 2

    # -- uniform ---------------------------------------------------------------------------------

    def _uniforms(self, bound: float, fan: Fans | None) -> Iterator[str]:
        named = False
        if self._low < 0:
            for name, expected in _uniform_bounds(fan):
                if self._reach(expected):
                    named = True
                    yield name
        if named:
            return
        if self._reach(bound):
            bound = self._round(bound, self._gap)
            yield f"uniform_({-bound:.3g}, {bound:.3g})"
        elif 0 <= self._low <= self._gap * self._high:
            yield f"uniform_(0, {self._round(self._high, self._gap):.3g})"
        else:
            yield f"uniform_({self._low:.3g}, {self._high:.3g})"

    def _reach(self, bound: float, rarer: float = 1.0) -> bool:
        """Whether the extremes of n values drawn within ±*bound* could be these.

        *rarer* is how much rarer values are at the edges than uniform ones, which are half as
        dense there as between 0 and *bound*.
        """
        least = (1 - 2 * rarer * self._gap - self._rounding) * bound
        most = bound * (1 + self._rounding)
        return all(least <= extreme <= most for extreme in (-self._low, self._high))

    def _round(self, extreme: float, gap: float) -> float:
        """The roundest bound, of at most three digits, that *extreme* may have been drawn below."""
        for digits in range(3):
            step = 10.0 ** (math.floor(math.log10(extreme)) - digits)
            bound = math.ceil(extreme * (1 - self._rounding) / step) * step
            if extreme >= bound * (1 - gap - self._rounding):
                return bound
        return extreme

    # -- normal ----------------------------------------------------------------------------------

    def _is_normal(self) -> bool:
        torch, m = self._torch, self._sorted.shape[0]
        furthest = max(self._high - self._mean, self._mean - self._low) / self._std
        least = min(self._quantile(self._gap), _BOX_MULLER)
        if not least <= furthest * (1 + self._rounding):
            return False
        if furthest > self._quantile(_MISSED / self._n) * (1 + self._rounding):
            return False
        scaled = (self._sorted - self._mean) / self._std
        kurtosis = float(scaled.pow(4).mean() / scaled.pow(2).mean() ** 2)
        if abs(kurtosis - 3) > _SIGMAS * math.sqrt(24 / m):
            return False
        return self._spread_as(torch.special.ndtr(scaled))

    def _quantile(self, both_tails: float) -> float:
        """How many deviations from the mean lie beyond with that probability, on both sides."""
        tail = self._torch.tensor(min(both_tails, 1.0) / 2, dtype=self._torch.float64)
        return -float(self._torch.special.ndtri(tail))

    def _normals(self, fan: Fans | None) -> Iterator[str]:
        """Init functions whose deviation is this one, where that is known well enough."""
        allowed = _SIGMAS / math.sqrt(2 * self._n) + 2e-4
        if allowed > _NAMED:
            return
        for mean in (0.0, 1.0):
            if self._centred(mean):
                for name, std in _normal_stds(fan, mean):
                    if abs(self._std / std - 1) <= allowed:
                        yield name

    def _centred(self, mean: float) -> bool:
        return abs(self._mean - mean) <= _SIGMAS * self._std / math.sqrt(self._n)

    # -- normal, cut off -------------------------------------------------------------------------

    def _cut_off(self, bound: float) -> Initialisation | None:
        """Where both ends reach the cut: that is rare in what is merely not quite normal."""
        edge = math.erf(_CUT / math.sqrt(2))
        density = math.exp(-(_CUT**2) / 2) / math.sqrt(2 * math.pi) / edge
        rarer = 1 / (2 * density * _CUT)
        if not self._reach(bound, rarer):
            return None
        bound = self._round(bound, rarer * self._gap)
        function = f"trunc_normal_(std={bound / _CUT:.3g}, a={-bound:.3g}, b={bound:.3g})"
        return Initialisation("truncated normal", (function,))

    def _truncated(self, x: Any) -> Any:
        """The cumulative distribution of a normal one cut at _CUT deviations on both sides."""
        edge = math.erf(_CUT / math.sqrt(2))
        return (self._torch.special.ndtr(x) - (1 - edge) / 2) / edge


def _sample(torch: Any, values: Any) -> Any:
    """At most SAMPLE values in float64, spread evenly over the tensor and over its columns."""
    n = math.prod(values.shape)
    m = min(n, SAMPLE)
    each = torch.arange(m, device=values.device)
    # Steps of n/m alone would meet the same few columns of a matrix again and again.
    places = each * n // m + each * 40_503 % (n // m)
    rows = []
    for size in reversed(values.shape):
        rows.append(places % size)
        places = places // size
    return values[tuple(reversed(rows))].cpu().double()


def _uniform_bounds(fan: Fans | None) -> Iterator[tuple[str, float]]:
    if fan is None:
        return
    yield "kaiming_uniform_(a=√5), as nn.Linear's", 1 / math.sqrt(fan.into)
    yield "xavier_uniform_", math.sqrt(6 / (fan.into + fan.out))
    yield "kaiming_uniform_", math.sqrt(6 / fan.into)
    yield "kaiming_uniform_(mode='fan_out')", math.sqrt(6 / fan.out)


def _normal_stds(fan: Fans | None, mean: float) -> Iterator[tuple[str, float]]:
    if not mean:
        yield "normal_()", 1.0
    for std in _STDS:
        yield f"normal_({mean:g}, {std:g})", std
    if fan is None or mean:
        return
    yield "xavier_normal_", math.sqrt(2 / (fan.into + fan.out))
    yield "kaiming_normal_", math.sqrt(2 / fan.into)
    yield "kaiming_normal_(mode='fan_out')", math.sqrt(2 / fan.out)
    yield "normal_(0, 1/√fan_in)", 1 / math.sqrt(fan.into)
