"""How one tensor is made of another: found by a few values, proved on all of them.

A relation holds to the bit: what is named is done to the source, in the source's dtype, float32 or
float64 as a converter would, and the result cast to the target's dtype is the target. Only where
*exact* is False is it no more than that: no value is further off than rounding explains.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.pairs import paired, same_values, sampled
from modpdb.probes.tensors import CHUNK, short_dtype

Kind = Literal[
    "identical", "reshaped", "transposed", "permuted", "rope", "plus", "times", "negated exp",
    "slice", "stacked",
]  # fmt: skip

_SAMPLE = 64  # elements looked at before all are
_HEADS = 512  # head counts tried for RoPE
_STARTS = 4  # places tried at which a slice may begin


@dataclass(frozen=True, slots=True)
class Cast:
    """From one dtype to another: how many values it changed, and made infinite."""

    before: str
    after: str
    rounded: int
    overflow: int


@dataclass(frozen=True, slots=True)
class Relation:
    """*words* say what was done to the source: `transposed`, `+ 1`, `rows 128:256`.

    *kind* "stacked": the source is the part of the target that *words* name. *heads*: the head
    counts that explain RoPE's permutation. *cast*: None where the dtypes are the same.
    """

    kind: Kind
    words: str
    cast: Cast | None = None
    exact: bool = True
    heads: tuple[int, ...] = ()
    constant: float | None = None


def find_relation(source: Any, target: Any) -> Relation | None:
    """The simplest relation by which torch tensor *target* is made of *source*."""
    return next(relations(source, target), None)


def relations(source: Any, target: Any) -> Iterator[Relation]:
    """Every relation that holds, the simplest first; both are dense tensors in memory."""
    torch = torch_or_none()
    with undisturbed(torch):
        if 0 in source.shape or 0 in target.shape:
            return
        found: list[Callable[[Any, Any, Any], Iterator[Relation]]] = []
        if math.prod(source.shape) == math.prod(target.shape):
            found = [_rearranged, _rope, _computed, _rows_permuted]
        for search in (*found, _parts):
            yield from search(torch, source, target)


# -- equality ------------------------------------------------------------------------------------


def _at(tensor: Any, places: list[tuple[int, ...]]) -> Any:
    """The values at *places*, as a flat tensor."""
    return tensor[tuple(map(list, zip(*places, strict=True)))] if tensor.ndim else tensor.view(1)


def _equal(torch: Any, source: Any, target: Any, made: Callable[[Any], Any] | None = None) -> bool:
    """Whether `made(source)`, cast to the target's dtype, is the target; a few values first."""
    made = made or (lambda values: values)

    def holds(one: Any, other: Any) -> bool:
        return bool(same_values(torch, made(one).to(other.dtype), other).all())

    places = sampled(target, _SAMPLE)
    if not holds(_at(source, places), _at(target, places)):
        return False
    return all(holds(one, other) for _, one, other in paired(source, target))


def _cast(torch: Any, source: Any, target: Any) -> Cast | None:
    """What the cast of *source* to the dtype of *target*, of the same shape, has done."""
    if source.dtype is target.dtype:
        return None
    rounded = overflow = 0
    for _, one, other in paired(source, target):
        wide, cast = one.to(torch.float64), other.to(torch.float64)
        rounded += int((~same_values(torch, wide, cast)).sum())
        overflow += int((cast.isinf() & ~wide.isinf()).sum())
    before, after = (short_dtype(str(each.dtype)) for each in (source, target))
    return Cast(before, after, rounded, overflow)


# -- the same values in another order ------------------------------------------------------------


def _rearranged(torch: Any, source: Any, target: Any) -> Iterator[Relation]:
    if source.shape == target.shape and _equal(torch, source, target):
        yield Relation("identical", "", _cast(torch, source, target))
    elif source.shape != target.shape:
        flat = source.reshape(target.shape)
        if _equal(torch, flat, target):
            ones = [size for size in source.shape if size != 1]
            squeezed = ones == [size for size in target.shape if size != 1]
            word = "squeezed" if squeezed and target.ndim < source.ndim else "reshaped"
            word = "unsqueezed" if squeezed and target.ndim > source.ndim else word
            yield Relation("reshaped", word, _cast(torch, flat, target))
    if not 2 <= source.ndim <= 5 or source.ndim != target.ndim:
        return
    for order in itertools.permutations(range(source.ndim)):
        turned = source.permute(order)
        plain = order == tuple(range(source.ndim))
        if not plain and turned.shape == target.shape and _equal(torch, turned, target):
            word = "transposed" if source.ndim == 2 else f"permute{order}"
            yield Relation("transposed", word, _cast(torch, turned, target))


def _rope(torch: Any, source: Any, target: Any) -> Iterator[Relation]:
    """Rows reordered within each head, for interleaved instead of NeoX rotation or back
    (`LlamaModel.permute` in llama.cpp's conversion)."""
    rows = source.shape[0] if source.ndim else 0
    if source.shape != target.shape or rows < 4:
        return
    forward: list[int] = []
    back: list[int] = []
    order_of: dict[int, Any] = {}
    for heads in range(1, min(rows // 4, _HEADS) + 1):
        if rows % (2 * heads):
            continue
        order = torch.arange(rows).view(heads, 2, -1).transpose(1, 2).reshape(-1)
        inverse = order.argsort()
        for found, rearranged in ((forward, order), (back, inverse)):
            if _rows_equal(torch, source, target, rearranged):
                found.append(heads)
                order_of.setdefault(id(found), rearranged)
    for found, word in ((forward, "permuted"), (back, "permuted back")):
        if found:
            cast = _cast(torch, source[order_of[id(found)]], target)
            words = f"rows {word} per head, as RoPE's pairs"
            yield Relation("rope", words, cast, heads=tuple(found))


def _rows_equal(torch: Any, source: Any, target: Any, order: Any) -> bool:
    """Whether the rows of *target* are those of *source* in *order*, a few of them first."""
    rows = order.shape[0]
    step = max(1, rows // _SAMPLE)
    few = torch.arange(0, rows, step)
    corner = (slice(None), *(slice(0, _SAMPLE) for _ in range(source.ndim - 1)))
    if not same_values(
        torch, source[order[few]][corner].to(target.dtype), target[few][corner]
    ).all():
        return False
    high = max(1, CHUNK // max(1, math.prod(source.shape[1:])))
    for start in range(0, rows, high):
        part = source[order[start : start + high]].to(target.dtype)
        if not same_values(torch, part, target[start : start + high]).all():
            return False
    return True


def _rows_permuted(torch: Any, source: Any, target: Any) -> Iterator[Relation]:
    """Rows in any other order, matched by a weighted sum of each."""
    if source.shape != target.shape or source.ndim < 1 or source.shape[0] < 2:
        return
    ours = _row_sums(torch, source, target.dtype).argsort(stable=True)
    theirs = _row_sums(torch, target, target.dtype).argsort(stable=True)
    order = torch.empty_like(ours)
    order[theirs] = ours
    moved = int((order != torch.arange(order.shape[0])).sum())
    if moved and _rows_equal(torch, source, target, order):
        noun = "rows" if source.ndim > 1 else "values"
        words = f"{noun} permuted, {moved:,} of {order.shape[0]:,} moved"
        yield Relation("permuted", words, _cast(torch, source[order], target))


def _row_sums(torch: Any, tensor: Any, dtype: Any) -> Any:
    """A number for each row, the same for rows that are the same."""
    rows = tensor.reshape(tensor.shape[0], -1)
    weights = torch.arange(1, rows.shape[1] + 1, dtype=torch.float64).sqrt().sin() + 1.5
    high = max(1, CHUNK // rows.shape[1])
    return torch.cat(
        [
            (rows[start : start + high].to(dtype).to(torch.float64) * weights).sum(1)
            for start in range(0, rows.shape[0], high)
        ]
    ).nan_to_num()


# -- the same shape, other values ----------------------------------------------------------------


def _computed(torch: Any, source: Any, target: Any) -> Iterator[Relation]:
    if not (source.is_floating_point() and target.is_floating_point()):
        return
    if source.shape != target.shape:
        if [s for s in source.shape if s != 1] != [s for s in target.shape if s != 1]:
            return
        source = source.reshape(target.shape)  # Gemma's conv weights: squeezed and scaled
    yield from _plus(torch, source, target)
    yield from _times(torch, source, target)
    yield from _negated_exp(torch, source, target)


def _plus(torch: Any, source: Any, target: Any) -> Iterator[Relation]:
    a, b = _finite_sample(torch, source, target)
    if not a.shape[0]:
        return
    constant = float((b - a).median())
    for value in _nice(constant):
        if value and _in_some_dtype(torch, source, target, partial(operator.add, value)):
            yield Relation("plus", f"{value:+.10g}"[0] + f" {abs(value):.10g}", constant=value)
            return
    if constant and _close(torch, source, target, lambda x: x + constant, abs(constant)):
        words = f"{constant:+.5g}"[0] + f" {abs(constant):.5g}"
        yield Relation("plus", words, exact=False, constant=constant)


def _times(torch: Any, source: Any, target: Any) -> Iterator[Relation]:
    a, b = _finite_sample(torch, source, target)
    a, b = a[a != 0], b[a != 0]
    if not a.shape[0]:
        return
    constant = float((b / a).median())
    roots = [math.copysign(math.sqrt(round(constant**2)), constant)] if abs(constant) < 1e6 else []
    for value in (*_nice(constant), *roots):
        if value not in (0.0, 1.0) and _in_some_dtype(
            torch, source, target, partial(operator.mul, value)
        ):
            yield Relation("times", f"× {value:.10g}", constant=value)
            return
    if constant not in (0.0, 1.0) and _close(torch, source, target, lambda x: x * constant, 0.0):
        yield Relation("times", f"× {constant:.5g}", exact=False, constant=constant)


def _negated_exp(torch: Any, source: Any, target: Any) -> Iterator[Relation]:
    if _in_some_dtype(torch, source, target, lambda x: -x.exp()):
        yield Relation("negated exp", "negated exponential, -exp(x)")
    elif _close(torch, source, target, lambda x: -x.exp(), 0.0):
        yield Relation("negated exp", "negated exponential, -exp(x)", exact=False)


def _finite_sample(torch: Any, source: Any, target: Any) -> tuple[Any, Any]:
    places = sampled(target, _SAMPLE)
    a, b = (_at(each, places).to(torch.float64) for each in (source, target))
    finite = a.isfinite() & b.isfinite()
    return a[finite], b[finite]


def _nice(constant: float) -> list[float]:
    """*constant* rounded to ever more digits, then as it is, each once."""
    if not math.isfinite(constant):
        return []
    rounded = [float(f"{constant:.{digits}g}") for digits in range(1, 9)]
    return list(dict.fromkeys([float(round(constant)), *rounded, constant]))


def _in_some_dtype(torch: Any, source: Any, target: Any, made: Callable[[Any], Any]) -> bool:
    """Whether *made* gives the target when computed in one of the dtypes that converters use."""

    def made_in(dtype: Any, values: Any) -> Any:
        return made(values.to(dtype))

    dtypes = dict.fromkeys((source.dtype, torch.float32, torch.float64))
    return any(
        _equal(torch, source, target, partial(made_in, dtype))
        for dtype in dtypes
        if dtype.itemsize >= 2  # nothing is computed in float8
    )


def _close(torch: Any, source: Any, target: Any, made: Callable[[Any], Any], scale: float) -> bool:
    """Whether no value is off by more than rounding: four units in the last place of the coarser
    dtype, at the size of the result or of *scale*."""
    unit = 4 * max(torch.finfo(each.dtype).eps for each in (source, target))

    def near(a: Any, b: Any) -> bool:
        wide, other = made(a.to(torch.float64)), b.to(torch.float64)
        room = unit * wide.abs().clamp(min=scale)
        return bool((((wide - other).abs() <= room) | same_values(torch, wide, other)).all())

    places = sampled(target, _SAMPLE)
    if not near(_at(source, places), _at(target, places)):
        return False
    # Where the bound is wider than the values are apart, anything would be near.
    seen, _ = _finite_sample(torch, source, target)
    if scale and float((seen - seen.mean()).abs().max()) <= unit * scale:
        return False
    return all(near(one, other) for _, one, other in paired(source, target))


# -- parts ---------------------------------------------------------------------------------------


def _parts(torch: Any, source: Any, target: Any) -> Iterator[Relation]:
    for words, part in _slices(torch, source, target):
        yield Relation("slice", words, _cast(torch, part, target))
    for words, part in _slices(torch, target, source):
        yield Relation("stacked", words, _cast(torch, source, part))


def _slices(torch: Any, whole: Any, part: Any) -> Iterator[tuple[str, Any]]:
    """Where *part* is found in *whole*, as words and a view; equal after a cast either way."""
    if whole.ndim == part.ndim + 1 and whole.shape[1:] == part.shape:
        for start in _starts(torch, whole, part.unsqueeze(0), 0):
            yield f"number {start:,} of the {whole.shape[0]:,}", whole[start]
    if whole.ndim != part.ndim:
        return
    dims = [d for d in range(whole.ndim) if whole.shape[d] != part.shape[d]]
    if len(dims) != 1 or whole.shape[dims[0]] < part.shape[dims[0]]:
        return
    (dim,) = dims
    noun = ["columns", "rows"][dim == 0] if whole.ndim == 2 else f"dimension {dim},"
    noun = "values" if whole.ndim == 1 else noun
    for start in _starts(torch, whole, part, dim):
        end = start + part.shape[dim]
        yield (
            f"{noun} {start:,}:{end:,} of the {whole.shape[dim]:,}",
            whole.narrow(dim, start, part.shape[dim]),
        )


def _starts(torch: Any, whole: Any, part: Any, dim: int) -> Iterator[int]:
    """Where along *dim* all of *part* stands in *whole*, by a few values of its first slice."""
    first = part.select(dim, 0)
    places = sampled(first, _SAMPLE)
    wanted = _at(first, places)
    across = whole.movedim(dim, -1)
    index = tuple(map(list, zip(*places, strict=True)))
    lines = across[index] if first.ndim else across.view(1, -1)
    length = part.shape[dim]
    lines = lines[..., : whole.shape[dim] - length + 1]
    equal = _alike(torch, lines, wanted.unsqueeze(-1)).all(0)
    for start in equal.nonzero().flatten()[:_STARTS].tolist():
        found = whole.narrow(dim, start, length)
        if all(bool(_alike(torch, a, b).all()) for _, a, b in paired(found, part)):
            yield start
            return


def _alike(torch: Any, one: Any, other: Any) -> Any:
    """Equal, in the narrower of two dtypes."""
    if one.dtype is not other.dtype:
        narrow = min((one.dtype, other.dtype), key=lambda dtype: dtype.itemsize)
        one, other = one.to(narrow), other.to(narrow)
    return same_values(torch, one, other)
