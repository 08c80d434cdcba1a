"""`modules`: a ModuleTree as an indented table, identical blocks joined to one."""

from __future__ import annotations

import fnmatch
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.initialisation import Initialisation
from modpdb.probes.registered import NONE, TensorRow
from modpdb.probes.tensors import Statistics
from modpdb.probes.tree import Fold, ModuleFacts, ModuleTree, folds, walk
from modpdb.views.folding import folded
from modpdb.views.grid import Grid
from modpdb.views.text import count, memory, numbers, plural, printable, shape, size

_INDENT = "  "
_TIES_NAMED = 4  # tied tensors that the heading names

# What a flag says where its one word is not enough.
_FLAG_WORDS = {
    "packed weights": "packed weights, not counted",
    "plain tensors": "plain tensors as parameters (functional_call)",
}


@dataclass(frozen=True, slots=True)
class _Place:
    """A node on its way to the screen.

    *said* is what the rows above have said of all below them; *blocks* are the folded blocks
    that it lies in, innermost first, by the path of their first member and the path shown.
    """

    fold: Fold
    label: str
    path: str
    level: int
    said: frozenset[str] = frozenset()
    blocks: tuple[tuple[str, str], ...] = ()
    copies: int = 1  # of it in the whole tree


@dataclass(frozen=True, slots=True)
class _Row:
    label: str
    path: str
    level: int
    facts: ModuleFacts
    notes: tuple[str, ...]
    copies: int  # that the row stands for
    copies_in_tree: int


def module_tree(
    tree: ModuleTree,
    *,
    depth: int | None = None,
    unfold: bool = False,
    type_glob: str | None = None,
) -> RenderableType:
    """A heading for the whole and a row for each module or block of identical modules.

    *depth* is how many levels below the root are shown, *unfold* gives every block its rows,
    *type_glob* lists only modules whose class fits, by their full paths.
    """
    rows = _rows(tree, depth, unfold, each_alone=type_glob is not None)
    if type_glob is not None:
        rows = (_by_path(row) for row in rows if _fits(row, type_glob))
    return Group(*_heading(tree), _table(rows))


def _fits(row: _Row, glob: str) -> bool:
    return fnmatch.fnmatchcase(row.facts.class_name.lower(), glob.lower())


def _by_path(row: _Row) -> _Row:
    return replace(row, label=row.path, level=0, copies=row.copies_in_tree)


def _heading(tree: ModuleTree) -> list[Text]:
    facts = tree.root.facts
    said = [f"{count(facts.parameters)} parameters", memory(facts.parameter_bytes)]
    if facts.own_parameters and tree.root.children:
        said.append(f"own {count(facts.own_parameters)}")
    if facts.buffer_bytes:
        said.append(f"buffers {size(facts.buffer_bytes)}")
    said += _dtypes(tree)
    if any(device not in ("cpu", "") for device in facts.devices):
        said.append(", ".join(facts.devices))
    if tree.training is not None:
        said.append("training" if tree.training else "eval")
    said += [_FLAG_WORDS.get(flag, flag) for flag in facts.flags]
    heading = Text("implied by the tensor names", "bold")
    if facts.class_name:
        heading = Text(printable(f"{facts.class_name} {facts.detail}").strip(), "bold")
    heading.append("   " + " · ".join(said), "not bold")
    return [heading, *_source(tree), *_ties(tree)]


def _dtypes(tree: ModuleTree) -> list[str]:
    if len(tree.dtypes) <= 1:
        return [printable(dtype) for dtype, _ in tree.dtypes]
    return [", ".join(f"{printable(dtype)} {size(nbytes)}" for dtype, nbytes in tree.dtypes)]


def _source(tree: ModuleTree) -> list[Text]:
    source = tree.source
    if source is None:
        return []
    files = (
        printable(source.files[0]) if len(source.files) == 1 else plural(len(source.files), "file")
    )
    origin = "as the converter lists them" if source.from_model_tensors else "by the files' headers"
    lines = [
        Text(f"{plural(source.tensors, 'tensor')} {origin}: {files} in {printable(source.folder)}")
    ]
    lines += [Text(f"problem: {printable(problem)}", "yellow") for problem in source.problems]
    return lines


def _ties(tree: ModuleTree) -> list[Text]:
    if not tree.tied:
        return []
    line = Text("tied, counted once: ")
    named = [
        f"{printable(' = '.join(tied.names))} ({count(tied.elements)})"
        for tied in tree.tied[:_TIES_NAMED]
    ]
    line.append(" · ".join(named))
    if len(tree.tied) > _TIES_NAMED:
        line.append(f" · {plural(len(tree.tied) - _TIES_NAMED, 'more tensor')}")
    return [line]


def _rows(tree: ModuleTree, depth: int | None, unfold: bool, each_alone: bool) -> Iterator[_Row]:
    """The rows below the heading, in order. *each_alone*: what a row above would say as well."""
    usual = _usual(tree)
    root = tree.root
    top = _Place(Fold((root,)), "", root.path, -1, frozenset(root.facts.flags))
    stack = _below(top, unfold)
    while stack:
        place = stack.pop()
        node = place.fold.node
        if _lends_its_name(place):
            stack += _below(place, unfold)
            continue
        cut = depth is not None and place.level >= depth - 1
        notes = _notes(place, usual, cut or each_alone or not node.children)
        members = len(place.fold.members)
        yield _Row(place.label, place.path, place.level, node.facts, notes, members, place.copies)
        if not cut:
            said = frozenset() if each_alone else set(notes) | set(node.facts.flags)
            told = replace(place, said=place.said | said)
            stack += _below(told, unfold)


def _lends_its_name(place: _Place) -> bool:
    """A ModuleList has no row of its own: `layers.{0…25}` says all of it."""
    node = place.fold.node
    return node.facts.container and bool(node.children) and not place.fold.numbers


def _below(place: _Place, unfold: bool) -> list[_Place]:
    """The places one level down, last first, as a stack takes them."""
    node = place.fold.node
    inside = [Fold((child,)) for child in node.children] if unfold else folds(node.children)
    lent = f"{place.label}." if place.level >= 0 and _lends_its_name(place) else ""
    blocks = place.blocks
    if place.fold.numbers:
        blocks = ((f"{node.path}.", f"{place.path}."), *blocks)
    return [
        _Place(
            fold,
            lent + _own_label(fold),
            f"{place.path}.{_own_label(fold)}" if place.path else _own_label(fold),
            place.level if lent else place.level + 1,
            place.said,
            blocks,
            place.copies * len(fold.members),
        )
        for fold in reversed(inside)
    ]


def _own_label(fold: Fold) -> str:
    return numbers(fold.numbers) if fold.numbers else fold.node.name or "(no name)"


def _usual(tree: ModuleTree) -> frozenset[str]:
    """What the heading says and the rows need not repeat: the main dtype, the device."""
    devices = tree.root.facts.devices
    return frozenset({dtype for dtype, _ in tree.dtypes[:1]} | {"", "cpu"} | set(devices[:1]))


def _notes(place: _Place, usual: frozenset[str], last: bool) -> tuple[str, ...]:
    """What deviates in a module and was not said of all above it; *last*: no row below it."""
    node = place.fold.node
    facts = node.facts
    if node.same_as is not None:
        return (f"same module as {_shown(node.same_as, place) or 'the root'}",)
    notes = [
        ", ".join(held)
        for held in (facts.dtypes, facts.devices)
        if not usual.issuperset(held) and (last or len(held) == 1)
    ]
    notes += [flag for flag in facts.flags if last or flag != "partly frozen"]
    notes = [note for note in notes if note not in place.said]
    if facts.own_parameters and node.children:  # the column counts those below as well
        notes.append(f"own {count(facts.own_parameters)}")
    if facts.buffer_bytes and last:
        notes.append(f"buffers {size(facts.buffer_bytes)}")
    for tie in node.ties:
        own = "" if tie.name == "weight" else f"{tie.name} "
        notes.append(f"{own}tied with {_shown(tie.other, place)}")
    return tuple(notes)


def _shown(path: str, place: _Place) -> str:
    """*path* as the rows show it: within a folded block, its first member stands for all."""
    for real, shown in place.blocks:
        if path.startswith(real):
            return shown + path.removeprefix(real)
    return path


def _table(rows: Iterator[_Row]) -> Grid:
    cells = []
    for row in rows:
        facts = row.facts
        cells.append(
            (
                Text(_INDENT * row.level + printable(row.label)),
                _class(row),
                Text(count(facts.parameters) if facts.parameters else ""),
                Text(size(facts.parameter_bytes) if facts.parameter_bytes else ""),
                _note_text(row),
            )
        )
    return Grid(cells, right=frozenset({2, 3}), wrap=1)


def _class(row: _Row) -> Text:
    facts = row.facts
    text = Text(f"{row.copies:,} × " if row.copies > 1 else "", "bold")
    text.append(printable(facts.class_name), "not bold cyan")
    space = " " if facts.class_name and facts.detail else ""
    text.append(f"{space}{printable(facts.detail)}", "not bold")
    if row.copies > 1 and facts.parameters:
        text.append(", each" if facts.class_name or facts.detail else "each", "dim")
    return text


def _note_text(row: _Row) -> Text:
    words = [printable(_FLAG_WORDS.get(note, note)) for note in row.notes]
    return Text(" · ".join(words), "yellow")


def matches(tree: ModuleTree, paths: Container[str]) -> RenderableType:
    """The nodes at *paths* by their full paths, those alike in all but their numbers joined."""
    usual, said = _usual(tree), frozenset(tree.root.facts.flags)
    found = [
        (
            node.path,
            (node.facts, _notes(_Place(Fold((node,)), "", node.path, 0, said), usual, True)),
        )
        for node in walk(tree.root)
        if node.path in paths
    ]
    cells = []
    for path, number, (facts, notes) in folded(found):
        name = Text(f"{number:,} × " if number > 1 else "", "bold")
        name.append(printable(f"{facts.class_name} {facts.detail}".strip()), "not bold cyan")
        remark = Text("each" if number > 1 and facts.parameters else "", "dim")
        for note in notes:
            remark.append(" · " if remark else "", "dim").append(printable(note), "not dim yellow")
        cells.append(
            (
                Text(printable(path)),
                name,
                Text(count(facts.parameters) if facts.parameters else ""),
                Text(size(facts.parameter_bytes) if facts.parameter_bytes else ""),
                remark,
            )
        )
    return Grid(cells, right=frozenset({2, 3}))


def tensor_rows(rows: Sequence[TensorRow], noun: str = "tensors") -> RenderableType:
    """`params` and `buffers`: one line each, a tensor under all its names, totals below.

    Names registered as None, as every `bias=False` leaves one, are only counted, unless there
    is nothing else.
    """
    if not rows:
        return Text(f"no {noun}")
    shown = [row for row in rows if row.facts is not None or row.notes != (NONE,)] or rows
    total = tensor_total(rows)
    files = {row.file for row in rows}
    if len(files) == 1 and (file := files.pop()):
        total += f" · {printable(file)}"
        shown = [replace(row, file="") for row in shown]
    cells = [(Text(printable(row.name)), *tensor_cells(row), tensor_notes(row)) for row in shown]
    if len(shown) < len(rows):
        total += f" · {plural(len(rows) - len(shown), 'name')} registered as None"
    return Group(Grid(cells, right=frozenset({3})), Text(total, "dim"))


def tensor_cells(row: TensorRow) -> tuple[Text, Text, Text]:
    facts = row.facts
    if facts is None:
        return Text(""), Text(""), Text("")
    dims = Text("?" if facts.shape is None else shape(facts.shape))
    return dims, Text(printable(facts.dtype), "cyan"), Text(_size_or_unknown(facts.nbytes))


def _size_or_unknown(nbytes: int | None) -> str:
    return "?" if nbytes is None else size(nbytes)


def tensor_notes(row: TensorRow) -> Text:
    text = Text()
    for words, style in _tensor_words(row):
        text.append(" · " if text else "", "dim")
        text.append(printable(words), style)
    return text


def _tensor_words(row: TensorRow) -> Iterator[tuple[str, str]]:
    """What is not the default of a tensor, the worrying first."""
    facts = row.facts
    if row.statistics is not None:
        yield from _statistics_words(row.statistics)
    if row.no_statistics and not (facts and facts.unsized):
        yield f"no statistics: {row.no_statistics}", "dim"
    if facts is not None:
        if facts.unsized:
            yield facts.unsized, "yellow"
        if facts.local_shape is not None:
            yield f"sharded, here {shape(facts.local_shape)}", "yellow"
        if facts.device not in ("cpu", ""):
            yield facts.device, "yellow"
        if row.frozen:
            yield "frozen", "yellow"
    for note in row.notes:
        yield note, "yellow"
    if row.tied:
        yield f"tied with {', '.join(row.tied)}", "yellow"
    if row.initialisation is not None:
        yield _initialisation_words(row.initialisation), "dim"
    if row.file:  # of several; a single one is named with the total
        yield row.file, "dim"


def _statistics_words(found: Statistics) -> Iterator[tuple[str, str]]:
    if found.nan:
        yield f"{found.nan:,} NaN", "bold red"
    if found.inf:
        yield f"{found.inf:,} Inf", "bold red"
    constant = found.minimum == found.maximum and found.elements > 1
    if found.minimum is not None and constant and not (found.nan or found.inf):
        yield f"all {found.minimum:.4g}", ""
    elif found.minimum is not None:
        extremes = f"[{found.minimum:.4g}, {found.maximum:.4g}]"
        yield f"{extremes} μ {found.mean:.3g} σ {found.std:.3g}", ""
    elif not found.elements:
        yield "empty", "dim"


def _initialisation_words(found: Initialisation) -> str:
    if found.kind == "too few":
        return "init: too few values"
    if not found.functions:
        return f"looks {found.kind}"
    return f"looks like {' or '.join(found.functions[:2])}"


def tensor_total(rows: Sequence[TensorRow]) -> str:
    """How many tensors and bytes, each counted once under the first of its names."""
    counted = []
    names: set[str] = set()
    for row in rows:
        if row.facts is not None and names.isdisjoint(row.tied):
            counted.append(row.facts)
        names.add(row.name)
    elements = sum(facts.elements or 0 for facts in counted)
    nbytes = sum(facts.nbytes or 0 for facts in counted)
    more = len([row for row in rows if row.facts is not None]) - len(counted)
    again = f", {plural(more, 'further name')} of tied ones" if more else ""
    return (
        f"{plural(len(counted), 'tensor')}{again} · {count(elements)} elements · {memory(nbytes)}"
    )
