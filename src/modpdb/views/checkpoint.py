"""`ckpt`: the tensors of a checkpoint, those alike in all but their numbers as one."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, compress
from operator import attrgetter, itemgetter
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.checkpoints import Checkpoint, Shared
from modpdb.probes.progress import Come, Progress
from modpdb.probes.safetensors_files import TensorEntry
from modpdb.views.folding import by_block, folded_members
from modpdb.views.grid import Grid
from modpdb.views.tensor_cells import block_cells, tensor_cells
from modpdb.views.text import count, memory, plural, printable, shape, size

_PROBLEMS = 8  # that are said
_COME: dict[Come, str] = {"held": "held", "read": "read", "at hand": "at hand", "to come": ""}
_Alike = tuple[Any, ...]  # dtype, shape, bytes, and how far they have come where that differs
_Line = tuple[str, list[TensorEntry], _Alike]

_SHARD = re.compile(r"-0*(\d+)-of-0*(\d+)\.")


def checkpoint(
    title: str,
    found: Checkpoint,
    of: int,
    progress: Progress | None = None,
    *,
    unfold: bool = False,
) -> RenderableType:
    """A heading and a row for each tensor or block of tensors of *found*, which has been chosen
    of *of* tensors; *title* says whose they are."""
    files = list(dict.fromkeys(map(attrgetter("file"), found.tensors)))
    mixed = progress is not None and len(set(progress.come.values())) > 1
    come: Mapping[str, Come] = progress.come if progress is not None and mixed else {}
    lines = _lines(found.tensors, come, unfold)
    heading = _heading(title, found, of, lines, [file for file in files if file])
    problems = [Text(f"problem: {printable(each)}", "yellow") for each in found.problems]
    more = len(problems) - _PROBLEMS
    if more > 0:
        problems[_PROBLEMS:] = [Text(f"… and {plural(more, 'problem')} more", "yellow")]
    progress_lines = _progress(progress, of) if progress is not None else []
    cells = _unfolded_rows(lines, files) if unfold else _rows(lines, files)
    # Columns that say nothing: one file is named in the heading, and how far all are, too.
    kept = [bool(come), True, True, True, True, len(files) > 1, True]
    cells = [tuple(compress(row, kept)) for row in cells]
    name = int(bool(come))
    return Group(
        *heading, *progress_lines, *problems, Grid(cells, right=frozenset({name + 3}), wrap=name)
    )


def _lines(tensors: Sequence[TensorEntry], come: Mapping[str, Come], unfold: bool) -> list[_Line]:
    """Tensors that are alike, how far they have come included, under one path."""
    if unfold:
        return [(each.name, [each], (*each[1:4], come.get(each.name))) for each in tensors]
    if not come:
        return folded_members(tensors, itemgetter(0), itemgetter(1, 2, 3))
    return folded_members(tensors, itemgetter(0), lambda each: (*each[1:4], come.get(each.name)))


def _heading(
    title: str, found: Checkpoint, of: int, lines: Sequence[_Line], files: Sequence[str]
) -> list[Text]:
    tensors = len(found.tensors)
    chosen = "" if tensors == of else f" of {of:,}"
    elements = nbytes = unknown = 0
    dtypes: Counter[str] = Counter()
    for _, inside, (dtype, dims, size_of_each, *_) in lines:
        elements += len(inside) * math.prod(dims) if dims is not None else 0
        nbytes += len(inside) * (size_of_each or 0)
        unknown += len(inside) if size_of_each is None else 0
        dtypes[printable(dtype or "?")] += len(inside) * (size_of_each or 0)
    said = [f"{plural(tensors, 'tensor')}{chosen}", f"{count(elements)} elements"]
    if unknown < tensors:
        said.append(memory(nbytes))
    if unknown:
        said.append(f"{unknown:,} of unknown size")
    many = len(dtypes) > 1
    said.append(", ".join(f"{d} {size(n)}" if many else d for d, n in dtypes.most_common()))
    heading = [Text(printable(title), "bold")] if title else []
    heading.append(Text(" · ".join(said), "" if title else "bold"))
    where = f" in {printable(found.folder)}" if found.folder else ""
    known = [file for file in files if file != title]
    if len(known) == 1:
        heading.append(Text(f"{printable(known[0])}{where}"))
    elif known:
        heading.append(Text(f"{len(known):,} files{where}: {printable(_named_files(known))}"))
    return heading


def _named_files(files: Sequence[str]) -> str:
    """`model-00001-of-00200.safetensors … model-00200-of-00200.safetensors`."""
    ordered = sorted(files)
    return ", ".join(ordered) if len(files) <= 2 else f"{ordered[0]} … {ordered[-1]}"


def _progress(progress: Progress, of: int) -> list[Text]:
    stage = f"{progress.stage}: {printable(progress.at)}" if progress.at else progress.stage
    states = Counter(progress.come.values())
    said = [f"{of - states['to come'] - states['at hand']:,} of {of:,} read"]
    if progress.unmapped is None:
        said.append("no name map yet")
    else:
        said.append(f"{of - progress.unmapped:,} in the name map")
    said.append(f"the writer holds {plural(progress.held, 'tensor')}")
    return [Text(stage, "cyan"), Text(" · ".join(said))]


# -- rows --------------------------------------------------------------------------------------


def _unfolded_rows(lines: Sequence[_Line], files: Sequence[str]) -> list[tuple[Text, ...]]:
    return [_row(path, "", inside, alike[3:], files) for path, inside, alike in lines]


def _rows(lines: Sequence[_Line], files: Sequence[str]) -> list[tuple[Text, ...]]:
    rows = []
    for block, inside in by_block(lines):
        if block:
            rows.append(_block_row(block, [members for _, members, _ in inside], files))
        rows += [_row(path, block, members, alike[3:], files) for path, members, alike in inside]
    return rows


def _block_row(
    block: str, members: Sequence[Sequence[TensorEntry]], files: Sequence[str]
) -> tuple[Text, ...]:
    sizes = [inside[0].nbytes for inside in members]
    known = [nbytes for nbytes in sizes if nbytes is not None]
    return (
        Text(),
        *block_cells(block, len(members[0])),
        Text(size(sum(known)) if len(known) == len(sizes) else "?"),
        _where(chain.from_iterable(members), files),
        Text(),
    )


def _row(
    path: str,
    block: str,
    inside: Sequence[TensorEntry],
    come: Sequence[Come | None],
    files: Sequence[str],
) -> tuple[Text, ...]:
    first = inside[0]
    state = come[0] if come else None
    derived = any(map(attrgetter("derived"), inside))
    return (
        Text(_COME[state] if state else "", "green" if state == "held" else "yellow"),
        *tensor_cells(path, block, len(inside), first.dtype, first.shape),
        Text("?" if first.nbytes is None else size(first.nbytes)),
        Text() if block else _where(inside, files),
        Text("derived while converting" if derived else "", "yellow"),
    )


def _where(inside: Iterable[TensorEntry], files: Sequence[str]) -> Text:
    """In which of several files: its number where it is a shard."""
    there = set(map(attrgetter("file"), inside)) if len(files) > 1 else set()
    if len(there) > 1:
        return Text(f"{len(there):,} files", "dim")
    name = next(iter(there), "")
    shard = _SHARD.search(name)
    return Text(f"{int(shard[1])} of {int(shard[2])}" if shard else printable(name), "dim")


# -- shared tensors ----------------------------------------------------------------------------


def shared(title: str, found: Checkpoint) -> RenderableType:
    """The names that are one tensor, a line each; *title* says whose they are."""
    whose = f"{printable(title)}: " if title else ""
    if not found.shared:
        why = ""
        if found.files and all(file.endswith(".safetensors") for file in found.files):
            why = ": in safetensors files each tensor has bytes of its own"
        return Text(f"{whose}no tensor has several names{why}")
    entries = {each.name: each for each in found.tensors}
    cells = [_shared_row(each, entries) for each in found.shared]
    return Group(
        Text(f"{whose}{plural(len(cells), 'tensor')} with several names", "bold"), Grid(cells)
    )


def _shared_row(each: Shared, entries: dict[str, TensorEntry]) -> tuple[Text, ...]:
    first = entries.get(each.names[0])
    words = "one storage"
    if each.left_out:
        words = f"{', '.join(each.left_out)} is not in the file: save_model left it out"
    return (
        Text(printable(" = ".join(each.names))),
        Text(printable(first.dtype or "?") if first else "", "cyan"),
        Text(shape(first.shape) if first else ""),
        Text(printable(words), "dim"),
    )
