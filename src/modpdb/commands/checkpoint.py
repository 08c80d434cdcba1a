"""`ckpt`: the tensors that are converted, or those of a file."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modpdb.commands.paths import complete_files, one_word, path_first, reading
from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import (
    Typed,
    complete_paths,
    frames_outwards,
    matches,
    not_understood,
)

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.probes.checkpoints import Checkpoint
    from modpdb.probes.progress import Progress

_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt")


def _complete(dbg: ModPdb, text: str) -> Iterator[str]:
    yield from complete_files(text, *_SUFFIXES)
    if dbg.curframe is not None:
        yield from complete_paths(dbg, text)


@command(
    "ckpt",
    options={"--dtype": "D", "--file": "F", "--shared": "", "--unfold": ""},
    options_anywhere=True,
    needs_frame=False,
    completes=_complete,
)
def ckpt(dbg: ModPdb, arguments: Arguments) -> None:
    """ckpt [PATH] [GLOB] [--dtype D] [--file F] [--shared] [--unfold]

    The checkpoint's tensors: dtype, shape, bytes, file, and how far each has come.

    Without PATH that of the conversion at hand, else the dicts of tensors and the safetensors
    files that are open here. PATH is a model folder, or a file of safetensors, GGUF or torch.save
    (.bin, .pt); only headers are read, and no pickle is run. GLOB, D and F are globs of names,
    dtypes (bf16, f8_*) and files. Tensors that differ in their numbers only are one row;
    --unfold shows each. --shared: the names that are one tensor.
    """
    from modpdb.probes._torch import collector_paused
    from modpdb.views.checkpoint import checkpoint as view
    from modpdb.views.checkpoint import shared

    with collector_paused():
        for title, found, progress in _found(dbg, arguments.target):
            glob = title[1]
            chosen = _chosen(found, glob, arguments)
            if arguments.options.get("--shared"):
                dbg.show(shared(found))
            else:
                unfold = bool(arguments.options.get("--unfold"))
                dbg.show(view(title[0], chosen, len(found.tensors), progress, unfold=unfold))


def _found(
    dbg: ModPdb, target: str
) -> Iterator[tuple[tuple[str, str], Checkpoint, Progress | None]]:
    """Each checkpoint that is meant, with a title, the glob that was typed, and its progress."""
    from modpdb.probes.checkpoint_files import open_checkpoint
    from modpdb.probes.conversion import find_conversion
    from modpdb.probes.held_tensors import held_checkpoints
    from modpdb.probes.progress import conversion_progress, source_of

    path, words = path_first(dbg, target)
    glob = one_word(words, "ckpt")
    if path is not None:
        yield ("", glob), reading(lambda: open_checkpoint(path)), None
        return
    if dbg.curframe is None:
        raise UsageError("ckpt needs a PATH before the program has stopped: ckpt PATH [GLOB]")
    frames = [(frame.f_code.co_name, held) for frame, held in frames_outwards(dbg)]
    conversion = find_conversion([held for _, held in frames])
    if conversion is not None:
        source = reading(lambda: source_of(conversion))
        progress = conversion_progress(conversion, source, frames)
        arch = f" → {conversion.arch}" if conversion.arch else ""
        yield (f"{conversion.class_name}{arch}", glob), source, progress
        return
    for _, held in frames:
        here = list(held_checkpoints(held))
        if here:
            for each in here:
                yield (each.folder, glob), each, None
            return
    raise UsageError(
        "no conversion, no dict of tensors and no open safetensors file here or in the callers; "
        "`ckpt PATH` reads a folder or file"
    )


def _chosen(found: Checkpoint, glob: str, arguments: Arguments) -> Checkpoint:
    """Those of its tensors that the globs mean."""
    tests: list[Callable[[Any], bool]] = []
    dtype, file = arguments.text("--dtype"), arguments.text("--file")
    if glob:
        tests.append(lambda each: matches(each.name, glob) or matches(each.name, f"{glob}.*"))
    if dtype:
        tests.append(lambda each: fnmatch.fnmatchcase((each.dtype or "?").lower(), dtype.lower()))
    if file:
        tests.append(lambda each: fnmatch.fnmatchcase(each.file, file))
    if not tests:
        return found
    tensors = tuple(each for each in found.tensors if all(test(each) for test in tests))
    if not tensors:
        raise UsageError(_nothing(found, glob, dtype, file))
    return replace(found, tensors=tensors)


def _nothing(found: Checkpoint, glob: str, dtype: str | None, file: str | None) -> str:
    names = [each.name for each in found.tensors]
    if glob and not any(matches(name, glob) or matches(name, f"{glob}.*") for name in names):
        modules = [name.rpartition(".")[0] for name in names]
        return not_understood(Typed(glob), "no tensor of the checkpoint", names + modules)
    there = {each.dtype or "?" for each in found.tensors}
    if dtype and not fnmatch.filter(map(str.lower, there), dtype.lower()):
        return f"no tensor has the dtype {dtype}; there is {', '.join(sorted(there))}"
    if file and not fnmatch.filter({each.file for each in found.tensors}, file):
        return f"no tensor is in a file {file}; `ckpt` names the files"
    return "no tensor fits all of these"
