"""`coverage`: what is written against what the architecture needs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from modpdb.commands.paths import complete_files, path_first, reading
from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import frames_outwards

if TYPE_CHECKING:
    from pathlib import Path

    from modpdb.debugger import ModPdb
    from modpdb.probes.coverage_findings import Coverage
    from modpdb.probes.gguf_contents import GGUFContents

_NO_ADAPTER = "it needs no tensor, and a model that has all; coverage looks at models"


def _complete(dbg: ModPdb, text: str) -> Iterator[str]:
    yield from complete_files(text, ".gguf")


@command(
    "coverage",
    options={"--unfold": ""},
    options_anywhere=True,
    needs_frame=False,
    completes=_complete,
)
def coverage(dbg: ModPdb, arguments: Arguments) -> None:
    """coverage [FILE.gguf] [--unfold]

    What the writer holds, or FILE, against what llama.cpp's loader needs of the architecture.

    Missing: tensors that the loader requires, and metadata keys that it requires although the
    converter leaves them out where the config has none. Shapes are held against the metadata, and
    tensors named that no loader asks for. Optional tensors that are not there are counted. Shapes
    are ggml's ne, the fastest dimension first. Before all is written it is what there is so far:
    `ahead` looks at what will be there in the end. Of a FILE only the header is read.
    """
    from modpdb.views.coverage import coverage as view

    path, words = path_first(dbg, arguments.target)
    if words:
        raise UsageError(f"coverage takes one FILE.gguf, not {' '.join(words)}")
    unfold = bool(arguments.options.get("--unfold"))
    if path is not None:
        dbg.show(view(_of_file(path), str(path), unfold=unfold))
        return
    found, where = _written(dbg)
    dbg.show(view(found, where, unfold=unfold))


def _of_file(path: Path) -> Coverage:
    from modpdb.probes.coverage import contents_coverage
    from modpdb.probes.gguf_files import read_gguf

    contents = reading(lambda: read_gguf(path))
    metadata = {each.key: each.value for each in contents.metadata}
    whole = metadata.get("split.tensors.count")
    if type(whole) is int and whole > len(contents.tensors):
        raise UsageError(
            f"{path} is a shard with {len(contents.tensors):,} of {whole:,} tensors: "
            "coverage takes a model in one file"
        )
    if metadata.get("general.type") == "adapter":
        raise UsageError(f"{path} is an adapter: {_NO_ADAPTER}")
    found = contents_coverage(contents, sys.modules.get("gguf"))
    if found is None:
        raise UsageError(f"{path} has no general.architecture: what it needs is not known")
    return found


def _written(dbg: ModPdb) -> tuple[Coverage, str]:
    """Of the writer at hand, and what it is called."""
    from modpdb.probes._static import class_name
    from modpdb.probes.conversion import find_conversion
    from modpdb.probes.coverage import contents_coverage, so_far
    from modpdb.probes.tied_embeddings import conversion_tied
    from modpdb.probes.writer import find_writer, writer_contents

    if dbg.curframe is None:
        raise UsageError("coverage needs a FILE before the program has stopped: coverage FILE.gguf")
    frames = [(frame.f_code.co_name, held) for frame, held in frames_outwards(dbg)]
    variables = [held for _, held in frames]
    writer = find_writer(variables)
    conversion = find_conversion(variables)
    if writer is None:
        if conversion is not None and conversion.model is not None:
            raise UsageError("no GGUF writer yet: `ahead` looks at all that will be written")
        raise UsageError("no GGUF writer here or in the callers; `coverage FILE.gguf` reads a file")
    expression, object_ = writer
    contents = writer_contents(object_, expression)
    if conversion is not None and conversion.adapter is not None:
        raise UsageError(f"an adapter is converted: {_NO_ADAPTER}")
    tied = conversion_tied(conversion) if conversion is not None else None
    found = contents_coverage(contents, sys.modules.get("gguf"), tied=tied)
    if found is None:
        raise UsageError(f"{expression} has no general.architecture: what it needs is not known")
    to_come = _to_come([name for name, _ in frames], contents)
    where = f"{expression} ({class_name(type(object_))})"
    return (so_far(found, to_come) if to_come else found), where


def _to_come(functions: list[str], contents: GGUFContents) -> str:
    """What the writer does not hold yet, "" for nothing: the converters write the metadata last,
    and then all of it to the file."""
    from modpdb.probes.writer import NOT_WRITTEN

    if "prepare_tensors" in functions or not contents.tensors:
        return "tensors and metadata are"
    writing = any(name.startswith("write_") and name.endswith("_file") for name in functions)
    return "" if writing or NOT_WRITTEN not in contents.details else "the metadata is"
