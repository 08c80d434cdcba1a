"""A file or folder that somebody names, as a checkpoint: its tensors' names, shapes and dtypes."""

from __future__ import annotations

import os
from pathlib import Path

from modpdb.probes.checkpoints import Checkpoint, read_checkpoint, read_file
from modpdb.probes.files import CheckpointError
from modpdb.probes.gguf_files import read_gguf
from modpdb.probes.safetensors_files import TensorEntry

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")


def open_checkpoint(path: Path) -> Checkpoint:
    """The tensors of *path*: a model folder, a LoRA adapter's, or a file of safetensors,
    torch.save or GGUF (shapes in torch's order, so ne reversed).

    CheckpointError says what was found instead, or why it cannot be read.
    """
    name = path.name
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or folder")
    if name.endswith((".safetensors", *PICKLES)):
        return read_file(path)
    if name.endswith(".index.json"):
        return read_checkpoint(path.parent)
    if name.endswith(".gguf"):
        return _gguf(path)
    raise CheckpointError(
        f"{path}: expected a model folder, or a file that ends in .safetensors, .gguf or "
        f"{', '.join(PICKLES)}"
    )


def _folder(folder: Path) -> Checkpoint:
    try:
        return read_checkpoint(folder)
    except CheckpointError:
        names = os.listdir(folder) if os.access(folder, os.R_OK) else []
        for adapter in _ADAPTERS:
            if adapter in names:
                return read_file(folder / adapter)
        if any(each.startswith("consolidated") for each in names):
            return read_checkpoint(folder, mistral=True)
        raise


def _gguf(path: Path) -> Checkpoint:
    contents = read_gguf(path)
    tensors = tuple(
        TensorEntry(each.name, each.dtype, each.ne[::-1], each.nbytes, path.name)
        for each in contents.tensors
    )
    return Checkpoint(str(path.parent), (path.name,), tensors, contents.problems)
