"""The header of a GGUF file: metadata and what it says of its tensors, without their data.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, both byte orders.
(gguf's own reader would have to be imported before the script imports its own, and makes several
numpy arrays for each token.)
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from modpdb.collector import collector_paused
from modpdb.probes.files import HEADER_LIMIT, CheckpointError, number, open_file, shown, size_of
from modpdb.probes.gguf_contents import (
    FIRST,
    GGML_TYPES,
    Array,
    GGUFContents,
    GGUFTensor,
    KeyValue,
    numbers_kept,
)

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32  # where `general.alignment` says nothing
_DIMENSIONS = 4  # GGML_MAX_DIMS
_NAME = 1 << 16  # bytes of a key or a name: the format allows keys of 65,535
_STRINGS = 1 << 24  # in an array: each has to be gone over
_NESTED = 4  # arrays within arrays
_KEYS, _TENSORS = 1 << 16, 1 << 20  # some hundred bytes of memory each
_BLOCK = 1 << 20  # bytes read at once

# Types of metadata: number, llama.cpp's name, and how struct reads it.
_SCALARS = {
    0: ("u8", "B"), 1: ("i8", "b"), 2: ("u16", "H"), 3: ("i16", "h"), 4: ("u32", "I"),
    5: ("i32", "i"), 6: ("f32", "f"), 7: ("bool", "?"), 10: ("u64", "Q"), 11: ("i64", "q"),
    12: ("f64", "d"),
}  # fmt: skip
_STRING, _ARRAY = 8, 9


def read_gguf(path: Path) -> GGUFContents:
    """What *path* says of itself. Tensors that reach beyond its end are among the problems.

    CheckpointError where the header is cut short or cannot be true; it names the file, the
    field, what was found and what was expected.
    """
    return read_places(path)[0]


def read_places(path: Path) -> tuple[GGUFContents, dict[str, int]]:
    """The same, and at which byte of the file each tensor's data begins."""
    with open_file(path) as file, collector_paused():
        reader = _Reader(path, file)
        return reader.contents(), reader.places


class _Reader:
    """Reads on from one place of the file; lengths are checked before anything is made of them."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._size = size_of(file)
        self._block = b""
        self._at = 0  # in the block
        self._passed = 0  # bytes of the file before the block
        self._over = 0  # bytes of arrays, which are not kept
        self._order = "<"
        self.places: dict[str, int] = {}

    def contents(self) -> GGUFContents:
        details = self._version()
        tensors, keys = self._number("Q", "the number of tensors"), self._number("Q", "of keys")
        self._expect(tensors, 24, "tensors")  # a name of no bytes, no dimensions, type, offset
        self._expect(keys, 13, "keys")
        for what, count, limit in (("tensors", tensors, _TENSORS), ("keys", keys, _KEYS)):
            if count > limit:
                raise self._wrong(f"is said to have {count:,} {what}, expected up to {limit:,}")
        metadata = [self._key_value() for _ in range(keys)]
        self._refuse_twice("key", [kv.key for kv in metadata])
        found = [self._tensor() for _ in range(tensors)]
        self._refuse_twice("tensor", [tensor.name for tensor, _ in found])
        alignment = self._alignment(metadata)
        problems = self._problems(found, alignment)
        begin = math.ceil(self._place / alignment) * alignment
        self.places = {tensor.name: begin + offset for tensor, offset in found}
        listed = tuple(tensor for tensor, _ in found)
        return GGUFContents(
            str(self._path), tuple(metadata), listed, tuple(details), problems=tuple(problems)
        )

    def _version(self) -> list[str]:
        magic = self._take(4, "the magic")
        if magic != _MAGIC:
            raise self._wrong(f"begins with {magic!r}, expected {_MAGIC!r}")
        version = self._number("I", "the version")
        if version & 0xFFFF == 0:  # the other byte order
            self._order = ">"
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in _VERSIONS:
            raise self._wrong(f"is of version {version:,}, expected 2 or 3")
        return [f"GGUF {version}"] + (["big-endian"] if self._order == ">" else [])

    # -- metadata ----------------------------------------------------------------------------------

    def _key_value(self) -> KeyValue:
        key = self._string("a key", _NAME)
        kind = self._number("I", f"the type of {shown(key)}")
        if kind == _ARRAY:
            array = self._array(key, 1)
            return KeyValue(key, f"arr[{array.of}]", array)
        if kind == _STRING:
            return KeyValue(key, "str", self._string(shown(key), HEADER_LIMIT))
        name, code = self._scalar(key, kind)
        return KeyValue(key, name, self._number(code, shown(key)))

    def _scalar(self, key: str, kind: int) -> tuple[str, str]:
        if kind not in _SCALARS:
            raise self._wrong(f"{shown(key)} has the type {kind:,}, expected 0 to 12")
        return _SCALARS[kind]

    def _array(self, key: str, depth: int) -> Array:
        kind = self._number("I", f"the item type of {shown(key)}")
        length = self._number("Q", f"the length of {shown(key)}")
        if kind == _STRING:
            return Array("str", length, self._strings(key, length))
        if kind == _ARRAY:
            if depth == _NESTED:
                raise self._wrong(f"{shown(key)} has arrays nested more than {_NESTED} deep")
            self._expect(length, 12, f"items of {shown(key)}")
            inner = [self._array(key, depth + 1) for _ in range(min(length, FIRST))]
            for _ in range(length - len(inner)):
                self._array(key, depth + 1)
            return Array("arr", length, tuple(inner))
        name, code = self._scalar(key, kind)
        size = struct.calcsize(f"={code}")
        self._expect(length, size, f"items of {shown(key)}")
        first = numbers_kept(length)
        items = struct.unpack(f"{self._order}{first}{code}", self._take(first * size, shown(key)))
        self._skip((length - first) * size)
        return Array(name, length, items)

    def _strings(self, key: str, length: int) -> tuple[str, ...]:
        """The first of *length* strings; the others are gone over."""
        self._expect(length, 8, f"strings of {shown(key)}")
        if length > _STRINGS:
            raise self._wrong(f"{shown(key)} has {length:,} strings, expected up to {_STRINGS:,}")
        what, began = f"a string of {shown(key)}", self._place
        kept = min(length, FIRST)
        first = tuple(self._string(what, HEADER_LIMIT) for _ in range(kept))
        sizes = struct.Struct(f"{self._order}Q").unpack_from
        for _ in range(length - kept):  # a tokenizer has 262,144: so few calls are made
            if self._at + 8 > len(self._block):
                self._refill(8, what)
            (size,) = sizes(self._block, self._at)
            self._at += 8 + size
            if self._at > len(self._block):
                self._skip(0, what)
        self._over += self._place - began
        return first

    # -- tensors -----------------------------------------------------------------------------------

    def _tensor(self) -> tuple[GGUFTensor, int]:
        """A tensor, and where it begins in the data."""
        name = self._string("a tensor's name", _NAME)
        dimensions = self._number("I", f"the dimensions of {shown(name)}")
        if dimensions > _DIMENSIONS:
            raise self._wrong(
                f"{shown(name)} has {dimensions:,} dimensions, expected up to {_DIMENSIONS}"
            )
        ne = tuple(self._number("Q", f"the shape of {shown(name)}") for _ in range(dimensions))
        kind = self._number("I", f"the type of {shown(name)}")
        offset = self._number("Q", f"the offset of {shown(name)}")
        if kind not in GGML_TYPES:  # newer than this table
            return GGUFTensor(name, f"type {kind}", ne, None), offset
        dtype, block, size = GGML_TYPES[kind]
        if ne and ne[0] % block:
            raise self._wrong(
                f"{shown(name)} has rows of {ne[0]:,} elements, expected multiples of {block} "
                f"for {dtype}"
            )
        return GGUFTensor(name, dtype, ne, math.prod(ne) // block * size), offset

    def _alignment(self, metadata: list[KeyValue]) -> int:
        found = next((kv.value for kv in metadata if kv.key == "general.alignment"), _ALIGNMENT)
        if type(found) is not int or found <= 0 or found & (found - 1):
            raise self._wrong(f"'general.alignment' is {shown(found)}, expected a power of two")
        return found

    def _problems(self, found: list[tuple[GGUFTensor, int]], alignment: int) -> list[str]:
        """What of the tensors' places cannot be: beyond the end, not aligned, over another."""
        begin = math.ceil(self._place / alignment) * alignment
        problems = []
        beyond = [
            (begin + offset + (tensor.nbytes or 0), tensor.name)
            for tensor, offset in found
            if begin + offset + (tensor.nbytes or 0) > self._size
        ]
        if beyond:
            end, name = max(beyond)
            problems.append(
                f"{self._path}: cut short: {shown(name)} ends at byte {number(end)}, the file has "
                f"{self._size:,} ({len(beyond):,} of {len(found):,} tensors are not all there)"
            )
        for tensor, offset in found:
            if offset % alignment:
                problems.append(
                    f"{self._path}: {shown(tensor.name)} begins at byte {offset:,} of the data, "
                    f"expected a multiple of {alignment:,}"
                )
                break
        last, before = 0, ""
        for offset, nbytes, name in sorted((o, t.nbytes or 0, t.name) for t, o in found):
            if nbytes and offset < last:
                problems.append(
                    f"{self._path}: {shown(name)} begins at byte {offset:,} of the data, but "
                    f"{shown(before)} ends at {last:,}"
                )
                break
            last, before = max((last, before), (offset + nbytes, name))
        return problems

    # -- bytes -------------------------------------------------------------------------------------

    @property
    def _place(self) -> int:
        return self._passed + self._at

    def _wrong(self, words: str) -> CheckpointError:
        return CheckpointError(f"{self._path}: {words}")

    def _expect(self, count: int, least: int, what: str) -> None:
        """Refuse *count* things of at least *least* bytes that cannot be in what follows."""
        left = self._size - self._place
        if count * least > left:
            raise self._wrong(
                f"is said to have {number(count)} {what}, at least {number(count * least)} bytes, "
                f"but {left:,} follow"
            )

    def _refuse_twice(self, what: str, names: list[str]) -> None:
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise self._wrong(f"has the {what} {shown(name)} twice, expected once")
            seen.add(name)

    def _number(self, code: str, what: str) -> Any:
        layout = self._order + code
        (found,) = struct.unpack(layout, self._take(struct.calcsize(layout), what))
        return found

    def _string(self, what: str, limit: int) -> str:
        length = self._number("Q", f"the length of {what}")
        if length > limit:
            raise self._wrong(f"{what} has {length:,} bytes, expected up to {limit:,}")
        return self._take(length, what).decode("utf-8", "surrogateescape")

    def _take(self, length: int, what: str) -> bytes:
        if self._at + length > len(self._block):
            self._refill(length, what)
        self._at += length
        return self._block[self._at - length : self._at]

    def _skip(self, length: int, what: str = "an array") -> None:
        """Go on by *length* bytes, or to where the place already is, behind the block."""
        self._at += length
        if self._at > len(self._block):
            place = self._place
            if place > self._size:
                raise self._short(place - self._size, what)
            self._file.seek(place)
            self._block, self._at, self._passed = b"", 0, place
        self._over += length

    def _refill(self, length: int, what: str) -> None:
        """Have *length* bytes at hand behind the place."""
        rest = self._block[self._at :]
        if length > self._size - self._place:
            raise self._short(length - (self._size - self._place), what)
        self._passed, self._at = self._place, 0
        if self._passed - self._over > HEADER_LIMIT:
            raise self._wrong(f"the header has over {HEADER_LIMIT:,} bytes beside its arrays")
        self._block = rest + self._file.read(max(length, _BLOCK) - len(rest))
        if len(self._block) < length:  # it has become shorter
            raise self._short(length - len(self._block), what)

    def _short(self, missing: int, what: str) -> CheckpointError:
        return self._wrong(
            f"cut short in {what}: the file has {self._size:,} bytes, {number(missing)} are missing"
        )
