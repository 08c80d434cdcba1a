"""What becomes of each checkpoint tensor in a dry run: copied, split, stacked, renamed, dropped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modpdb.probes.conversion import mapped_name
from modpdb.probes.dry_run import DryRun
from modpdb.probes.lazy import Leaf, Made, leaves
from modpdb.probes.provenance import WrittenTensor
from modpdb.probes.tensor_names import base_name

_CASTS = ("to(", "float", "half", "numpy", "astype", "quantize", "bfloat16", "view(", "contiguous")


@dataclass(frozen=True, slots=True)
class Flow:
    """*sources*, checkpoint names, become *written*; more than one of both is possible.

    *how*: what is done on the way, in words, with nothing for a cast. *dtype* and *shape* are
    those of the first source, "" and None where they are not known. *renamed*: the name is the
    converter's own, and not that of the name map.
    """

    sources: tuple[str, ...]
    written: tuple[WrittenTensor, ...]
    how: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...] | None
    renamed: bool


def flows(found: DryRun, mapping: Mapping[str, Any]) -> tuple[Flow, ...]:
    """In the order of writing. *mapping*: what the converter's TensorNameMap holds."""
    return tuple(_flow(together, dict(mapping)) for together in _together(found.written))


def _together(written: Iterable[WrittenTensor]) -> Iterator[list[WrittenTensor]]:
    """Those that share a source."""
    groups: list[list[WrittenTensor]] = []
    place: dict[str, int] = {}
    for tensor in written:
        at = next((place[name] for name in tensor.sources if name in place), len(groups))
        if at == len(groups):
            groups.append([])
        groups[at].append(tensor)
        for name in tensor.sources:
            place.setdefault(name, at)
    yield from groups


def _flow(together: list[WrittenTensor], mapping: dict[str, Any]) -> Flow:
    sources = tuple(dict.fromkeys(name for tensor in together for name in tensor.sources))
    first = next(
        (leaf for each in together if each.history for leaf in leaves(each.history) if leaf.name),
        None,
    )
    return Flow(
        sources,
        tuple(together),
        tuple(_how(sources, together)),
        first.dtype if first else "",
        first.shape if first else None,
        len(sources) == 1 and bool(mapping) and not _is_mapped(sources[0], together, mapping),
    )


def _is_mapped(source: str, together: list[WrittenTensor], mapping: dict[str, Any]) -> bool:
    """Whether the name map gives one of *together* its name; a half of a LoRA's counts."""
    name = mapped_name(mapping, base_name(source))
    return any(re.sub(r"\.lora_[ab]$", "", each.name) == name for each in together)


def _how(sources: tuple[str, ...], together: list[WrittenTensor]) -> Iterator[str]:
    done = list(dict.fromkeys(word for each in together for word in _operations(each.history)))
    stacked = [word for word in done if word.startswith(("stack", "cat", "concat"))]
    if len(sources) > 1:
        verb = "stacked" if any(word.startswith("stack") for word in stacked) else "joined"
        yield f"{len(sources)} {verb if stacked else 'together'}"
    if len(together) > 1:
        yield f"split in {len(together)}" if len(sources) == 1 else f"makes {len(together)}"
    yield from (word for word in done if word not in stacked)


def _operations(history: Leaf | Made | None) -> list[str]:
    """What is done to the data from the leaves on, without casts; arguments only of operators."""
    words: list[str] = []
    seen: set[int] = set()
    stack = [history]
    while stack:
        node = stack.pop()
        if not isinstance(node, Made) or id(node) in seen:
            continue
        seen.add(id(node))
        stack += node.inputs
        if not node.operation.startswith(_CASTS):
            words.append(re.sub(r"^(\w+)\(.*\)", r"\1", node.operation))
    return list(reversed(words))
