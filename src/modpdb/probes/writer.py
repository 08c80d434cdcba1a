"""What a GGUFWriter holds: looked at, in every version since 2024, and never asked.

`kv_data` is a list, one of each shard, of dicts of GGUFValue(value, type, sub_type), `tensors` one
of dicts of TensorInfo(shape, dtype, nbytes, tensor); before mid 2024 each was one dict.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import PurePath
from typing import Any

from modpdb.probes._static import class_name, instance_dict, is_a
from modpdb.probes.gguf_contents import (
    FIRST,
    Array,
    GGUFContents,
    GGUFTensor,
    KeyValue,
    numbers_kept,
)

# GGUFValueType's members by llama.cpp's names.
_TYPES = {
    "UINT8": "u8", "INT8": "i8", "UINT16": "u16", "INT16": "i16", "UINT32": "u32", "INT32": "i32",
    "FLOAT32": "f32", "BOOL": "bool", "STRING": "str", "ARRAY": "arr", "UINT64": "u64",
    "INT64": "i64", "FLOAT64": "f64",
}  # fmt: skip
NOT_WRITTEN = "not written yet"
# What WriterState's members mean for the file.
_STATES = {
    "NO_FILE": NOT_WRITTEN,
    "EMPTY": "file opened, nothing written",
    "HEADER": "header written",
    "KV_DATA": "metadata written",
    "TI_DATA": "metadata written, tensors being written",
    "WEIGHTS": "tensors written",
}


def is_writer(value: object) -> bool:
    state = instance_dict(value)
    return "kv_data" in state and "tensors" in state and "state" in state


def find_writer(frames: Iterable[Mapping[str, Any]]) -> tuple[str, Any] | None:
    """A GGUFWriter among the variables of *frames*, innermost first, or held by one of their
    objects, with the expression that reaches it there; None where there is none."""
    for variables in frames:
        for name, value in variables.items():
            if is_writer(value):
                return name, value
        for name, value in variables.items():
            held = instance_dict(value)
            for attribute in ("gguf_writer", "writer", "gguf"):
                if is_writer(held.get(attribute)):
                    return f"{name}.{attribute}", held[attribute]
    return None


def writer_contents(writer: Any, where: str) -> GGUFContents:
    """What *writer* has taken so far; *where* is what to call it."""
    state = instance_dict(writer)
    shards = _dicts(state.get("tensors"))
    metadata = [
        _key_value(key, instance_dict(value))
        for held in _dicts(state.get("kv_data"))
        for key, value in held.items()
        if type(key) is str
    ]
    tensors = [
        _tensor(name, instance_dict(info), shard)
        for shard, held in enumerate(shards)
        for name, info in held.items()
        if type(name) is str
    ]
    return GGUFContents(
        where, tuple(metadata), tuple(tensors), tuple(_details(state)), max(len(shards), 1)
    )


def written_names(writer: Any) -> set[str]:
    """The names of the tensors that *writer* has taken."""
    return set(held_tensors(writer))


def held_tensors(writer: Any) -> dict[str, Any]:
    """The TensorInfo of each tensor that the writer has taken, by name."""
    held = _dicts(instance_dict(writer).get("tensors"))
    return {name: info for each in held for name, info in each.items() if type(name) is str}


def _details(state: Mapping[str, Any]) -> list[str]:
    found = [_STATES.get(_member(state.get("state")), "")]
    if _member(state.get("endianess")) == "BIG":
        found.append("big-endian")
    path = state.get("path")
    if is_a(path, PurePath):
        found.append(f"to {path}")
    return [each for each in found if each]


def _dicts(found: Any) -> list[dict[Any, Any]]:
    each = found if type(found) is list else [found]
    return [held for held in each if is_a(held, dict)]


def _member(found: object) -> str:
    """The name of an enum's member, by what it holds; "" of anything else."""
    name = instance_dict(found).get("_name_")
    return name if type(name) is str else ""


def _key_value(key: str, held: Mapping[str, Any]) -> KeyValue:
    value, kind = held.get("value"), _TYPES.get(_member(held.get("type")), "?")
    if kind != "arr":
        return KeyValue(key, kind, _scalar(value))
    array = _array(value, _TYPES.get(_member(held.get("sub_type")), ""))
    of = array.of if type(array) is Array else "?"
    return KeyValue(key, f"arr[{of}]", array)


def _array(value: Any, of: str) -> object:
    """An array of the metadata; of what is no sequence its class."""
    sequence: Any = next((kind for kind in (list, tuple, range) if is_a(value, kind)), None)
    if sequence is None and type(value) in (bytes, bytearray):
        return Array(of or "u8", len(value), tuple(value[: numbers_kept(len(value))]))
    if sequence is None:
        return class_name(type(value))
    length = sequence.__len__(value)
    first = list(islice(sequence.__iter__(value), 1))
    kind = of or _item_type(first[0] if first else None)
    kept = FIRST if kind in ("str", "arr") else numbers_kept(length)
    items = islice(sequence.__iter__(value), kept)
    return Array(kind, length, tuple(map(_scalar, items)))


def _item_type(item: object) -> str:
    """The type that GGUFWriter takes an array to have by its first item."""
    if type(item) in (str, bytes, bytearray):
        return "str"
    if type(item) in (list, tuple):
        return "arr"
    if is_a(item, int) and type(item) is not bool:  # members of an IntEnum, too
        return "i32"
    if type(item) is bool:
        return "bool"
    return "f32" if type(item) is float else class_name(type(item))


def _scalar(value: Any) -> object:
    """A value of the metadata that is plain; of anything else its class."""
    if type(value) in (str, bool, int, float):
        return value
    if type(value) in (bytes, bytearray):
        return value.decode("utf-8", "surrogateescape")
    if type(value) in (list, tuple):
        return _array(value, "")
    if is_a(value, int):  # a member of an IntEnum, such as a token type
        return int.__index__(value)
    if is_a(value, str):
        return str.__str__(value)
    generic = getattr(sys.modules.get("numpy"), "generic", None)
    if generic is not None and is_a(value, generic):
        return generic.item(value)
    return class_name(type(value))


def _tensor(name: str, held: Mapping[str, Any], shard: int) -> GGUFTensor:
    shape, nbytes = held.get("shape"), held.get("nbytes")
    listed: Any = shape if is_a(shape, tuple) or type(shape) is list else ()
    sizes = [_scalar(size) for size in listed]
    ne = tuple(size for size in reversed(sizes) if type(size) is int)
    size = _scalar(nbytes)
    dtype = type_name(held.get("dtype")) or "?"
    return GGUFTensor(name, dtype, ne, size if type(size) is int else None, shard)


def type_name(member: object) -> str:
    """A GGMLQuantizationType by ggml's own name: q8_0, q4_K; "" of anything else."""
    name = _member(member)
    return name[:-1].lower() + "K" if name.endswith("_K") else name.lower()
