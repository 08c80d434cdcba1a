"""`provenance`: where the tensors come from that were written, and what became of the others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from modpdb.commands.paths import one_word, split_words
from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import Typed, frames_outwards, means_tensor, not_understood
from modpdb.commands.tensor_breaks import names_here
from modpdb.views.text import printable

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.probes.tensor_ways import Ways

_COMPLETED = 20_000  # names that Tab offers
_WHOLE = 8  # written tensors that a name may mean to be shown with all their operations


def _complete(dbg: ModPdb, text: str) -> Iterator[str]:
    found = _ways(dbg)
    yield from islice(found.names(), _COMPLETED)


@command("provenance", "prov", options={"--unfold": ""}, options_anywhere=True, completes=_complete)
def provenance(dbg: ModPdb, arguments: Arguments) -> None:
    """provenance [NAME | GLOB] [--unfold]

    Where a tensor of the GGUF file comes from: file, checkpoint names, operations, type.

    Seen while the conversion runs, by the leaves of the lazy graph that is written. NAME is that of
    a GGUF tensor or of one of the checkpoint, .weight and .bias may be left out: its way is shown
    whole, with the modify_tensors that had it and the place that gave it to the writer. GLOB, or
    nothing, shows a line for each; those that differ in their numbers only are one, unless
    --unfold is given. An operation that only changes the dtype is left out there.

    `inferred`: there was no graph (--no-lazy, or the tensor had been computed), and the sources are
    those that the converter's variables or the name map name. `predicted`: nothing of it has been
    written yet, and the name map has that name for it; it may still be split, stacked or dropped.
    """
    from modpdb.views.provenance import whole, written_rows

    glob = one_word(split_words(arguments.target), "provenance")
    unfold = bool(arguments.options.get("--unfold"))
    every = _ways(dbg)
    if dbg.collector is not None and dbg.collector.problem:
        dbg.message(printable(f"incomplete, as collecting it failed: {dbg.collector.problem}"))
    chosen = every.of(partial(means_tensor, glob)) if glob else every
    if not chosen.written and not chosen.unwritten:
        raise UsageError(
            not_understood(Typed(glob), "no tensor of the checkpoint or the file", every.names())
            if glob
            else "the conversion has no tensors yet: its checkpoint is not known"
        )
    one = not re.search(r"[*?[]", glob) and chosen.means_one(glob)
    if glob and one and len(chosen.written) <= _WHOLE:
        dbg.show(whole(chosen, _files(dbg, chosen)))
    else:
        dbg.show(written_rows(chosen, every, unfold=unfold))


def _ways(dbg: ModPdb) -> Ways:
    """What is known of the conversion's tensors. Raises UsageError where that is nothing."""
    from modpdb.probes.tensor_ways import ways

    collected, names = dbg.provenance, names_here(dbg)
    if names is None and (collected is None or not collected.written):
        raise UsageError(
            "no conversion here or in the callers, and none has been seen: "
            "`stage tensors` runs on to where it is"
            if collected is not None
            else "no conversion here, and no preset is on that collects where tensors come from"
        )
    return ways(collected, names)


def _files(dbg: ModPdb, chosen: Ways) -> dict[str, str]:
    """The files of sources that the graph does not name (before mid 2025), by the headers."""
    from modpdb.probes.conversion import find_conversion
    from modpdb.probes.files import CheckpointError
    from modpdb.probes.progress import source_of

    if not chosen.lacks_files():
        return {}
    conversion = find_conversion([held for _, held in frames_outwards(dbg)])
    if conversion is None:
        return {}
    try:
        return {each.name: each.file for each in source_of(conversion).tensors}
    except CheckpointError:
        return {}
