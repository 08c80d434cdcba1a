"""A tensor of a safetensors file, its bytes mapped and read when they are looked at."""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Any

from modpdb.probes._torch import torch_or_none
from modpdb.probes.files import CheckpointError
from modpdb.probes.safetensors_files import TensorEntry, data_offset, read_header

# torch's names of the dtypes that headers have, in short.
_TORCH = {
    "bool": "bool", "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
    "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64", "c64": "complex64",
    "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64",
    "f8_e4m3": "float8_e4m3fn", "f8_e5m2": "float8_e5m2", "f8_e8m0": "float8_e8m0fnu",
    "f8_e4m3fnuz": "float8_e4m3fnuz", "f8_e5m2fnuz": "float8_e5m2fnuz",
}  # fmt: skip


def stored_tensor(path: Path, entry: TensorEntry) -> Any:
    """The torch tensor *entry* of the safetensors file *path*: its memory is the file's, copied
    where it is written to. CheckpointError where the file no longer has it or torch no such dtype.
    """
    torch = torch_or_none()
    dtype = getattr(torch, _TORCH.get(entry.dtype or "", ""), None)
    if dtype is None:
        raise CheckpointError(f"{path}: {entry.name!r} has the dtype {entry.dtype}, unknown here")
    found = {each.name: each for each in read_header(path)}.get(entry.name)
    if found is None:
        raise CheckpointError(f"{path}: the header has no {entry.name!r}")
    assert found.shape is not None
    offset, elements = data_offset(path, found.name), math.prod(found.shape)
    if not elements:
        return torch.empty(found.shape, dtype=dtype)
    try:
        with open(path, "rb") as file:
            # A private map may be written to: of read-only memory torch would warn.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    end = offset + elements * dtype.itemsize
    if end > len(mapped):  # cut short since its header was read
        raise CheckpointError(
            f"{path}: {entry.name!r} ends at byte {end:,} of "
            f"{len(mapped):,} of the file, which is shorter than its header says"
        )
    flat = torch.frombuffer(mapped, dtype=dtype, count=elements, offset=offset)
    return flat.reshape(found.shape)
