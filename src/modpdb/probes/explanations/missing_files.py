"""Files that an index names and that are not there, or not whole; a folder without config.json."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from pathlib import Path

from modpdb.probes.checkpoints import Parts, parts_of
from modpdb.probes.explanations.explanation import (
    Caught,
    Cause,
    Explanation,
    Row,
    Step,
    Table,
    command_again,
    raised,
)
from modpdb.probes.files import CheckpointError
from modpdb.probes.safetensors_files import read_header

_MESSAGES = ("Missing or incomplete model files", "Mismatch between weight map")
_BROKEN = ("Could not read complete metadata", "Failed to parse safetensors metadata")
_READING = ("index_tensors", "get_tensors", "tensor_names")


def missing_files(caught: Caught) -> Explanation | None:
    """Which files of the checkpoint are there, and what is in them against the index."""
    conversion = caught.conversion
    if conversion is None or conversion.dir_model is None:
        return None
    folder = conversion.dir_model
    config = _no_config(caught, folder)
    if config is not None:
        return config
    if not (_said(caught) or _while_reading(caught)):
        return None
    try:
        parts = parts_of(folder, mistral=conversion.mistral)
    except CheckpointError as error:
        return Explanation("missing files", str(error), (Cause(f"{error}"),))
    wanted = Counter(parts.index.values())
    rows, bad = [], []
    for file in parts.files:
        words, fine = _state(folder, file, wanted.get(file), parts.safetensors)
        rows.append(Row(file, words))
        bad += [] if fine else [file]
    if not bad:
        return None
    where = next((f.place for f in caught.frames if f.function in (*_READING, "mmap_bytes")), "")
    return _explained(folder, parts, rows, bad, where)


def _explained(
    folder: Path, parts: Parts, rows: list[Row], bad: list[str], where: str
) -> Explanation:
    several = len(parts.files) > 1
    of = f"{len(bad)} of {len(parts.files)} files are" if several else "the file is"
    some = ", ".join(bad[:3]) + (", …" if len(bad) > 3 else "")
    one = f"{bad[0]} is" if len(bad) == 1 else f"{len(bad)} files are"
    lost = all(not (folder / file).exists() for file in bad)
    known = "the index and the headers" if parts.index else "what the headers list"
    causes = [
        Cause(f"{one} {'not there' if lost else f'not whole, by {known}'}"),
        Cause("the download did not come to its end, or left git-lfs pointers", guess=True),
    ]
    if parts.index:
        causes.append(Cause("the index is of another save than the files", guess=True))
    only = " ".join(map(shlex.quote, bad[:4]))
    again = f"download {'it' if len(bad) == 1 else 'them'} again (REPO: the model's id)"
    steps = [Step(again, (f"hf download REPO {only} --local-dir {shlex.quote(str(folder))}",))]
    if several:
        steps.append(Step("see what is in the others", (f"ckpt {folder}",)))
    table = Table(
        "the files that the index names" if parts.index else "the files", tuple(rows), True
    )
    return Explanation(
        "missing files",
        f"{of} missing or not whole: {some}",
        tuple(causes),
        (table,),
        tuple(steps),
        where,
    )


def _said(caught: Caught) -> bool:
    return raised(caught, ValueError) and caught.message.startswith(_MESSAGES + _BROKEN)


def _while_reading(caught: Caught) -> bool:
    """Whether a file could not be opened or parsed where the tensors are listed."""
    if caught.frame("mmap_bytes") is not None:  # of a file that ends before a tensor does
        return True
    if caught.frame(*_READING) is None:
        return False
    if raised(caught, FileNotFoundError):
        return True
    return type(caught.error).__name__ == "SafetensorError"


def _state(
    folder: Path, file: str, wanted: int | None, safetensors: bool
) -> tuple[tuple[str, ...], bool]:
    """Words about a file, and whether it is as it should be."""
    named = f"{wanted:,} in the index" if wanted is not None else ""
    path = folder / file
    try:
        size = path.stat().st_size
    except OSError as error:
        missing = not path.exists()
        return ("not there" if missing else f"{error.strerror}", "", named), False
    if not safetensors:
        return (f"{size:,} bytes", "", named), True
    try:
        found = len(read_header(path))
    except CheckpointError as error:
        return (f"{size:,} bytes", str(error).removeprefix(f"{path}: "), named), False
    return (f"{size:,} bytes", f"{found:,} tensors", named), wanted is None or found == wanted


def _no_config(caught: Caught, folder: Path) -> Explanation | None:
    if not raised(caught, FileNotFoundError) or caught.frame("load_hparams") is None:
        return None
    if (folder / "config.json").exists():
        return None
    there = sorted(os.listdir(folder))[:12] if folder.is_dir() else []
    says = f"{folder} has no config.json"
    mistral = "params.json" in there
    cause = (
        "it has params.json: Mistral's own format"
        if mistral
        else "the folder is not a model's, or not whole"
    )
    step = (
        Step("convert it as such", (command_again("--mistral-format"),))
        if mistral
        else Step(
            "download the model whole (REPO: its id)",
            (f"hf download REPO --local-dir {shlex.quote(str(folder))}",),
        )
    )
    table = Table("what is there", tuple(Row(each) for each in there), brief=False)
    return Explanation(
        "no config", says, (Cause(cause, guess=True),), (table,), (step,), caught.frames[0].place
    )
