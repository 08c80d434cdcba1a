"""How a tensor that something was made into holds its values, and what makes others comparable.

A torch tensor holds values: a candidate is cast to its dtype, and NaN equals NaN. What is written
to a GGUF is held as bits: a candidate is cast or quantised as gguf does it, in the steps of the
converter (`prepare_tensors` in conversion/base.py: float16 stays, all else is float32 before), and
every bit counts, those of NaN and of -0 too.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from modpdb.probes._torch import torch_or_none
from modpdb.probes._workers import in_threads
from modpdb.probes.gguf_contents import GGML_TYPES
from modpdb.probes.pairs import paired, same_values, sampled
from modpdb.probes.tensors import short_dtype

SAMPLE = 64  # elements looked at before all are
_ROWS = 8  # rows instead, of what is held by blocks

Made = Callable[[Any], Any]
"""Something done to values, element by element."""
Done = Callable[[int], None]
"""Told how many elements more have been compared."""

# The dtype of the values that ggml's types have without blocks, and of as many bits.
_ELEMENTS = {
    "f32": ("float32", "int32"), "f16": ("float16", "int16"), "bf16": ("bfloat16", "int16"),
    "f64": ("float64", "int64"), "i8": ("int8", "int8"), "i16": ("int16", "int16"),
    "i32": ("int32", "int32"), "i64": ("int64", "int64"),
}  # fmt: skip
_BLOCKS = {name: (block, size) for name, block, size in GGML_TYPES.values() if block > 1}


class NoQuantiser(ValueError):
    """gguf's Python package has nothing that quantises to a type."""


@dataclass(frozen=True, slots=True)
class Cast:
    """From one dtype to another: how many values it changed, and made infinite.

    *most*: the greatest change of one that stayed finite. *quantised*: by blocks, of which each
    changes nearly every value.
    """

    before: str
    after: str
    rounded: int
    overflow: int
    most: float = 0.0
    quantised: bool = False


@dataclass(frozen=True, slots=True)
class _Tally:
    same: bool
    rounded: int = 0
    overflow: int = 0
    most: float = 0.0


class Target:
    """What something was made into: *held*, a torch tensor of its values, of logical *shape*.

    *blocks*: the last dimension is held as bytes, of which only whole blocks mean anything.
    """

    blocks = 0  # elements of one

    def __init__(self, held: Any, shape: tuple[int, ...], type_name: str) -> None:
        self.torch = torch_or_none()
        self.held = held
        self.shape = shape
        self.type = type_name
        self.done: Done | None = None

    @staticmethod
    def of(tensor: Any) -> Target:
        return tensor if isinstance(tensor, Target) else _Values(tensor)

    def encode(self, values: Any) -> Any:
        """*values* as they would be held."""
        raise NotImplementedError

    def decode(self, held: Any) -> Any:
        """The values that are *held*."""
        raise NotImplementedError

    def same(self, one: Any, other: Any) -> Any:
        """Where two of the same shape are held as the same."""
        return one == other

    def all_same(self, one: Any, other: Any) -> bool:
        return bool(self.torch.equal(one, other))

    def like(self, held: Any) -> Target:
        """A part or a view of *held*, which keeps the last dimension whole where by blocks."""
        columns = self.shape[-1:] if self.blocks else tuple(held.shape[-1:])
        part = type(self)(held, (*held.shape[:-1], *columns), self.type)
        part.done = self.done
        return part

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def has_rows(self) -> bool:
        """Whether each part along the first dimension is held for itself."""
        return self.ndim > (1 if self.blocks else 0)

    @property
    def dtype(self) -> Any:
        """The torch dtype of its values."""
        return self.decode(self.held.flatten()[:0]).dtype

    @property
    def floating(self) -> bool:
        return bool(self.dtype.is_floating_point)

    def changes(self, dtype: Any) -> bool:
        """Whether values of *dtype* are held in another."""
        return dtype is not self.dtype

    def few(self, source: Any) -> tuple[Any, Any]:
        """Some values of *source*, of the same shape, and what is held for them."""
        places = sampled(self.held, SAMPLE)
        return _at(source, places), _at(self.held, places)

    def made_of(self, source: Any, made: Made | None = None) -> Cast | bool:
        """As proof, but a few values are looked at first."""
        if tuple(source.shape) != self.shape:
            return False
        one, other = self.few(source)
        encoded = self.encode(one if made is None else made(one))
        return self.proof(source, made) if self.all_same(encoded, other) else False

    def proof(self, source: Any, made: Made | None = None) -> Cast | bool:
        """Whether `made(source)`, all of it, is what is held: False, or True, or what the cast of
        *source* did where nothing but a cast was done."""
        return self.proof_of(source.dtype, paired(source, self.held), made)

    def proof_of(
        self, dtype: Any, pairs: Iterable[tuple[Any, Any, Any]], made: Made | None = None
    ) -> Cast | bool:
        """The same of pieces: (anything, values of *dtype*, what is held for them)."""
        casts = made is None and self.changes(dtype)

        def work(pair: tuple[Any, Any, Any]) -> tuple[_Tally, int]:
            _, one, other = pair
            encoded = self.encode(one if made is None else made(one))
            if not self.all_same(encoded, other):
                return _Tally(False), 0
            return self._tally(one, other) if casts else _Tally(True), math.prod(one.shape)

        rounded = overflow = 0
        most = 0.0
        for tally, elements in in_threads(self.torch, pairs, work):
            if not tally.same:
                return False
            rounded += tally.rounded
            overflow += tally.overflow
            most = max(most, tally.most)
            if self.done is not None:
                self.done(elements)
        if not casts:
            return True
        before = short_dtype(str(dtype))
        return Cast(before, self.type, rounded, overflow, most, bool(self.blocks))

    def _tally(self, one: Any, other: Any) -> _Tally:
        torch = self.torch
        values = self.decode(other)
        dtype = _wide(torch, one, values)
        wide, cast = one.to(dtype), values.to(dtype)
        if not wide.is_complex():
            most = float((wide - cast).abs_().amax())
            if math.isfinite(most):  # no NaN, no Inf: nearly always
                return _Tally(True, int((wide != cast).count_nonzero()) if most else 0, 0, most)
        changed = ~same_values(torch, wide, cast)
        rounded = int(changed.sum())
        if not rounded:
            return _Tally(True)
        if wide.is_complex():
            return _Tally(True, rounded)
        overflow = int((cast.isinf() & ~wide.isinf()).sum())
        apart = (wide - cast)[changed].abs()
        apart = apart[apart.isfinite()]
        return _Tally(True, rounded, overflow, float(apart.max()) if apart.numel() else 0.0)


def _wide(torch: Any, *tensors: Any) -> Any:
    """A dtype that holds the values of all: float32 where they are floats of no more bits."""
    if any(each.is_complex() for each in tensors):
        return torch.complex128
    small = all(each.is_floating_point() and each.dtype.itemsize <= 4 for each in tensors)
    return torch.float32 if small else torch.float64


def _at(tensor: Any, places: list[tuple[int, ...]]) -> Any:
    """The values at *places*, as a flat tensor."""
    return tensor[tuple(map(list, zip(*places, strict=True)))] if tensor.ndim else tensor.view(1)


class _Values(Target):
    """A torch tensor as it is."""

    def __init__(self, held: Any, shape: tuple[int, ...] = (), type_name: str = "") -> None:
        super().__init__(held, tuple(held.shape), short_dtype(str(held.dtype)))

    def encode(self, values: Any) -> Any:
        return values.to(self.held.dtype)

    def decode(self, held: Any) -> Any:
        return held

    def same(self, one: Any, other: Any) -> Any:
        return same_values(self.torch, one, other)

    def all_same(self, one: Any, other: Any) -> bool:
        return bool(self.same(one, other).all())


class _Bits(Target):
    """A type of ggml's whose elements stand each for itself, held as integers."""

    @property
    def _names(self) -> tuple[str, str]:
        return _ELEMENTS[self.type]

    def encode(self, values: Any) -> Any:
        dtype, bits = (getattr(self.torch, name) for name in self._names)
        values = _worked_in(self.torch, values) if self.type != "f64" else values
        if self.type in ("f16", "bf16") and values.dtype is not dtype and _any_nan(values):
            return _by_gguf(self.torch, values, self.type).view(bits)  # the bits of a NaN
        return values.to(dtype).contiguous().view(bits)

    def decode(self, held: Any) -> Any:
        return held.view(getattr(self.torch, self._names[0]))


class _Blocks(Target):
    """A quantised type: bytes."""

    @property
    def blocks(self) -> int:  # type: ignore[override]
        return _BLOCKS[self.type][0]

    def encode(self, values: Any) -> Any:
        return _by_gguf(self.torch, _worked_in(self.torch, values), self.type)

    def decode(self, held: Any) -> Any:
        if not held.numel():
            return self.torch.empty(0)
        array = _quants().dequantize(held.contiguous().numpy(), _type(self.type))
        return self.torch.from_numpy(array)

    @property
    def dtype(self) -> Any:
        return self.torch.float32

    def changes(self, dtype: Any) -> bool:
        return True

    def few(self, source: Any) -> tuple[Any, Any]:
        places = sampled(self.held[..., 0], _ROWS)
        if not places or not places[0]:  # one row
            return source, self.held
        return _at(source, places), _at(self.held, places)


def written(data: Any, shape: tuple[int, ...], type_name: str) -> Target:
    """*data*, a flat uint8 tensor as in the file, as a tensor of ggml's type *type_name* and of
    *shape* in torch's order. NoQuantiser where its bits cannot be made from values."""
    if type_name in _ELEMENTS:
        bits = getattr(torch_or_none(), _ELEMENTS[type_name][1])
        return _Bits(data.view(bits).reshape(shape), shape, type_name)
    if type_name not in _BLOCKS:
        raise NoQuantiser(f"{type_name} is not a type that is known here")
    block, size = _BLOCKS[type_name]
    held = data.reshape(*shape[:-1], shape[-1] // block * size)
    target = _Blocks(held, shape, type_name)
    row = torch_or_none().zeros(1, block)
    try:
        target.encode(row)
    except (NotImplementedError, AttributeError, KeyError):
        raise NoQuantiser(f"gguf's Python package does not quantise to {type_name}") from None
    return target


# -- as gguf does it -----------------------------------------------------------------------------


def working_dtype(torch: Any, dtype: Any) -> Any:
    """In which converters compute with what is stored as *dtype*."""
    return dtype if dtype is torch.float16 else torch.float32


def _worked_in(torch: Any, values: Any) -> Any:
    return values.to(working_dtype(torch, values.dtype)) if values.is_floating_point() else values


def _any_nan(values: Any) -> bool:
    most = values.amax() if values.numel() else 0.0
    return bool(most != most)


def _quants() -> Any:
    return sys.modules["gguf.quants"]


def _type(name: str) -> Any:
    return sys.modules["gguf"].GGMLQuantizationType[name.upper()]


def _by_gguf(torch: Any, values: Any, name: str) -> Any:
    """The bytes, or for f16 the values, that gguf's quantiser makes."""
    numpy = sys.modules["numpy"]
    array = values.contiguous().numpy()
    with numpy.errstate(all="ignore"):
        return torch.from_numpy(numpy.ascontiguousarray(_quants().quantize(array, _type(name))))
