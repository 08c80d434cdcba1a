"""`provenance`: the way of one tensor whole, of many a line each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.lazy import Made
from modpdb.probes.provenance import WrittenTensor
from modpdb.probes.tensor_ways import Unwritten, Ways
from modpdb.views.flow import Flow
from modpdb.views.folding import by_block, folded, folded_members
from modpdb.views.grid import Grid
from modpdb.views.history import history
from modpdb.views.text import plural, printable, shape

_INDENT = "  "
_SHOWN = 12  # rows of what is not written, and sources of one tensor
_PLAIN = re.compile(r"(to|astype|numpy|quantize|float|half|bfloat16|contiguous)\b")
"""Operations that say no more than the dtype and type do."""

_Alike = tuple[object, ...]  # type, shape, sources without their numbers, operations, inferred
_Line = tuple[str, list[WrittenTensor], _Alike]


# -- one ---------------------------------------------------------------------------------------


def whole(found: Ways, files: Mapping[str, str]) -> RenderableType:
    """Each written tensor of *found* from file to file; *files* of sources, by name."""
    parts: list[RenderableType] = []
    for each in found.written:
        parts += [Text()] if parts else []
        parts += _whole(each, files)
    for each in found.duplicates:
        parts.append(Text("given to the writer once more, which refuses it:", "yellow"))
        parts += _whole(each, files)
    parts += [_unwritten(each, found.collected) for each in found.unwritten]
    return Group(*parts)


def _whole(each: WrittenTensor, files: Mapping[str, str]) -> Iterator[RenderableType]:
    result = Text(printable(each.name), "bold").append(f" {printable(each.type)}", "not bold cyan")
    result.append(f" {shape(each.shape)}", "not bold")
    if len(each.shape) > 1:
        result.append(f" ne {shape(each.shape[::-1])}", "not bold dim")
    if each.sources and not each.inferred and each.history is not None:
        yield history(each.history, result, files=files)
    else:
        yield Flow([*_sources(each, files), Text("→ ", "dim").append_text(result)], gap=" ")
    rows = []
    if each.converter:
        rows.append((Text(f"{_INDENT}converter", "dim"), Text(printable(each.converter))))
    rows.append((Text(f"{_INDENT}written at", "dim"), Text(printable(each.site))))
    yield Grid(rows)


def _sources(each: WrittenTensor, files: Mapping[str, str]) -> Iterator[Text]:
    """Of a tensor that no graph leads to; its operations are not known."""
    if not each.sources:
        yield Text("no checkpoint tensor: made by the converter", "yellow")
        return
    there = {files.get(name, "") for name in each.sources}
    if len(there) == 1 and "" not in there:
        yield Text(f"{printable(there.pop())}:", "dim")
    lines = [path for path, _, _ in folded((name, None) for name in each.sources)]
    names = [Text(printable(name), "bold") for name in lines[:_SHOWN]]
    if len(lines) > _SHOWN:
        names.append(Text(f"and {len(lines) - _SHOWN:,} more", "dim"))
    yield from (name.append(",", "not bold") for name in names[:-1])
    yield names[-1]
    yield Text("(inferred, operations not known)", "yellow")


def _unwritten(each: Unwritten, collected: bool) -> RenderableType:
    name = Text(printable(each.name), "bold")
    if each.converter:
        said = Text("came to modify_tensors, and nothing of it has been written")
    elif collected:
        said = Text("not converted yet")
    else:
        said = Text("whether it was converted is not known: nobody looked")
    return Flow([name, said, _predicted(each.predicted)])


def _predicted(name: str) -> Text:
    if not name:
        return Text("no name in the name map", "yellow")
    return Text("predicted by the name map: ", "yellow").append(printable(name), "not yellow")


# -- many --------------------------------------------------------------------------------------


def written_rows(found: Ways, every: Ways, *, unfold: bool = False) -> RenderableType:
    """A line for each tensor of *found*, chosen of *every*, those alike in all but their numbers
    as one."""
    parts: list[RenderableType] = [_heading(found, every)]
    lines: list[_Line] = (
        [(each.name, [each], _alike(each)) for each in found.written]
        if unfold
        else folded_members(found.written, lambda each: each.name, _alike)
    )
    rows: list[tuple[Text, ...]] = []
    for block, inside in by_block(lines) if not unfold else [("", lines)]:
        common = _common([members for _, members, _ in inside]) if block else ""
        if block:
            rows.append((*_cells(block, "", len(inside[0][1]), ""), _from([common])))
        rows += [_row(path, block, members, common) for path, members, _ in inside]
    if rows:
        parts.append(Grid(rows, right=frozenset({1}), wrap=0))
    for each in found.duplicates:
        said = f"{printable(each.name)} was given to the writer once more: from "
        parts.append(Text(said + printable(", ".join(_patterns([each])) or each.site), "yellow"))
    parts += _not_written(found.unwritten, unfold)
    return Group(*parts)


def _heading(found: Ways, every: Ways) -> Text:
    if not every.collected:
        return Text("nobody looked while the conversion ran: only the name map is known", "yellow")
    chosen = f" of {len(every.written):,}" if len(found.written) != len(every.written) else ""
    sources = {name for each in found.written for name in each.sources}
    said = [f"{plural(len(found.written), 'tensor')}{chosen} written"]
    if sources:
        said[0] += f" from {len(sources):,} of the checkpoint"
    inferred = sum(each.inferred for each in found.written)
    made = sum(not each.sources for each in found.written)
    read = sum(bool(each.converter) for each in found.unwritten)
    said += [f"{inferred:,} inferred"] if inferred else []
    said += [f"{made:,} made by the converter"] if made else []
    said += [f"{read:,} read and not written"] if read else []
    said += [f"{len(found.unwritten) - read:,} to come"] if len(found.unwritten) > read else []
    return Text(" · ".join(said), "bold")


def _row(path: str, block: str, members: Sequence[WrittenTensor], common: str) -> tuple[Text, ...]:
    first = members[0]
    return (
        *_cells(path, block, len(members), first.type),
        _from([each.removeprefix(common) for each in _patterns(members)], first),
    )


def _cells(path: str, block: str, times: int, kind: str) -> tuple[Text, Text, Text]:
    """Name, how many, type; those below *block*, whose row has the number, are indented."""
    name = f"{_INDENT}{path[len(block) + 1 :]}" if block else path
    many = f"{times:,} ×" if times > 1 and not block else ""
    return Text(printable(name)), Text(many, "bold"), Text(printable(kind), "cyan")


def _from(sources: Sequence[str], of: WrittenTensor | None = None) -> Text:
    """The last cell: where from, and by what."""
    if of is not None and not of.sources:
        return Text("made by the converter", "yellow")
    source = ", ".join(sources)
    if not source:
        return Text()
    text = Text("← ", "dim").append(printable(source), "not dim")
    if of is None:
        return text
    if of.inferred:
        text.append(" · inferred", "not dim yellow")
    operations = _operations(of)
    return text.append(f" · {printable(operations)}" if operations else "", "dim")


def _alike(each: WrittenTensor) -> _Alike:
    sources = tuple(dict.fromkeys(re.sub(r"\d+", "0", name) for name in each.sources))
    return each.type, each.shape, sources, len(each.sources), _operations(each), each.inferred


def _patterns(members: Iterable[WrittenTensor]) -> list[str]:
    """The names of their sources, those that differ in their numbers only as one."""
    names = dict.fromkeys(name for each in members for name in each.sources)
    return [path for path, _, _ in folded((name, None) for name in names)]


def _common(lines: Iterable[Sequence[WrittenTensor]]) -> str:
    """What all the sources of a block's lines begin with, up to a folded number: its row has it,
    theirs do not; "" where that is nothing."""
    patterns = [pattern for members in lines for pattern in _patterns(members)]
    starts = {pattern[: pattern.find("}.") + 2] for pattern in patterns}
    return starts.pop() if len(starts) == 1 else ""


def _operations(each: WrittenTensor) -> str:
    """What was done besides a change of dtype: `reshape(4, 2, 8, 64) → swapaxes(1, 2)`."""
    steps: list[str] = []
    origin = each.history
    while isinstance(origin, Made):
        if len(origin.inputs) > 1:
            steps.append(f"{origin.operation} of {len(origin.inputs)}")
            break
        if not _PLAIN.match(origin.operation):
            steps.append(origin.operation)
        origin = origin.inputs[0]
    return " → ".join(reversed(steps))


def _not_written(unwritten: Sequence[Unwritten], unfold: bool) -> Iterator[RenderableType]:
    if not unwritten:
        return
    lines = folded(
        (each.name, (re.sub(r"\d+", "*", each.predicted), bool(each.converter)))
        for each in unwritten
    )
    shown = lines if unfold else lines[:_SHOWN]
    by_name = {each.name: each.predicted for each in unwritten}
    yield Text("not written:", "bold")
    yield Grid(
        [
            (
                Text(f"{_INDENT}{printable(name)}"),
                Text("read" if read else "", "yellow"),
                _predicted(by_name.get(name, predicted)),
            )
            for name, _, (predicted, read) in shown
        ],
        wrap=0,
    )
    if len(lines) > len(shown):
        yield Text(f"{_INDENT}… and {plural(len(lines) - len(shown), 'row')} more", "dim")
