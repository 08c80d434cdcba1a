"""`modpdb verify MODEL_DIR FILE.gguf`: a verdict for each tensor of the file. Debugs nothing."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modpdb.commands.progress import Progress
from modpdb.probes.files import CheckpointError
from modpdb.probes.verification import Verification

_ABOUT = """\
Compares each tensor of a GGUF with the checkpoint that it was made of: what was done to it, proved
on all values, and whether that is what the architecture needs. No code of the checkpoint is run."""
_STATUS = """\
exit status: 0 every tensor is ok; 1 one is WRONG, cannot be explained or is not in the file; 2 one
cannot be judged, nothing was made of one, or what is given cannot be read"""
_MODULES = ("torch", "gguf")


def main(arguments: Sequence[str]) -> int:
    options = parsed(arguments)
    try:
        with Progress(_Shell()) as told:
            base = Path(options.base) if options.base is not None else None
            found = _verified(Path(options.model_dir), Path(options.file), base, told)
        if options.json is not None:
            _write(Path(options.json), found)
    except CheckpointError as error:
        print(f"modpdb verify: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("modpdb verify: interrupted", file=sys.stderr)
        return 130
    try:
        _show(found, unfold=options.all)
    except BrokenPipeError:  # of `| head`; what Python has yet to write goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return exit_status(found)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; exits with status 2 where it cannot be understood."""
    parser = argparse.ArgumentParser(
        "modpdb verify",
        description=_ABOUT,
        epilog=_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model_dir", metavar="MODEL_DIR", help="checkpoint, or a LoRA adapter's")
    parser.add_argument("file", metavar="FILE.gguf", help="what was made of it")
    parser.add_argument("--base", metavar="DIR", help="the model that a LoRA adapter changes")
    parser.add_argument("--all", action="store_true", help="a line for each tensor")
    parser.add_argument("--json", metavar="FILE", help="write the verdicts to FILE, too")
    return parser.parse_intermixed_args(arguments)


def exit_status(found: Verification) -> int:
    lacking = any(each.place for each in found.left)
    if found.count("WRONG") or found.count("unexplained") or lacking:
        return 1
    every = len(found.verdicts) == found.count("ok") and all(each.fine for each in found.left)
    return 0 if every and found.verdicts and not found.problems else 2


def _import() -> None:
    for name in _MODULES:
        try:
            __import__(name)
        except ImportError as error:
            hint = " or set PYTHONPATH to llama.cpp/gguf-py" if name == "gguf" else ""
            raise CheckpointError(
                f"needs the package {name}, which cannot be imported ({error}): "
                f"pip install {name}{hint}"
            ) from None


def _verified(folder: Path, file: Path, base: Path | None, watch: Progress) -> Verification:
    from modpdb.probes.checkpoint_files import open_checkpoint
    from modpdb.probes.comparing import base_of, comparing, judge_of, name_map
    from modpdb.probes.verification import verify
    from modpdb.probes.written_tensors import WrittenFile

    checkpoint = open_checkpoint(folder)
    written = WrittenFile(file)
    _import()  # takes seconds, so what cannot be read is said before
    mapping, arch = name_map(written.contents), written.contents.architecture
    model = base or base_of(folder) or folder
    by = judge_of(model, None, checkpoint, mapping, arch, slow=_building)
    against = comparing(checkpoint, mapping, by.judge, order=by.order)
    return verify(written, against, watch=watch)


def _building() -> None:
    if sys.stderr.isatty():
        print("building the original's modules …", file=sys.stderr)


def _write(file: Path, found: Verification) -> None:
    data: dict[str, Any] = asdict(found)
    data["counts"] = {s: found.count(s) for s in ("ok", "WRONG", "unjudged", "unexplained")}
    try:
        file.write_text(json.dumps(data, indent=1, ensure_ascii=True) + "\n")
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}") from None


class _Shell:
    """Progress is told on standard error, where that is a terminal."""

    stdout = sys.stderr

    def at_terminal(self) -> bool:
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _show(found: Verification, *, unfold: bool) -> None:
    from modpdb.views.console import print_to
    from modpdb.views.verify import verification

    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    color = color or bool(os.environ.get("FORCE_COLOR"))
    print_to(sys.stdout, [verification(found, unfold=unfold)], color=color)
    sys.stdout.flush()
