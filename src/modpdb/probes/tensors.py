"""What a tensor says of itself without being read, and its statistics when asked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from modpdb.probes._static import derives, instance_dict, is_a, mro, namespace
from modpdb.probes._torch import torch_or_none, undisturbed

CHUNK = 1 << 20  # elements that statistics hold in float32 at a time

_SHORT = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """Known without reading data; shape, elements and bytes are None where *unsized* says why."""

    shape: tuple[int, ...] | None
    dtype: str
    device: str
    requires_grad: bool
    elements: int | None
    nbytes: int | None
    local_shape: tuple[int, ...] | None = None  # of a DTensor: the shard that is here
    unsized: str = ""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Over the finite values; None where there are none. *std* is the population's."""

    elements: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    nan: int
    inf: int


class NoStatistics(ValueError):
    """Why a tensor has no statistics, in a few words."""


def short_dtype(name: str) -> str:
    """torch's, numpy's or safetensors' dtype in short: bf16, f32, i64, u8, f8_e4m3fn."""
    name = name.removeprefix("torch.")
    return re.sub(
        r"^(bfloat|float|uint|int|complex)(?=\d)", lambda found: _SHORT[found[0]], name
    ).lower()


class TensorReader:
    """Reads tensors through TensorBase's own getters, which a subclass cannot replace."""

    def __init__(self, torch: Any) -> None:
        base = torch._C.TensorBase
        self._shape = base.shape.__get__
        self._dtype = base.dtype.__get__
        self._device = base.device.__get__
        self._requires_grad = base.requires_grad.__get__
        self._tensor = torch.Tensor
        self._plain = {torch.Tensor, torch.nn.Parameter}
        self._lazy = torch.nn.parameter.UninitializedTensorMixin
        self._facts: dict[Any, TensorFacts] = {}
        self._kinds: dict[int, bool] = {}  # by id: a metaclass may define __hash__

    def is_tensor(self, value: object) -> bool:
        cls = type(value)
        known = self._kinds.get(id(cls))
        if known is None:
            known = self._kinds[id(cls)] = derives(cls, self._tensor)
        return known

    def facts(self, tensor: Any) -> TensorFacts:
        """Facts of *tensor*, one object for all that are alike; a DTensor's bytes are global."""
        cls = type(tensor)
        dtype = self._dtype(tensor)
        device = self._device(tensor)
        grad = self._requires_grad(tensor)
        if cls in self._plain:
            key = (self._shape(tensor), dtype, device, grad)
            known = self._facts.get(key)
            if known is None:
                known = self._facts[key] = self._sized(*key)
            return known
        if derives(cls, self._lazy):
            return self._unsized("uninitialised", dtype, device, grad)
        shape = self._shape(tensor)
        if type(math.prod(shape)) is not int:  # sizes still open in a trace: asking would fix them
            return self._unsized("symbolic shape", dtype, device, grad)
        local = local_tensor(tensor)
        return self._sized(
            shape, dtype, device, grad, None if local is None else tuple(self._shape(local))
        )

    @staticmethod
    def _sized(
        shape: Any, dtype: Any, device: Any, grad: bool, local: tuple[int, ...] | None = None
    ) -> TensorFacts:
        elements = math.prod(shape)
        nbytes = elements * dtype.itemsize
        return TensorFacts(
            tuple(shape), short_dtype(str(dtype)), str(device), grad, elements, nbytes, local
        )

    @staticmethod
    def _unsized(why: str, dtype: Any, device: Any, grad: bool) -> TensorFacts:
        name = short_dtype(str(dtype))
        return TensorFacts(None, name, str(device), grad, None, None, unsized=why)


def local_tensor(tensor: Any) -> Any:
    """The shard behind a DTensor; None for any other tensor."""
    for cls in mro(type(tensor)):
        slot = namespace(cls).get("_local_tensor")
        if slot is not None and hasattr(type(slot), "__get__"):
            return slot.__get__(tensor)
    return instance_dict(tensor).get("_local_tensor")


def is_parameter(tensor: Any, parameter_class: type) -> bool:
    """isinstance(tensor, nn.Parameter); a subclass of Tensor is one by its `_is_param` mark."""
    return is_a(tensor, parameter_class) or bool(instance_dict(tensor).get("_is_param"))


def statistics(tensor: Any) -> Statistics:
    """Statistics of *tensor*, read in chunks of CHUNK elements with no full-size copy.

    A DTensor gives those of the shard that is here. Autograd, RNG and the tensor are left as
    they are. Raises NoStatistics where there are no values to read.
    """
    torch = torch_or_none()
    with undisturbed(torch):
        shard = local_tensor(tensor)
        tensor = tensor if shard is None else shard
        _refuse_unreadable(torch, tensor)
        running = _Running(torch)
        try:
            for chunk in _chunks(tensor.detach()):
                running.add(chunk)
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise NoStatistics(str(error).splitlines()[0]) from error
        return running.result()


def _refuse_unreadable(torch: Any, tensor: Any) -> None:
    if is_a(tensor, torch.nn.parameter.UninitializedTensorMixin):
        raise NoStatistics("uninitialised")
    if tensor.device.type == "meta":
        raise NoStatistics("on the meta device")
    if tensor.layout is not torch.strided:
        raise NoStatistics(f"layout {str(tensor.layout).removeprefix('torch.')}")
    if tensor.is_quantized:
        raise NoStatistics("quantised")
    if tensor.is_complex():
        raise NoStatistics("complex")


def _chunks(tensor: Any) -> Iterator[Any]:
    """All elements, in any order, as flat pieces of at most CHUNK; views where strides allow."""
    if tensor.is_contiguous():
        flat = tensor.view(-1)
        for start in range(0, flat.shape[0], CHUNK):
            yield flat[start : start + CHUNK]
    elif math.prod(tensor.shape) <= CHUNK:
        yield tensor.reshape(-1)
    else:
        # The outermost dimension in memory first: a transposed matrix is contiguous that way.
        outer_first = sorted(range(tensor.ndim), key=lambda dim: -tensor.stride(dim))
        tensor = tensor.permute(outer_first)
        if tensor.is_contiguous():
            yield from _chunks(tensor)
        else:
            longest = max(range(tensor.ndim), key=lambda dim: tensor.shape[dim])
            for half in tensor.tensor_split(2, longest):
                yield from _chunks(half)


class _Running:
    """Mean and squared deviations joined chunk by chunk (Chan, Golub and LeVeque 1979)."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._seen = self._finite = self._nan = self._inf = 0
        self._minimum, self._maximum = math.inf, -math.inf
        self._mean = self._squares = 0.0

    def add(self, chunk: Any) -> None:
        torch = self._torch
        wide = not chunk.is_floating_point() and chunk.dtype is not torch.bool
        wide |= chunk.dtype is torch.float64
        values = chunk.to(torch.float64 if wide else torch.float32)
        self._seen += values.shape[0]
        low, high = (float(extreme) for extreme in values.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            values = self._without_bad(values)
            if not values.shape[0]:
                return
            low, high = (float(extreme) for extreme in values.aminmax())
        self._minimum, self._maximum = min(self._minimum, low), max(self._maximum, high)
        self._join(values.shape[0], *self._moments(values))

    def _without_bad(self, values: Any) -> Any:
        finite = values.isfinite()
        nan = int(values.isnan().sum())
        self._nan += nan
        self._inf += values.shape[0] - int(finite.sum()) - nan
        return values[finite]

    def _moments(self, values: Any) -> tuple[float, float]:
        """Mean and sum of squared deviations, in float64 where float32 cannot hold them."""
        mean = float(values.sum()) / values.shape[0]
        about_zero = float(values.dot(values))
        squares = about_zero - mean * mean * values.shape[0]
        if about_zero / 2 < squares < math.inf:  # little has cancelled
            return mean, squares
        deviations = values - mean
        squares = float(deviations.dot(deviations))
        if math.isfinite(squares) or values.dtype is self._torch.float64:
            return mean, squares
        return self._moments(values.double())

    def _join(self, count: int, mean: float, squares: float) -> None:
        total = self._finite + count
        apart = mean - self._mean
        self._mean += apart * count / total
        self._squares += squares + apart * apart * self._finite * count / total
        self._finite = total

    def result(self) -> Statistics:
        if not self._finite:
            return Statistics(self._seen, None, None, None, None, self._nan, self._inf)
        std = math.sqrt(self._squares / self._finite)
        return Statistics(
            self._seen, self._minimum, self._maximum, self._mean, std, self._nan, self._inf
        )
