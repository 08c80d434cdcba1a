"""`internals`: what `nn.Module.__init__` set up, one line each, then what stands beside it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.internals import Further, Internal, Internals, Kind
from modpdb.views.grid import Grid
from modpdb.views.text import plural, printable

# What stands in the instance's dict beside the internals, the worrying first.
_KINDS: dict[Kind, str] = {
    "tensor": "tensors, not registered",
    "module": "modules, not registered",
    "code": "functions and classes",
    "value": "values",
}
_WORRYING: tuple[Kind, ...] = ("tensor", "module")


def internals(found: Sequence[tuple[str, Internals]]) -> RenderableType:
    """Of each module at its path: the internals in their order, other attributes by kind; then
    what torch keeps for all modules."""
    parts: list[RenderableType] = []
    for path, data in found:
        parts.append(_heading(path, data))
        if data.initialised:
            parts.append(Grid([_row(each) for each in data.own]))
        parts += _further(data.further)
    return Group(*parts, *_shared(found[0][1].shared))


def _heading(path: str, data: Internals) -> Text:
    heading = Text(printable(path), "bold").append("  " if path else "")
    heading.append(printable(data.class_name), "not bold cyan")
    number = len(data.own)
    if not data.initialised:
        words = f"before super().__init__(): none of its {number} attributes is there"
        return heading.append(f"   {words}", "not bold yellow")
    changed = sum(not each.usual for each in data.own)
    words = f"{changed} of nn.Module.__init__'s {number} attributes changed"
    return heading.append(f"   {words}", "not bold")


def _row(each: Internal) -> tuple[Text, Text, Text]:
    count = "" if each.entries is None or not each.entries else f"{each.entries:,}"
    if each.missing:
        value = Text("missing", "yellow")
    elif each.usual:
        value = Text(printable(each.value) or "empty", "dim")
    else:
        value = Text(printable(each.value))
    return Text(f"  {each.name}", "dim" if each.usual else ""), Text(count, "bold"), value


def _further(found: Sequence[Further]) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for kind, words in _KINDS.items():
        named = [f"{each.name} = {each.value}" for each in found if each.kind == kind]
        if named:
            line = Text(f"{words}: ", "yellow" if kind in _WORRYING else "dim")
            lines.append(line.append(printable(", ".join(named)), "default not dim"))
    return lines


def _shared(found: Sequence[Internal]) -> list[RenderableType]:
    """Those of all modules: a line each that is set, the others together."""
    rows = [_row(each) for each in found if not each.usual]
    rest = len(found) - len(rows)
    words = f"of all modules, torch.nn.modules.module._global_*: {plural(rest, 'name')} empty"
    heading = Text(words if rows else f"{words}, as torch left them", "dim")
    return [heading, Grid(rows)] if rows else [heading]
