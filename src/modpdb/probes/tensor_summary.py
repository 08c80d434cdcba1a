"""What there is to say of one tensor: facts, statistics, memory, first and last values, norms."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from modpdb.probes import lazy
from modpdb.probes._static import class_name
from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes._workers import in_threads
from modpdb.probes.tensor_like import (
    BUDGET,
    TooMuch,
    Watch,
    kind,
    lora_halves,
    pieces,
    shape_and_dtype,
    values,
)
from modpdb.probes.tensors import (
    CHUNK,
    NoStatistics,
    Statistics,
    TensorReader,
    is_parameter,
    statistics,
    statistics_of,
)

BINS = 48
_CORNER = 4  # values shown from either end


@dataclass(frozen=True, slots=True)
class Memory:
    """How a tensor lies in its storage; *offset* in elements, *storage* in bytes."""

    strides: tuple[int, ...]
    contiguous: bool
    offset: int
    storage: int


@dataclass(frozen=True, slots=True)
class Norms:
    """Euclidean norms of the rows or columns of a matrix; *at* is where the greatest stands."""

    least: float
    median: float
    greatest: float
    at: int


@dataclass(frozen=True, slots=True)
class TensorSummary:
    """One tensor. *of*: what the statistics are over, "" for its values. *same*: other names of
    the very object; *shared*: names of others that lie in the same storage. *parts*: the halves
    of a LoRA tensor, whose product has *shape*. *cost* is set where values were not computed
    because of it."""

    name: str
    class_name: str
    shape: tuple[int, ...] | None
    dtype: str
    nbytes: int | None
    words: tuple[str, ...] = ()
    statistics: Statistics | None = None
    no_statistics: str = ""
    of: str = ""
    memory: Memory | None = None
    same: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    first: tuple[Any, ...] = ()
    last: tuple[Any, ...] = ()
    rows: Norms | None = None
    columns: Norms | None = None
    history: lazy.Leaf | lazy.Made | None = None
    cost: lazy.Cost | None = None
    parts: tuple[TensorSummary, ...] = ()


@dataclass(frozen=True, slots=True)
class How:
    """*force*: compute whatever it costs; *names*: as for `lazy.history`; *watch* is told of
    progress."""

    force: bool = False
    budget: int = BUDGET
    names: Mapping[int, str] | None = None
    watch: Watch | None = None


def summarise(
    name: str, value: Any, neighbours: Iterable[tuple[str, Any]] = (), how: How | None = None
) -> TensorSummary:
    """All of *value*, which `kind` calls a tensor. Ctrl-C leaves partial statistics.

    *neighbours* are looked through for tensors in the same memory.
    """
    how = how or How()
    found = kind(value)
    shape, dtype, nbytes = shape_and_dtype(value)
    known: dict[str, Any] = {
        "name": name,
        "class_name": class_name(type(value)),
        "shape": shape,
        "dtype": dtype,
        "nbytes": nbytes,
    }
    if found == "lora":
        halves = zip("AB", lora_halves(value), strict=True)
        known["parts"] = tuple(summarise(half, each, (), how) for half, each in halves)
        return TensorSummary(**known)
    if found == "torch":
        known["words"] = _words(value)
    if found in ("torch", "numpy"):
        known["memory"] = _memory(value)
        others = (each for each in neighbours if not f".{each[0]}".endswith(f".{name}"))
        known["same"], known["shared"] = _sharing(value, others)
    if found == "lazy":
        known["history"] = lazy.history(value, how.names or {})
    try:
        known |= _read(value, how)
    except NoStatistics as reason:
        known["no_statistics"] = str(reason)
    except KeyboardInterrupt:
        known["no_statistics"] = "interrupted before there were any values"
    return TensorSummary(**known)


def _read(value: Any, how: How) -> dict[str, Any]:
    """What is known by reading the values."""
    watch = None if how.watch is None else partial(how.watch, "reading")
    streamed = pieces(value)
    if streamed is not None:
        chunks, elements = streamed
        found = statistics_of(chunks, elements, bins=BINS, watch=watch, interruptible=True)
        return {"statistics": found}
    plain = values(value, force=how.force, budget=how.budget, watch=how.watch)
    if isinstance(plain, TooMuch):
        return {"cost": plain.cost}
    torch = torch_or_none()
    with undisturbed(torch):
        plain, of, each = _readable(torch, plain)
        options: dict[str, Any] = {} if each is None else {"each": each}
        found = statistics(plain, bins=BINS, watch=watch, interruptible=True, **options)
        known: dict[str, Any] = {"statistics": found, "of": of}
        if not of.startswith("the "):
            known["first"], known["last"] = _corners(plain)
        if each is None and not found.partial:
            known |= _norms(torch, plain, found, how.watch)
        return known


def _readable(torch: Any, tensor: Any) -> tuple[Any, str, Any]:
    """What statistics are taken of, a word for it, and what is done to every chunk."""
    if tensor.layout is torch.sparse_coo:
        tensor = tensor._values()
        return tensor, f"the {tensor.numel():,} stored values", None
    if tensor.layout is not torch.strided and hasattr(tensor, "values"):
        tensor = tensor.values()
        return tensor, f"the {tensor.numel():,} stored values", None
    if tensor.is_complex():
        return tensor, "magnitudes", torch.abs
    if tensor.is_quantized:
        return tensor, "dequantised values", torch.dequantize
    return tensor, "", None


def _words(tensor: Any) -> tuple[str, ...]:
    """What is unusual of a torch tensor."""
    torch = torch_or_none()
    with undisturbed(torch):
        facts = TensorReader(torch).facts(tensor)
        layout = torch._C.TensorBase.layout.__get__(tensor)
    words = []
    if facts.local_shape is not None:
        words.append(f"here {list(facts.local_shape)}")
    if facts.device != "cpu":
        words.append(facts.device)
    if layout is not torch.strided:
        words.append(str(layout).removeprefix("torch."))
    if facts.requires_grad is not is_parameter(tensor, torch.nn.Parameter):
        words.append("requires_grad" if facts.requires_grad else "frozen")
    return tuple(words)


# -- memory --------------------------------------------------------------------------------------


def _memory(value: Any) -> Memory | None:
    """None where it lies in no storage: sparse, uninitialised, a wrapper of others."""
    if kind(value) == "numpy":
        numpy: Any = sys.modules["numpy"]
        get = {name: getattr(numpy.ndarray, name).__get__(value) for name in _ARRAY}
        size = get["dtype"].itemsize or 1
        strides = tuple(stride // size for stride in get["strides"])
        start, end = _region(value) or (0, 0)
        address = get["__array_interface__"]["data"][0]
        return Memory(strides, get["flags"].c_contiguous, (address - start) // size, end - start)
    torch = torch_or_none()
    base = torch._C.TensorBase
    try:
        with undisturbed(torch):
            return Memory(
                tuple(base.stride(value)),
                base.is_contiguous(value),
                base.storage_offset(value),
                base.untyped_storage(value).nbytes(),
            )
    except (RuntimeError, NotImplementedError, ValueError):
        return None


_ARRAY = ("dtype", "strides", "flags", "__array_interface__")


def _sharing(
    value: Any, neighbours: Iterable[tuple[str, Any]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    same, shared = [], []
    region = _region(value)
    for name, other in neighbours:
        if other is value:
            same.append(name)
        elif region is not None and (theirs := _region(other)) is not None:
            start, end = max(region[0], theirs[0]), min(region[1], theirs[1])
            if start < end:
                shared.append(name)
    return tuple(dict.fromkeys(same)), tuple(dict.fromkeys(shared))


def _region(value: Any) -> tuple[int, int] | None:
    """Addresses of the storage behind *value*, from and to."""
    found = kind(value)
    if found == "numpy":
        numpy: Any = sys.modules["numpy"]
        owner = value
        while type(base := numpy.ndarray.base.__get__(owner)) is numpy.ndarray:
            owner = base
        start = numpy.ndarray.__array_interface__.__get__(owner)["data"][0]
        return start, start + numpy.ndarray.nbytes.__get__(owner)
    if found != "torch":
        return None
    torch = torch_or_none()
    try:
        with undisturbed(torch):
            storage = torch._C.TensorBase.untyped_storage(value)
            start = storage.data_ptr()
            return (start, start + storage.nbytes()) if start else None
    except (RuntimeError, NotImplementedError, ValueError):
        return None


# -- values --------------------------------------------------------------------------------------


def _corners(tensor: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The first and the last values in the order of the indices; the last without the first."""
    elements = math.prod(tensor.shape)
    first = range(min(_CORNER, elements))
    last = range(max(_CORNER, elements - _CORNER), elements)
    try:
        return tuple(_item(tensor, i) for i in first), tuple(_item(tensor, i) for i in last)
    except (RuntimeError, NotImplementedError):  # a dtype without items, as float4
        return (), ()


def _item(tensor: Any, place: int) -> Any:
    return tensor[index_of(place, tensor.shape)].item()


def index_of(place: int, shape: Iterable[int]) -> tuple[int, ...]:
    """The index of the element that comes as number *place* in the order of the indices."""
    index: list[int] = []
    for size in reversed(tuple(shape)):
        place, rest = divmod(place, size)
        index.insert(0, rest)
    return tuple(index)


def _norms(torch: Any, tensor: Any, found: Statistics, watch: Watch | None) -> dict[str, Any]:
    """Of the rows and columns of a floating matrix whose values are all finite."""
    if tensor.ndim != 2 or min(tensor.shape) < 2 or not tensor.is_floating_point():
        return {}
    biggest = max(-(found.minimum or 0.0), found.maximum or 0.0)
    if found.nan or found.inf or not biggest:
        return {}
    rows, columns = tensor.shape
    high = max(1, CHUNK // columns)
    double = tensor.dtype is torch.float64

    by_row = torch.empty(rows, dtype=torch.float64)
    by_column = torch.zeros(columns, dtype=torch.float64, device=tensor.device)

    def squares(start: int) -> Any:
        block = tensor[start : start + high].to(torch.float64 if double else torch.float32)
        block = block.div_(biggest) if block.dtype is not tensor.dtype else block / biggest
        block.square_()
        by_row[start : start + high] = block.sum(1)
        return block.sum(0)

    try:
        for done, column in enumerate(in_threads(torch, range(0, rows, high), squares)):
            by_column += column
            if watch is not None:
                watch("norms", min((done + 1) * high, rows), rows)
    except KeyboardInterrupt:
        return {}
    return {"rows": _spread(by_row, biggest), "columns": _spread(by_column, biggest)}


def _spread(squares: Any, scale: float) -> Norms:
    norms = squares.sqrt()
    least, median, greatest = (
        float(each) * scale for each in (norms.min(), norms.median(), norms.max())
    )
    return Norms(least, median, greatest, int(norms.argmax()))
