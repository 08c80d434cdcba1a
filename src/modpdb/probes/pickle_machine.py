"""A pickle followed without being run, for files of torch.save.

A pickle is a program. Its instructions are gone through with inert stand-ins: what it would import
is a name, what it would call is not called, and a tensor is what the arguments of
torch._utils._rebuild_tensor_v2 say.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from modpdb.probes.files import shown

# Bytes of an element, by the names of torch's dtypes.
BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "complex32": 4, "complex64": 8,
    "complex128": 16, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "uint16": 2,
    "uint32": 4, "uint64": 8, "bool": 1, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1, "float4_e2m1fn_x2": 1,
    "quint8": 1, "qint8": 1, "qint32": 4, "quint4x2": 1, "quint2x4": 1,
}  # fmt: skip
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128", "ComplexFloatStorage": "complex64",
    "QUInt8Storage": "quint8", "QInt8Storage": "qint8", "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4", "UntypedStorage": "uint8",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Global:
    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    key: str
    dtype: str
    elements: int


@dataclass(frozen=True, slots=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]
    storage: Storage | None = None
    last: int = 0  # element of the storage behind the last one used

    @property
    def nbytes(self) -> int | None:
        size = BYTES.get(self.dtype)
        if size is None or self.storage is None:  # sparse, or on the meta device
            return None
        return math.prod(self.shape) * size


@dataclass(slots=True)
class Object:
    """Made by what is not called here; *items* if it is an OrderedDict or the like."""

    made_by: object
    items: dict[Any, Any] = field(default_factory=dict)


def _rebuilt(function: object, arguments: Any) -> Any:
    """What a call in the pickle stands for."""
    name = function.name if type(function) is Global else ""
    match name.rpartition(".")[2], arguments:
        case "_rebuild_from_type_v2", (inner, _, tuple(inner_arguments), _):
            return _rebuilt(inner, inner_arguments)
        case (("_rebuild_parameter" | "_rebuild_parameter_with_state"), (Tensor() as tensor, *_)):
            return tensor
        case "_rebuild_tensor_v3", (Storage() as storage, offset, size, stride, _, _, dtype, *_):
            return _view(storage, offset, size, stride, _dtype(dtype))
        case (
            ("_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_qtensor"),
            (Storage() as storage, offset, size, stride, *_),
        ):
            return _view(storage, offset, size, stride, storage.dtype)
        case "_rebuild_meta_tensor_no_storage", (dtype, size, *_):
            return Tensor(_dtype(dtype), _sizes(size))
        case "_rebuild_sparse_tensor", (_, (_, Tensor() as values, size, *_)):
            return Tensor(values.dtype, _sizes(size))
        case "Size", (size,):
            return size
    return Object(function)


def _view(storage: Storage, offset: Any, size: Any, stride: Any, dtype: str) -> Tensor:
    shape, strides = _sizes(size), _sizes(stride)
    (start,) = _sizes((offset,))
    if len(shape) != len(strides):
        raise ValueError(f"a tensor of {len(shape)} sizes has {len(strides)} strides")
    last = 0
    if 0 not in shape:
        last = 1 + start + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if dtype != storage.dtype:  # an untyped storage is counted in bytes
        last *= BYTES.get(dtype, 1)
    return Tensor(dtype, shape, storage, last)


def _sizes(found: Any) -> tuple[int, ...]:
    if type(found) is not tuple or not all(type(n) is int and 0 <= n < 1 << 63 for n in found):
        raise ValueError(f"a tensor has the sizes {shown(found)}, expected integers from 0 on")
    return found


def _dtype(found: Any) -> str:
    return found.name.removeprefix("torch.") if type(found) is Global else "?"


def items_of(found: Any) -> dict[Any, Any]:
    if type(found) is Object:
        return found.items
    return found if type(found) is dict else {}


# -- the machine -----------------------------------------------------------------------------------

_MARK = object()
_KEYS = (str, int, float, bool, bytes, type(None))  # a tuple's hash may take longer than we live
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_WITH_VALUE = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


class Machine:
    """Follows a pickle's instructions. Unknown ones raise; nothing is imported or called."""

    def __init__(self) -> None:
        self.imports: list[str] = []
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: BinaryIO) -> Any:
        """What one pickle in *file* stands for. ValueError, IndexError or KeyError where it is
        none that torch.save writes."""
        for opcode, argument, place in pickletools.genops(file):
            name = opcode.name
            if name in _WITH_VALUE:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name == "STOP":
                return self._stack.pop()
            elif name not in ("PROTO", "FRAME"):
                step = getattr(self, f"_{name.lower()}", None)
                if step is None:
                    raise ValueError(f"instruction {name} at byte {place}")
                step(argument)
        raise ValueError("the pickle has no end")

    def _since_mark(self) -> list[Any]:
        place = len(self._stack) - 1
        while self._stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("no mark")
        found = self._stack[place + 1 :]
        del self._stack[place:]
        return found

    def _mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _pop(self, _: Any) -> None:
        self._stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    # Memory.

    def _put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    _binget = _long_binget = _get

    # Containers.

    def _empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _empty_list(self, _: Any) -> None:
        self._stack.append([])

    _empty_set = _empty_list  # only to be gone over

    def _empty_tuple(self, _: Any) -> None:
        self._stack.append(())

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _tuple1(self, _: Any) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def _tuple2(self, _: Any) -> None:
        self._stack[-2:] = [tuple(self._stack[-2:])]

    def _tuple3(self, _: Any) -> None:
        self._stack[-3:] = [tuple(self._stack[-3:])]

    def _list(self, _: Any) -> None:
        self._stack.append(self._since_mark())

    def _dict(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append({})
        self._fill(items)

    def _append(self, _: Any) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    _additems = _appends
    _frozenset = _list

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is list:
            self._stack[-1].extend(items)

    def _setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._fill([key, value])

    def _setitems(self, _: Any) -> None:
        self._fill(self._since_mark())

    def _fill(self, items: list[Any]) -> None:
        found = self._stack[-1]
        if type(found) in (dict, Object):
            pairs: Iterator[tuple[Any, Any]] = zip(items[::2], items[1::2], strict=True)
            items_of(found).update((key, value) for key, value in pairs if type(key) in _KEYS)

    # What would be imported, called and loaded.

    def _import(self, module: Any, name: Any) -> None:
        whole = f"{module}.{name}"
        self.imports.append(whole)
        self._stack.append(Global(whole))

    def _global(self, argument: str) -> None:
        self._import(*argument.split(" ", 1))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("an import without a name")
        self._import(module, name)

    def _reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(_rebuilt(function, arguments))

    def _newobj(self, _: Any) -> None:
        self._stack.pop()
        self._stack.append(Object(self._stack.pop()))

    def _newobj_ex(self, _: Any) -> None:
        self._stack.pop()
        self._newobj(None)

    def _obj(self, _: Any) -> None:
        self._stack.append(Object((self._since_mark() or [None])[0]))

    def _inst(self, argument: str) -> None:
        self._since_mark()
        self._global(argument)
        self._stack.append(Object(self._stack.pop()))

    def _build(self, _: Any) -> None:
        self._stack.pop()  # attributes; a state dict's `_metadata` is one

    def _binpersid(self, _: Any) -> None:
        match self._stack.pop():
            case ("storage", Global(name), str(key), _, int(elements), *_):
                dtype = STORAGES.get(name.rpartition(".")[2])
                if dtype is None or type(elements) is not int or elements < 0:
                    raise ValueError(f"a storage {shown(name)} of {shown(elements)} elements")
                self._stack.append(Storage(key, dtype, elements))
            case other:
                raise ValueError(f"a storage {shown(type(other).__name__)}, expected a tuple")
