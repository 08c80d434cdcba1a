"""`state`: the keys of a state dict, and what is not in it or not known of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.registered import TensorRow
from modpdb.probes.state import EXTRA, State, StateCode
from modpdb.probes.state_run import Kept, Ran
from modpdb.probes.tree import joined
from modpdb.views.folding import folded, in_blocks
from modpdb.views.grid import Grid, without_empty
from modpdb.views.modules import tensor_cells, tensor_notes, tensor_total
from modpdb.views.places import defined
from modpdb.views.text import plural, printable, size

_INDENT = "  "
_WHERE = "run in a forked copy of the process"
_ASK = "state --run tells"


def state(found: State, ran: Ran | None = None, *, unfold: bool = False) -> RenderableType:
    """A heading, a row for each key or block of keys that are alike, what is left out, what has
    a say. *ran*: what state_dict() gave when it was run."""
    heading = Text(printable(found.class_name), "bold")
    heading.append(f"   {_total(found)}", "not bold")
    parts: list[RenderableType] = [heading, key_grid(found.rows, unfold=unfold)]
    parts += _unready(found)
    parts += _left_out(found.left_out, unfold)
    if ran is None:
        parts += _extra(found.extra)
        parts += _code(found.code)
    else:
        parts += _observed(found, ran)
    return Group(*parts)


def _total(found: State) -> str:
    keys = plural(len(found.rows) + len(found.extra), "key")
    if not found.rows:
        return keys
    return " · ".join(
        (keys, tensor_total(found.rows), ", ".join(map(printable, _dtypes(found.rows))))
    )


def key_grid(rows: Sequence[TensorRow], *, unfold: bool = False) -> Grid:
    """Name, shape, dtype if there are several, how many times how many bytes, remarks."""
    order = {row.name: at for at, row in enumerate(rows)}
    several = len(_dtypes(rows)) > 1
    lines: list[tuple[str, int, TensorRow | None]]
    if unfold:
        lines = [(row.name, 1, row) for row in rows]
    else:
        alike = ((row.name, replace(row, name="", tied=_general(row, order))) for row in rows)
        lines = in_blocks(folded(alike))
    cells = []
    for name, times, row in lines:
        many = Text(f"{times:,} ×" if times > 1 else "", "bold")
        if row is None:
            cells.append((Text(printable(name)), Text(), Text(), many, Text(), Text()))
            continue
        whole = rows[order[name]] if name in order else row
        notes = tensor_notes(replace(whole, tied=_first(whole, order)))
        dims, dtype, memory = tensor_cells(row)
        kind = dtype if several else Text()
        cells.append((Text(printable(name)), dims, kind, many, memory, notes))
    return without_empty(cells, right=frozenset({3, 4}), wrap=0)


def _dtypes(rows: Iterable[TensorRow]) -> list[str]:
    return list(dict.fromkeys(row.facts.dtype for row in rows if row.facts))


def _first(row: TensorRow, order: Mapping[str, int]) -> tuple[str, ...]:
    """What *row* is said to be tied with: the first of the names, at that one all others."""
    here = order.get(row.name)
    first = min(row.tied, key=lambda name: order.get(name, len(order)), default="")
    earlier = here is not None and order.get(first, here) < here
    return (first,) if earlier else row.tied


def _general(row: TensorRow, order: Mapping[str, int]) -> tuple[str, ...]:
    """The same with * for the numbers in the names, each once."""
    tied = _first(row, order)
    return tuple(dict.fromkeys(re.sub(r"(?<![^.])\d+(?![^.])", "*", name) for name in tied))


def _unready(found: State) -> list[RenderableType]:
    if not found.unready:
        return []
    paths = ", ".join(printable(path or "the module itself") for path in found.unready)
    return [Text(f"before super().__init__(), so that state_dict() raises: {paths}", "yellow")]


def _left_out(rows: Sequence[TensorRow], unfold: bool) -> list[RenderableType]:
    if not rows:
        return []
    head = f"not in it: {plural(len(rows), 'buffer')} registered with persistent=False"
    return [Text(head, "yellow"), _indented(key_grid(rows, unfold=unfold))]


def _indented(grid: Grid) -> RenderableType:
    from rich.padding import Padding

    return Padding(grid, (0, 0, 0, len(_INDENT)))


def _extra(found: Sequence[StateCode], ask: str = _ASK) -> list[RenderableType]:
    if not found:
        return []
    more = f": {ask} what it is and whether it pickles" if ask else ""
    head = Text(f"extra state, not run{more}", "yellow")
    return [head, _code_grid(found, EXTRA)]


def _code(found: Sequence[StateCode], ask: str = _ASK) -> list[RenderableType]:
    saving = [each for each in found if not each.kind.startswith("load")]
    loading = [each for each in found if each.kind.startswith("load")]
    parts: list[RenderableType] = []
    for head, some in (
        (
            "may add, rename or drop keys when state_dict() runs" + (f": {ask}" if ask else ""),
            saving,
        ),
        ("may do so when load_state_dict() runs", loading),
    ):
        if some:
            parts += [Text(head, "yellow"), _code_grid(some)]
    return parts


def _code_grid(found: Sequence[StateCode], key: str = "") -> Grid:
    alike = (
        (joined(each.path, key) if key else each.path, replace(each, path="")) for each in found
    )
    cells = []
    for path, times, each in folded(alike):
        name = Text(_INDENT + printable(path or each.class_name))
        name.append(f"  {times:,} ×" if times > 1 else "", "bold")
        kind = "" if key else each.kind
        cells.append((name, Text(kind, "cyan"), defined(each.source)))
    return Grid(cells, wrap=0)


# -- what was observed -----------------------------------------------------------------------------


def _observed(found: State, ran: Ran) -> list[RenderableType]:
    """Where running it gave other keys than the registries tell, and what is no tensor."""
    expected = {row.name: row.facts for row in found.rows}
    expected |= {joined(each.path, EXTRA): None for each in found.extra}
    if ran.error:
        return [
            Text(f"state_dict(), {_WHERE}, raises {printable(ran.error)}", "bold red"),
            *_extra(found.extra, ""),
            *_code(found.code, ""),
        ]
    seen = {each.name: each for each in ran.keys}
    more = [
        TensorRow(n, each.facts, notes=_kind(each)) for n, each in seen.items() if n not in expected
    ]
    less = [row for row in found.rows if row.name not in seen]
    head = f"observed, state_dict() {_WHERE}: {plural(len(seen), 'key')}"
    parts: list[RenderableType] = [Text(head + ("" if more or less else ", the same"))]
    for words, rows in (("and these", more), ("but not these", less)):
        if rows:
            parts += [Text(words, "yellow"), _indented(key_grid(rows))]
    others = [each for each in ran.keys if each.facts is None]
    if others:
        parts += [Text("no tensors"), _others(others)]
    return parts


def _kind(each: Kept) -> tuple[str, ...]:
    return (f"a {each.class_name}",) if each.facts is None else ()


def _others(found: Sequence[Kept]) -> Grid:
    cells = []
    for name, times, each in folded((each.name, replace(each, name="")) for each in found):
        label = Text(_INDENT + printable(name)).append(
            f"  {times:,} ×" if times > 1 else "", "bold"
        )
        cells.append((label, Text(printable(each.class_name), "cyan"), _pickles(each)))
    return Grid(cells, wrap=0)


def _pickles(each: Kept) -> Text:
    if each.no_pickle:
        return Text(f"does not pickle: {printable(each.no_pickle)}", "bold red")
    text = Text(f"pickles, {size(each.pickled)} by torch.save")
    if each.not_loaded:
        refused = f", but torch.load(weights_only=True) refuses it: {printable(each.not_loaded)}"
        text.append(refused, "yellow")
    return text
