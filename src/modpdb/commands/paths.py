"""Targets that are a file or folder and words after it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, TypeVar

from modpdb.commands.registry import UsageError
from modpdb.probes._static import is_a

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb

Read = TypeVar("Read")

_COMPLETED = 200


def split_words(text: str) -> list[str]:
    """The words of *text*; quotes keep blanks in a path."""
    import shlex

    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{text!r} cannot be split into words: {error}") from None


def path_first(dbg: ModPdb, text: str) -> tuple[Path | None, list[str]]:
    """The file or folder that the first word of *text* is, or the variable of that name holds,
    and the other words. Raises UsageError for what looks like a path and is none."""
    words = split_words(text)
    if not words:
        return None, []
    first, *rest = words
    path = Path(first).expanduser()
    if os.path.lexists(path):
        return path, rest
    if first.isidentifier() and dbg.curframe is not None:
        held = dbg.curframe_locals.get(first)
        if is_a(held, PurePath) or (type(held) is str and os.path.lexists(held)):
            return Path(held), rest
    if os.sep in first or path.suffix in (".gguf", ".safetensors", ".bin", ".pt", ".json"):
        raise UsageError(f"{first}: there is no such file or folder")
    return None, words


def one_word(words: list[str], what: str) -> str:
    """The only one of *words*, "" for none."""
    if len(words) > 1:
        raise UsageError(f"{what} takes one GLOB, not {len(words)}: {' '.join(words)}")
    return words[0] if words else ""


def reading(read: Callable[[], Read]) -> Read:
    """What *read* gives; what it says of a file that cannot be read, for the user."""
    from modpdb.probes.files import CheckpointError

    try:
        return read()
    except CheckpointError as error:
        raise UsageError(str(error)) from None


def complete_files(text: str, *suffixes: str) -> Iterator[str]:
    """Folders, and files that end in one of *suffixes*, for Tab."""
    from glob import escape, iglob

    for found in islice(iglob(f"{escape(text)}*"), _COMPLETED):
        if os.path.isdir(found):
            yield f"{found}{os.sep}"
        elif found.endswith(suffixes):
            yield found
