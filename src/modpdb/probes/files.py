"""Files that nobody vouches for: opened without hanging, read without filling the memory."""

from __future__ import annotations

import json
import os
import reprlib
import stat
from pathlib import Path
from typing import Any, BinaryIO

HEADER_LIMIT = 100_000_000  # bytes; safetensors' own reader refuses longer headers, too
_VALUES = 4_000_000  # of JSON, each some 200 bytes of memory; a tensor's header has ten
_LARGE = 8_000_000  # bytes of JSON from which its values are counted before it is parsed
_SHOWN = 80  # characters of what is in a file that a message repeats
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxlong = 3, _SHOWN, _SHOWN


class CheckpointError(ValueError):
    """A file or folder that cannot be read as a checkpoint: what was found and expected."""


def open_file(path: Path) -> BinaryIO:
    """*path* for reading. CheckpointError where it cannot be opened or is a pipe or device, at
    which opening and reading would wait."""
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise CheckpointError(f"{path}: {getattr(error, 'strerror', error)}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path}: not a regular file")
    return open(descriptor, "rb")


def size_of(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def parse_json(path: Path, what: str, text: bytes, **hooks: Any) -> dict[str, Any]:
    """The JSON object in *text*, which is *what* of *path*; *hooks* are those of json.loads.

    CheckpointError where it is none, or has so many values that they would fill the memory.
    """
    if len(text) > _LARGE:
        values = sum(text.count(sign) for sign in (b",", b"[", b"{"))
        if values > _VALUES:
            raise CheckpointError(
                f"{path}: {what} has about {values:,} values, expected up to {_VALUES:,}"
            )
    try:
        found = json.loads(text.decode("utf-8"), **hooks)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {what} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: {what} is a JSON {type(found).__name__}, not an object")
    return found


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The JSON object that is all of *path*."""
    with open_file(path) as file:
        if size_of(file) > HEADER_LIMIT:
            raise CheckpointError(
                f"{path}: {what} has {size_of(file):,} bytes, expected up to {HEADER_LIMIT:,}"
            )
        return parse_json(path, what, file.read(HEADER_LIMIT))


def shown(value: object) -> str:
    """The start of what a file says, for a message about it; lists in lists are cut, too."""
    text = _REPR.repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def number(value: int) -> str:
    """A number out of a file, which may have thousands of digits."""
    return f"{value:,}" if value.bit_length() < 128 else f"a number of {value.bit_length():,} bits"
