"""The calls that were read from a source, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modpdb.probes.builtins import Source

Given = tuple[Sequence[Any], Mapping[str, Any]]
Kind = Literal["module", "function", "builtin", "method", "operator", "run time"]
Certainty = Literal["read", "guessed"]


@dataclass(frozen=True, slots=True)
class Called:
    """One call that the source makes.

    text: its source, with … for the calls within it. line, end: where it stands in its file.
    under: the conditions and loops around it, outermost first. operator: "aten::view" where the
    dispatcher has one of that name, else "". means: the class of a module, the qualified name of
    a function, or where a choice was made that only running tells. path: a module's. source: of
    a Python function; inner: the calls in that. guessed: by the name alone, since what it is
    called on is not known to be a tensor.
    """

    kind: Kind
    text: str
    line: int
    end: int
    under: tuple[str, ...] = ()
    certainty: Certainty = "read"
    means: str = ""
    operator: str = ""
    path: str = ""
    source: Source | None = None
    inner: tuple[Called, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """The calls of a function, or why its source was not read.

    gives_tensor: whether each of its returns gives one tensor.
    """

    calls: tuple[Called, ...] = ()
    problem: str = ""
    gives_tensor: bool = False
