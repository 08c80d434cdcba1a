"""`locals`: a frame's variables, one line each."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.values import Kind, Variable
from modpdb.views.grid import Grid
from modpdb.views.text import printable

_TYPE_STYLE: dict[Kind, str] = {"tensor": "cyan", "module": "green"}
# Kinds that are named only, together, below the rest.
_NAMED_ONLY: dict[Kind, str] = {
    "code": "functions and classes",
    "import": "imported modules",
    "dunder": "dunder names",
}


def variables(found: Sequence[Variable]) -> RenderableType:
    """Name, type and value of each; functions, imports and dunder names in a line per kind."""
    if not found:
        return Text("no local variables")
    cells = [
        (
            Text(printable(variable.name), "bold"),
            Text(printable(variable.type), _TYPE_STYLE.get(variable.kind, "dim")),
            Text(printable(variable.line)),
        )
        for variable in found
        if variable.kind not in _NAMED_ONLY
    ]
    return Group(Grid(cells), *_named_only(found))


def _named_only(found: Sequence[Variable]) -> list[Text]:
    lines = []
    for kind, words in _NAMED_ONLY.items():
        names = [printable(variable.name) for variable in found if variable.kind == kind]
        if names:
            lines.append(Text(f"{words}: ", "dim").append(", ".join(names), "not dim"))
    return lines
