"""A llama.cpp conversion that is under way: which object, which folder, which tensors.

It is known by what it has, not by its class, so that it is found in every version of
convert_hf_to_gguf.py since 2024 and in scripts made after it. conversion_tensors.py reads its
tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from modpdb.probes._static import class_attribute, class_name, instance_dict, is_a

_MARKS = ("gguf_writer", "tensor_map", "hparams", "model_tensors", "dir_model")
SUFFIXES = (".weight", ".bias")  # those that the converter's map_tensor_name tries


class Conversion(NamedTuple):
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


def find_conversion(frames: Iterable[Mapping[str, Any]]) -> Conversion | None:
    """The conversion among the locals of *frames*, innermost first; None if there is none.

    In `ModelBase.__init__` the object is still empty: its class has `model_arch`, and the
    folder is the local `dir_model` of that frame or of one further out.
    """
    frames = list(frames)
    model = next((value for frame in frames for value in _candidates(frame)), None)
    cls = type(model) if model is not None else _model_class(frames)
    folder = instance_dict(model).get("dir_model") if model is not None else None
    folder = folder if is_path(folder) else _local_folder(frames)
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
        if is_path(found):
            return Path(found)
    return None


def _adapter(frames: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """convert_lora_to_gguf.py's `lora_model`."""
    found = (frame.get("lora_model") for frame in frames)
    return next((each for each in found if type(each) is dict), None)


def is_path(value: object) -> bool:
    """Whether *value* is a path, or a string that may be one."""
    return type(value) is str or is_a(value, PurePath)


def _local_mistral(frames: list[Mapping[str, Any]]) -> bool:
    return any(frame.get("is_mistral_format") is True for frame in frames)


def _arch(cls: type) -> str:
    """The name of the MODEL_ARCH member, `GEMMA3`; "" where the class has none."""
    name = instance_dict(class_attribute(cls, "model_arch")).get("_name_")
    return name if type(name) is str else ""


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
