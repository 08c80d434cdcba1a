"""The header of a safetensors file: eight bytes with its length, then JSON. No data is read.

{"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, …, "__metadata__": {…}},
offsets from the end of the header. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from modpdb.collector import collector_paused
from modpdb.probes.files import (
    HEADER_LIMIT,
    CheckpointError,
    number,
    open_file,
    parse_json,
    shown,
    size_of,
)
from modpdb.probes.tensors import short_dtype

# Bits of an element, by the names in a header.
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class TensorEntry(NamedTuple):
    """A tensor of a checkpoint; None is what its file does not tell without being executed.

    (A NamedTuple: 60,000 of them are made four times as fast as those of a frozen dataclass.)
    """

    name: str
    dtype: str | None  # in short: bf16, f32, f8_e4m3
    shape: tuple[int, ...] | None
    nbytes: int | None
    file: str
    derived: bool = False  # computed while converting, as by dequantising: shape as stored


def bytes_of(dtype: str, shape: tuple[int, ...]) -> int | None:
    """The bytes of a tensor, by a header's name of the dtype; None of one that is not known."""
    bits = _BITS.get(dtype)
    return None if bits is None else math.prod(shape) * bits // 8


class Header(NamedTuple):
    """What a safetensors file says of itself; *metadata* is its `__metadata__`."""

    tensors: list[TensorEntry]
    metadata: dict[str, str]


def read_header(path: Path) -> list[TensorEntry]:
    """The tensors that a safetensors file's header lists, by name; nothing else is read.

    CheckpointError where the header is longer than the file or HEADER_LIMIT, is not JSON, has a
    name twice, an entry is not as the format says, or two share bytes; it names file, what was
    found and what was expected.
    """
    return read_whole_header(path).tensors


def data_offsets(path: Path) -> dict[str, int]:
    """At which byte of the file *path* those of each tensor begin, by a header that read_header
    has checked. CheckpointError where it cannot be read."""
    with open_file(path) as file:
        length = _header_length(path, file.read(8), size_of(file))
        listed = _parsed(path, file.read(length))
    return {
        name: 8 + length + int(entry["data_offsets"][0])
        for name, entry in listed.items()
        if name != "__metadata__" and isinstance(entry, dict)
    }


def read_whole_header(path: Path) -> Header:
    """As read_header, with the file's metadata."""
    with open_file(path) as file:
        size = size_of(file)
        length = _header_length(path, file.read(8), size)
        header = file.read(length)
    with collector_paused():
        listed = _parsed(path, header)
        metadata = listed.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict):
            raise CheckpointError(f"{path}: '__metadata__' has {shown(metadata)}, expected a map")
        tensors = _Entries(path, size - 8 - length).read(listed)
        _refuse_twice(path, header, len(tensors), metadata)
    return Header(tensors, metadata)


def _header_length(path: Path, first: bytes, size: int) -> int:
    if len(first) < 8:
        raise CheckpointError(f"{path}: {len(first)} bytes, expected at least 8 of a header length")
    length = int.from_bytes(first, "little")
    if length > HEADER_LIMIT:
        raise CheckpointError(
            f"{path}: the header is said to have {length:,} bytes, expected up to {HEADER_LIMIT:,}"
        )
    if length > size - 8:
        raise CheckpointError(
            f"{path}: the header is said to have {length:,} bytes, but {size - 8:,} follow"
        )
    return length


def _parsed(path: Path, header: bytes, **hooks: Any) -> dict[str, Any]:
    def no_integer(text: str) -> NoReturn:
        raise CheckpointError(f"{path}: the header has the number {text:.40}, expected integers")

    return parse_json(
        path, "the header", header, parse_float=no_integer, parse_constant=no_integer, **hooks
    )


_Alike = tuple[str, tuple[int, ...], int]


class _Entries:
    """Checks the entries of one header; what is alike in many is worked out once."""

    def __init__(self, path: Path, data: int) -> None:
        self._path = path
        self._data = data  # bytes that follow the header
        self._known: dict[tuple[str, tuple[int, ...]], _Alike] = {}

    def read(self, listed: dict[str, Any]) -> list[TensorEntry]:
        """In the order of names. Of 60,000 tensors, so that one which begins where the last one
        ends, and is like another that was checked, is done with at once."""
        tensors = []
        known, file, last = self._known, self._path.name, 0
        new = tuple.__new__  # half the time of TensorEntry(…), which fills in the default
        in_order = True
        for name, found in listed.items():
            try:
                (start, end), shape = found["data_offsets"], tuple(found["shape"])
                alike = known.get((found["dtype"], shape))
                fits = alike is not None and start == last and alike[2] == end - start
            except (TypeError, KeyError, ValueError):
                raise self._malformed(name, found) from None
            if alike is None or not fits or len(found) != 3:
                alike = self._checked(name, found)
                in_order = in_order and start >= last
            last = end
            tensors.append(new(TensorEntry, (name, *alike, file, False)))
        if not in_order or last > self._data:
            self._refuse_overlap(listed)
        tensors.sort(key=itemgetter(0))
        return tensors

    def _checked(self, name: str, found: Any) -> _Alike:
        """The short dtype, shape and bytes of an entry that is as the format says."""
        self._check(name, found)
        dtype, (start, end) = found["dtype"], found["data_offsets"]
        shape = tuple(found["shape"])
        alike = short_dtype(dtype), shape, end - start
        if dtype in _BITS and min(shape, default=0) > 1:  # to a dict true is 1, and {} here []
            self._known[dtype, shape] = alike
        return alike

    def _check(self, name: str, found: Any) -> None:
        """Raise for whatever is wrong with one entry."""
        match found:
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, end]}:
                pass
            case _:
                raise self._malformed(name, found)
        if not isinstance(start, int) or not isinstance(end, int):
            raise self._malformed(name, found)
        if not all(type(size) is int and 0 <= size < 1 << 63 for size in shape):
            raise self._wrong(name, f"has the shape {shown(shape)}, expected sizes from 0 on")
        if not 0 <= start <= end <= self._data:
            raise self._wrong(
                name,
                f"lies at bytes {number(start)} to {number(end)} of the data, "
                f"which has {self._data:,}",
            )
        expected = bytes_of(dtype, tuple(shape))
        if expected not in (None, end - start):
            raise self._wrong(
                name,
                f"has {end - start:,} bytes, expected {number(expected or 0)} "
                f"for {dtype} {shown(shape)}",
            )

    def _refuse_overlap(self, listed: dict[str, Any]) -> None:
        """Entries that are not in the order of their bytes: still, no two may share any, and all
        must be there."""
        for name, found in listed.items():
            self._check(name, found)
        places = sorted((*found["data_offsets"], name) for name, found in listed.items())
        last, before = 0, ""
        for start, end, name in places:
            if start < last and start < end:
                raise self._wrong(
                    name, f"begins at byte {start:,}, but {shown(before)} ends at {last:,}"
                )
            if end > last:
                last, before = end, name

    def _malformed(self, name: str, found: Any) -> CheckpointError:
        return self._wrong(name, f"has {shown(found)}, expected dtype, shape and two data_offsets")

    def _wrong(self, name: str, words: str) -> CheckpointError:
        return CheckpointError(f"{self._path}: {shown(name)} {words}")


def _refuse_twice(path: Path, header: bytes, tensors: int, metadata: dict[str, Any]) -> None:
    """Raise where a key is there twice, of which JSON's reader keeps the last and says nothing.

    Each string has two quotes, an entry five strings: where the header has no more quotes than
    what was read needs, nothing was dropped. Else it is read again, key by key.
    """
    needed = 10 * tensors + (4 * len(metadata) + 2 if b'"__metadata__"' in header else 0)
    if header.count(b'"') == needed:
        return

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise CheckpointError(f"{path}: the header has {shown(key)} twice, expected once")
            found[key] = value
        return found

    _parsed(path, header, object_pairs_hook=once)
