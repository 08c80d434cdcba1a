"""What the tensors of a GGUF are to be compared with: a checkpoint, names and needs.

`gguf` is the one that is imported already: the script's, or the shell subcommand's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modpdb.probes.checkpoints import Checkpoint
from modpdb.probes.files import CheckpointError, read_json
from modpdb.probes.gguf_contents import GGUFContents
from modpdb.probes.pairing import Pairing, block_of
from modpdb.probes.relations import Relation
from modpdb.probes.source_tensors import SourceTensors
from modpdb.probes.verification import Comparing, Judge, Status


def comparing(
    checkpoint: Checkpoint,
    contents: GGUFContents,
    judge: Judge,
    *,
    mapping: Mapping[str, Any] | None = None,
    seen: Mapping[str, tuple[str, ...]] | None = None,
    decided: Mapping[str, str] | None = None,
) -> Comparing:
    """*mapping* is the converter's name map, gguf's own for the architecture where it is not
    given. *seen* and *decided* are provenance's: sources, and places in the converter, by GGUF
    name."""
    names = name_map(contents) if mapping is None else mapping
    pairing = Pairing(checkpoint.tensors, names, seen or {})
    return Comparing(SourceTensors(checkpoint), pairing, judge, decided or {})


def name_map(contents: GGUFContents) -> Mapping[str, Any]:
    """gguf's TensorNameMap for the file's architecture; {} of one that it does not know."""
    gguf = sys.modules["gguf"]
    arch = contents.architecture
    member = next((each for each, name in gguf.MODEL_ARCH_NAMES.items() if name == arch), None)
    if member is None:
        return {}
    blocks = (block_of(each.name) for each in contents.tensors)
    count = max((int(block) + 1 for block in blocks if block), default=0)
    mapping: Mapping[str, Any] = gguf.get_tensor_name_map(member, count).mapping
    return mapping


def judge_of(
    folder: Path,
    config: Mapping[str, Any] | None,
    checkpoint: Checkpoint,
    architecture: str,
    slow: Callable[[], None] = lambda: None,
) -> Judge:
    """By what *architecture* needs of the model in *folder*; *config*: the converter's, None for
    that of the folder. *slow* is called once where building the model takes over a second."""
    from modpdb.probes.needs import judge, needs_of

    if config is None:
        try:
            config = read_json(folder / "config.json", "the config")
        except CheckpointError as error:
            reason = str(error)
            return lambda sources, name, relation: ("unjudged", reason)
    needs = needs_of(folder, config, checkpoint.tensors, architecture, slow=slow)

    def judged(sources: tuple[str, ...], name: str, relation: Relation) -> tuple[Status, str]:
        status, reason = judge(needs.need(sources, name), relation)
        if status == "ok" and any(part.kind != "identical" for part in relation.parts):
            return "unjudged", "parts were changed before they were put together"
        if status == "ok" and relation.rows is not None:
            return "unjudged", "whether those rows are the right ones is not known"
        return status, reason

    return judged
