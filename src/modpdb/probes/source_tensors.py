"""The tensors of a checkpoint with their values, read afresh from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modpdb.probes._static import class_name
from modpdb.probes._torch import torch_or_none
from modpdb.probes.checkpoints import Checkpoint
from modpdb.probes.files import CheckpointError
from modpdb.probes.safetensors_files import TensorEntry
from modpdb.probes.stored import Mapped, StoredFile


class SourceTensors:
    """Those of *checkpoint*, by name; data is read when it is looked at."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.entries = {each.name: each for each in checkpoint.tensors}
        self._folder = Path(checkpoint.folder)
        self._files: dict[str, StoredFile] = {}
        self._loaded: dict[str, Any] = {}

    def tensor(self, name: str) -> Mapped:
        """The torch tensor *name*. CheckpointError where it cannot be read."""
        entry = self.entries[name]
        path = self._folder / entry.file
        if not entry.file.endswith(".safetensors"):
            return Mapped(self._pickled(path, entry), None)
        if entry.file not in self._files:
            self._files[entry.file] = StoredFile(path)
        return self._files[entry.file].tensor(entry)

    def _pickled(self, path: Path, entry: TensorEntry) -> Any:
        """By torch's own reader, with weights_only, of a file whose pickle has been followed."""
        if entry.file not in self._loaded:
            torch = torch_or_none()
            try:
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except Exception as error:  # its own, and those of pickle, zipfile and the system
                raise CheckpointError(
                    f"{path}: torch.load(weights_only=True) raises {class_name(type(error))}"
                ) from None
            self._loaded[entry.file] = loaded
        found = self._loaded[entry.file]
        for inside in ("", "state_dict", "model_state_dict", "model", "module"):
            named = found.get(inside) if inside else found
            if isinstance(named, dict) and entry.name in named:
                return named[entry.name].detach()
        raise CheckpointError(f"{path}: torch.load gives no {entry.name!r}")
