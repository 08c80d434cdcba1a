"""`hparams`: the config as the converter sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from modpdb.commands.paths import complete_files, one_word, path_first, reading
from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import Typed, frames_outwards, matches, not_understood

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.probes.hparams import HParams


def _complete(dbg: ModPdb, text: str) -> Iterator[str]:
    yield from complete_files(text, ".json")
    try:
        found, _ = _found(dbg, "")
    except UsageError:
        return
    yield from (each.path for each in found.keys)


@command("hparams", needs_frame=False, completes=_complete)
def hparams(dbg: ModPdb, arguments: Arguments) -> None:
    """hparams [PATH] [GLOB]

    The config as the converter holds it, as a tree, with the code that names each key.

    Keys that no function of the converter's classes names come last: a hint that the converter
    does not read them, not a proof, as a key may be put together from parts. GLOB chooses keys,
    *rope*, or without a wildcard those that contain it. PATH is a model folder or a JSON file:
    then there is no converter to ask.
    """
    from modpdb.views.hparams import hparams as view

    found, glob = _found(dbg, arguments.target)
    if glob:
        keys = tuple(each for each in found.keys if not each.nested and _fits(each.path, glob))
        if not keys:
            names = [each.path for each in found.keys]
            raise UsageError(not_understood(Typed(glob), "no key of the config", names))
        found = replace(found, keys=keys)
    dbg.show(view(found, by_path=bool(glob)))


def _fits(path: str, glob: str) -> bool:
    return matches(path, glob) or matches(path, f"{glob}.*") or glob in path


def _found(dbg: ModPdb, target: str) -> tuple[HParams, str]:
    """The config that is meant, and the glob that was typed."""
    from modpdb.probes.conversion import find_conversion
    from modpdb.probes.hparams import folder_hparams, hparams_tree

    path, words = path_first(dbg, target)
    glob = one_word(words, "hparams")
    if path is not None:
        return reading(lambda: folder_hparams(path)), glob
    if dbg.curframe is None:
        raise UsageError("hparams needs a PATH before the program has stopped: hparams PATH")
    conversion = find_conversion([held for _, held in frames_outwards(dbg)])
    if conversion is None:
        raise UsageError("no conversion here; `hparams PATH` reads the config of a model folder")
    if conversion.hparams is not None:
        where = f"{conversion.class_name}.hparams"
        return hparams_tree(conversion.hparams, where, type(conversion.model)), glob
    folder = conversion.dir_model
    if folder is None:
        raise UsageError("the conversion's folder is not known yet")
    return reading(lambda: folder_hparams(folder)), glob
