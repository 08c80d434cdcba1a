"""The names that a conversion's tensors have: in the checkpoint, and in the file to be written."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from modpdb.probes._static import instance_dict
from modpdb.probes.conversion import SUFFIXES, Conversion, mapped_name, name_mapping

_COMPARED = 1_000  # names alike but for their numbers, of which one is named


class TensorNames(NamedTuple):
    """The names of a conversion, each in the converter's order.

    ``predicted`` are GGUF names with the checkpoint name that the name map makes them of: a
    converter may still rename, split, stack or drop. ``possible`` are the GGUF names that the
    map can give, to whatever tensor, without .weight and .bias. ``mapped``: there is a map.
    """

    checkpoint: tuple[str, ...]
    predicted: tuple[tuple[str, str], ...]
    possible: tuple[str, ...]
    mapped: bool


class Meets(NamedTuple):
    """What a glob of tensor names will meet, as far as it is known; ``near`` are the nearest
    names where it meets nothing."""

    checkpoint: tuple[str, ...]
    predicted: tuple[tuple[str, str], ...]
    possible: tuple[str, ...]
    near: tuple[str, ...]
    mapped: bool

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.checkpoint, *(gguf for gguf, _ in self.predicted), *self.possible)


def tensor_names(conversion: Conversion) -> TensorNames:
    """Raises CheckpointError where the checkpoint cannot be read."""
    listed = instance_dict(conversion.model).get("model_tensors")
    if type(listed) is dict:
        names = tuple(name for name in listed if type(name) is str)
    else:  # a program that runs on with provenance alone does not wait for this import
        from modpdb.probes.conversion_tensors import conversion_checkpoint

        names = tuple(tensor.name for tensor in conversion_checkpoint(conversion).tensors)
    mapping = name_mapping(conversion)
    pairs = ((mapped_name(mapping, name), name) for name in names)
    written = (found[1] for found in mapping.values() if type(found) is tuple and len(found) == 2)
    return TensorNames(
        names,
        tuple((gguf, name) for gguf, name in pairs if gguf is not None),
        tuple(dict.fromkeys(name for name in written if type(name) is str)),
        bool(mapping),
    )


def of_adapter(names: TensorNames, adapter: Iterable[str]) -> TensorNames:
    """Those of a base model's *names* that a LoRA adapter, of the keys *adapter*, changes; each
    is written in two halves."""
    keys = {key.removeprefix("base_model.model.") for key in adapter}
    changed = {re.sub(r"\.lora_(embedding_)?[AB](\.weight)?$", "", key) for key in keys}
    checkpoint = tuple(n for n in names.checkpoint if not changed.isdisjoint(_with_less(n)))
    kept = set(checkpoint)
    predicted = (
        (f"{gguf}.lora_{half}", name)
        for gguf, name in names.predicted
        if name in kept
        for half in "ab"
    )
    return TensorNames(checkpoint, tuple(predicted), (), names.mapped)


def base_name(key: str) -> str:
    """The base model's tensor that a LoRA adapter's *key* changes, as convert_lora_to_gguf.py's
    get_base_tensor_name has it."""
    name = key.replace("base_model.model.", "")
    return re.sub(r"\.lora_(?:[AB]\.weight|embedding_[AB])", ".weight", name)


def name_matcher(glob: str) -> Callable[[str], bool]:
    """Whether a tensor's name is meant by *glob*, from which .weight and .bias may be left out,
    and what marks the halves of a LoRA adapter's."""
    pattern = re.compile(fnmatch.translate(glob))
    return lambda name: any(pattern.fullmatch(each) for each in _with_less(name))


def _with_less(name: str) -> tuple[str, str, str]:
    half = re.sub(r"\.lora_[ab]$", "", name)
    return name, half, re.sub(r"\.(weight|bias)$", "", half)


def meets(names: TensorNames, glob: str) -> Meets:
    """What *glob* will meet among *names*."""
    wanted = name_matcher(glob)
    checkpoint = tuple(filter(wanted, names.checkpoint))
    predicted = tuple(pair for pair in names.predicted if wanted(pair[0]))
    made = {gguf for gguf, _ in names.predicted}
    possible = tuple(
        name
        for name in names.possible
        if made.isdisjoint(_whole(name)) and any(map(wanted, _whole(name)))
    )
    near: tuple[str, ...] = ()
    if not (checkpoint or predicted or possible):
        near = _nearest(names, glob)
    return Meets(checkpoint, predicted, possible, near, names.mapped)


def _whole(name: str) -> tuple[str, ...]:
    """The tensors that a name of the map can be."""
    return name, *(name + suffix for suffix in SUFFIXES)


def _nearest(names: TensorNames, glob: str) -> tuple[str, ...]:
    """Names like *glob*, up to two that differ in more than their numbers."""
    alike: dict[str, list[str]] = {}
    for name in (*names.checkpoint, *(gguf for gguf, _ in names.predicted)):
        alike.setdefault(re.sub(r"\d+", "0", name), []).append(name)
    wanted = re.sub(r"[*?]+", "0", re.sub(r"\d+", "0", glob))
    near = difflib.get_close_matches(wanted, alike, n=2, cutoff=0.6)
    return tuple(
        max(alike[each][:_COMPARED], key=lambda name: _likeness(glob, name)) for each in near
    )


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
