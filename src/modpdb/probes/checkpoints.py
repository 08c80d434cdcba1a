"""A checkpoint folder by its files' headers: no tensor data is read, no pickle executed.

The files are chosen by the rule of llama.cpp's converter (`index_tensors` in conversion/base.py),
so that a folder with `model*` and `consolidated*` files gives the tensors that get converted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from modpdb.collector import collector_paused
from modpdb.probes.files import CheckpointError, read_json, shown
from modpdb.probes.layers import Own, own_shapes
from modpdb.probes.registered import TensorRow
from modpdb.probes.safetensors_files import TensorEntry, read_whole_header
from modpdb.probes.safetensors_files import read_header as read_header
from modpdb.probes.tensors import TensorFacts
from modpdb.probes.tree import (
    ModuleNode,
    ModuleTree,
    Signatures,
    Source,
    Sums,
    is_number,
)


@dataclass(frozen=True, slots=True)
class Shared:
    """Names of one tensor in a file; those of *left_out* are not among the checkpoint's own, as
    safetensors' save_model leaves them out and notes in the metadata."""

    names: tuple[str, ...]
    file: str
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors to be converted, in the converter's order, and what was wrong on the way."""

    folder: str
    files: tuple[str, ...]
    tensors: tuple[TensorEntry, ...]
    problems: tuple[str, ...] = ()
    from_model_tensors: bool = False
    shared: tuple[Shared, ...] = ()


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
    with collector_paused():
        return _of_files(folder, parts)


def _of_files(folder: Path, parts: Parts) -> Checkpoint:
    """The tensors of all files; of one that cannot be read those that the index names."""
    tensors: list[TensorEntry] = []
    shared: list[Shared] = []
    problems = []
    for file in parts.files:
        try:
            found = read_file(folder / file)
        except CheckpointError as error:
            problems.append(str(error))
            if not parts.safetensors:  # of others the names are not taken on trust
                named = (name for name, place in parts.index.items() if place == file)
                tensors += [TensorEntry(name, None, None, None, file) for name in named]
            continue
        tensors += found.tensors
        shared += found.shared
        problems += found.problems
    if parts.index and not problems:
        problems += _unlike_index(folder, parts, tensors)
    return Checkpoint(
        str(folder), parts.files, tuple(tensors), tuple(problems), shared=tuple(shared)
    )


def _unlike_index(folder: Path, parts: Parts, tensors: Sequence[TensorEntry]) -> list[str]:
    """What the index and the files do not agree on."""
    if len(tensors) == len(parts.index) and all(
        map(parts.index.__contains__, map(itemgetter(0), tensors))
    ):
        return []
    found = {tensor.name for tensor in tensors}
    one = min(parts.index.keys() ^ found)
    where = "in no file" if one in parts.index else "not in the index"
    return [
        f"{folder}: the index names {len(parts.index):,} tensors, the files have {len(found):,}: "
        f"{shown(one)} is {where}"
    ]


def read_file(path: Path) -> Checkpoint:
    """The tensors of one file, of safetensors or of torch.save, by how its name ends."""
    folder, files = str(path.parent), (path.name,)
    if path.name.endswith(".safetensors"):
        tensors, metadata = read_whole_header(path)
        return Checkpoint(folder, files, tuple(tensors), shared=_left_out(path, tensors, metadata))
    from modpdb.probes.pickled_files import read_pickled

    pickled = read_pickled(path)
    shared = tuple(Shared(names, path.name) for names in pickled.shared)
    problems = tuple(
        f"{path}: running the pickle would import {shown(name)}, which no tensor needs; it was "
        "not run"
        for name in pickled.imports[:1]
    )
    return Checkpoint(folder, files, pickled.tensors, problems, shared=shared)


def _left_out(
    path: Path, tensors: list[TensorEntry], metadata: dict[str, Any]
) -> tuple[Shared, ...]:
    """What save_model notes: {name left out: name stored} among the metadata."""
    if not metadata or metadata.keys() <= {"format"}:
        return ()
    stored = {tensor.name for tensor in tensors}
    return tuple(
        Shared((kept, name), path.name, (name,))
        for name, kept in metadata.items()
        if type(kept) is str and kept in stored and name not in stored
    )


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
    weight_map: Any = read_json(path, "the index").get("weight_map")
    files = weight_map.values() if isinstance(weight_map, dict) else [None]
    if not {str}.issuperset(map(type, files)) or any(
        os.path.basename(file) != file for file in set(files)
    ):
        raise CheckpointError(f"{path}: 'weight_map' is no map of tensor names to file names")
    return weight_map


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
