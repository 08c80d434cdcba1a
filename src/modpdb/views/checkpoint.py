"""`ckpt`: the tensors of a checkpoint, those alike in all but their numbers as one."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.checkpoints import Checkpoint, Shared
from modpdb.probes.progress import Come, Progress
from modpdb.probes.safetensors_files import TensorEntry
from modpdb.views.folding import folded_members, in_blocks
from modpdb.views.grid import Grid
from modpdb.views.tensor_cells import block_cells, tensor_cells
from modpdb.views.text import count, memory, plural, printable, shape, size

_PROBLEMS = 8  # that are said
_COME: dict[Come, str] = {"held": "held", "read": "read", "at hand": "at hand", "to come": ""}
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
    files = list(dict.fromkeys(each.file for each in found.tensors if each.file))
    heading = _heading(title, found, of, files)
    problems = [Text(f"problem: {printable(each)}", "yellow") for each in found.problems]
    more = len(problems) - _PROBLEMS
    if more > 0:
        problems[_PROBLEMS:] = [Text(f"… and {plural(more, 'problem')} more", "yellow")]
    progress_lines = _progress(progress, of) if progress is not None else []
    mixed = progress is not None and len(set(progress.come.values())) > 1
    come: Mapping[str, Come] = progress.come if progress is not None and mixed else {}
    cells = _rows(found.tensors, files, come, unfold)
    if len(files) < 2:  # the heading names it
        cells = [(*row[:4], row[5]) for row in cells]
    return Group(*heading, *progress_lines, *problems, Grid(cells, right=frozenset({3})))


def _heading(title: str, found: Checkpoint, of: int, files: Sequence[str]) -> list[Text]:
    tensors = found.tensors
    chosen = "" if len(tensors) == of else f" of {of:,}"
    elements = sum(math.prod(each.shape) for each in tensors if each.shape is not None)
    nbytes = sum(each.nbytes or 0 for each in tensors)
    unknown = sum(each.nbytes is None for each in tensors)
    said = [f"{plural(len(tensors), 'tensor')}{chosen}", f"{count(elements)} elements"]
    if unknown < len(tensors):
        said.append(memory(nbytes))
    if unknown:
        said.append(f"{unknown:,} of unknown size")
    lines = [Text(printable(title), "bold")] if title else []
    lines.append(Text(" · ".join([*said, *_dtypes(tensors)]), "" if title else "bold"))
    where = f" in {printable(found.folder)}" if found.folder and found.folder != title else ""
    known = [file for file in files if file != title]
    if len(known) == 1:
        lines.append(Text(f"{printable(known[0])}{where}"))
    elif known:
        lines.append(Text(f"{len(known):,} files{where}: {printable(_named_files(known))}"))
    return lines


def _dtypes(tensors: Iterable[TensorEntry]) -> list[str]:
    """The dtype, or the bytes of each where there are several, most first."""
    found: Counter[str] = Counter()
    for each in tensors:
        found[each.dtype or "?"] += each.nbytes or 0
    if len(found) == 1:
        return [printable(dtype) for dtype in found]
    return [", ".join(f"{printable(dtype)} {size(n)}" for dtype, n in found.most_common())]


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


def _rows(
    tensors: Sequence[TensorEntry], files: Sequence[str], come: Mapping[str, Come], unfold: bool
) -> list[tuple[Text, ...]]:
    if unfold:
        each_alone = ((each.name, [each], come.get(each.name)) for each in tensors)
        return [_row(path, "", inside, state, files) for path, inside, state in each_alone]
    if come:
        items = ((each[0], (*each[1:4], come.get(each[0])), each) for each in tensors)
    else:
        items = ((each[0], (*each[1:4], None), each) for each in tensors)
    rows = []
    for block, lines in in_blocks(folded_members(items)):
        if block:
            rows.append(_block_row(block, [inside for _, inside, _ in lines], files))
        rows += [_row(path, block, inside, alike[3], files) for path, inside, alike in lines]
    return rows


def _block_row(
    block: str, members: Sequence[Sequence[TensorEntry]], files: Sequence[str]
) -> tuple[Text, ...]:
    sizes = [inside[0].nbytes for inside in members]
    known = [nbytes for nbytes in sizes if nbytes is not None]
    return (
        *block_cells(block, len(members[0])),
        Text(size(sum(known)) if len(known) == len(sizes) else "?"),
        _where((each.file for inside in members for each in inside), files),
        Text(),
    )


def _row(
    path: str,
    block: str,
    inside: Sequence[TensorEntry],
    state: Come | None,
    files: Sequence[str],
) -> tuple[Text, ...]:
    first = inside[0]
    remark = Text(_COME[state], "green" if state == "held" else "yellow") if state else Text()
    if any(each.derived for each in inside):
        remark.append(f"{' · ' if remark else ''}derived while converting", "yellow")
    return (
        *tensor_cells(path, block, len(inside), first.dtype, first.shape),
        Text("?" if first.nbytes is None else size(first.nbytes)),
        Text() if block else _where((each.file for each in inside), files),
        remark,
    )


def _where(inside: Iterable[str], files: Sequence[str]) -> Text:
    """In which of several files: its number where it is a shard."""
    there = set(inside) if len(files) > 1 else set()
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
