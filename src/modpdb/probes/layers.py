"""What a module registers itself, and its sizes in a few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modpdb.probes.tensors import TensorFacts

_SIZES = (
    ("in_features", "out_features", "→"),
    ("nx", "nf", "→"),  # transformers' Conv1D
    ("num_embeddings", "embedding_dim", "×"),
    ("in_channels", "out_channels", "→"),
)
_SHAPES_NAMED = 3  # own tensors whose shapes are written out


@dataclass(frozen=True, slots=True)
class Own:
    """A tensor that a module itself registers."""

    name: str
    kind: str  # "parameter" or "buffer"
    facts: TensorFacts
    identity: int  # equal for two names of one tensor
    plain: bool  # a plain tensor among the parameters: functional_call is under way


def sizes(state: Mapping[str, Any], own: Sequence[Own]) -> str:
    """`640 → 1,024 + bias` of a Linear, `262,144 × 640` of an Embedding, else own shapes."""
    parameters = [tensor for tensor in own if tensor.kind == "parameter"]
    for first, second, sign in _SIZES:
        left, right = state.get(first), state.get(second)
        if type(left) is int and type(right) is int:
            words = f"{_known(left)} {sign} {_known(right)}"
            kernel = state.get("kernel_size")
            if type(kernel) is tuple and all(type(side) is int for side in kernel):
                words += ", kernel " + "×".join(map(str, kernel))
            else:
                words += _odd_weight(parameters, left * right)
            return words + (" + bias" if any(own.name == "bias" for own in parameters) else "")
    if len(parameters) == 1 and len(parameters[0].facts.shape or ()) == 1:
        return f"{parameters[0].facts.elements:,}"  # a norm's length
    return own_shapes(parameters)


def _odd_weight(parameters: Sequence[Own], elements: int) -> str:
    """The weight's shape where it is not what the layer's sizes say: packed, sliced, pruned."""
    for tensor in parameters:
        if tensor.name == "weight" and tensor.facts.elements not in (elements, None):
            return f", weight {_shape(tensor.facts.shape)}"
    return ""


def own_shapes(parameters: Sequence[Own]) -> str:
    """Each name with its shape: `weight [8, 4] · bias [8]`."""
    named = [f"{tensor.name} {_shape(tensor.facts.shape)}" for tensor in parameters]
    more = len(named) - _SHAPES_NAMED
    return " · ".join(named[:_SHAPES_NAMED] + ([f"{more} more"] if more > 0 else []))


def _known(size: int) -> str:
    return f"{size:,}" if size else "?"  # a lazy layer has 0 until its first input


def _shape(shape: tuple[int, ...] | None) -> str:
    return "[?]" if shape is None else str(list(shape))
