"""The tensors that an architecture may contain, and which shape each has by the config."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modpdb.probes._static import class_attribute, instance_dict
from modpdb.probes.conversion import Conversion
from modpdb.probes.explanations.sizes import (
    EXPERTS,
    FEED_FORWARD,
    HEAD_SIZE,
    HEADS,
    HIDDEN,
    KEY_HEADS,
    VOCABULARY,
    config_number,
)

_EXPERT_SIZE = ("moe_intermediate_size", "expert_intermediate_size")
# Shapes in torch's order by the config's numbers: n hidden, v vocabulary, f feed-forward, q query
# rows, k key rows, h a head, e experts, x an expert's feed-forward. As llama.cpp's create_tensor
# calls have them for most architectures (src/llama-model.cpp of llama-cpp-python 0.3.36).
_SHAPES: dict[str, tuple[str, ...]] = {
    "TOKEN_EMBD": ("v n",), "OUTPUT": ("v n",), "OUTPUT_NORM": ("n",), "TOKEN_EMBD_NORM": ("n",),
    "ATTN_NORM": ("n",), "ATTN_NORM_2": ("n",), "ATTN_POST_NORM": ("n",), "FFN_NORM": ("n",),
    "FFN_POST_NORM": ("n",), "FFN_PRE_NORM": ("n",), "LAYER_OUT_NORM": ("n",),
    "ATTN_OUT_NORM": ("n",), "ATTN_Q": ("q n",), "ATTN_K": ("k n",), "ATTN_V": ("k n",),
    "ATTN_QKV": ("qkk n",), "ATTN_OUT": ("n q",), "ATTN_Q_NORM": ("h", "q"),
    "ATTN_K_NORM": ("h", "k"), "FFN_GATE": ("f n",), "FFN_UP": ("f n", "ff n"),
    "FFN_DOWN": ("n f",), "FFN_GATE_INP": ("e n",), "FFN_GATE_EXP": ("e x n",),
    "FFN_UP_EXP": ("e x n",), "FFN_DOWN_EXP": ("e n x",), "FFN_GATE_UP_EXP": ("e xx n",),
    "ATTN_SUB_NORM": ("n",), "FFN_SUB_NORM": ("f",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Slot:
    """A MODEL_TENSOR of the architecture: its member's name, the GGUF name with `{bid}`, and the
    shapes that its weight may have; none where they are not known."""

    member: str
    gguf: str
    shapes: tuple[tuple[int, ...], ...]

    @property
    def in_block(self) -> bool:
        return "{bid}" in self.gguf

    def name(self, bid: str, suffix: str) -> str:
        return self.gguf.replace("{bid}", bid) + suffix

    def fits(self, shape: tuple[int, ...] | None, suffix: str) -> bool | None:
        """Whether a tensor of *shape* may be it, None where that cannot be told."""
        if shape is None or not self.shapes:
            return None
        if suffix == ".bias":
            return shape in [each[:1] for each in self.shapes if len(each) == 2]
        return shape in self.shapes


def slots_of(conversion: Conversion) -> tuple[Slot, ...]:
    """What gguf's constants list for the architecture; nothing where the script has no gguf."""
    constants = sys.modules.get("gguf.constants")
    tables = vars(constants) if constants is not None else {}
    listed, names = tables.get("MODEL_TENSORS"), tables.get("TENSOR_NAMES")
    arch = class_attribute(type(conversion.model), "model_arch")
    if type(listed) is not dict or type(names) is not dict or conversion.model is None:
        return ()
    numbers = _numbers(conversion.hparams if conversion.hparams is not None else {})
    return tuple(
        Slot(member, names[each], tuple(_shapes(member, numbers)))
        for each in listed.get(arch, ())
        if (member := member_name(each)) and type(names.get(each)) is str
    )


def member_name(member: object) -> str:
    """ATTN_Q of MODEL_TENSOR.ATTN_Q."""
    found = instance_dict(member).get("_name_")
    return found if type(found) is str else ""


def _shapes(member: str, numbers: Mapping[str, int]) -> list[tuple[int, ...]]:
    found = []
    for text in _SHAPES.get(member, ()):
        sizes = [[numbers.get(letter) for letter in word] for word in text.split()]
        if all(None not in parts for parts in sizes):
            found.append(tuple(sum(part for part in parts if part) for parts in sizes))
    return found


def _numbers(config: Mapping[Any, Any]) -> dict[str, int]:
    """The config's numbers by the letters of _SHAPES."""
    given = {
        "n": config_number(config, HIDDEN),
        "v": config_number(config, VOCABULARY),
        "f": config_number(config, FEED_FORWARD),
        "e": config_number(config, EXPERTS),
    }
    given["x"] = config_number(config, _EXPERT_SIZE) or given["f"]
    heads, head = config_number(config, HEADS), config_number(config, HEAD_SIZE)
    if head is None and heads and given["n"]:
        head = given["n"] // heads
    if head and heads:
        given["h"], given["q"] = head, head * heads
        given["k"] = head * (config_number(config, KEY_HEADS) or heads)
    return {letter: number for letter, number in given.items() if number}
