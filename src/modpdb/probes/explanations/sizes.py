"""Numbers of a config that the shapes of a checkpoint's tensors show."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modpdb.probes.conversion import Conversion
from modpdb.probes.files import CheckpointError
from modpdb.probes.progress import source_of
from modpdb.probes.safetensors_files import TensorEntry

# The names that configs give to one number.
BLOCKS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "depth", "layers")
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim", "model_dim", "width")
VOCABULARY = ("vocab_size", "padded_vocab_size", "n_vocab")
FEED_FORWARD = ("intermediate_size", "n_inner", "hidden_dim", "ffn_dim", "d_ff", "ffn_hidden_size")
HEADS = ("num_attention_heads", "n_heads", "n_head", "num_heads")
KEY_HEADS = (
    "num_key_value_heads",
    "n_kv_heads",
    "n_head_kv",
    "num_kv_heads",
    "multi_query_group_num",
)
HEAD_SIZE = ("head_dim", "attention_head_dim", "kv_channels")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
EXPERT_SIZE = ("moe_intermediate_size", "expert_intermediate_size")
SYNONYMS = (BLOCKS, HIDDEN, VOCABULARY, FEED_FORWARD, HEADS, KEY_HEADS, HEAD_SIZE, EXPERTS)

_EMBEDDING = r"(embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|shared)\.weight$"
_BLOCK = re.compile(r"(?:^|\.)(?:layers?|h|blocks?|block)\.(\d+)\.")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Shown:
    """A number that the tensors show, and how."""

    value: int
    how: str


def tensors_of(conversion: Conversion | None) -> tuple[TensorEntry, ...]:
    """The tensors that are converted, by their headers; none where those cannot be read."""
    if conversion is None:
        return ()
    try:
        return source_of(conversion).tensors
    except CheckpointError:
        return ()


def shown_number(
    keys: Iterable[str], tensors: Iterable[TensorEntry], config: Mapping[Any, Any]
) -> Shown | None:
    """The number that goes by one of *keys*, as the shapes show it; None where they do not."""
    wanted = set(keys)
    found = list(tensors)
    for names, shown in _SHOWN:
        if wanted & set(names):
            return shown(found, config)
    return None


def config_number(config: Mapping[Any, Any], keys: Iterable[str]) -> int | None:
    """The first of *keys* that the config has as a whole number."""
    values = (config.get(key) for key in keys)
    return next((each for each in values if type(each) is int and each > 0), None)


def _dimension(tensors: list[TensorEntry], pattern: str, axis: int) -> Shown | None:
    for each in tensors:
        if each.shape and len(each.shape) == 2 and re.search(pattern, each.name):
            what = "rows" if axis == 0 else "columns"
            return Shown(each.shape[axis], f"the {what} of {each.name}")
    return None


def _largest(tensors: list[TensorEntry], pattern: re.Pattern[str], what: str) -> Shown | None:
    found = [int(match[1]) for each in tensors if (match := pattern.search(each.name))]
    return Shown(max(found) + 1, f"the largest {what} number + 1") if found else None


def _blocks(tensors: list[TensorEntry], config: Mapping[Any, Any]) -> Shown | None:
    return _largest(tensors, _BLOCK, "block")


def _experts(tensors: list[TensorEntry], config: Mapping[Any, Any]) -> Shown | None:
    return _largest(tensors, _EXPERT, "expert")


def _hidden(tensors: list[TensorEntry], config: Mapping[Any, Any]) -> Shown | None:
    return _dimension(tensors, _EMBEDDING, 1)


def _vocabulary(tensors: list[TensorEntry], config: Mapping[Any, Any]) -> Shown | None:
    return _dimension(tensors, _EMBEDDING, 0)


def _feed_forward(tensors: list[TensorEntry], config: Mapping[Any, Any]) -> Shown | None:
    return _dimension(tensors, r"(?:down_proj|\.w2|fc2|dense_4h_to_h)\.weight$", 1)


def _heads(tensors: list[TensorEntry], config: Mapping[Any, Any]) -> Shown | None:
    return _rows_by(tensors, config, r"(?:q_proj|\.wq|query)\.weight$", HEAD_SIZE)


def _key_heads(tensors: list[TensorEntry], config: Mapping[Any, Any]) -> Shown | None:
    pattern = r"(?:k_proj|\.wk|key)\.weight$"
    found = _rows_by(tensors, config, pattern, HEAD_SIZE)
    rows, size = _dimension(tensors, pattern, 0), _head_size(tensors, config)
    if found is None and rows is not None and size is not None and rows.value % size.value == 0:
        return Shown(rows.value // size.value, f"{rows.how} / {size.value}, {size.how}")
    return found


def _head_size(tensors: list[TensorEntry], config: Mapping[Any, Any]) -> Shown | None:
    return _rows_by(tensors, config, r"(?:q_proj|\.wq|query)\.weight$", HEADS)


def _rows_by(
    tensors: list[TensorEntry], config: Mapping[Any, Any], pattern: str, keys: tuple[str, ...]
) -> Shown | None:
    rows, by = _dimension(tensors, pattern, 0), config_number(config, keys)
    if rows is None or by is None or rows.value % by:
        return None
    key = next(key for key in keys if config.get(key) == by)
    return Shown(rows.value // by, f"{rows.how} / {key} {by}")


_Show = Callable[[list[TensorEntry], Mapping[Any, Any]], Shown | None]
_SHOWN: tuple[tuple[tuple[str, ...], _Show], ...] = (
    (BLOCKS, _blocks),
    (HIDDEN, _hidden),
    (VOCABULARY, _vocabulary),
    (FEED_FORWARD, _feed_forward),
    (KEY_HEADS, _key_heads),
    (HEADS, _heads),
    (HEAD_SIZE, _head_size),
    (EXPERTS, _experts),
)
