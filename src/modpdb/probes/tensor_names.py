"""The names that a conversion's tensors have: in the checkpoint, and in the file to be written."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from modpdb.probes._static import instance_dict
from modpdb.probes.conversion import (
    SUFFIXES,
    Conversion,
    conversion_checkpoint,
    mapped_name,
    name_mapping,
)

_COMPARED = 20_000  # names that a near one is looked for among


@dataclass(frozen=True, slots=True)
class TensorNames:
    """The names of a conversion, each in the converter's order.

    ``predicted`` are GGUF names with the checkpoint name that the name map makes them of: a
    converter may still rename, split, stack or drop. ``possible`` are the GGUF names that the
    map can give, to whatever tensor, without .weight and .bias. ``mapped``: there is a map.
    """

    checkpoint: tuple[str, ...]
    predicted: tuple[tuple[str, str], ...]
    possible: tuple[str, ...]
    mapped: bool


@dataclass(frozen=True, slots=True)
class Meets:
    """What a glob of tensor names will meet, as far as it is known; ``near`` are the nearest
    names where it meets nothing."""

    checkpoint: tuple[str, ...]
    predicted: tuple[tuple[str, str], ...]
    possible: tuple[str, ...]
    near: tuple[str, ...]
    mapped: bool


def tensor_names(conversion: Conversion) -> TensorNames:
    """Raises CheckpointError where the checkpoint cannot be read."""
    listed = instance_dict(conversion.model).get("model_tensors")
    if type(listed) is dict:
        names = tuple(name for name in listed if type(name) is str)
    else:
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
    return TensorNames(checkpoint, tuple(predicted), names.possible, names.mapped)


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
        if wanted(name) and made.isdisjoint((name, *(name + suffix for suffix in SUFFIXES)))
    )
    near: tuple[str, ...] = ()
    if not checkpoint and not predicted and not possible:
        near = _nearest(names, glob)
    return Meets(checkpoint, predicted, possible, near, names.mapped)


def _nearest(names: TensorNames, glob: str) -> tuple[str, ...]:
    """Names like *glob*; its wildcards are nothing to compare."""
    pool = [*names.checkpoint, *(gguf for gguf, _ in names.predicted)][:_COMPARED]
    text = re.sub(r"[*?]", "", glob)
    return tuple(difflib.get_close_matches(text, pool, n=2, cutoff=0.5))
