"""What a tensor says of itself without being read, and its statistics when asked."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from modpdb.probes._static import (
    class_attribute,
    class_name,
    derives,
    instance_dict,
    is_a,
    mro,
    namespace,
)
from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes._workers import in_threads

CHUNK = 1 << 18  # elements that statistics hold in float64 at a time
SAMPLE = 1 << 20  # about as many values are kept for the histogram

# float16 (IEEE 754 binary16): from here on a value rounds to infinity, below it loses digits, up
# to here it rounds to zero.
_F16_OVERFLOW, _F16_NORMAL, _F16_FLUSHED = 65520.0, 2.0**-14, 2.0**-25

_SHORT = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}


class TensorFacts(NamedTuple):
    """Known without reading data; shape, elements and bytes are None where *unsized* says why."""

    shape: tuple[int, ...] | None
    dtype: str
    device: str
    requires_grad: bool
    elements: int | None
    nbytes: int | None
    local_shape: tuple[int, ...] | None = None  # of a DTensor: the shard that is here
    unsized: str = ""


class Statistics(NamedTuple):
    """Over the finite values; None where there are none. *std* is the population's.

    *elements* are those that were read: all of them, unless *partial*. Of the finite values that
    are no zeros, *f16_overflow* would be infinite in float16, *f16_subnormal* lose digits there
    and *f16_flushed* be zero; all 0 for dtypes that are not floating. *histogram* counts
    *sampled* of the finite values, evenly taken, in equal bins from minimum to maximum; () where
    none was asked for, or where all values are equal.
    """

    elements: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    nan: int
    inf: int
    zeros: int = 0
    f16_overflow: int = 0
    f16_subnormal: int = 0
    f16_flushed: int = 0
    histogram: tuple[int, ...] = ()
    sampled: int = 0
    partial: bool = False


class NoStatistics(ValueError):
    """Why a tensor has no statistics, in a few words."""


@functools.lru_cache(64)
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


def statistics(tensor: Any, **how: Any) -> Statistics:
    """Statistics of *tensor*, read in chunks of CHUNK elements with no full-size copy.

    A DTensor gives those of the shard that is here. Autograd, RNG and the tensor are left as
    they are. *how* is for `statistics_of`. Raises NoStatistics where there are no values to read.
    """
    torch = torch_or_none()
    with undisturbed(torch):
        shard = local_tensor(tensor)
        tensor = tensor if shard is None else shard
        _refuse_unreadable(torch, tensor, converted="each" in how)
        return statistics_of(flat_chunks(tensor.detach()), math.prod(tensor.shape), **how)


def statistics_of(
    chunks: Iterable[Any],
    elements: int,
    *,
    each: Callable[[Any], Any] | None = None,
    bins: int = 0,
    watch: Callable[[int, int], None] | None = None,
    interruptible: bool = False,
    quick: bool = False,
) -> Statistics:
    """Statistics of flat torch tensors of up to CHUNK elements, *elements* in all.

    *each* is applied to every chunk first: the magnitude of complex numbers, the values of
    quantised ones. *bins*: of the histogram. *watch* is told after each chunk how many of the
    elements are done. *interruptible*: Ctrl-C gives what there is so far, marked partial. *quick*:
    for somebody who asks at every call of a module: mean and deviation as float32 has them, to
    about 1e-5, and zeros and what float16 loses not counted.
    """
    torch = torch_or_none()
    step = (elements // SAMPLE) | 1  # odd, so that it does not stay in some columns of a matrix
    # One piece of memory: small ones between those of chunks would keep all of them from reuse.
    sample = torch.empty(-(-elements // step) if bins else 0, dtype=torch.float64)
    so_far, partial = _NOTHING, False

    def looked_at(placed: tuple[int, Any]) -> _Tally:
        start, chunk = placed
        values = _as_float(torch, chunk if each is None else each(chunk))
        if bins:
            taken = values[-start % step :: step]
            first = -(-start // step)
            sample[first : first + taken.shape[0]] = taken
        if quick:
            return _tally(torch, values, None)
        return _tally(torch, values, chunk.is_floating_point() or each is not None)

    try:
        with undisturbed(torch):
            for tally in in_threads(torch, _placed(chunks), looked_at):
                so_far = _joined(so_far, tally)  # whole, wherever Ctrl-C comes
                if watch is not None:
                    watch(so_far.seen, elements)
    except KeyboardInterrupt:
        if not interruptible:
            raise
        partial = True
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise NoStatistics(str(error).splitlines()[0]) from error
    return _result(torch, so_far, sample[: -(-so_far.seen // step)], bins, partial)


def _placed(chunks: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Each chunk after how many elements came before it."""
    start = 0
    for chunk in chunks:
        yield start, chunk
        start += chunk.shape[0]


def _refuse_unreadable(torch: Any, tensor: Any, *, converted: bool) -> None:
    if is_a(tensor, torch.nn.parameter.UninitializedTensorMixin):
        raise NoStatistics("uninitialised")
    if tensor.device.type == "meta":
        raise NoStatistics("on the meta device")
    if tensor.layout is not torch.strided:
        raise NoStatistics(f"layout {str(tensor.layout).removeprefix('torch.')}")
    dispatch = class_attribute(type(tensor), "__torch_dispatch__")
    if dispatch is not namespace(torch.Tensor).get("__torch_dispatch__"):
        name = class_name(type(tensor))
        raise NoStatistics(f"a {name}, whose own __torch_dispatch__ would have to run")
    if tensor.is_quantized and not converted:
        raise NoStatistics("quantised")
    if tensor.is_complex() and not converted:
        raise NoStatistics("complex")


def flat_chunks(tensor: Any) -> Iterator[Any]:
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
            yield from flat_chunks(tensor)
        else:
            longest = max(range(tensor.ndim), key=lambda dim: tensor.shape[dim])
            for half in tensor.tensor_split(2, longest):
                yield from flat_chunks(half)


@dataclass(frozen=True, slots=True)
class _Tally:
    """What is known of some values; *spread* is the root of their mean squared deviation."""

    seen: int
    finite: int
    minimum: float
    maximum: float
    mean: float
    spread: float
    nan: int = 0
    inf: int = 0
    zeros: int = 0
    overflow: int = 0
    subnormal: int = 0
    flushed: int = 0


_NOTHING = _Tally(0, 0, math.inf, -math.inf, 0.0, 0.0)


def _as_float(torch: Any, chunk: Any) -> Any:
    narrow = chunk.dtype is torch.bool or (
        chunk.is_floating_point() and chunk.dtype is not torch.float64
    )
    return chunk.to(torch.float32 if narrow else torch.float64)


def _tally(torch: Any, values: Any, floating: bool | None) -> _Tally:
    """Of a flat tensor in float32 or float64; *floating*: its own dtype is; None: be quick."""
    seen, nan, inf = values.shape[0], 0, 0
    if not seen:
        return _NOTHING
    low, high = _extremes(values)
    if not (math.isfinite(low) and math.isfinite(high)):
        finite = values.isfinite()
        nan = int(values.isnan().sum())
        inf = seen - int(finite.sum()) - nan
        values = values[finite]
        if not values.shape[0]:
            return _Tally(seen, 0, math.inf, -math.inf, 0.0, 0.0, nan, inf)
        low, high = _extremes(values)
    if floating is None:
        mean, spread = _quick_moments(values, max(-low, high))
        return _Tally(seen, values.shape[0], low, high, mean, spread, nan, inf)
    mean, spread = _moments(values, max(-low, high))
    sizes = _sizes(torch, values, max(-low, high), floating)
    return _Tally(seen, values.shape[0], low, high, mean, spread, nan, inf, *sizes)


def _extremes(values: Any) -> tuple[float, float]:
    return float(values.amin()), float(values.amax())  # several times as fast as aminmax()


def _moments(values: Any, biggest: float) -> tuple[float, float]:
    """Mean, and the root of the mean squared deviation, in float64.

    Where squares would leave its range, of values scaled by a power of two, which rounds nothing.
    """
    inside = not biggest or 1e-120 < biggest < 1e120
    scale = 1.0 if inside else math.ldexp(1.0, math.frexp(biggest)[1] - 1)
    wide = values.double() if inside else values.double() / scale
    mean = float(wide.sum()) / values.shape[0]
    about_zero = float(wide.dot(wide))
    squares = about_zero - mean * mean * values.shape[0]
    if squares < about_zero * 1e-6:  # too much has cancelled
        deviations = wide - mean
        squares = float(deviations.dot(deviations))
    return mean * scale, math.sqrt(squares / values.shape[0]) * scale


def _quick_moments(values: Any, biggest: float) -> tuple[float, float]:
    """The same as float32 has them, where that can hold them."""
    mean = float(values.sum()) / values.shape[0]
    about_zero = float(values.dot(values))
    squares = about_zero - mean * mean * values.shape[0]
    if not about_zero / 2 < squares < math.inf:  # much has cancelled, or there was no room
        return _moments(values, biggest)
    return mean, math.sqrt(squares / values.shape[0])


def _sizes(torch: Any, values: Any, biggest: float, floating: bool) -> tuple[int, int, int, int]:
    """How many are zero, and would overflow, be subnormal, be flushed to zero in float16."""
    magnitudes = values.abs()
    # 1.0 and 0.0, and a tensor to compare with: five times as fast as bools and a number.
    marks = torch.empty_like(magnitudes)

    def how_many(compare: Any, limit: float) -> int:
        return int(compare(magnitudes, magnitudes.new_tensor(limit), out=marks).sum())

    least = float(magnitudes.amin())
    zeros = 0 if least else how_many(torch.eq, 0.0)
    if not floating:
        return zeros, 0, 0, 0
    overflow = how_many(torch.ge, _F16_OVERFLOW) if biggest >= _F16_OVERFLOW else 0
    lost = how_many(torch.le, _F16_FLUSHED) if least <= _F16_FLUSHED else 0
    small = how_many(torch.lt, _F16_NORMAL) if least < _F16_NORMAL else 0
    return zeros, overflow, small - lost, lost - zeros


def _joined(one: _Tally, other: _Tally) -> _Tally:
    """Both together (Chan, Golub and LeVeque 1979), with roots for squares that would overflow."""
    finite = one.finite + other.finite
    mean, spread = one.mean, one.spread
    if other.finite:
        share = other.finite / finite
        apart, twice = other.mean - one.mean, 1
        mean = one.mean + apart * share
        if math.isinf(apart):  # it is up to twice what a float can hold: take half of it
            apart, twice = other.mean / 2 - one.mean / 2, 2
            mean = one.mean * (1 - share) + other.mean * share
        spread = math.hypot(
            one.spread * math.sqrt(1 - share),
            other.spread * math.sqrt(share),
            apart * (twice * math.sqrt(share * (1 - share))),
        )
    return _Tally(
        one.seen + other.seen,
        finite,
        min(one.minimum, other.minimum),
        max(one.maximum, other.maximum),
        mean,
        spread,
        one.nan + other.nan,
        one.inf + other.inf,
        one.zeros + other.zeros,
        one.overflow + other.overflow,
        one.subnormal + other.subnormal,
        one.flushed + other.flushed,
    )


def _result(torch: Any, found: _Tally, sample: Any, bins: int, partial: bool) -> Statistics:
    if not found.finite:
        return Statistics(found.seen, None, None, None, None, found.nan, found.inf, partial=partial)
    histogram: tuple[int, ...] = ()
    sampled = 0
    if bins and found.minimum < found.maximum:
        with undisturbed(torch):
            histogram, sampled = _histogram(torch, sample, bins, found)
    return Statistics(
        found.seen,
        found.minimum,
        found.maximum,
        found.mean,
        found.spread,
        found.nan,
        found.inf,
        found.zeros,
        found.overflow,
        found.subnormal,
        found.flushed,
        histogram,
        sampled,
        partial,
    )


def _histogram(torch: Any, sample: Any, bins: int, found: _Tally) -> tuple[tuple[int, ...], int]:
    """Counts in *bins* equal bins, each to the nearest of what float64 can hold."""
    counts = torch.zeros(bins, dtype=torch.int64)
    # The middle of the range is 0.5 of it also where the range is wider than a float can hold.
    low, wide = found.minimum / 2, found.maximum / 2 - found.minimum / 2
    for values in sample.split(CHUNK):
        place = (values[values.isfinite()] / 2 - low) / wide
        index = (place * bins).to(torch.int64).clamp_(0, bins - 1)
        counts += torch.bincount(index, minlength=bins)
    return tuple(counts.tolist()), int(counts.sum())
