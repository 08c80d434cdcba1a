"""The tensors of a conversion that is under way.

Nothing is called: names come from `model_tensors`, shapes from what its callables hold as
defaults, or from file headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from modpdb.probes._static import instance_dict
from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.checkpoints import Checkpoint, parts_of, read_checkpoint
from modpdb.probes.conversion import Conversion, is_path, mapped_name, name_mapping
from modpdb.probes.files import CheckpointError
from modpdb.probes.safetensors_files import TensorEntry, read_header
from modpdb.probes.tensors import TensorReader, short_dtype


@dataclass(frozen=True, slots=True)
class GGUFName:
    """What the name map says of a tensor; *ggml_shape* has the fastest dimension first."""

    name: str
    ggml_shape: tuple[int, ...] | None


def conversion_checkpoint(conversion: Conversion) -> Checkpoint:
    """The tensors that are converted: `model_tensors` where there is one, else the headers.

    CheckpointError where neither can be had.
    """
    listed = instance_dict(conversion.model).get("model_tensors")
    if type(listed) is dict:
        return _listed_checkpoint(conversion, listed)
    if conversion.dir_model is None:
        raise CheckpointError("the conversion's folder is not known yet")
    chosen = instance_dict(conversion.model).get("part_names")
    return read_checkpoint(
        conversion.dir_model,
        mistral=conversion.mistral,
        obey_index=conversion.obeys_index,
        files=chosen if type(chosen) is list else (),
    )


def _listed_checkpoint(conversion: Conversion, listed: dict[str, Any]) -> Checkpoint:
    reader = _BehindReader()
    stored = _Stored(conversion)
    tensors = []
    for name, source in listed.items():
        found = reader.entry(name, source)
        if found is None:  # a callable made while converting, over others of the list
            at_hand = stored.entry(name)
            found = TensorEntry(name, *at_hand, derived=True)
        tensors.append(found)
    files = tuple(sorted({tensor.file for tensor in tensors if tensor.file}))
    folder = str(conversion.dir_model or "")
    return Checkpoint(folder, files, tuple(tensors), tuple(stored.problems), True)


class _Stored:
    """What the files say of a name, their headers read when it is first asked."""

    def __init__(self, conversion: Conversion) -> None:
        self._conversion = conversion
        self._known: dict[str, TensorEntry] | None = None
        self.problems: list[str] = []

    def entry(self, name: str) -> tuple[str | None, tuple[int, ...] | None, int | None, str]:
        """Dtype, shape, bytes and file; None and "" of a name that no file has."""
        if self._known is None:
            self._known = self._read()
        found = self._known.get(name)
        if found is None:
            return None, None, None, ""
        return found.dtype, found.shape, found.nbytes, found.file

    def _read(self) -> dict[str, TensorEntry]:
        folder, mistral = self._conversion.dir_model, self._conversion.mistral
        if folder is None:
            return {}
        try:
            checkpoint = read_checkpoint(folder, mistral=mistral)
        except CheckpointError as error:
            self.problems.append(str(error))
            return {}
        self.problems += checkpoint.problems
        return {tensor.name: tensor for tensor in checkpoint.tensors}


class _BehindReader:
    """Reads the tensor that a callable of `model_tensors` holds, without calling it.

    `index_tensors` binds it as the default of a lambda: `lambda data=data: …`.
    """

    def __init__(self) -> None:
        self._torch = torch_or_none()
        self._reader = TensorReader(self._torch) if self._torch is not None else None

    def entry(self, name: str, source: object) -> TensorEntry | None:
        if type(source) is not FunctionType:
            return None
        for held in source.__defaults__ or ():
            found = self._described(name, held)
            if found is not None:
                return found
        return None

    def _described(self, name: str, held: object) -> TensorEntry | None:
        state = instance_dict(held)
        if self._reader is not None:
            lazy = state.get("_meta")
            tensor = held if self._reader.is_tensor(held) else lazy
            if self._reader.is_tensor(tensor):
                with undisturbed(self._torch):
                    facts = self._reader.facts(tensor)
                return TensorEntry(name, facts.dtype, facts.shape, facts.nbytes, "")
        return _local_or_remote(name, state)


def _local_or_remote(name: str, state: dict[str, Any]) -> TensorEntry | None:
    """gguf.utility's LocalTensor (a range of a file) or RemoteTensor (a range behind a URL)."""
    dtype, shape = state.get("dtype"), state.get("shape")
    if type(dtype) is not str or type(shape) is not tuple:
        return None
    held = instance_dict(state.get("data_range"))
    size = held.get("size", state.get("size"))
    path: Any = held.get("filename")
    url = state.get("url")
    if not is_path(path):
        path = url if type(url) is str else ""
    return TensorEntry(
        name, short_dtype(dtype), shape, size if type(size) is int else None, Path(path).name
    )


def gguf_name(conversion: Conversion, tensor: str) -> GGUFName | None:
    """The GGUF name of checkpoint tensor *tensor* by the name map, None where it has none.

    A prediction: a converter's `modify_tensors` may rename, split, stack or drop the tensor.
    """
    name = mapped_name(name_mapping(conversion), tensor)
    if name is None:
        return None
    entry = conversion_tensor(conversion, tensor)
    shape = entry.shape if entry else None
    return GGUFName(name, None if shape is None else shape[::-1])


def conversion_tensor(conversion: Conversion, name: str) -> TensorEntry | None:
    """One tensor of the conversion's checkpoint, None if it has none of that name."""
    listed = instance_dict(conversion.model).get("model_tensors")
    if type(listed) is dict:
        if name not in listed:
            return None
        (found,) = _listed_checkpoint(conversion, {name: listed[name]}).tensors
        return found
    try:
        return _entry_by_header(conversion, name)
    except CheckpointError:
        return None


def _entry_by_header(conversion: Conversion, name: str) -> TensorEntry | None:
    if conversion.dir_model is None:
        return None
    folder = conversion.dir_model
    parts = parts_of(folder, mistral=conversion.mistral, obey_index=conversion.obeys_index)
    if not parts.safetensors:
        return None
    files = [parts.index[name]] if name in parts.index else parts.files
    for file in files:
        for entry in read_header(folder / file):
            if entry.name == name:
                return entry
    return None
