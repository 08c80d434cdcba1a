"""How one tensor is made of another: found by a few values, proved on all of them.

A relation holds to the bit: what is named is done to the source, in the source's dtype, float32 or
float64 as a converter would, and the result cast or quantised to the target's dtype is the target.
Only where *exact* is False is it no more than that: no value is further off than rounding explains.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.encodings import Cast as Cast
from modpdb.probes.encodings import Target, working_dtype
from modpdb.probes.pairs import paired, same_values
from modpdb.probes.row_orders import RowOrder, row_index
from modpdb.probes.row_relations import Rows, RowSearch
from modpdb.probes.tensors import short_dtype

Kind = Literal[
    "identical", "reshaped", "transposed", "permuted", "rope", "plus", "times", "negated exp",
    "slice", "stacked", "concatenated", "ordered",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Relation:
    """*words* say what was done to the source: `transposed`, `+ 1`, `rows 128:256 of the 384`.

    *kind* "stacked" of one source: it is the part of the target that *words* name. Of several,
    as "concatenated": *parts* has what was done to each. *heads*: the head counts that explain
    RoPE's permutation. *cast*: None where the dtypes are the same. *rows*: those of the source
    that were taken, begin and end, where not all were. *computed*: the dtype in which that was
    done, "" where nothing was computed. *order*: of "ordered", that in which the rows are.
    """

    kind: Kind
    words: str
    cast: Cast | None = None
    exact: bool = True
    heads: tuple[int, ...] = ()
    constant: float | None = None
    parts: tuple[Relation, ...] = ()
    rows: tuple[int, int] | None = None
    computed: str = ""
    order: RowOrder | None = None


def find_relation(source: Any, target: Any) -> Relation | None:
    """The simplest relation by which *target* is made of torch tensor *source*."""
    return next(relations(source, target), None)


def relations(source: Any, target: Any) -> Iterator[Relation]:
    """Every relation that holds, the simplest first; *target* is a dense tensor in memory as
    *source* is, or a Target."""
    torch = torch_or_none()
    target = Target.of(target)
    with undisturbed(torch):
        if 0 in source.shape or 0 in target.shape:
            return
        found: list[Callable[[Any, Any, Target], Iterator[Relation]]] = []
        if math.prod(source.shape) == math.prod(target.shape):
            found = [_rearranged, _rope, _computed, _rows_permuted]
        for search in (*found, _parts):
            yield from search(torch, source, target)


def in_order(source: Any, target: Any, order: RowOrder) -> Relation | None:
    """That *target* is *source* with its rows in *order*; None if it is not."""
    torch = torch_or_none()
    target = Target.of(target)
    with undisturbed(torch):
        index = row_index(torch, order)
        alike = tuple(source.shape) == target.shape and target.has_rows
        if not alike or index.numel() != target.shape[0]:
            return None
        search = RowSearch(torch, source, target)
        rows = search.proved(index) if search.fits(index) else None
    if rows is None:
        return None
    heads = f"{order.heads:,} head{'s' * (order.heads != 1)}"
    words = f"q, k and v of {heads} put together"
    if order.kind != "parts together":
        some = f"{order.size:,} of {order.head_dim:,} " if order.size != order.head_dim else ""
        back = " back" * (order.kind == "to halves")
        words = f"rope: {some}rows permuted{back} within {heads}"
    return Relation("ordered", words, rows.cast, order=order)


def assembled(sources: list[Any], target: Target) -> Iterator[Relation]:
    """*target* as made of several tensors: stacked along a new first dimension, or concatenated,
    in their order, whatever was done to each."""
    torch = torch_or_none()
    with undisturbed(torch):
        for kind, words, places in _layouts(sources, target):
            parts: list[Relation] = []
            for source, held in zip(sources, places, strict=True):
                found = next(relations(source, target.like(held)), None)
                if found is None or not found.exact:
                    break
                parts.append(found)
            else:
                yield Relation(kind, words, _together(parts), parts=tuple(parts))


def stacking_order(sources: list[Any], target: Target) -> list[int] | None:
    """The numbers of the sources as they are stacked in *target*, each as it is; None where they
    are not those that are stacked there."""
    if target.shape[:1] != (len(sources),) or target.ndim < 2:
        return None
    order: list[int] = []
    with undisturbed(torch_or_none()):
        for held in target.held.unbind(0):
            slot = target.like(held)
            rest = (n for n in range(len(sources)) if n not in order)
            found = next((n for n in rest if slot.made_of(sources[n])), None)
            if found is None:
                return None
            order.append(found)
    return order


def _layouts(sources: list[Any], target: Target) -> Iterator[tuple[Kind, str, list[Any]]]:
    """Where each source may lie in the target, as views."""
    shapes = [tuple(each.shape) for each in sources]
    held = target.held
    if target.shape[:1] == (len(sources),) and target.ndim > 1:
        size = math.prod(target.shape[1:])
        if all(math.prod(shape) == size for shape in shapes):
            yield "stacked", f"{len(sources):,} stacked", list(held.unbind(0))
    if {len(shape) for shape in shapes} != {target.ndim}:
        return
    for dim in range(target.ndim):
        if target.blocks and dim == target.ndim - 1:
            continue
        sizes = [shape[dim] for shape in shapes]
        if sum(sizes) != target.shape[dim]:
            continue
        whole = (*target.shape[:dim], 0, *target.shape[dim + 1 :])
        if all((*shape[:dim], 0, *shape[dim + 1 :]) == whole for shape in shapes):
            noun = _noun(target.ndim, dim)
            words = f"{len(sources):,} concatenated, {noun} {' + '.join(map(str, sizes))}"
            yield "concatenated", words, list(held.split(sizes, dim))


def _together(parts: list[Relation]) -> Cast | None:
    """One cast of those of all parts."""
    casts = [part.cast for part in parts if part.cast is not None]
    if not casts:
        return None
    return replace(
        casts[0],
        before=" and ".join(dict.fromkeys(cast.before for cast in casts)),
        rounded=sum(cast.rounded for cast in casts),
        overflow=sum(cast.overflow for cast in casts),
        most=max(cast.most for cast in casts),
    )


# -- the same values in another order ------------------------------------------------------------


def _cast_of(found: Cast | bool) -> Cast | None:
    return found if isinstance(found, Cast) else None


def _rearranged(torch: Any, source: Any, target: Target) -> Iterator[Relation]:
    shape = tuple(source.shape)
    if shape == target.shape:
        if found := target.made_of(source):
            yield Relation("identical", "", _cast_of(found))
    elif found := target.made_of(source.reshape(target.shape)):
        ones = [size for size in shape if size != 1]
        squeezed = ones == [size for size in target.shape if size != 1]
        word = "squeezed" if squeezed and target.ndim < source.ndim else "reshaped"
        word = "unsqueezed" if squeezed and target.ndim > source.ndim else word
        yield Relation("reshaped", word, _cast_of(found))
    if not 2 <= source.ndim <= 5 or source.ndim != target.ndim:
        return
    for order in itertools.permutations(range(source.ndim)):
        turned = source.permute(order)
        plain = order == tuple(range(source.ndim))
        if not plain and tuple(turned.shape) == target.shape and (found := target.made_of(turned)):
            word = "transposed" if source.ndim == 2 else f"permute{order}"
            yield Relation("transposed", word, _cast_of(found))


def _rope(torch: Any, source: Any, target: Target) -> Iterator[Relation]:
    if target.has_rows and tuple(source.shape) == target.shape:
        yield from _rope_of(RowSearch(torch, source, target), 0, target.shape[0])


def _rope_of(search: RowSearch, start: int, length: int, part: str = "") -> Iterator[Relation]:
    for word, heads, rows in search.rope(start, length):
        words = f"{part}rows {word} per head, as RoPE's pairs"
        taken = (start, start + length) if part else None
        yield Relation("rope", words, rows.cast, heads=tuple(heads), rows=taken)


def _rows_permuted(torch: Any, source: Any, target: Target) -> Iterator[Relation]:
    """Rows in any other order."""
    if tuple(source.shape) != target.shape or not target.has_rows or source.shape[0] < 2:
        return
    found = RowSearch(torch, source, target).any_order()
    if found is not None:
        yield from _moved(torch, found, target.ndim)


def _moved(torch: Any, found: Rows, ndim: int) -> Iterator[Relation]:
    length = found.order.shape[0]
    moved = int((found.order != torch.arange(length)).sum())
    if moved:
        noun = "rows" if ndim > 1 else "values"
        words = f"{noun} permuted, {moved:,} of {length:,} moved"
        yield Relation("permuted", words, found.cast)


# -- the same shape, other values ----------------------------------------------------------------


def _computed(torch: Any, source: Any, target: Target) -> Iterator[Relation]:
    if not (source.is_floating_point() and target.floating):
        return
    if tuple(source.shape) != target.shape:
        if [s for s in source.shape if s != 1] != [s for s in target.shape if s != 1]:
            return
        source = source.reshape(target.shape)  # Gemma's conv weights: squeezed and scaled
    yield from _plus(torch, source, target)
    yield from _times(torch, source, target)
    yield from _negated_exp(torch, source, target)


def _plus(torch: Any, source: Any, target: Target) -> Iterator[Relation]:
    a, b = _finite_sample(torch, source, target)
    if not a.shape[0]:
        return
    constant = float((b - a).median())
    for value in _nice(constant):
        add = partial(operator.add, value)
        if value and (dtype := _in_some_dtype(torch, source, target, add)):
            words = f"{value:+.10g}"[0] + f" {abs(value):.10g}"
            yield Relation("plus", words, constant=value, computed=dtype)
            return
    if constant and _close(torch, source, target, lambda x: x + constant, abs(constant)):
        words = f"{constant:+.5g}"[0] + f" {abs(constant):.5g}"
        yield Relation("plus", words, exact=False, constant=constant)


def _times(torch: Any, source: Any, target: Target) -> Iterator[Relation]:
    a, b = _finite_sample(torch, source, target)
    a, b = a[a != 0], b[a != 0]
    if not a.shape[0]:
        return
    constant = float((b / a).median())
    roots = [math.copysign(math.sqrt(round(constant**2)), constant)] if abs(constant) < 1e6 else []
    for value in (*_nice(constant), *roots):
        multiply = partial(operator.mul, value)
        if value not in (0.0, 1.0) and (dtype := _in_some_dtype(torch, source, target, multiply)):
            yield Relation("times", f"× {value:.10g}", constant=value, computed=dtype)
            return
    if constant not in (0.0, 1.0) and _close(torch, source, target, lambda x: x * constant, 0.0):
        yield Relation("times", f"× {constant:.5g}", exact=False, constant=constant)


def _negated_exp(torch: Any, source: Any, target: Target) -> Iterator[Relation]:
    if dtype := _in_some_dtype(torch, source, target, lambda x: -x.exp()):
        yield Relation("negated exp", "negated exponential, -exp(x)", computed=dtype)
    elif _close(torch, source, target, lambda x: -x.exp(), 0.0):
        yield Relation("negated exp", "negated exponential, -exp(x)", exact=False)


def _finite_sample(torch: Any, source: Any, target: Target) -> tuple[Any, Any]:
    one, held = target.few(source)
    a, b = (each.to(torch.float64).flatten() for each in (one, target.decode(held)))
    finite = a.isfinite() & b.isfinite()
    return a[finite], b[finite]


def _nice(constant: float) -> list[float]:
    """*constant* rounded to ever more digits, then as it is, each once."""
    if not math.isfinite(constant):
        return []
    rounded = [float(f"{constant:.{digits}g}") for digits in range(1, 9)]
    return list(dict.fromkeys([float(round(constant)), *rounded, constant]))


def _in_some_dtype(torch: Any, source: Any, target: Target, made: Callable[[Any], Any]) -> str:
    """The dtype, of those that converters use, in which *made* gives the target; "" if in none."""

    def made_in(dtype: Any, values: Any) -> Any:
        return made(values.to(dtype))

    dtypes = (working_dtype(torch, source.dtype), source.dtype, torch.float32, torch.float64)
    for dtype in dict.fromkeys(dtypes):
        # Nothing is computed in float8.
        if dtype.itemsize >= 2 and target.made_of(source, partial(made_in, dtype)):
            return short_dtype(str(dtype))
    return ""


def _close(
    torch: Any, source: Any, target: Target, made: Callable[[Any], Any], scale: float
) -> bool:
    """Whether no value is off by more than rounding: four units in the last place of the coarser
    dtype, at the size of the result or of *scale*."""
    unit = 4 * max(torch.finfo(each.dtype).eps for each in (source, target))

    def near(a: Any, b: Any) -> bool:
        wide, other = made(a.to(torch.float64)), b.to(torch.float64)
        room = unit * wide.abs().clamp(min=scale)
        return bool((((wide - other).abs() <= room) | same_values(torch, wide, other)).all())

    one, held = target.few(source)
    if target.blocks or not near(one, target.decode(held)):
        return False
    # Where the bound is wider than the values are apart, anything would be near.
    seen, _ = _finite_sample(torch, source, target)
    if scale and float((seen - seen.mean()).abs().max()) <= unit * scale:
        return False
    return all(near(one, target.decode(held)) for _, one, held in paired(source, target.held))


# -- parts ---------------------------------------------------------------------------------------


def _parts(torch: Any, source: Any, target: Target) -> Iterator[Relation]:
    yield from _slices(torch, source, target)
    if target.blocks or target.held.dtype is not target.dtype:
        return  # of what is written the parts are looked for one by one: assembled()
    # The source is a part of the target: equal in the narrower of the two dtypes.
    narrow = source.dtype.itemsize < target.dtype.itemsize
    part = Target.of(source if narrow else source.to(target.dtype))
    for found in _slices(torch, target.held, part):
        if found.kind == "slice":
            yield replace(found, kind="stacked", rows=None)


def _slices(torch: Any, whole: Any, part: Target) -> Iterator[Relation]:
    """Where *part* is found in *whole*: one of several that are stacked, or along a dimension a
    stretch, whose rows may be in RoPE's order, or rows from all over."""
    if whole.ndim == part.ndim + 1 and tuple(whole.shape[1:]) == part.shape:
        search = RowSearch(torch, whole, part.like(part.held.unsqueeze(0)))
        for start in search.starts():
            if found := search.part(start, 1):
                words = f"number {start:,} of the {whole.shape[0]:,}"
                yield Relation("slice", words, found.cast, rows=(start, start + 1))
                break
    if whole.ndim != part.ndim:
        return
    dims = [d for d in range(whole.ndim) if whole.shape[d] != part.shape[d]]
    if len(dims) != 1 or whole.shape[dims[0]] < part.shape[dims[0]]:
        return
    (dim,) = dims
    if part.blocks and dim == part.ndim - 1:
        return
    search = RowSearch(torch, whole.movedim(dim, 0), part.like(part.held.movedim(dim, 0)))
    yield from _stretches(torch, search, whole.shape[dim], part.shape[dim], dim, whole.ndim)


def _stretches(
    torch: Any, search: RowSearch, of: int, length: int, dim: int, ndim: int
) -> Iterator[Relation]:
    noun = _noun(ndim, dim)
    starts = search.starts()
    for start in starts:
        if found := search.part(start, length):
            words = f"{noun} {start:,}:{start + length:,} of the {of:,}"
            yield Relation("slice", words, found.cast, rows=(start, start + length))
            break
    if dim:
        return
    for start in starts:
        part = f"{noun} {start:,}:{start + length:,} of the {of:,}, "
        yield from _rope_of(search, start, length, part)
    chosen = search.any_order()
    if chosen is not None and bool((chosen.order.diff() != 1).any()):
        words = f"{length:,} of the {of:,} {noun}, from all over"
        yield Relation("permuted", words, chosen.cast)


def _noun(ndim: int, dim: int) -> str:
    if ndim == 1:
        return "values"
    return ["columns", "rows"][dim == 0] if ndim == 2 else f"dimension {dim},"
