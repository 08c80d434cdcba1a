"""`verify`: is what was written what the architecture needs of the checkpoint?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modpdb.commands.paths import complete_files, one_word, path_first, reading
from modpdb.commands.progress import Progress
from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import Typed, frames_outwards, means_tensor, not_understood
from modpdb.probes._static import class_name, is_a

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.probes.checkpoints import Checkpoint
    from modpdb.probes.conversion import Conversion
    from modpdb.probes.written_tensors import Written


def _complete(dbg: ModPdb, text: str) -> Iterator[str]:
    yield from complete_files(text, ".gguf")
    if dbg.curframe is not None:
        from modpdb.probes.writer import find_writer, written_names

        found = find_writer([held for _, held in frames_outwards(dbg)])
        if found is not None:
            yield from written_names(found[1])


@command("verify", options={"--unfold": ""}, options_anywhere=True, completes=_complete)
def verify(dbg: ModPdb, arguments: Arguments) -> None:
    """verify [GLOB] [--unfold]  |  verify FILE.gguf [MODEL_DIR] [GLOB] [--unfold]

    A verdict for each written tensor: what it is made of, and whether that is needed.

    Of what the writer holds so far, or of FILE. The checkpoint is read afresh, MODEL_DIR or that
    of the conversion at hand. What was done to a tensor is proved on all values, to the bit. Then:
    `ok`, it is what the architecture needs; `WRONG`, with the reason; `unjudged`, what is needed
    is not known; `unexplained`, no relation to the checkpoint was found: what comes nearest.
    Tensors alike in all but their numbers are one row; --unfold shows each.
    """
    from modpdb.probes.comparing import comparing, judge_of, name_map, sources_of
    from modpdb.probes.verification import verify as probe
    from modpdb.views.verify import verification

    _need_modules()
    file, words = path_first(dbg, arguments.target)
    folder, words = path_first(dbg, " ".join(words)) if file is not None else (None, words)
    glob = one_word(words, "verify")
    meant = _Meant(dbg, file, folder)
    contents = meant.written.contents
    mapping = meant.mapping or name_map(contents)
    seen, decided = _observed(dbg) if meant.of_conversion else ({}, {})
    made_of = sources_of(meant.checkpoint, mapping, [each.name for each in contents.tensors], seen)
    chosen = _chosen(made_of, glob)
    by = judge_of(
        meant.folder,
        meant.config,
        meant.checkpoint,
        mapping,
        contents.architecture,
        slow=lambda: dbg.message("building the original's modules in a forked copy …"),
    )
    against = comparing(
        meant.checkpoint, mapping, by.judge, seen=seen, decided=decided, order=by.order
    )
    with Progress(dbg) as told:
        found = probe(meant.written, against, chosen, told)
    dbg.show(verification(found, unfold=bool(arguments.options.get("--unfold"))))


def _need_modules() -> None:
    for name in ("torch", "gguf"):
        if name not in sys.modules:
            raise UsageError(
                f"the script has not imported {name} yet, which is needed to compare; "
                "`modpdb verify MODEL_DIR FILE.gguf` in a shell brings its own"
            )


def _observed(dbg: ModPdb) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """The sources of each tensor and the place that decided, as they were seen."""
    collected = dbg.provenance.written.items() if dbg.provenance is not None else ()
    sources = {name: each.sources for name, each in collected if each.sources}
    return sources, {name: each.converter or each.site for name, each in collected}


def _chosen(made_of: Mapping[str, tuple[str, ...]], glob: str) -> Callable[[str], bool] | None:
    """The written tensors of that name, or made of checkpoint tensors of that name."""
    if not glob:
        return None

    names = {
        name
        for name, sources in made_of.items()
        if any(means_tensor(glob, each) for each in (name, *sources))
    }
    if not names:
        every = [*made_of, *(each for sources in made_of.values() for each in sources)]
        raise UsageError(not_understood(Typed(glob), "no written tensor", every))
    return names.__contains__


class _Meant:
    """What is written, and the checkpoint that it is compared with."""

    def __init__(self, dbg: ModPdb, file: Path | None, folder: Path | None) -> None:
        from modpdb.probes.conversion import find_conversion, name_mapping

        frames = [held for _, held in frames_outwards(dbg)] if dbg.curframe is not None else []
        conversion = find_conversion(frames) if frames else None
        self.written = _written(frames, file)
        self.mapping: Mapping[str, Any] = {}
        self.config: Mapping[str, Any] | None = None
        self.of_conversion = folder is None
        if folder is not None:
            self.folder, self.checkpoint = folder, _checkpoint(folder)
            return
        if conversion is None:
            raise UsageError(
                "no conversion here, so which checkpoint is meant? verify FILE.gguf MODEL_DIR"
            )
        self.folder, self.checkpoint = _source(conversion, frames)
        self.mapping = name_mapping(conversion)
        self.config = conversion.hparams


def _written(frames: list[Mapping[str, Any]], file: Path | None) -> Written:
    from modpdb.probes.writer import find_writer
    from modpdb.probes.written_tensors import WrittenByWriter, WrittenFile

    if file is not None:
        return reading(lambda: WrittenFile(file))
    found = find_writer(frames)
    if found is None:
        raise UsageError(
            "no GGUF writer here or in the callers; `verify FILE.gguf` reads what was written"
        )
    expression, writer = found
    written = reading(lambda: WrittenByWriter(writer, f"{expression} ({class_name(type(writer))})"))
    if not written.contents.tensors:
        raise UsageError("the writer holds no tensor yet; `stage params` runs on to where it does")
    return written


def _checkpoint(folder: Path) -> Checkpoint:
    from modpdb.probes.checkpoint_files import open_checkpoint

    return reading(lambda: open_checkpoint(folder))


def _source(conversion: Conversion, frames: list[Mapping[str, Any]]) -> tuple[Path, Checkpoint]:
    """The conversion's folder with the files that it reads; of a LoRA conversion the adapter."""
    from modpdb.probes.checkpoints import read_checkpoint

    folder = conversion.dir_model
    if folder is None:
        raise UsageError("the conversion's folder is not known yet; verify FILE.gguf MODEL_DIR")
    if conversion.adapter is None:
        return folder, reading(
            lambda: read_checkpoint(
                folder, mistral=conversion.mistral, obey_index=conversion.obeys_index
            )
        )
    adapter: Any = next((each["dir_lora"] for each in frames if "dir_lora" in each), None)
    if not is_a(adapter, Path):
        raise UsageError("the adapter's folder is not known here; verify FILE.gguf MODEL_DIR")
    return folder, _checkpoint(adapter)
