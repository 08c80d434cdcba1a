"""`gguf`: metadata by group, arrays shortened, and tensors, those alike as one."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.gguf_contents import Array, GGUFContents, GGUFTensor, KeyValue
from modpdb.views.folding import by_block, folded_members
from modpdb.views.grid import Grid
from modpdb.views.tensor_cells import block_cells, tensor_cells
from modpdb.views.text import count, memory, plural, printable, size

_TEXT = 60  # characters of a value among others
_ARRAY = 12  # characters of an array's items, and the one that exceeds them


def contents(
    chosen: GGUFContents, whole: GGUFContents, part: str = "", *, unfold: bool = False
) -> RenderableType:
    """What was *chosen* of *whole*; *part* is "kv", "tensors" or "" for both."""
    parts: list[RenderableType] = [_heading(whole)]
    parts += [Text(f"problem: {printable(each)}", "yellow") for each in whole.problems]
    everything = len(chosen.metadata) + len(chosen.tensors) == len(whole.metadata) + len(
        whole.tensors
    )
    if part != "tensors" and (chosen.metadata or everything):
        parts += _metadata(chosen.metadata, len(whole.metadata), unfold)
    if part != "kv" and (chosen.tensors or everything):
        parts += _tensors(chosen, len(whole.tensors), unfold)
    return Group(*parts)


def _heading(whole: GGUFContents) -> Text:
    text = Text(printable(whole.where), "bold")
    said = [whole.architecture or "no architecture", *whole.details]
    if whole.shards > 1:
        said.append(plural(whole.shards, "shard"))
    return text.append("   " + " · ".join(map(printable, said)), "not bold")


# -- metadata ----------------------------------------------------------------------------------


def _metadata(found: Sequence[KeyValue], of: int, unfold: bool) -> list[RenderableType]:
    """general, the architecture's, the tokenizer's: keys of a group in their order."""
    chosen = "" if len(found) == of else f" of {of:,}"
    head = Text(f"{plural(len(found), 'key')}{chosen}", "bold")
    if len(found) == 1 and type(found[0].value) is str and len(found[0].value) > _TEXT:
        return [head, Text(f"{printable(found[0].key)}  str"), _whole(found[0].value)]
    groups: dict[str, list[KeyValue]] = {}
    for each in found:
        groups.setdefault(each.key.partition(".")[0], []).append(each)
    cells = [
        (
            Text(printable(each.key)),
            Text(printable(each.type), "dim"),
            Text(printable(value_text(each, whole=unfold)), "cyan"),
        )
        for group in groups.values()
        for each in group
    ]
    return [head, Grid(cells)]


def _whole(text: str) -> Text:
    """A chat template, line by line."""
    return Text("\n".join(printable(line) for line in text.splitlines()), "cyan")


def value_text(each: KeyValue, *, whole: bool = False) -> str:
    value = each.value
    if type(value) is Array:
        items: list[str] = []
        for item in value.first:
            items.append(_item(item, value.of))
            if not whole and len(", ".join(items)) > _ARRAY:
                break
        more = ["…"] if value.length > len(items) else []
        return f"{value.length:,} × [{', '.join(items + more)}]"
    return _item(value, each.type, None if whole else _TEXT)


def _item(value: object, kind: str, limit: int | None = 20) -> str:
    if type(value) is str:
        text = value if limit is None or len(value) <= limit else f"{value[:limit]}…"
        more = f" {len(value):,} characters" if len(text) < len(value) and limit == _TEXT else ""
        return f"{text!r}{more}" if kind != "?" else text
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is float:
        return _float(value, kind)
    if type(value) is Array:
        return f"{value.length:,} {value.of}"
    return f"{value}"


def _float(value: float, kind: str) -> str:
    """The shortest text of a 32-bit float: 1e-06, not 9.999999974752427e-07."""
    if kind != "f32" or not math.isfinite(value):
        return repr(value)
    try:
        stored = struct.pack("f", value)
    except OverflowError:
        return repr(value)
    texts = (f"{value:.{digits}g}" for digits in range(6, 10))
    return next(text for text in texts if struct.pack("f", float(text)) == stored)


# -- tensors -----------------------------------------------------------------------------------


def _tensors(chosen: GGUFContents, of: int, unfold: bool) -> list[RenderableType]:
    found = chosen.tensors
    some = "" if len(found) == of else f" of {of:,}"
    elements = sum(math.prod(each.ne) for each in found)
    types: Counter[str] = Counter()
    for each in found:
        types[each.dtype] += each.nbytes or 0
    nbytes = sum(types.values())
    by_type = ", ".join(f"{printable(name)} {size(n)}" for name, n in types.most_common())
    said = [f"{plural(len(found), 'tensor')}{some}"]
    if found:
        said += [f"{count(elements)} elements", memory(nbytes)]
        said += [by_type] if len(types) > 1 else list(map(printable, types))
    return [Text(" · ".join(said), "bold"), Grid(_rows(chosen, unfold), right=frozenset({3}))]


def _rows(chosen: GGUFContents, unfold: bool) -> list[tuple[Text, ...]]:
    if unfold:
        return [_row(each.name, "", [each]) for each in chosen.tensors]
    rows: list[tuple[Text, ...]] = []
    for block, lines in by_block(
        folded_members(chosen.tensors, itemgetter(0), itemgetter(1, 2, 3, 4))
    ):
        if block:
            each = sum(members[0].nbytes or 0 for _, members, _ in lines)
            rows.append((*block_cells(block, len(lines[0][1])), Text(size(each)), Text()))
        rows += [_row(path, block, members) for path, members, _ in lines]
    return rows


def _row(path: str, block: str, members: Sequence[GGUFTensor]) -> tuple[Text, ...]:
    first = members[0]
    return (
        *tensor_cells(path, block, len(members), first.dtype, first.ne),
        Text("?" if first.nbytes is None else size(first.nbytes)),
        Text(f"shard {first.shard + 1}" if first.shard else "", "dim"),
    )
