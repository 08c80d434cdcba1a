"""`tensor-map`: checkpoint names and the GGUF names that are made of them, a line a pattern."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.dry_run import DryRun
from modpdb.probes.tensor_flow import Flow
from modpdb.views.ahead import left_out
from modpdb.views.folding import block_of, by_block, folded, folded_members
from modpdb.views.grid import Grid
from modpdb.views.named_rows import named_rows
from modpdb.views.text import duration, plural, printable, shape

_Alike = tuple[object, ...]


def tensor_map(found: DryRun, flows: Sequence[Flow], *, unfold: bool = False) -> RenderableType:
    """What could not be named first, then *flows*, then what is left out."""
    return Group(*_parts(found, flows, unfold))


def _parts(found: DryRun, flows: Sequence[Flow], unfold: bool) -> Iterator[RenderableType]:
    sources = {name for flow in flows for name in flow.sources}
    written = sum(len(flow.written) for flow in flows)
    head = Text(f"{plural(len(sources), 'checkpoint tensor')} → {plural(written, 'GGUF tensor')}")
    head.stylize("bold")
    if found.exact:
        head.append(f"   run dry in {duration(found.seconds)}, nothing was written", "not bold")
    yield head
    if not found.exact:
        yield Text(f"guessed from the name map alone: {printable(found.why)}", "yellow")
    unmapped = [miss.tensor for miss in found.misses if miss.kind == "unmapped"]
    said = "unmapped: " if found.exact else "not in the name map (a converter may handle them): "
    yield from named_rows(
        f"{said}{plural(len(unmapped), 'tensor')}", [(name, ()) for name in unmapped], unfold=unfold
    )
    failed = {miss.tensor: () for miss in found.misses if miss.kind != "unmapped" and miss.tensor}
    yield from named_rows(
        f"failed: {plural(len(failed), 'tensor')}; `ahead` says why",
        list(failed.items()),
        unfold=unfold,
    )
    yield Grid(list(_rows(flows, unfold)), wrap=0)
    yield from left_out(found, unfold=unfold)


def _rows(flows: Sequence[Flow], unfold: bool) -> Iterator[tuple[Text, ...]]:
    if unfold:
        for flow in flows:
            yield from _cells(_from(flow), [flow], "", "")
        return
    for block, lines in by_block(folded_members(flows, _from, _alike)):
        into = _common_block([name for _, members, _ in lines for name in _into(members)])
        if not block or not into:
            for path, members, _ in lines:
                yield from _cells(path, members, "", "")
            continue
        heading = Text(printable(f"{block} → {into}"), "bold")
        yield (heading.append(f"   {len(lines[0][1]):,} ×").append(" each", "not bold dim"),)
        for path, members, _ in lines:
            yield from _cells(path, members, block, into)


def _into(members: Sequence[Flow]) -> list[str]:
    """The GGUF names of flows that are alike: a pattern for each tensor of one of them."""
    return [
        ", ".join(name for name, _, _ in folded((each.name, "") for each in alike))
        for alike in zip(*(flow.written for flow in members), strict=True)
    ]


def _common_block(names: Sequence[str]) -> str:
    """What all of *names* begin with, `blk.{0…25}`; "" where they do not."""
    blocks = {block_of(name) for name in names}
    return blocks.pop() if len(blocks) == 1 else ""


def _from(flow: Flow) -> str:
    """The sources of one flow as a pattern; those of a stack differ in a number."""
    lines = [name for name, _, _ in folded((name, "") for name in flow.sources)]
    return " + ".join(lines) or "made by the converter"


def _alike(flow: Flow) -> _Alike:
    made = tuple((_without_numbers(each.name), each.type, each.shape) for each in flow.written)
    return (made, flow.dtype, flow.shape, flow.how, flow.renamed, _is_inferred(flow))


def _without_numbers(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def _is_inferred(flow: Flow) -> bool:
    return any(each.inferred for each in flow.written)


def _cells(path: str, members: Sequence[Flow], block: str, into: str) -> Iterator[tuple[Text, ...]]:
    """A row for each tensor that is written of the sources; only the first names these. Below
    *block* and *into* names go on from there."""
    first = members[0]
    source = Text(printable(f"  {path[len(block) + 1 :]}" if block else path))
    facts = f"{first.dtype} {shape(first.shape)}" if first.shape is not None else ""
    remarks = list(_remarks(first))
    for tensor, name in zip(first.written, _into(members), strict=True):
        kind = "" if tensor.type == "?" else tensor.type
        made = [shape(tensor.shape)] if tensor.shape != first.shape else []
        yield (
            source,
            Text(facts, "cyan"),
            Text("→ ").append(printable(name[len(into) + 1 :] if into else name)),
            Text(kind, "cyan"),
            Text(", ".join([*made, *map(printable, remarks)]), "dim"),
        )
        source, facts, remarks = Text(), "", []


def _remarks(flow: Flow) -> Iterator[str]:
    yield from flow.how
    if flow.renamed and flow.sources:
        yield "named by the converter"
    if _is_inferred(flow) and flow.written[0].type != "?":
        yield "source inferred"
