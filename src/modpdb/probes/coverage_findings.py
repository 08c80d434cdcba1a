"""What `coverage` finds, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["missing", "shape", "unexpected", "key", "refused", "doubtful", "note", "dropped"]
"""A tensor that the loader requires; one of another shape; one that it does not ask for; a key
that it requires; metadata at which it stops; what may be wrong and cannot be told from here; what
is right under a condition that only the source can tell; a source tensor of which nothing was
made."""


@dataclass(frozen=True, slots=True)
class Finding:
    """*name* is a tensor or key; *words* say what is the matter, many may share them, and *remark*
    what is so of this one. *ne* is the shape that was found, *needed* the one that is needed
    (ggml's, the fastest dimension first; None where it does not matter or is not known)."""

    kind: Kind
    name: str
    words: str
    ne: tuple[int, ...] | None = None
    needed: tuple[int, ...] | None = None
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Coverage:
    """*source* says whose facts these are, "" where the architecture is in no table: then nothing
    is known to be complete. *required* counts the tensors that the loader asks for and *present*
    those of them that are there, *required_keys* and *present_keys* the metadata. *absent* are
    the optional tensors that are not there. *unjudged* are tensors of which it is not known
    whether they are asked for, or with which shape. *unfinished* says what is still to come, as
    `the metadata is`, "" for nothing."""

    arch: str
    source: str
    findings: tuple[Finding, ...]
    required: int = 0
    present: int = 0
    required_keys: int = 0
    present_keys: int = 0
    absent: tuple[str, ...] = ()
    unjudged: tuple[Finding, ...] = ()
    unfinished: str = ""

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """What keeps the file from being loaded."""
        fine = ("doubtful", "note", "dropped")
        return tuple(each for each in self.findings if each.kind not in fine)

    @property
    def complete(self) -> bool:
        """Nothing is wrong, doubtful or not known; of an unknown architecture never."""
        doubtful = any(each.kind == "doubtful" for each in self.findings)
        known = self.source and not self.unjudged and not self.unfinished
        return bool(known) and not self.wrong and not doubtful
