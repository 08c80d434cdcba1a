"""Whether a conversion's source takes its output weight from the token embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from modpdb.probes._static import is_a
from modpdb.probes.conversion import Conversion, mapped_name, name_mapping
from modpdb.probes.files import CheckpointError
from modpdb.probes.progress import source_of

_KEY = "tie_word_embeddings"
_NESTED = ("text_config", "llm_config", "language_config")  # of models of several modalities


def conversion_tied(conversion: Conversion) -> bool | None:
    """By what the config says, else by the checkpoint: without a weight for the output there is
    none but the embeddings'. None where it has one and the config says nothing, or for an adapter.
    """
    if conversion.adapter is not None:
        return None
    said = _said(conversion.hparams or {})
    if said is not None:
        return said
    try:
        names = [each.name for each in source_of(conversion).tensors]
    except CheckpointError:
        return None
    return None if has_output(names, name_mapping(conversion)) else True


def has_output(names: Iterable[str], mapping: dict[str, Any]) -> bool:
    """Whether the name map makes one of *names* the output weight, or it is called as most are."""
    return any(
        name.endswith("lm_head.weight") or mapped_name(mapping, name) == "output.weight"
        for name in names
    )


def _said(hparams: Mapping[Any, Any]) -> bool | None:
    for config in (hparams, *(hparams.get(name) for name in _NESTED)):
        value = config.get(_KEY) if is_a(config, dict) else None  # type: ignore[union-attr]
        if type(value) is bool:
            return value
    return None
