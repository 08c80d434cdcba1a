"""`compare`: the verdict, then the figures."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from modpdb.probes.compare import Comparison, Distance, Side
from modpdb.probes.relations import Relation
from modpdb.views.flow import Flow
from modpdb.views.relation import cast_words, heads_words
from modpdb.views.tensor import number
from modpdb.views.text import percent, printable, shape


def comparison(found: Comparison) -> RenderableType:
    """The verdict in a line, the two tensors, and what is not nothing."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for label, side in (("A", found.a), ("B", found.b)):
        table.add_row(f"  {label}", _side(side))
    if found.distance is not None and not found.equal:
        for label, value in _figures(found.distance):
            table.add_row(f"  {label}", value)
    verdict, *more = _verdict(found)
    for part in (verdict, *more[:-1]):
        part.append(":" if part is verdict else ",")
    return Group(Flow([verdict, *more], gap=" "), table)


def _side(side: Side) -> Text:
    text = Text(printable(side.name), "bold").append(f"  {shape(side.shape)}", "not bold")
    return text.append(f" {printable(side.dtype)}", "not bold cyan")


def _verdict(found: Comparison) -> list[Text]:
    if found.no_numbers:
        return [Text(f"not compared: {printable(found.no_numbers)}", "yellow")]
    if found.identical:
        return [Text("identical", "bold green"), Text("same shape, dtype and values")]
    parts = []
    if found.equal:
        parts.append(Text("equal values", "bold green"))
    elif found.relation is None:
        parts.append(Text("different", "bold red"))
    else:
        parts.append(Text("related", "bold green"))
    if found.relation is not None:
        parts += _relation(found.relation, found.backwards)
        if not found.relation.exact:
            parts.append(Text("to within rounding", "yellow"))
    elif found.distance is None:
        parts.append(Text("the shapes differ, and no relation is found", "yellow"))
    else:
        parts.append(Text("no relation is found", "dim"))
    return parts


def _relation(relation: Relation, backwards: bool) -> list[Text]:
    made, source = ("A", "B") if backwards else ("B", "A")
    if relation.kind == "stacked":
        words = f"{source} is {relation.words} of {made}"
    elif relation.kind == "slice":
        words = f"{made} is {relation.words} of {source}"
    elif relation.kind in ("plus", "times"):
        words = f"{made} = {source} {relation.words}"
    else:
        words = " ".join(filter(None, (f"{made} is {source}", relation.words)))
    parts = [words]
    if relation.heads:
        parts.append(heads_words(relation.heads))
    if relation.cast is not None:
        parts.append(cast_words(relation.cast))
    return [Text(part) for part in parts]


def _figures(found: Distance) -> list[tuple[str, Text]]:
    share = found.unequal / found.elements
    first = f", first at {_index(found.first)}" if found.first is not None else ""
    rows = [("unequal", Text(f"{found.unequal:,} of {found.elements:,} ({percent(share)}){first}"))]
    if found.not_finite:
        words = f"{found.not_finite:,} unequal with a NaN or Inf in one, left out below"
        rows.append(("NaN, Inf", Text(words, "bold red")))
    a, b = found.values
    where = f"{found.max_abs:.4g} at {_index(found.where)}: {number(a)} and {number(b)}"
    rows.append(("max abs", Text(where)))
    if found.relative is not None:
        rows.append(("relative", Text(f"{found.relative:.3g} of the greatest in A")))
    if found.nmse is not None:
        style = "green" if found.passes else "red"
        text = Text(f"{found.nmse:.3g}  ").append(found.band, style)
        verdict = "passes" if found.passes else "does not pass"
        rows.append(("NMSE", text.append(f", {verdict} by llama.cpp's bands", "dim")))
    else:
        rows.append(("NMSE", Text("not defined: all values of A are the same", "dim")))
    if found.cosine is not None:
        rows.append(("cosine", Text(f"{found.cosine:.8g}")))
    return rows


def _index(index: tuple[int, ...]) -> str:
    return "[" + ", ".join(f"{each:,}" for each in index) + "]"
