"""What a breakpoint on tensor names will meet."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.tensor_names import Meets
from modpdb.views.folding import folded
from modpdb.views.grid import Grid
from modpdb.views.text import plural, printable

_SHOWN = 6  # rows of names
_INDENT = "    "


def tensors_met(place: str, found: Meets) -> RenderableType:
    """A sentence that begins with *place*, and below it the names, those alike as one."""
    head = Text(printable(f"{place}: {in_words(found)}"))
    pairs = [*((name, "") for name in found.checkpoint), *found.predicted]
    if pairs:
        return Group(head, *_table(pairs), *_possible(found))
    near = [Text(printable(f"{_INDENT}near: {name}")) for name in found.near]
    return Group(head, *near, *_possible(found))


def in_words(found: Meets) -> str:
    """How many tensors, on which side."""
    parts = []
    if found.checkpoint:
        parts.append(plural(len(found.checkpoint), "checkpoint tensor"))
    if found.predicted:
        parts.append(f"{plural(len(found.predicted), 'GGUF tensor')} (predicted)")
    if parts:
        return ", ".join(parts)
    if not found.mapped:
        return "no checkpoint tensor of that name, GGUF names are not known yet"
    return "none predicted" if found.possible else "no tensor of that name is known"


def _table(pairs: Sequence[tuple[str, str]]) -> list[RenderableType]:
    """Names with the checkpoint tensors that they come from; where several names are one row,
    * stands for the numbers of the name beside it."""
    sources = dict(pairs)
    lines = folded((name, re.sub(r"(?<=\.)\d+(?=\.)", "*", source)) for name, source in pairs)
    cells = []
    for name, times, alike in lines[:_SHOWN]:
        source = sources[name] if times == 1 else alike
        cells.append(
            (
                Text(_INDENT + printable(name)),
                Text(f"from {printable(source)}" if source else "", "dim"),
            )
        )
    return [Grid(cells), *_rest(len(lines))]


def _possible(found: Meets) -> list[RenderableType]:
    """GGUF names that no single tensor is predicted to get: stacked or made while converting."""
    if not found.possible:
        return []
    lines = [name for name, _, _ in folded((name, "") for name in found.possible)]
    shown = ", ".join(lines[:_SHOWN]) + (", …" if len(lines) > _SHOWN else "")
    return [Grid([(Text(f"{_INDENT}not predicted, but possible:"), Text(printable(shown), "dim"))])]


def _rest(lines: int) -> list[RenderableType]:
    more = lines - _SHOWN
    return [Text(f"{_INDENT}… and {plural(more, 'row')} more", "dim")] if more > 0 else []
