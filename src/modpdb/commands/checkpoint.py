"""`ckpt`: the tensors that are converted, or those of a file."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from modpdb.commands.paths import complete_files, one_word, path_first, reading
from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import (
    Typed,
    complete_paths,
    frames_outwards,
    means_tensor,
    not_understood,
)

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.probes.checkpoints import Checkpoint
    from modpdb.probes.progress import Progress
    from modpdb.probes.safetensors_files import TensorEntry

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

    In a conversion: `held`, the writer has what is made of this one; `at hand`, it is being
    converted; `read`, it was, and the writer has nothing of it: dropped, or yet to be stacked;
    nothing: it is to come. That was seen on the way under a llama.cpp preset; without one the name
    map tells, by which a tensor that is stacked, split or renamed stays `read`.
    """
    from modpdb.collector import collector_paused
    from modpdb.views.checkpoint import checkpoint as view
    from modpdb.views.checkpoint import shared

    path, words = path_first(dbg, arguments.target)
    glob = one_word(words, "ckpt")
    unfold = bool(arguments.options.get("--unfold"))
    with collector_paused():
        for meant in _fitting(_meant(dbg, path, arguments), glob, arguments):
            if arguments.options.get("--shared"):
                dbg.show(shared(meant.title, meant.checkpoint))
                continue
            chosen = _chosen(meant.checkpoint, glob, arguments)
            of = len(meant.checkpoint.tensors)
            dbg.show(view(meant.title, chosen, of, meant.progress, unfold=unfold))


@dataclass(frozen=True, slots=True)
class _Meant:
    """Tensors to speak of; *title* says whose they are, "" for those of files."""

    title: str
    checkpoint: Checkpoint
    progress: Progress | None = None


def _meant(dbg: ModPdb, path: Path | None, arguments: Arguments) -> list[_Meant]:
    from modpdb.probes.checkpoint_files import open_checkpoint
    from modpdb.probes.conversion import find_conversion
    from modpdb.probes.held_tensors import held_checkpoints
    from modpdb.probes.progress import conversion_progress, source_of

    if path is not None:
        return [_Meant("", reading(lambda: open_checkpoint(path)))]
    if dbg.curframe is None:
        raise UsageError("ckpt needs a PATH before the program has stopped: ckpt PATH [GLOB]")
    frames = [(frame.f_code.co_name, held) for frame, held in frames_outwards(dbg)]
    conversion = find_conversion([held for _, held in frames])
    if conversion is not None:
        folder = conversion.dir_model
        if arguments.options.get("--shared") and folder is not None and not conversion.adapter:
            source = reading(lambda: open_checkpoint(folder))  # the converter's list does not tell
        else:
            source = reading(lambda: source_of(conversion))
        title = " → ".join(filter(None, (conversion.class_name, conversion.arch)))
        seen = dbg.collector.seen_of(conversion.model) if dbg.collector is not None else None
        return [_Meant(title, source, conversion_progress(conversion, source, frames, seen))]
    for _, held in frames:
        here = [_Meant(each.tensors[0].file, each) for each in held_checkpoints(held)]
        if here:
            return here
    raise UsageError(
        "no conversion, no dict of tensors and no open safetensors file here or in the callers; "
        "`ckpt PATH` reads a folder or file"
    )


def _fitting(found: list[_Meant], glob: str, arguments: Arguments) -> list[_Meant]:
    """Where several are held those that have something of what is asked for, if any has."""
    tests = _tests(glob, arguments)
    fitting = [
        meant
        for meant in found
        if any(all(test(each) for test in tests) for each in meant.checkpoint.tensors)
    ]
    return fitting or found


def _tests(glob: str, arguments: Arguments) -> list[Callable[[TensorEntry], bool]]:
    """What a tensor has to be."""
    tests: list[Callable[[TensorEntry], bool]] = []
    dtype, file = arguments.text("--dtype"), arguments.text("--file")
    if glob:
        tests.append(lambda each: means_tensor(glob, each.name))
    if dtype:
        tests.append(lambda each: fnmatch.fnmatchcase((each.dtype or "?").lower(), dtype.lower()))
    if file:
        tests.append(lambda each: fnmatch.fnmatchcase(each.file, file))
    return tests


def _chosen(found: Checkpoint, glob: str, arguments: Arguments) -> Checkpoint:
    """Those of its tensors that the globs mean."""
    tests = _tests(glob, arguments)
    if not tests:
        return found
    tensors = tuple(each for each in found.tensors if all(test(each) for test in tests))
    if not tensors:
        raise UsageError(_nothing(found, glob, arguments))
    return replace(found, tensors=tensors)


def _nothing(found: Checkpoint, glob: str, arguments: Arguments) -> str:
    """Which of the globs means none of the tensors."""
    dtype, file = arguments.text("--dtype"), arguments.text("--file")
    names = [each.name for each in found.tensors]
    if glob and not any(means_tensor(glob, name) for name in names):
        modules = [name.rpartition(".")[0] for name in names]
        return not_understood(Typed(glob), "no tensor of the checkpoint", names + modules)
    there = {each.dtype or "?" for each in found.tensors}
    if dtype and not fnmatch.filter(map(str.lower, there), dtype.lower()):
        return f"no tensor has the dtype {dtype}; there is {', '.join(sorted(there))}"
    if file and not fnmatch.filter({each.file for each in found.tensors}, file):
        return f"no tensor is in a file {file}; `ckpt` names the files"
    return "no tensor fits all of these"
