"""`tensor-map`: from checkpoint names to GGUF names, as the converter does it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from modpdb.commands.ahead import look_ahead
from modpdb.commands.paths import one_word, split_words
from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import Typed, complete_paths, means_tensor, not_understood

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.probes.dry_run import DryRun
    from modpdb.probes.tensor_flow import Flow


def _complete(dbg: ModPdb, text: str) -> Iterator[str]:
    yield from complete_paths(dbg, text)


@command("tensor-map", "map", options={"--unfold": ""}, options_anywhere=True, completes=_complete)
def tensor_map(dbg: ModPdb, arguments: Arguments) -> None:
    """tensor-map [--unfold] [GLOB]

    Checkpoint name → GGUF name, grouped by pattern, with shapes, types and what is done between.

    Found by the dry run that `ahead` makes: what is split, stacked or renamed by the converter is
    told, and what is dropped; unmapped names come first. Shapes are torch's on both sides. Of the
    operations casts are left out; the arguments of the others, too (`provenance` has them). GLOB
    is matched against both names. Where no dry run is possible it is the name map's word, and
    marked as that.
    """
    from modpdb.probes.conversion import name_mapping
    from modpdb.probes.tensor_flow import flows
    from modpdb.views.tensor_map import tensor_map as view

    glob = one_word(split_words(arguments.target), "map")
    conversion, found = look_ahead(dbg, only_tensors=True)
    chosen, all_flows = found, flows(found, name_mapping(conversion))
    some = all_flows
    if glob:
        chosen, some = _chosen(found, all_flows, glob)
    unfold = bool(arguments.options.get("--unfold"))
    dbg.show(view(chosen, some, unfold=unfold))


def _chosen(
    found: DryRun, all_flows: tuple[Flow, ...], glob: str
) -> tuple[DryRun, tuple[Flow, ...]]:
    """What *glob* means of either side."""

    def named(*names: str) -> bool:
        return any(means_tensor(glob, name) for name in names)

    some = tuple(
        flow for flow in all_flows if named(*flow.sources, *(each.name for each in flow.written))
    )
    chosen = replace(
        found,
        misses=tuple(miss for miss in found.misses if named(miss.tensor)),
        dropped=tuple(filter(named, found.dropped)),
        filtered=tuple(filter(named, found.filtered)),
    )
    if not (some or chosen.misses or chosen.dropped or chosen.filtered):
        names = [name for flow in all_flows for name in flow.sources]
        names += [each.name for each in found.written]
        raise UsageError(not_understood(Typed(glob), "no tensor of either side", names))
    return chosen, some
