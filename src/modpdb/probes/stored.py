"""Tensors of a file, their bytes mapped and read when they are looked at."""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Any, NamedTuple

from modpdb.probes._torch import torch_or_none
from modpdb.probes.files import CheckpointError, open_file, size_of
from modpdb.probes.safetensors_files import TensorEntry, data_offsets, read_header

# torch's names of the dtypes that headers have, in short.
_TORCH = {
    "bool": "bool", "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
    "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64", "c64": "complex64",
    "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64",
    "f8_e4m3": "float8_e4m3fn", "f8_e5m2": "float8_e5m2", "f8_e8m0": "float8_e8m0fnu",
    "f8_e4m3fnuz": "float8_e4m3fnuz", "f8_e5m2fnuz": "float8_e5m2fnuz",
}  # fmt: skip


class Mapped(NamedTuple):
    """*values*: a torch tensor whose memory is a part of a file; None where it has no element."""

    values: Any
    memory: mmap.mmap | None

    def release(self) -> None:
        """Give the memory back that was read so far; what is looked at again is read again."""
        if self.memory is not None and hasattr(mmap, "MADV_DONTNEED"):
            self.memory.madvise(mmap.MADV_DONTNEED)


def mapped(path: Path, name: str, dtype: Any, elements: int, offset: int) -> Mapped:
    """*elements* values of *dtype* from byte *offset* of *path* on, for the tensor *name*; they are
    copied where they are written to. CheckpointError where they are not all there."""
    torch = torch_or_none()
    if not elements:
        return Mapped(torch.empty(0, dtype=dtype), None)
    end = offset + elements * dtype.itemsize
    begin = offset - offset % mmap.ALLOCATIONGRANULARITY
    try:
        with open_file(path) as file:
            size = size_of(file)
            if end > size:  # cut short since its header was read
                raise CheckpointError(
                    f"{path}: {name!r} ends at byte {end:,} of "
                    f"{size:,} of the file, which is shorter than its header says"
                )
            # A private map may be written to: of read-only memory torch would warn.
            memory = mmap.mmap(file.fileno(), end - begin, access=mmap.ACCESS_COPY, offset=begin)
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: {error}") from None
    values = torch.frombuffer(memory, dtype=dtype, count=elements, offset=offset - begin)
    return Mapped(values, memory)


def stored_tensor(path: Path, entry: TensorEntry) -> Any:
    """The torch tensor *entry* of the safetensors file *path*: its memory is the file's, copied
    where it is written to. CheckpointError where the file no longer has it or torch no such dtype.
    """
    return StoredFile(path).tensor(entry).values


class StoredFile:
    """A safetensors file, its header read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shapes = {each.name: each.shape for each in read_header(path)}
        self._offsets = data_offsets(path)

    def tensor(self, entry: TensorEntry) -> Mapped:
        path = self._path
        dtype = getattr(torch_or_none(), _TORCH.get(entry.dtype or "", ""), None)
        if dtype is None:
            raise CheckpointError(
                f"{path}: {entry.name!r} has the dtype {entry.dtype}, unknown here"
            )
        shape = self._shapes.get(entry.name)
        if shape is None:
            raise CheckpointError(f"{path}: the header has no {entry.name!r}")
        found = mapped(path, entry.name, dtype, math.prod(shape), self._offsets[entry.name])
        return Mapped(found.values.reshape(shape), found.memory)
