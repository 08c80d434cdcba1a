"""A llama.cpp conversion that is under way: which object, which folder, which tensors.

It is known by what it has, not by its class, so that it is found in every version of
convert_hf_to_gguf.py since 2024 and in scripts made after it. Nothing is called: names come
from `model_tensors`, shapes from what its callables hold as defaults, or from file headers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import FunctionType
from typing import Any

from modpdb.probes._static import class_attribute, class_name, instance_dict, is_a
from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.checkpoints import Checkpoint, parts_of, read_checkpoint
from modpdb.probes.files import CheckpointError
from modpdb.probes.safetensors_files import TensorEntry, read_header
from modpdb.probes.tensors import TensorReader, short_dtype

_MARKS = ("gguf_writer", "tensor_map", "hparams", "model_tensors", "dir_model")
SUFFIXES = (".weight", ".bias")  # those that the converter's map_tensor_name tries


@dataclass(frozen=True, slots=True)
class Conversion:
    """A conversion as far as the frames know it.

    *model* is the converter's object, None before it is made; *class_name* is then that of the
    class about to be used, "" before that is known. *arch* is the GGUF architecture's name.
    """

    model: Any
    class_name: str
    arch: str
    dir_model: Path | None
    mistral: bool
    obeys_index: bool  # it reads the files that the index names, as versions since late 2025 do
    adapter: dict[str, Any] | None = None  # the tensors of a LoRA adapter that is converted

    @property
    def writer(self) -> Any:
        """Its GGUFWriter, None before there is one."""
        return instance_dict(self.model).get("gguf_writer")

    @property
    def hparams(self) -> dict[Any, Any] | None:
        """The config as the converter holds it, None before it does."""
        found = instance_dict(self.model).get("hparams")
        return found if is_a(found, dict) else None


@dataclass(frozen=True, slots=True)
class GGUFName:
    """What the name map says of a tensor; *ggml_shape* has the fastest dimension first."""

    name: str
    ggml_shape: tuple[int, ...] | None


def find_conversion(frames: Iterable[Mapping[str, Any]]) -> Conversion | None:
    """The conversion among the locals of *frames*, innermost first; None if there is none.

    In `ModelBase.__init__` the object is still empty: its class has `model_arch`, and the
    folder is the local `dir_model` of that frame or of one further out.
    """
    frames = list(frames)
    model = next((value for frame in frames for value in _candidates(frame)), None)
    cls = type(model) if model is not None else _model_class(frames)
    folder = instance_dict(model).get("dir_model") if model is not None else None
    folder = folder if _is_path(folder) else _local_folder(frames)
    if cls is None:
        if folder is None or not any("hparams" in frame or "args" in frame for frame in frames):
            return None
        return Conversion(None, "", "", folder, _local_mistral(frames), True, _adapter(frames))
    return Conversion(
        model,
        class_name(cls),
        _arch(cls),
        None if folder is None else Path(folder),
        class_attribute(cls, "is_mistral_format") is True or _local_mistral(frames),
        class_attribute(cls, "index_tensors") is not None,
        _adapter(frames),
    )


def _candidates(frame: Mapping[str, Any]) -> list[Any]:
    """Conversion objects in a frame, its `self` first."""
    values = [frame.get("self"), *frame.values()]
    return [value for value in values if not issubclass(type(value), type) and _converts(value)]


def _converts(value: object) -> bool:
    if class_attribute(type(value), "model_arch") is not None:
        return True
    state = instance_dict(value)
    return sum(mark in state for mark in _MARKS) >= 3


def _model_class(frames: list[Mapping[str, Any]]) -> type | None:
    for frame in frames:
        found: Any = frame.get("model_class")
        if issubclass(type(found), type) and class_attribute(found, "model_arch") is not None:
            return found
    return None


def _local_folder(frames: list[Mapping[str, Any]]) -> Path | None:
    for frame in frames:
        found: Any = frame.get("dir_model")
        if _is_path(found):
            return Path(found)
    return None


def _adapter(frames: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """convert_lora_to_gguf.py's `lora_model`."""
    found = (frame.get("lora_model") for frame in frames)
    return next((each for each in found if type(each) is dict), None)


def _is_path(value: object) -> bool:
    return type(value) is str or is_a(value, PurePath)


def _local_mistral(frames: list[Mapping[str, Any]]) -> bool:
    return any(frame.get("is_mistral_format") is True for frame in frames)


def _arch(cls: type) -> str:
    """The name of the MODEL_ARCH member, `GEMMA3`; "" where the class has none."""
    name = instance_dict(class_attribute(cls, "model_arch")).get("_name_")
    return name if type(name) is str else ""


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
    if not _is_path(path):
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


def name_mapping(conversion: Conversion) -> dict[str, Any]:
    """What the converter's TensorNameMap holds, as it holds it; {} where there is none yet."""
    name_map = instance_dict(conversion.model).get("tensor_map")
    mapping = instance_dict(name_map).get("mapping")
    return mapping if type(mapping) is dict else {}


def mapped_name(mapping: dict[str, Any], tensor: str) -> str | None:
    """The GGUF name of *tensor*, by the rule of TensorNameMap.get_name."""
    for suffix in ("", *SUFFIXES):
        found = mapping.get(tensor.removesuffix(suffix)) if tensor.endswith(suffix) else None
        if type(found) is tuple and len(found) == 2:
            return f"{found[1]}{suffix}"
    return None


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
