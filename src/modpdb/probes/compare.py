"""Two tensors: how far apart, and how related."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.pairs import paired, same_values
from modpdb.probes.relations import Relation, find_relation
from modpdb.probes.tensor_like import Watch
from modpdb.probes.tensor_summary import index_of
from modpdb.probes.tensors import short_dtype

# From llama.cpp's examples/model-conversion/scripts/utils/check-nmse.py: below the bound.
_BANDS = (
    (1e-6, "essentially identical"),
    (1e-4, "excellent"),
    (1e-3, "very good"),
    (1e-2, "good"),
    (0.1, "acceptable"),
    (1.0, "poor"),
)
_PASS = 1e-2


@dataclass(frozen=True, slots=True)
class Side:
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Distance:
    """How far B is from A, both of one shape, in float64.

    *max_abs* and the rest are over the pairs of which both are finite; *unequal* counts all,
    *not_finite* those of them with a NaN or Inf in one. *relative*: max_abs by the greatest
    magnitude in A. *nmse*: mean squared difference by the variance of A; None where that is 0.
    *where* is the index of max_abs, *first* of the first unequal pair.
    """

    elements: int
    unequal: int
    not_finite: int
    max_abs: float
    where: tuple[int, ...]
    values: tuple[float, float]
    relative: float | None
    nmse: float | None
    cosine: float | None
    first: tuple[int, ...] | None

    @property
    def band(self) -> str:
        """llama.cpp's word for the NMSE."""
        if self.nmse is None:
            return ""
        words = (word for bound, word in _BANDS if self.nmse < bound)
        return next(words, "very poor, worse than noise")

    @property
    def passes(self) -> bool:
        return self.nmse is not None and self.nmse < _PASS


@dataclass(frozen=True, slots=True)
class Comparison:
    """*distance*: None where the shapes differ. *relation*: B made of A, or where *backwards* A
    of B; None where none is found. *no_numbers*: why values could not be compared."""

    a: Side
    b: Side
    distance: Distance | None
    relation: Relation | None
    backwards: bool = False
    no_numbers: str = ""

    @property
    def identical(self) -> bool:
        return self.equal and self.a.dtype == self.b.dtype

    @property
    def equal(self) -> bool:
        return self.distance is not None and not self.distance.unequal


def compare(a: tuple[str, Any], b: tuple[str, Any], *, watch: Watch | None = None) -> Comparison:
    """Two named torch tensors; whatever differs is said, not raised."""
    torch = torch_or_none()
    sides = _side(*a), _side(*b)
    with undisturbed(torch):
        try:
            one, other = (_dense(torch, tensor) for _, tensor in (a, b))
            distance = None
            if one.shape == other.shape:
                distance = _distance(torch, one, other, watch)
            if distance is not None and not distance.unequal and one.dtype is other.dtype:
                return Comparison(*sides, distance, None)
            relation = find_relation(one, other)
            backwards = False
            if relation is None:
                relation = find_relation(other, one)
                backwards = relation is not None
        except (RuntimeError, TypeError, NotImplementedError) as error:
            return Comparison(*sides, None, None, no_numbers=str(error).splitlines()[0])
    return Comparison(*sides, distance, relation, backwards)


def _side(name: str, tensor: Any) -> Side:
    return Side(name, tuple(tensor.shape), short_dtype(str(tensor.dtype)))


def _dense(torch: Any, tensor: Any) -> Any:
    if tensor.device.type == "meta":
        raise RuntimeError("one is on the meta device and has no values")
    if tensor.is_quantized:
        return tensor.dequantize()
    tensor = tensor if tensor.layout is torch.strided else tensor.to_dense()
    return tensor.cpu().resolve_conj().resolve_neg()


def _distance(torch: Any, one: Any, other: Any, watch: Watch | None) -> Distance:
    dtype = torch.complex128 if one.is_complex() or other.is_complex() else torch.float64
    sums = _Sums()
    elements, seen = math.prod(one.shape), 0
    for start, a, b in paired(one, other):
        equal = same_values(torch, a, b)
        a, b = (each.to(dtype) for each in (a, b))
        sums.add(torch, start, a, b, equal)
        seen += math.prod(a.shape)
        if watch is not None:
            watch("comparing", seen, elements)
    return sums.result(elements, one, other)


class _Sums:
    """What is added up over the pairs."""

    def __init__(self) -> None:
        self._unequal = self._not_finite = self._finite = 0
        self._max_abs, self._greatest = -1.0, 0.0
        self._where: tuple[int, ...] = ()
        self._first: tuple[int, ...] | None = None
        self._a = self._aa = self._bb = self._ab = self._dd = 0.0

    def add(self, torch: Any, start: tuple[int, ...], a: Any, b: Any, equal: Any) -> None:
        unequal = int((~equal).sum())
        if unequal and self._first is None:
            place = int((~equal).flatten().to(torch.uint8).argmax())
            self._first = _shifted(start, index_of(place, a.shape))
        self._unequal += unequal
        finite = a.isfinite() & b.isfinite()
        self._not_finite += int((~finite & ~equal).sum())
        if not finite.all():
            a, b = (torch.where(finite, each, 0) for each in (a, b))
        self._finite += int(finite.sum())
        apart = (b - a).abs()
        most = float(apart.max())
        if most > self._max_abs:
            self._max_abs = most
            self._where = _shifted(start, index_of(int(apart.argmax()), a.shape))
        self._greatest = max(self._greatest, float(a.abs().max()))
        self._a += complex(a.sum()).real
        self._aa += float((a * a.conj()).real.sum())
        self._bb += float((b * b.conj()).real.sum())
        self._ab += float((a * b.conj()).real.sum())
        self._dd += float((apart * apart).sum())

    def result(self, elements: int, one: Any, other: Any) -> Distance:
        count = self._finite
        variance = self._aa / count - (self._a / count) ** 2 if count else 0.0
        both = math.sqrt(self._aa) * math.sqrt(self._bb)
        return Distance(
            elements,
            self._unequal,
            self._not_finite,
            max(self._max_abs, 0.0),
            self._where,
            (_number(one, self._where), _number(other, self._where)) if elements else (0.0, 0.0),
            self._max_abs / self._greatest if self._greatest else None,
            # A variance of less than what rounding leaves of equal values is none.
            self._dd / count / variance if variance > self._aa / max(count, 1) * 1e-14 else None,
            max(-1.0, min(1.0, self._ab / both)) if both else None,
            self._first,
        )


def _shifted(start: tuple[int, ...], index: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(begin + each for begin, each in zip(start, index, strict=True))


def _number(tensor: Any, index: tuple[int, ...]) -> float:
    value = tensor[index].item()
    return abs(value) if isinstance(value, complex) else value
