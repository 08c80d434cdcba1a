"""What the tensors of a GGUF are to be compared with: a checkpoint, names and needs.

`gguf` is the one that is imported already: the script's, or the shell subcommand's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modpdb.probes.checkpoints import Checkpoint
from modpdb.probes.files import CheckpointError, read_json
from modpdb.probes.gguf_contents import GGUFContents
from modpdb.probes.needs import Need, Needs, judge, needs_of
from modpdb.probes.pairing import Pairing, block_of, gguf_of
from modpdb.probes.relations import Relation
from modpdb.probes.row_orders import RowOrder
from modpdb.probes.source_tensors import SourceTensors
from modpdb.probes.verification import Comparing, Judge, Orders, Status

_VISION_BLOCKS = 128  # that have their names in the map of vision and audio parts


def comparing(
    checkpoint: Checkpoint,
    mapping: Mapping[str, Any],
    judge: Judge,
    *,
    seen: Mapping[str, tuple[str, ...]] | None = None,
    decided: Mapping[str, str] | None = None,
    order: Orders = lambda sources, name: None,
) -> Comparing:
    """*mapping* is a name map's, the converter's or `name_map`. *seen* and *decided* are
    provenance's: sources, and places in the converter, by GGUF name."""
    pairing = Pairing(checkpoint.tensors, mapping, seen or {})
    source = SourceTensors(checkpoint)
    return Comparing(source, pairing, judge, decided or {}, order, _vision_map())


def sources_of(
    checkpoint: Checkpoint,
    mapping: Mapping[str, Any],
    written: Iterable[str],
    seen: Mapping[str, tuple[str, ...]],
) -> dict[str, tuple[str, ...]]:
    """The checkpoint's tensors of each of *written*: as they were *seen*, else by *mapping*."""
    pairing = Pairing(checkpoint.tensors, mapping, {})
    return {name: seen.get(name) or pairing.named(name) for name in written}


def base_of(adapter: Path) -> Path | None:
    """The folder of the model that a LoRA adapter's config names, where it is one of this machine;
    None where *adapter* is no adapter's folder."""
    try:
        named = read_json(adapter / "adapter_config.json", "the config").get(
            "base_model_name_or_path"
        )
    except CheckpointError:
        return None
    return Path(named) if type(named) is str and (Path(named) / "config.json").is_file() else None


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


def _vision_map() -> Mapping[str, Any]:
    """The name map of vision and audio parts; {} where gguf is of before there was one."""
    gguf = sys.modules["gguf"]
    arch = getattr(gguf.MODEL_ARCH, "MMPROJ", None)
    mapping: Mapping[str, Any] = {}
    if arch is not None:
        mapping = gguf.get_tensor_name_map(arch, _VISION_BLOCKS).mapping
    return mapping


@dataclass(frozen=True, slots=True)
class Judged:
    """*judge* says whether a relation is what is needed; *order* the order of rows that is."""

    judge: Judge
    order: Orders


def judge_of(
    folder: Path,
    config: Mapping[str, Any] | None,
    checkpoint: Checkpoint,
    mapping: Mapping[str, Any],
    architecture: str,
    slow: Callable[[], None] = lambda: None,
) -> Judged:
    """By what *architecture* needs of the model in *folder*, of a LoRA adapter's *checkpoint* its
    base; *config*: the converter's, None for that of the folder. *slow* is called once where
    building the model takes over a second."""
    if config is None:
        try:
            config = read_json(folder / "config.json", "the config")
        except CheckpointError as error:
            reason = str(error)
            return Judged(lambda sources, name, relation: ("unjudged", reason), lambda *_: None)
    needs = needs_of(folder, config, checkpoint.tensors, architecture, slow=slow)
    places = _Places(needs, checkpoint, mapping)

    def need(sources: tuple[str, ...], name: str) -> Need:
        instead = places.instead(sources, name)
        return needs.need((instead,) if instead else sources, name)

    def judged(sources: tuple[str, ...], name: str, relation: Relation) -> tuple[Status, str]:
        instead = places.instead(sources, name)
        status, reason = judge(need(sources, name), relation)
        if status == "ok" and any(part.kind != "identical" for part in relation.parts):
            return "unjudged", "parts were changed before they were put together"
        if status == "ok" and relation.rows is not None:
            return "unjudged", "whether those rows are the right ones is not known"
        if instead:
            reason = f"{reason} ({sources[0]} stands in the place of {instead})"
        return status, reason

    return Judged(judged, lambda sources, name: _not_told(need(sources, name)))


def _not_told(need: Need) -> RowOrder | None:
    """The order that *need* is for where a relation's head count does not tell it."""
    return need.order if need.heads is None else None


class _Places:
    """Parameters of the model that a checkpoint lacks: a tensor of another name, which is written
    where the parameter would be, stands in its place.

    Only in a block of which other tensors have their names: in one of all other names, such as
    Meta's own, nothing is known of the order of rows.
    """

    def __init__(self, needs: Needs, checkpoint: Checkpoint, mapping: Mapping[str, Any]) -> None:
        facts = needs.facts
        names = {each.name for each in checkpoint.tensors}
        parameters = set(facts.parameters) if facts is not None else set()
        self._known = parameters | (set(facts.loads) if facts is not None else set())
        self._blocks = {block_of(name) for name in names & self._known}
        lacking = ((gguf_of(dict(mapping), name), name) for name in parameters - names)
        self._lacking = {gguf: name for gguf, name in lacking if gguf is not None}

    def instead(self, sources: tuple[str, ...], gguf: str) -> str:
        """The parameter in whose place the only source stands; "" where it is none's."""
        if len(sources) != 1 or sources[0] in self._known:
            return ""
        return self._lacking.get(gguf, "") if block_of(gguf) in self._blocks else ""
