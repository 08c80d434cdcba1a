"""One picture of a llama.cpp conversion: source, names, what the writer holds, how far it is.

Which source the writer's tensors come from was seen where provenance is collected; else it is what
the name map says, told from what the frames and the writer hold now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modpdb.probes._static import instance_dict
from modpdb.probes.checkpoints import Checkpoint
from modpdb.probes.conversion import Conversion, mapped_name, name_mapping
from modpdb.probes.conversion_tensors import conversion_checkpoint
from modpdb.probes.held_tensors import of_dict
from modpdb.probes.provenance import Provenance
from modpdb.probes.tensor_names import base_name
from modpdb.probes.writer import is_writer, written_names

Come = Literal["held", "read", "at hand", "to come"]
"""How far a source tensor has come: the writer holds what is made of it; it was read, and the
writer holds nothing of it (dropped, or yet to be stacked); it is being converted; it was not read
yet. By the name map alone, one that is stacked, split or renamed counts as read."""

_STAGES = {
    "set_vocab": "the tokenizer is being read",
    "set_gguf_parameters": "the metadata is being set",
    "prepare_metadata": "the metadata is being set",
    "write_header_to_file": "the file is being written",
    "write_kv_data_to_file": "the file is being written",
    "write_tensors_to_file": "the file is being written",
}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a conversion has come.

    *stage* is a few words; *at* the checkpoint tensor being converted, "" for none. *come* has
    each source tensor's state. *held* counts the writer's tensors, *unmapped* the source tensors
    that the name map has no name for; None while there is no map.
    """

    stage: str
    at: str
    come: Mapping[str, Come]
    held: int
    unmapped: int | None


def source_of(conversion: Conversion) -> Checkpoint:
    """The tensors that are converted: a LoRA adapter's, else the checkpoint's.

    CheckpointError where they cannot be had.
    """
    adapter = of_dict("lora_model", conversion.adapter) if conversion.adapter else None
    return adapter if adapter is not None else conversion_checkpoint(conversion)


def conversion_progress(
    conversion: Conversion,
    source: Checkpoint,
    frames: Sequence[tuple[str, Mapping[str, Any]]],
    seen: Provenance | None = None,
) -> Progress:
    """*frames* are the names of the functions at hand with their variables, innermost first; *seen*
    is what was collected of this conversion since it began."""
    writer = conversion.writer
    held = written_names(writer) if is_writer(writer) else set()
    mapping = name_mapping(conversion)
    lora = conversion.adapter is not None
    names = {each.name: base_name(each.name) if lora else each.name for each in source.tensors}
    made = {name: _made(mapping, name, loop, lora) for name, loop in names.items()}
    at = _at_hand(conversion, frames)
    if seen is not None:
        read, done = set(seen.converted), set(seen.sources_to)
    else:
        read = _read(list(dict.fromkeys(names.values())), at, bool(held), frames)
        done = {name for name, gguf in made.items() if gguf in held}
    come: dict[str, Come] = {}
    for name, loop in names.items():
        if name in done:
            come[name] = "held"
        elif loop == at:
            come[name] = "at hand"
        else:
            come[name] = "read" if loop in read else "to come"
    unmapped = sum(name is None for name in made.values()) if mapping else None
    return Progress(_stage(conversion, at, held, frames), at, come, len(held), unmapped)


def _made(mapping: dict[str, Any], name: str, loop: str, lora: bool) -> str | None:
    """The GGUF name that the map gives to a source tensor."""
    found = mapped_name(mapping, loop)
    if found is None or not lora or loop == name:
        return found
    return f"{found}.lora_{'a' if '.lora_A' in name or '.lora_embedding_A' in name else 'b'}"


def _at_hand(conversion: Conversion, frames: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """The tensor that the loop of prepare_tensors is at."""
    for function, variables in frames:
        if function != "prepare_tensors" or variables.get("self") is not conversion.model:
            continue
        name = variables.get("name")
        if type(name) is str and "data_torch" in variables:
            return name
    return ""


def _read(
    names: list[str], at: str, any_held: bool, frames: Iterable[tuple[str, Mapping[str, Any]]]
) -> set[str]:
    """Those of *names*, in the converter's order, that the loop has been through."""
    if at in names:
        return set(names[: names.index(at)])
    inside = any(function == "prepare_tensors" for function, _ in frames)
    return set(names) if any_held and not inside else set()


def _stage(
    conversion: Conversion,
    at: str,
    held: set[str],
    frames: Iterable[tuple[str, Mapping[str, Any]]],
) -> str:
    functions = [function for function, _ in frames]
    if conversion.model is None:
        return "the converter is not made yet"
    if "gguf_writer" not in instance_dict(conversion.model):
        return "the converter is being made"
    for function in functions:
        if function in _STAGES:
            return _STAGES[function]
    if "prepare_tensors" in functions:
        return "tensors are being converted" if at else "tensors are about to be converted"
    return "the tensors have been converted" if held else "no tensor converted yet"
