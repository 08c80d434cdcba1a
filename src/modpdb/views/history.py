"""How a lazy tensor is made: its sources, and the operations on them, in their order."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import RenderableType
from rich.text import Text

from modpdb.probes.lazy import NOTHING, Leaf, Made, leaves
from modpdb.views.flow import Flow
from modpdb.views.folding import folded
from modpdb.views.text import plural, printable, shape

_SHOWN = 6  # rows of what an operation joins


def history(
    origin: Leaf | Made, *after: Text, files: Mapping[str, str] = NOTHING
) -> RenderableType:
    """From the source to the result, and what comes *after*; *files* of sources that do not know
    theirs, by name."""
    steps: list[Text] = []
    while isinstance(origin, Made) and len(origin.inputs) == 1:
        steps.append(Text(printable(origin.operation)))
        origin = origin.inputs[0]
    steps.append(_leaf(origin, files) if isinstance(origin, Leaf) else _joined(origin, files))
    first, *rest = [*reversed(steps), *after]
    return Flow([first, *(Text("→ ", "dim").append_text(step) for step in rest)], gap=" ")


def _leaf(leaf: Leaf, files: Mapping[str, str]) -> Text:
    file = leaf.file or files.get(leaf.name, "")
    text = Text(f"{printable(file)}: " if file else "", "dim")
    name = printable(leaf.name) or ("in memory" if leaf.materialised else "LEAF")
    return text.append(name, "not dim bold").append(
        f" {shape(leaf.shape)} {printable(leaf.dtype)}", "not dim"
    )


def _joined(made: Made, files: Mapping[str, str]) -> Text:
    """An operation on several: `stack of 8: layers.{0…7}.w1.weight [4, 3] bf16 → float`."""
    there = {leaf.file or files.get(leaf.name, "") for leaf in leaves(made)} - {""}
    text = Text(f"{printable(there.pop())}: " if len(there) == 1 else "", "dim")
    text.append(printable(made.operation), "not dim").append(
        f" of {plural(len(made.inputs), 'tensor')}: ", "not dim"
    )
    alike = [(_source_name(each), _chain(each)) for each in made.inputs]
    rows = folded(alike)
    for place, (name, times, chain) in enumerate(rows[:_SHOWN]):
        text.append("; " if place else "", "not dim").append(printable(name), "not dim bold")
        text.append(f"{f' ({times})' if times > 1 else ''} {chain}", "not dim")
    if len(rows) > _SHOWN:
        text.append(f"; and {len(rows) - _SHOWN:,} more", "dim")
    return text


def _source_name(origin: Leaf | Made) -> str:
    while isinstance(origin, Made) and len(origin.inputs) == 1:
        origin = origin.inputs[0]
    if isinstance(origin, Made):
        names = dict.fromkeys(leaf.name or leaf.file or "LEAF" for leaf in leaves(origin))
        return f"{', '.join(names)} … {origin.operation} of {len(origin.inputs)}"
    return origin.name or origin.file or "LEAF"


def _chain(origin: Leaf | Made) -> str:
    steps = []
    while isinstance(origin, Made) and len(origin.inputs) == 1:
        steps.append(printable(origin.operation))
        origin = origin.inputs[0]
    return " → ".join([f"{shape(origin.shape)} {printable(origin.dtype)}", *reversed(steps)])
