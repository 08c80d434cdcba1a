"""A checkpoint folder by its safetensors headers: no tensor data is read, no pickle executed.

The files are chosen by the rule of llama.cpp's converter (`index_tensors` in conversion/base.py),
so that a folder with `model*` and `consolidated*` files gives the tensors that get converted.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modpdb.probes.layers import Own, own_shapes
from modpdb.probes.registered import TensorRow
from modpdb.probes.tensors import TensorFacts, short_dtype
from modpdb.probes.tree import (
    ModuleNode,
    ModuleTree,
    Signatures,
    Source,
    Sums,
    is_number,
)

HEADER_LIMIT = 100_000_000  # bytes; safetensors' own reader refuses longer headers, too

# Bits of an element, by the names in a safetensors header.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class CheckpointError(ValueError):
    """A file or folder that cannot be read as a checkpoint: what was found and expected."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor of a checkpoint; None is what its file does not tell without being executed."""

    name: str
    dtype: str | None  # in short: bf16, f32, f8_e4m3
    shape: tuple[int, ...] | None
    nbytes: int | None
    file: str
    derived: bool = False  # computed while converting, as by dequantising: shape as stored
    # Where its bytes begin in the file; None where the header was not what told of it.
    offset: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors to be converted, in the converter's order, and what was wrong on the way."""

    folder: str
    files: tuple[str, ...]
    tensors: tuple[TensorEntry, ...]
    problems: tuple[str, ...] = ()
    from_model_tensors: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """The files of a checkpoint; *index* names each tensor's file where there is an index."""

    files: tuple[str, ...]
    safetensors: bool
    index: dict[str, str]


def read_checkpoint(
    folder: Path, *, mistral: bool = False, obey_index: bool = True, files: Iterable[str] = ()
) -> Checkpoint:
    """All tensors of *folder* from its files' headers.

    *mistral*: the `consolidated*` files. *obey_index*: the files that the index names, as
    converters do since late 2025; before, all that fit the pattern. *files* instead of either
    are those that the converter has chosen already. A file that cannot be read is among the
    problems, and the others count; CheckpointError if the folder cannot be listed.
    """
    chosen = tuple(files)
    parts = parts_of(folder, mistral=mistral, obey_index=obey_index)
    if chosen:
        parts = Parts(chosen, chosen[0].endswith(".safetensors"), parts.index)
    if not parts.safetensors:
        return _pickled(folder, parts)
    tensors: list[TensorEntry] = []
    problems = []
    for file in parts.files:
        try:
            tensors += read_header(folder / file)
        except CheckpointError as error:
            problems.append(str(error))
    return Checkpoint(str(folder), parts.files, tuple(tensors), tuple(problems))


def parts_of(folder: Path, *, mistral: bool = False, obey_index: bool = True) -> Parts:
    """Which files of *folder* the converter reads. CheckpointError names what is missing."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise CheckpointError(f"{folder}: {error.strerror}, expected a model folder") from None
    prefix = "consolidated" if mistral else "model"
    files = [name for name in names if name.startswith(prefix) and name.endswith(".safetensors")]
    safetensors = bool(files) or (not mistral and "model.safetensors.index.json" in names)
    if not safetensors:
        files = [n for n in names if n.startswith("pytorch_model") and n.endswith(".bin")]
    index = {}
    index_name = f"{'model.safetensors' if safetensors else 'pytorch_model.bin'}.index.json"
    if index_name in names and not mistral:
        index = _weight_map(folder / index_name)
        if obey_index:
            files = sorted(set(index.values()))
    if not files:
        raise CheckpointError(f"{folder}: no {prefix}*.safetensors and no pytorch_model*.bin file")
    return Parts(tuple(files), safetensors, index)


def _weight_map(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}, expected a JSON index") from None
    weight_map = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(weight_map, dict) or not all(
        isinstance(file, str) and os.path.basename(file) == file for file in weight_map.values()
    ):
        raise CheckpointError(f"{path}: 'weight_map' is no map of tensor names to file names")
    return weight_map


def _pickled(folder: Path, parts: Parts) -> Checkpoint:
    tensors = [TensorEntry(name, None, None, None, file) for name, file in parts.index.items()]
    known = "shapes are" if tensors else "tensor names and shapes are"
    problem = f"{parts.files[0]}: a pickle, which is not executed to look at it; {known} not known"
    return Checkpoint(str(folder), parts.files, tuple(tensors), (problem,))


def read_header(path: Path) -> list[TensorEntry]:
    """The tensors that a safetensors file's header lists, by name; nothing else is read.

    CheckpointError where the header is longer than the file or HEADER_LIMIT, is not JSON, or
    an entry is not as the format says; it names file, what was found and what was expected.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = _header_length(path, file.read(8), size)
            header = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    try:
        listed = json.loads(header.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is not JSON: {error}") from None
    if not isinstance(listed, dict):
        raise CheckpointError(
            f"{path}: the header is a JSON {type(listed).__name__}, not an object"
        )
    listed.pop("__metadata__", None)
    begin = 8 + length
    return [_entry(path, name, listed[name], begin, size - begin) for name in sorted(listed)]


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


def _entry(path: Path, name: str, found: Any, begin: int, data: int) -> TensorEntry:
    match found:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            raise CheckpointError(
                f"{path}: {name!r} has {found!r:.80}, expected dtype, shape and two data_offsets"
            )
    if not all(type(size) is int and size >= 0 for size in shape):
        raise CheckpointError(f"{path}: {name!r} has the shape {shape}, expected sizes from 0 on")
    if not 0 <= start <= end <= data:
        raise CheckpointError(
            f"{path}: {name!r} lies at bytes {start:,} to {end:,} of the data, which has {data:,}"
        )
    bits = BITS.get(dtype)
    if bits is not None and math.prod(shape) * bits != (end - start) * 8:
        raise CheckpointError(
            f"{path}: {name!r} has {end - start:,} bytes, expected "
            f"{math.prod(shape) * bits // 8:,} for {dtype} {shape}"
        )
    return TensorEntry(
        name, short_dtype(dtype), tuple(shape), end - start, path.name, offset=begin + start
    )


def tensor_rows(tensors: Iterable[TensorEntry]) -> list[TensorRow]:
    """A checkpoint's tensors in the form that `params` shows."""
    return [
        TensorRow(
            tensor.name,
            _facts(tensor),
            notes=("derived while converting",) if tensor.derived else (),
            file=tensor.file,
        )
        for tensor in tensors
    ]


def _facts(tensor: TensorEntry) -> TensorFacts:
    elements = None if tensor.shape is None else math.prod(tensor.shape)
    unsized = "shape not known" if tensor.shape is None else ""
    dtype = tensor.dtype or "?"
    return TensorFacts(tensor.shape, dtype, "", True, elements, tensor.nbytes, unsized=unsized)


@dataclass(slots=True)
class _Level:
    """A module that tensor names imply."""

    own: list[Own]
    children: list[str]
    derived: bool = False


def checkpoint_tree(checkpoint: Checkpoint, name: str = "") -> ModuleTree:
    """The modules that the tensors' names imply, as `module_tree` gives them of live ones.

    Classes are not known, every tensor counts as a parameter.
    """
    levels = _levels(checkpoint.tensors)
    signatures = Signatures()
    done: dict[tuple[str, ...], tuple[ModuleNode, Sums]] = {}
    for names in reversed(levels):  # a level was entered after the one above it
        level = levels[names]
        below = [done.pop((*names, child)) for child in _in_order(level.children)]
        path = ".".join((name, *names) if name else names)
        done[names] = _level_node(path, names[-1] if names else name, level, below, signatures)
    root, _ = done[()]
    source = Source(
        checkpoint.folder,
        checkpoint.files,
        len(checkpoint.tensors),
        checkpoint.from_model_tensors,
        checkpoint.problems,
    )
    return ModuleTree(root, len(levels), None, _bytes_by_dtype(checkpoint), (), source)


_DEEPEST = 64  # levels made of one name; a name with more dots keeps them in its last part


def _levels(tensors: Iterable[TensorEntry]) -> dict[tuple[str, ...], _Level]:
    """The modules by the parts of their names, a module after the one that it lies in."""
    levels: dict[tuple[str, ...], _Level] = {(): _Level([], [])}
    for identity, tensor in enumerate(tensors):
        *modules, own_name = tensor.name.split(".", _DEEPEST)
        names: tuple[str, ...] = ()
        for module in modules:
            above, names = names, (*names, module)
            if names not in levels:
                levels[names] = _Level([], [])
                levels[above].children.append(module)
        levels[names].own.append(Own(own_name, "parameter", _facts(tensor), identity, False))
        levels[names].derived |= tensor.derived
    return levels


def _in_order(names: list[str]) -> list[str]:
    return sorted(names, key=int) if all(is_number(name) for name in names) else names


def _level_node(
    path: str,
    name: str,
    level: _Level,
    below: list[tuple[ModuleNode, Sums]],
    signatures: Signatures,
) -> tuple[ModuleNode, Sums]:
    sums = Sums()
    for _, more in below:
        sums.add(more)
    for own in level.own:
        sums.count(own, None)
    children = tuple(node for node, _ in below)
    flags: tuple[str, ...] = ("derived while converting",) if level.derived else ()
    flags += tuple(dict.fromkeys(own.facts.unsized for own in level.own if own.facts.unsized))
    signature = signatures.of(
        (
            flags,
            tuple((own.name, own.facts) for own in level.own),
            tuple((node.name, node.facts.signature) for node in children),
        )
    )
    container = bool(children) and not level.own and all(is_number(n.name) for n in children)
    detail = own_shapes(level.own)
    facts = sums.facts("", detail, flags, container, signature, level.own)
    return ModuleNode(path, name, facts, children), sums


def _bytes_by_dtype(checkpoint: Checkpoint) -> tuple[tuple[str, int], ...]:
    found: dict[str, int] = {}
    for tensor in checkpoint.tensors:
        if tensor.dtype is not None:
            found[tensor.dtype] = found.get(tensor.dtype, 0) + (tensor.nbytes or 0)
    return tuple(sorted(found.items(), key=lambda item: -item[1]))
