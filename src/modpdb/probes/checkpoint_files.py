"""A file or folder that somebody names, as a checkpoint: names, shapes and dtypes of its tensors.

Of safetensors files headers are read. Pickles are read by torch.load's restricted unpickler
(`weights_only=True`), which builds tensors and plain containers and calls nothing else, onto the
meta device: their data is not read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modpdb.probes._static import class_name, is_a
from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.checkpoints import (
    Checkpoint,
    CheckpointError,
    TensorEntry,
    parts_of,
    read_checkpoint,
    read_header,
)
from modpdb.probes.tensors import TensorReader

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_NESTED = ("state_dict", "model_state_dict", "model", "module")  # where trainers put it


def open_checkpoint(path: Path) -> Checkpoint:
    """The tensors of *path*: a model folder, a safetensors file, or a file of torch.save.

    CheckpointError says what was found instead, or why it cannot be read.
    """
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or folder")
    if path.name.endswith(".safetensors"):
        return Checkpoint(str(path.parent), (path.name,), tuple(read_header(path)))
    if path.name.endswith(_PICKLES):
        return Checkpoint(str(path.parent), (path.name,), tuple(_pickled(path)))
    if path.name.endswith(".safetensors.index.json"):
        return _folder(path.parent)
    if path.name.endswith(".gguf"):
        raise CheckpointError(f"{path}: a GGUF file's names are those of llama.cpp, no module's")
    raise CheckpointError(
        f"{path}: expected a model folder, a .safetensors file or one of torch.save "
        f"({', '.join(_PICKLES)})"
    )


def _folder(folder: Path) -> Checkpoint:
    try:
        parts = parts_of(folder)
    except CheckpointError:
        if any(name.startswith("consolidated") for name in os.listdir(folder)):
            return read_checkpoint(folder, mistral=True)
        raise
    if parts.safetensors:
        return read_checkpoint(folder)
    tensors: list[TensorEntry] = []
    problems = []
    for file in parts.files:
        try:
            tensors += _pickled(folder / file)
        except CheckpointError as error:
            problems.append(str(error))
    return Checkpoint(str(folder), parts.files, tuple(tensors), tuple(problems))


def _pickled(path: Path) -> Iterator[TensorEntry]:
    torch = torch_or_none()
    if torch is None:
        raise CheckpointError(f"{path}: a pickle, which only torch can read, and it is not loaded")
    with undisturbed(torch):
        try:
            loaded = torch.load(path, map_location="meta", weights_only=True, mmap=_zipped(path))
        except Exception as error:  # pickle's, zipfile's, torch's and OSError
            raise CheckpointError(
                f"{path}: torch.load(weights_only=True) refuses it: {refusal(error)}"
            ) from None
        reader = TensorReader(torch)
        for name, tensor in _tensors(path, loaded, reader).items():
            facts = reader.facts(tensor)
            yield TensorEntry(name, facts.dtype, facts.shape, facts.nbytes, path.name)


def refusal(error: BaseException) -> str:
    """What torch.load(weights_only=True) says, without its page of advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = (line for line in lines if line.startswith("WeightsUnpickler error:"))
    line = next(named, lines[0] if lines else class_name(type(error)))
    return line.removeprefix("WeightsUnpickler error:").partition(". Please ")[0].strip()


def _zipped(path: Path) -> bool:
    """Whether it has the format of torch 1.6 and later, which can be mapped into memory."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _tensors(path: Path, loaded: Any, reader: TensorReader) -> dict[str, Any]:
    """The tensors by name of what was loaded, or of the dict in it that holds them."""
    for found in (loaded, *(loaded.get(key) for key in _NESTED if is_a(loaded, dict))):
        if is_a(found, dict):
            tensors = {k: v for k, v in found.items() if type(k) is str and reader.is_tensor(v)}
            if tensors:
                return tensors
    raise CheckpointError(f"{path}: a {class_name(type(loaded))} without tensors by name")
