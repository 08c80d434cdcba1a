"""Everything that is a tensor in some way, and its values as a plain torch tensor.

torch's own and subclasses, numpy arrays, gguf's lazy and chunked tensors, the halves of a LoRA
tensor, slices of an open safetensors file. Each is known by its class or by what it has, nothing
of it is run but what reads values, and nothing is written back.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from modpdb.probes import lazy
from modpdb.probes._static import (
    class_attribute,
    class_name,
    instance_dict,
    is_a,
    namespace,
    qualified_name,
)
from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.tensors import (
    CHUNK,
    NoStatistics,
    TensorReader,
    flat_chunks,
    local_tensor,
    short_dtype,
)

Watch = Callable[[str, int, int], None]  # what is done, how far, of how much

BUDGET = 2 << 30  # bytes that are read and held without being asked for


@dataclass(frozen=True, slots=True)
class TooMuch:
    """What it would cost to have the values: more than may be spent without being asked."""

    cost: lazy.Cost


def kind(value: object) -> str:
    """How *value* is a tensor: torch, lazy, chunked, lora, slice, numpy; "" where it is none."""
    torch = torch_or_none()
    if torch is not None and TensorReader(torch).is_tensor(value):
        return "torch"
    state = instance_dict(value)
    if lazy.is_lazy(value):
        return "lazy"
    numpy = sys.modules.get("numpy")
    if type(state.get("_chunks")) is list and type(state.get("shape")) is tuple:
        return "chunked" if numpy and is_a(state.get("dtype"), numpy.dtype) else ""
    if "_lora_A" in state and "_lora_B" in state:
        return "lora"
    if qualified_name(type(value)) in ("PySafeSlice", "safetensors.PySafeSlice"):
        return "slice"
    if numpy is not None and is_a(value, getattr(numpy, "ndarray", type(None))):
        return "numpy"
    return ""


def shape_and_dtype(value: Any) -> tuple[tuple[int, ...] | None, str, int | None]:
    """Shape, dtype and bytes, with no data read; None for those that are not known."""
    found = kind(value)
    torch = torch_or_none()
    if found == "torch":
        with undisturbed(torch):
            facts = TensorReader(torch).facts(value)
        return facts.shape, facts.dtype, facts.nbytes
    if found == "lazy":
        return lazy.shape_and_dtype(value)
    if found == "numpy":
        numpy: Any = sys.modules["numpy"]
        dtype = numpy.ndarray.dtype.__get__(value)
        shape = numpy.ndarray.shape.__get__(value)
        return shape, short_dtype(str(dtype)), math.prod(shape) * dtype.itemsize
    if found == "chunked":
        state = instance_dict(value)
        shape, dtype = tuple(state["shape"]), state["dtype"]
        return shape, short_dtype(str(dtype)), math.prod(shape) * dtype.itemsize
    if found == "slice":
        shape = tuple(value.get_shape())
        return shape, short_dtype(value.get_dtype()), None
    if found == "lora":
        (a, _, _), (b, dtype, _) = (shape_and_dtype(half) for half in lora_halves(value))
        return (None if a is None or b is None else (*b[:-1], a[-1])), dtype, None
    return None, "?", None


def lora_halves(value: Any) -> tuple[Any, Any]:
    state = instance_dict(value)
    return state["_lora_A"], state["_lora_B"]


def values(
    value: Any, *, force: bool = False, budget: int = BUDGET, watch: Watch | None = None
) -> Any:
    """*value* as a plain torch tensor that shares its memory where it has any; or TooMuch.

    A lazy tensor is computed beside its graph, a DTensor gives its shard. Raises NoStatistics
    where there is nothing to read.
    """
    torch = torch_or_none()
    if torch is None:
        raise NoStatistics("torch, which would read it, is not imported by the script")
    found = kind(value)
    if found == "lazy":
        price = lazy.cost(value)
        if price.held > budget and not force:
            return TooMuch(price)
        return _plain(torch, _computed(value, watch))
    if found == "slice":
        shape, _, _ = shape_and_dtype(value)
        size = _slice_bytes(value)
        if size > budget and not force:
            return TooMuch(lazy.Cost(size, size))
        return _plain(torch, value[:] if shape else value[...])
    if found in ("torch", "numpy"):
        return _plain(torch, value)
    raise NoStatistics("not one tensor in memory")


def _computed(value: Any, watch: Watch | None) -> Any:
    torch = torch_or_none()
    told = None if watch is None else lambda done, of: watch("computing", done, of)
    try:
        with torch.no_grad():
            return lazy.evaluate(value, told)
    except Exception as error:  # whatever the converter's operations raise
        said = str(error).splitlines()
        words = f"{class_name(type(error))}: {said[0]}" if said else class_name(type(error))
        raise NoStatistics(f"it cannot be computed: {words}") from error


def _plain(torch: Any, value: Any) -> Any:
    if kind(value) == "numpy":
        return _of_numpy(torch, value)
    with undisturbed(torch):
        shard = local_tensor(value)
        value = value if shard is None else shard
        if type(value) in (torch.Tensor, torch.nn.Parameter):
            return value.detach()
        if is_a(value, torch.nn.parameter.UninitializedTensorMixin):
            raise NoStatistics("uninitialised")
        dispatch = class_attribute(type(value), "__torch_dispatch__")
        if dispatch is not namespace(torch.Tensor).get("__torch_dispatch__"):
            name = class_name(type(value))
            raise NoStatistics(f"a {name}, whose own __torch_dispatch__ would have to run")
        return torch._C.TensorBase.as_subclass(value, torch.Tensor).detach()


class _Writable:
    """An array's memory under a flag that it may be written to, which it is not.

    torch warns, once for the whole program, when it is given memory that is read-only.
    """

    def __init__(self, array: Any, interface: dict[str, Any]) -> None:
        self.array = array  # kept alive
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def _of_numpy(torch: Any, array: Any) -> Any:
    numpy: Any = sys.modules["numpy"]
    array = numpy.ndarray.view(array, numpy.ndarray)
    brain = str(array.dtype) == "bfloat16"  # of the package ml_dtypes
    if brain:
        array = array.view(numpy.uint16)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    try:
        if array.size:
            array = numpy.asarray(_Writable(array, array.__array_interface__))
        tensor = torch.from_numpy(array if array.size else numpy.empty_like(array))
    except (TypeError, ValueError) as error:
        raise NoStatistics(f"numpy's dtype {array.dtype}, which torch does not have") from error
    return tensor.view(torch.bfloat16) if brain else tensor


def _slice_bytes(value: Any) -> int:
    from modpdb.probes.safetensors_files import bytes_of

    shape = tuple(value.get_shape())
    known = bytes_of(value.get_dtype(), shape)
    return 8 * math.prod(shape) if known is None else known


def pieces(value: Any, watch: Watch | None = None) -> tuple[Iterator[Any], int] | None:
    """The values of a chunked tensor or a safetensors slice, a part at a time, flat, and how many
    there are; None for what is in memory or is computed as a whole."""
    torch = torch_or_none()
    found = kind(value)
    if torch is None or found not in ("chunked", "slice"):
        return None
    shape, _, _ = shape_and_dtype(value)
    assert shape is not None
    if found == "slice" and not shape:
        return None
    parts = _loaded(value) if found == "chunked" else _read(value, shape)
    return (
        (flat for part in parts for flat in flat_chunks(_plain(torch, part))),
        math.prod(shape),
    )


def _loaded(value: Any) -> Iterator[Any]:
    for load in instance_dict(value)["_chunks"]:
        yield load()


def _read(value: Any, shape: tuple[int, ...]) -> Iterator[Any]:
    rows = max(1, CHUNK // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], rows):
        yield value[start : start + rows]
