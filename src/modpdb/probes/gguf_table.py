"""gguf's own table, `MODEL_TENSORS`: what an architecture may contain, by the script's module."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from modpdb.probes._static import instance_dict

_NUMBERED = re.compile(r"\\\{(?:bid|xid)\\\}")
_SUFFIX = r"(?:\.\w+)*"  # weight, bias, scale, nothing at all
_BLOCK = re.compile(r"(?:^|\.)blk\.(\d+)\.")


def gguf_tensors(gguf_module: object, arch: str) -> list[re.Pattern[str]]:
    """The names that *arch* may contain; none where the module does not know it, or is None."""
    held = instance_dict(gguf_module)
    names, listed, texts = map(
        _table, map(held.get, ("MODEL_ARCH_NAMES", "MODEL_TENSORS", "TENSOR_NAMES"))
    )
    member = next((key for key, text in names.items() if type(text) is str and text == arch), None)
    found = listed.get(member)
    patterns = [texts.get(each) for each in found] if type(found) is list else []
    return [
        re.compile(_NUMBERED.sub(r"\\d+", re.escape(text)) + _SUFFIX)
        for text in patterns
        if type(text) is str
    ]


def _table(held: object) -> dict[Any, Any]:
    """A plain dict, whose keys are asked for their hash; {} of anything else."""
    return held if type(held) is dict else {}


def not_in_all_blocks(tensors: Collection[str], count: int) -> list[tuple[str, int]]:
    """Names of tensors that some of *count* blocks have and this one has not, with how many do."""
    kinds: dict[tuple[str, str], set[int]] = {}
    for name in tensors:
        match = _BLOCK.search(name)
        if match:
            kind = (name[: match.start(1)], name[match.end(1) :])
            kinds.setdefault(kind, set()).add(int(match[1]))
    return [
        (f"{before}{block}{after}", len(there))
        for (before, after), there in kinds.items()
        for block in range(count)
        if block not in there
    ]
