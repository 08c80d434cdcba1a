"""`gguf`: what the writer holds so far, or a GGUF file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from modpdb.commands.paths import complete_files, one_word, path_first, reading
from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import Typed, frames_outwards, matches, means_tensor, not_understood
from modpdb.probes._static import class_name

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.probes.gguf_contents import GGUFContents

_PARTS = ("kv", "tensors")


def _complete(dbg: ModPdb, text: str) -> Iterator[str]:
    yield from _PARTS
    yield from complete_files(text, ".gguf")
    try:
        found = _writers(dbg)
    except UsageError:
        return
    yield from (each.key for each in found.metadata)
    yield from (each.name for each in found.tensors)


@command(
    "gguf", options={"--unfold": ""}, options_anywhere=True, needs_frame=False, completes=_complete
)
def gguf(dbg: ModPdb, arguments: Arguments) -> None:
    """gguf [FILE] [kv | tensors] [GLOB] [--unfold]

    What the GGUF writer holds so far, or what is in FILE: metadata and tensors.

    `kv` shows the metadata alone, `tensors` the tensors alone. GLOB chooses keys and names; a
    single key is shown whole. Arrays are shortened, and tensors that differ in their numbers only
    are one row, unless --unfold is given. Shapes are ggml's ne, the fastest dimension first. Of a
    FILE only the header is read.
    """
    from modpdb.views.gguf import contents

    path, words = path_first(dbg, arguments.target)
    part = words.pop(0) if words and words[0] in _PARTS else ""
    glob = one_word(words, "gguf")
    if path is not None:
        from modpdb.probes.gguf_files import read_gguf

        found = reading(lambda: read_gguf(path))
    else:
        found = _writers(dbg)
    chosen = _chosen(found, part, glob)
    unfold = bool(arguments.options.get("--unfold"))
    dbg.show(contents(chosen, found, part, unfold=unfold))


def _writers(dbg: ModPdb) -> GGUFContents:
    from modpdb.probes.writer import find_writer, writer_contents

    if dbg.curframe is None:
        raise UsageError("gguf needs a FILE before the program has stopped: gguf FILE.gguf")
    found = find_writer([held for _, held in frames_outwards(dbg)])
    if found is None:
        raise UsageError(
            "no GGUF writer here or in the callers; `gguf FILE.gguf` reads a file, "
            "`ckpt` shows the checkpoint"
        )
    expression, writer = found
    return writer_contents(writer, f"{expression} ({class_name(type(writer))})")


def _chosen(found: GGUFContents, part: str, glob: str) -> GGUFContents:
    metadata = found.metadata if part != "tensors" else ()
    tensors = found.tensors if part != "kv" else ()
    if not glob:
        return found._replace(metadata=metadata, tensors=tensors)
    keys = tuple(each for each in metadata if matches(each.key, glob))
    named = tuple(each for each in tensors if means_tensor(glob, each.name))
    if not keys and not named:
        names = [*(each.key for each in metadata), *(each.name for each in tensors)]
        what = {"kv": "no key", "tensors": "no tensor"}.get(part, "no key and no tensor")
        raise UsageError(not_understood(Typed(glob), what, names))
    return found._replace(metadata=keys, tensors=named)
