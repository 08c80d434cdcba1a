"""The tensors of a file of torch.save, by reading its pickle, never by running it.

A pickle is a program. Here its instructions are followed with inert stand-ins: what it would
import is a name, what it would call is not called, and a tensor is what the arguments of
torch._utils._rebuild_tensor_v2 say. Neither torch nor the tensors' data is needed, and names that
share a storage are seen to. (torch.load(weights_only=True) would import torch before the script
does, runs what the script has registered as safe, and allocates what a file asks for.)
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from modpdb.probes._static import class_name
from modpdb.probes.files import HEADER_LIMIT, CheckpointError, number, open_file, shown, size_of
from modpdb.probes.safetensors_files import TensorEntry
from modpdb.probes.tensors import short_dtype

_OLD_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER, torch before 1.6
_NESTED = ("state_dict", "model_state_dict", "model", "module")  # where trainers put the weights

# Bytes of an element, by the names of torch's dtypes.
_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "complex32": 4, "complex64": 8,
    "complex128": 16, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "uint16": 2,
    "uint32": 4, "uint64": 8, "bool": 1, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1, "float4_e2m1fn_x2": 1,
    "quint8": 1, "qint8": 1, "qint32": 4, "quint4x2": 1, "quint2x4": 1,
}  # fmt: skip
_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128", "ComplexFloatStorage": "complex64",
    "QUInt8Storage": "quint8", "QInt8Storage": "qint8", "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4", "UntypedStorage": "uint8",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PickledFile:
    """What a file of torch.save holds. *shared*: names of one storage; *imports*: what running
    the pickle would import beside what tensors need; *inside*: the key of the outermost dict
    under which the tensors are, "" for the dict itself."""

    tensors: tuple[TensorEntry, ...]
    shared: tuple[tuple[str, ...], ...]
    imports: tuple[str, ...]
    inside: str


def read_pickled(path: Path) -> PickledFile:
    """The tensors by name in a file of torch.save, zipped (torch 1.6 and later) or not.

    CheckpointError where it is no such file, is cut short, or says of a tensor what cannot be.
    """
    with open_file(path) as file:
        try:
            loaded, machine, records = _read(path, file)
        except CheckpointError:
            raise
        except Exception as error:  # zipfile's, pickletools' and those of a stack that is empty
            words = str(error) or class_name(type(error))
            raise CheckpointError(f"{path}: not a file of torch.save: {words:.200}") from None
    inside, named = _by_name(loaded)
    imports = tuple(dict.fromkeys(each for each in machine.imports if not _known(each)))
    if not named:
        also = f", which would import {shown(imports[0])} if it were run" if imports else ""
        raise CheckpointError(f"{path}: a {_kind(loaded)} without tensors by name{also}")
    entries = []
    storages: dict[str, list[str]] = {}
    for name, tensor in named.items():
        _check(path, name, tensor, records)
        entries.append(
            TensorEntry(name, short_dtype(tensor.dtype), tensor.shape, tensor.nbytes, path.name)
        )
        if tensor.storage is not None:
            storages.setdefault(tensor.storage.key, []).append(name)
    shared = tuple(tuple(names) for names in storages.values() if len(names) > 1)
    return PickledFile(tuple(entries), shared, imports, inside)


# -- what stands for what the pickle would make ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: str
    elements: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    dtype: str
    shape: tuple[int, ...]
    storage: _Storage | None = None
    last: int = 0  # element of the storage behind the last one used

    @property
    def nbytes(self) -> int | None:
        size = _BYTES.get(self.dtype)
        if size is None or self.storage is None:  # sparse, or on the meta device
            return None
        return math.prod(self.shape) * size


@dataclass(slots=True)
class _Object:
    """Made by what is not called here; *items* if it is an OrderedDict or the like."""

    made_by: object
    items: dict[Any, Any] = field(default_factory=dict)


def _kind(loaded: Any) -> str:
    if type(loaded) is not _Object:
        return class_name(type(loaded)).lstrip("_")
    return loaded.made_by.name if type(loaded.made_by) is _Global else "object"


def _known(name: str) -> bool:
    """Whether tensors and state dicts need it."""
    module, _, last = name.rpartition(".")
    if module in ("torch", "torch.storage"):
        return (
            last in _STORAGES or last in _BYTES or last in ("Size", "device", "per_tensor_affine")
        )
    return module == "torch._utils" or name in (
        "collections.OrderedDict",
        "torch._tensor._rebuild_from_type_v2",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
    )


def _rebuilt(function: object, arguments: Any) -> Any:
    """What a call in the pickle stands for."""
    name = function.name if type(function) is _Global else ""
    match name.rpartition(".")[2], arguments:
        case "_rebuild_from_type_v2", (inner, _, tuple(inner_arguments), _):
            return _rebuilt(inner, inner_arguments)
        case (("_rebuild_parameter" | "_rebuild_parameter_with_state"), (_Tensor() as tensor, *_)):
            return tensor
        case "_rebuild_tensor_v3", (_Storage() as storage, offset, size, stride, _, _, dtype, *_):
            return _view(storage, offset, size, stride, _dtype(dtype))
        case (
            ("_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_qtensor"),
            (_Storage() as storage, offset, size, stride, *_),
        ):
            return _view(storage, offset, size, stride, storage.dtype)
        case "_rebuild_meta_tensor_no_storage", (dtype, size, *_):
            return _Tensor(_dtype(dtype), _sizes(size))
        case "_rebuild_sparse_tensor", (_, (_, _Tensor() as values, size, *_)):
            return _Tensor(values.dtype, _sizes(size))
        case "Size", (size,):
            return size
    return _Object(function)


def _view(storage: _Storage, offset: Any, size: Any, stride: Any, dtype: str) -> _Tensor:
    shape, strides = _sizes(size), _sizes(stride)
    (start,) = _sizes((offset,))
    if len(shape) != len(strides):
        raise ValueError(f"a tensor of {len(shape)} sizes has {len(strides)} strides")
    last = 0
    if 0 not in shape:
        last = 1 + start + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if dtype != storage.dtype:  # an untyped storage is counted in bytes
        last *= _BYTES.get(dtype, 1)
    return _Tensor(dtype, shape, storage, last)


def _sizes(found: Any) -> tuple[int, ...]:
    if type(found) is not tuple or not all(type(n) is int and 0 <= n < 1 << 63 for n in found):
        raise ValueError(f"a tensor has the sizes {shown(found)}, expected integers from 0 on")
    return found


def _dtype(found: Any) -> str:
    return found.name.removeprefix("torch.") if type(found) is _Global else "?"


def _check(path: Path, name: str, tensor: _Tensor, records: Mapping[str, int]) -> None:
    storage = tensor.storage
    if storage is None:
        return
    if tensor.last > storage.elements:
        raise CheckpointError(
            f"{path}: {shown(name)} reaches to element {number(tensor.last)} of its storage, "
            f"which has {number(storage.elements)}"
        )
    expected = storage.elements * _BYTES[storage.dtype]
    found = records.get(storage.key)
    if records and found is None:
        raise CheckpointError(f"{path}: {shown(name)} has no record data/{storage.key:.40}")
    if found is not None and found < expected:
        raise CheckpointError(
            f"{path}: {shown(name)} has {found:,} bytes in data/{storage.key:.40}, "
            f"expected {number(expected)}"
        )


# -- the file --------------------------------------------------------------------------------------


def _read(path: Path, file: BinaryIO) -> tuple[Any, _Machine, dict[str, int]]:
    """What the pickle stands for, and the bytes of each storage where the file tells them."""
    first = file.read(4)
    file.seek(0)
    if first == b"PK\x03\x04":
        return _zipped(path, file)
    start = BytesIO(file.read(HEADER_LIMIT))
    magic = _Machine().run(start)
    if magic != _OLD_MAGIC:
        raise ValueError(f"it begins with {shown(first)}, expected a zip archive or a pickle")
    _Machine().run(start)  # the protocol's version
    _Machine().run(start)  # the sizes of C types where it was written
    machine = _Machine()
    return machine.run(start), machine, {}


def _zipped(path: Path, file: BinaryIO) -> tuple[Any, _Machine, dict[str, int]]:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        pickles = [info for info in infos if info.filename.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise CheckpointError(f"{path}: {len(pickles)} records data.pkl, expected one")
        length = pickles[0].file_size
        if length > HEADER_LIMIT:
            raise CheckpointError(
                f"{path}: data.pkl has {length:,} bytes, expected up to {HEADER_LIMIT:,}"
            )
        with archive.open(pickles[0]) as record:
            content = record.read(length)
    prefix = pickles[0].filename.removesuffix("data.pkl") + "data/"
    records = {
        info.filename.removeprefix(prefix): min(info.file_size, size_of(file))
        for info in infos
        if info.filename.startswith(prefix)
    }
    machine = _Machine()
    return machine.run(BytesIO(content)), machine, records


def _by_name(loaded: Any) -> tuple[str, dict[str, _Tensor]]:
    """The tensors of what was loaded, or of the dict in it that holds them."""
    outer = _items(loaded)
    for key in ("", *_NESTED):
        found = outer if not key else _items(outer.get(key))
        named = {name: each for name, each in found.items() if type(each) is _Tensor}
        if named:
            return key, {name: each for name, each in named.items() if type(name) is str}
    return "", {}


def _items(found: Any) -> dict[Any, Any]:
    if type(found) is _Object:
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


class _Machine:
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
        if type(found) in (dict, _Object):
            pairs: Iterator[tuple[Any, Any]] = zip(items[::2], items[1::2], strict=True)
            _items(found).update((key, value) for key, value in pairs if type(key) in _KEYS)

    # What would be imported, called and loaded.

    def _import(self, module: Any, name: Any) -> None:
        whole = f"{module}.{name}"
        self.imports.append(whole)
        self._stack.append(_Global(whole))

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
        self._stack.append(_Object(self._stack.pop()))

    def _newobj_ex(self, _: Any) -> None:
        self._stack.pop()
        self._newobj(None)

    def _obj(self, _: Any) -> None:
        self._stack.append(_Object((self._since_mark() or [None])[0]))

    def _inst(self, argument: str) -> None:
        self._since_mark()
        self._global(argument)
        self._stack.append(_Object(self._stack.pop()))

    def _build(self, _: Any) -> None:
        self._stack.pop()  # attributes; a state dict's `_metadata` is one

    def _binpersid(self, _: Any) -> None:
        match self._stack.pop():
            case ("storage", _Global(name), str(key), _, int(elements), *_):
                dtype = _STORAGES.get(name.rpartition(".")[2])
                if dtype is None or type(elements) is not int or elements < 0:
                    raise ValueError(f"a storage {shown(name)} of {shown(elements)} elements")
                self._stack.append(_Storage(key, dtype, elements))
            case other:
                raise ValueError(f"a storage {shown(type(other).__name__)}, expected a tuple")
