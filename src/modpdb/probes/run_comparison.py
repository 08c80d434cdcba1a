"""Two recordings side by side: the first module at which they part ways, and how far."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.activations import magnitude, rms
from modpdb.probes.recording import Call, Recording, Side, TensorNote
from modpdb.probes.recording_file import SavedValues
from modpdb.probes.tensors import Statistics

TOLERANCE = {"f64": 1e-12, "f32": 1e-5, "f16": 4e-3, "bf16": 3e-2}
"""Greatest relative error (the square root of the NMSE) that rounding explains, by dtype.

f16 and bf16 keep 11 and 8 bits, and each operator rounds its result once: about four times their
machine epsilon (2^-10, 2^-7). Of f32 and f64 some thousand products are summed in an order that
differs between kernels: about a hundred times 2^-23, and some thousand times 2^-52. Of the coarser
dtype where two differ; other floats are held to bf16's, whole numbers and booleans must be equal.
"""

By = Literal["values", "statistics", "nothing"]


@dataclass(frozen=True, slots=True)
class Compared:
    """One tensor of both runs.

    *error* is the relative error √NMSE, NMSE = Σ(a-b)²/Σa² over what is finite in both, where *by*
    is values; by statistics the greatest relative difference of rms, mean and extremes, which
    proves less. None where *why* says that it could not be computed. *bad* counts positions (by
    statistics: how many more) that are NaN or Inf in one only.
    """

    a: Call
    b: Call
    side: Side
    name: str
    dtypes: tuple[str, str]
    by: By
    error: float | None
    tolerance: float
    bad: int = 0
    why: str = ""

    @property
    def differs(self) -> bool:
        return bool(self.bad) or (self.error is not None and self.error > self.tolerance)

    @property
    def unknown(self) -> bool:
        return self.error is None and not self.bad


@dataclass(frozen=True, slots=True)
class Misfit:
    """A tensor that cannot be compared for its shapes differ."""

    a: Call
    b: Call
    side: Side
    name: str
    shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None]


@dataclass(frozen=True, slots=True)
class Lone:
    """An output that only one of two calls has: the other raised, or put out something else."""

    a: Call
    b: Call
    name: str
    of: Literal["A", "B"]


@dataclass(frozen=True, slots=True)
class RunComparison:
    """What two runs have in common, outputs in the order in which calls of *a* ended."""

    a: Recording
    b: Recording
    compared: tuple[Compared, ...]
    misfits: tuple[Misfit, ...]
    only_a: tuple[Call, ...]
    only_b: tuple[Call, ...]
    lone: tuple[Lone, ...] = ()

    def first(self) -> Compared | Misfit | None:
        """The first tensor, in the order of the run, in which they differ."""
        found: list[Compared | Misfit] = [each for each in self.compared if each.differs]
        return min([*found, *self.misfits], key=lambda each: each.a.ended, default=None)


def compare_runs(
    a: Recording,
    b: Recording,
    values: tuple[SavedValues | None, SavedValues | None] = (None, None),
) -> RunComparison:
    """Compare outputs by the modules' paths and the number of the call.

    Models of different names are compared where each recording has one.
    """
    by_root = a.several_roots() or b.several_roots()
    theirs = {_key(call, by_root): call for call in b.calls}
    compared: list[Compared] = []
    misfits: list[Misfit] = []
    lone: list[Lone] = []
    only_a = []
    met = set()
    for call in sorted(a.calls, key=lambda each: (not each.ended, each.ended, each.number)):
        key = _key(call, by_root)
        other = theirs.get(key)
        if other is None:
            only_a.append(call)
            continue
        met.add(key)
        for one, two in _pairs(call, other):
            if two is None and one is not None:
                lone.append(Lone(call, other, one.name, "A"))
            elif one is None or two is None:
                lone.append(Lone(call, other, two.name if two is not None else "", "B"))
            elif one.shape != two.shape:
                misfits.append(Misfit(call, other, "out", one.name, (one.shape, two.shape)))
            else:
                compared.append(_compared(call, other, one, two, values))
    only_b = [call for key, call in theirs.items() if key not in met]
    return RunComparison(
        *(a, b, tuple(compared), tuple(misfits), tuple(only_a), tuple(only_b), tuple(lone))
    )


def _key(call: Call, by_root: bool) -> tuple[str, str, int]:
    return call.root if by_root else "", call.path, call.nth


def _pairs(a: Call, b: Call) -> Iterator[tuple[TensorNote | None, TensorNote | None]]:
    """Outputs by where they stood, None for what one has not; a lone one of each whatever it was
    called."""
    if len(a.outputs) == len(b.outputs) == 1:
        yield a.outputs[0], b.outputs[0]
        return
    mine = {note.name: note for note in a.outputs}
    its = {note.name: note for note in b.outputs}
    for name in mine | its:
        yield mine.get(name), its.get(name)


def _compared(
    call: Call,
    other: Call,
    one: TensorNote,
    two: TensorNote,
    values: tuple[SavedValues | None, SavedValues | None],
) -> Compared:
    dtypes = one.dtype, two.dtype
    tolerance = max(_tolerance(dtype) for dtype in dtypes)
    by: By
    mine, theirs = values
    if mine is not None and theirs is not None and one.stored and two.stored:
        by, why = "values", ""
        error, bad = _of_values(mine.chunks(one.stored), theirs.chunks(two.stored))
    elif one.statistics is not None and two.statistics is not None:
        by = "statistics"
        error, bad = _of_statistics(one.statistics, two.statistics)
        why = "" if error is not None else "a float64 does not hold their statistics"
    else:
        by, error, bad = "nothing", None, 0
        why = one.no_statistics or two.no_statistics or "neither values nor statistics"
    return Compared(call, other, "out", one.name, dtypes, by, error, tolerance, bad, why)


def _tolerance(dtype: str) -> float:
    if dtype in TOLERANCE:
        return TOLERANCE[dtype]
    return TOLERANCE["bf16"] if dtype.startswith(("f", "bf")) else 0.0


def _of_values(mine: Iterator[Any], theirs: Iterator[Any]) -> tuple[float | None, int]:
    """√NMSE and how many positions are NaN or Inf in one only, or Infs of two signs."""
    torch = torch_or_none()
    squares = apart = size = farthest = 0.0
    bad = 0
    with undisturbed(torch):
        for a, b in zip(mine, theirs, strict=True):
            a, b = _wide(torch, a), _wide(torch, b)
            both = a.isfinite() & b.isfinite()
            if not bool(both.all()):
                same = (a.isnan() & b.isnan()) | (a == b)
                bad += int((~both & ~same).sum())
                a, b = a[both], b[both]
            if not a.shape[0]:
                continue
            a, delta = a.abs(), (a - b).abs()
            squares += float(a.square().sum())
            apart += float(delta.square().sum())
            size, farthest = max(size, float(a.max())), max(farthest, float(delta.max()))
    if not farthest or not size:
        return (math.inf if farthest else 0.0), bad
    if 0 < squares < math.inf and 0 < apart < math.inf:
        return math.sqrt(apart / squares), bad
    return farthest / size, bad  # squares that a float64 does not hold


def _wide(torch: Any, values: Any) -> Any:
    return values.to(torch.complex128 if values.is_complex() else torch.float64)


def _of_statistics(a: Statistics, b: Statistics) -> tuple[float | None, int]:
    bad = abs(a.nan - b.nan) + abs(a.inf - b.inf)
    scales = rms(a), rms(b)
    greatest = magnitude(a), magnitude(b)
    if None in scales or None in greatest:
        return (0.0 if scales == greatest == (None, None) else None), bad
    assert scales[0] is not None and scales[1] is not None
    assert a.mean is not None and b.mean is not None
    assert a.minimum is not None and b.minimum is not None
    assert a.maximum is not None and b.maximum is not None
    differences = [
        _relative(scales[0] - scales[1], scales[0]),
        _relative(a.mean - b.mean, scales[0]),
        _relative(a.minimum - b.minimum, greatest[0]),
        _relative(a.maximum - b.maximum, greatest[0]),
    ]
    return max(differences), bad


def _relative(difference: float, size: float | None) -> float:
    if not difference:
        return 0.0
    return abs(difference) / size if size else math.inf
