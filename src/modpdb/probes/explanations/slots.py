"""The tensors that an architecture may contain, and which shape each has by the metadata."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modpdb.probes._static import class_attribute, instance_dict
from modpdb.probes.conversion import SUFFIXES, Conversion
from modpdb.probes.coverage_shapes import needed_shape
from modpdb.probes.explanations.sizes import (
    BLOCKS,
    EXPERT_SIZE,
    EXPERTS,
    FEED_FORWARD,
    HEAD_SIZE,
    HEADS,
    HIDDEN,
    KEY_HEADS,
    VOCABULARY,
    config_number,
)
from modpdb.probes.gguf_contents import BLOCKS as MOST_BLOCKS
from modpdb.probes.loader_facts import Expressions, architecture_facts

# The metadata key that most converters write a number of the config to: conversion/base.py,
# TextModel.set_gguf_parameters, llama-cpp-python 0.3.36.
_WRITTEN_AS = {
    "block_count": BLOCKS,
    "embedding_length": HIDDEN,
    "feed_forward_length": FEED_FORWARD,
    "expert_feed_forward_length": EXPERT_SIZE,
    "expert_count": EXPERTS,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KEY_HEADS,
    "attention.key_length": HEAD_SIZE,
    "attention.value_length": HEAD_SIZE,
    "vocab_size": VOCABULARY,
}
_NAME = re.compile(r"(?:blk\.\{i\}\.)?[^{}]+")  # of a row for a tensor of its own, or of a block's

Shapes = tuple[tuple[str, tuple[int, ...] | None], ...]
"""`.weight` or `.bias` with a shape in torch's order, None for one that cannot be told."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A MODEL_TENSOR of the architecture: its member's name, the GGUF name with `{bid}`, and the
    shapes that the loader may ask for; none where nothing is known of it."""

    member: str
    gguf: str
    shapes: Shapes

    @property
    def in_block(self) -> bool:
        return "{bid}" in self.gguf

    def name(self, bid: str, suffix: str) -> str:
        return self.gguf.replace("{bid}", bid) + suffix

    def fits(self, shape: tuple[int, ...] | None, suffix: str) -> bool | None:
        """Whether a tensor of *shape* may be it, None where that cannot be told."""
        asked = [each for end, each in self.shapes if end == suffix]
        if shape is None or not self.shapes:
            return None
        if shape in asked:
            return True
        return None if None in asked else False


def slots_of(conversion: Conversion, metadata: Mapping[str, object]) -> tuple[Slot, ...]:
    """What gguf's constants list for the architecture; nothing where the script has no gguf.

    *metadata* is what the converter writes, as far as that is known; for the rest the config's
    numbers stand under the keys that most converters write them to.
    """
    constants = sys.modules.get("gguf.constants")
    tables = vars(constants) if constants is not None else {}
    listed, names = tables.get("MODEL_TENSORS"), tables.get("TENSOR_NAMES")
    arch = class_attribute(type(conversion.model), "model_arch")
    if type(listed) is not dict or type(names) is not dict or conversion.model is None:
        return ()
    called = tables.get("MODEL_ARCH_NAMES")
    word = called.get(arch) if type(called) is dict else None
    shapes = _shapes(word, conversion.hparams or {}, metadata) if type(word) is str else {}
    return tuple(
        Slot(member, names[each], tuple(shapes.get(names[each], ())))
        for each in listed.get(arch, ())
        if (member := member_name(each)) and type(names.get(each)) is str
    )


def member_name(member: object) -> str:
    """ATTN_Q of MODEL_TENSOR.ATTN_Q."""
    found = instance_dict(member).get("_name_")
    return found if type(found) is str else ""


def _shapes(
    arch: str, config: Mapping[Any, Any], metadata: Mapping[str, object]
) -> dict[str, dict[tuple[str, tuple[int, ...] | None], None]]:
    """By GGUF name, `blk.{bid}.attn_q`: what the loader asks for, under whatever condition."""
    facts = architecture_facts(arch)
    if facts is None:
        return {}
    held = _by_config(arch, config) | dict(metadata)
    expressions = Expressions(arch, facts.definitions, held, ())
    count = held.get(f"{arch}.block_count")
    blocks = range(count if type(count) is int and 0 < count <= MOST_BLOCKS else 1)
    found: dict[str, dict[tuple[str, tuple[int, ...] | None], None]] = {}
    for row in facts.tensors:
        if not _NAME.fullmatch(row.name):
            continue
        suffix = next((end for end in SUFFIXES if row.name.endswith(end)), "")
        name = row.name.removesuffix(suffix).replace("{i}", "{bid}")
        for block in blocks if row.count else (None,):
            ne = needed_shape(row, block, expressions)
            found.setdefault(name, {})[suffix, None if ne is None else ne[::-1]] = None
    return found


def _by_config(arch: str, config: Mapping[Any, Any]) -> dict[str, object]:
    numbers = {key: config_number(config, names) for key, names in _WRITTEN_AS.items()}
    found: dict[str, object] = {
        f"{arch}.{key}": number for key, number in numbers.items() if number is not None
    }
    # Without a list of tokens the loader takes vocab_size for their number.
    return found | {"tokenizer.ggml.model": "none"}
