"""Two torch tensors of one shape, a chunk of both at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from modpdb.probes.tensors import CHUNK


def paired(one: Any, other: Any) -> Iterator[tuple[tuple[int, ...], Any, Any]]:
    """Index of the first element, and pieces of both of at most CHUNK elements, in the order of
    the indices; a piece has all dimensions. Where *other* holds the last dimension by blocks, in
    another size, that is not parted."""
    yield from _parted(one, other, (0,) * one.ndim)


def _parted(one: Any, other: Any, start: tuple[int, ...]) -> Iterator[tuple[Any, Any, Any]]:
    elements = math.prod(one.shape)
    if elements <= CHUNK:
        if elements:
            yield start, one, other
        return
    dim = next(dim for dim, size in enumerate(one.shape) if size > 1)
    size = one.shape[dim]
    if other.shape[dim] != size:
        yield start, one, other
        return
    step = max(1, size * CHUNK // elements)
    for begin in range(0, size, step):
        length = min(step, size - begin)
        place = (*start[:dim], start[dim] + begin, *start[dim + 1 :])
        yield from _parted(one.narrow(dim, begin, length), other.narrow(dim, begin, length), place)


def same_values(torch: Any, one: Any, other: Any) -> Any:
    """Where two tensors are equal, NaN being equal to NaN."""
    equal = one == other
    if one.is_floating_point() or one.is_complex():
        equal |= (one != one) & (other != other)
    return equal


def sampled(tensor: Any, count: int) -> list[tuple[int, ...]]:
    """Up to *count* indices spread evenly over *tensor*, the first and the last among them."""
    from modpdb.probes.tensor_summary import index_of

    elements = math.prod(tensor.shape)
    places = {round(i * (elements - 1) / max(1, count - 1)) for i in range(min(count, elements))}
    return [index_of(place, tensor.shape) for place in sorted(places)]
