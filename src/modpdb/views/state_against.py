"""`state against`: the verdict first, then what is behind each of its numbers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.checkpoints import Checkpoint, TensorEntry
from modpdb.probes.renames import Edit
from modpdb.probes.state_against import Against, Meant, Missing, Rule
from modpdb.views.folding import folded, in_blocks
from modpdb.views.grid import Grid
from modpdb.views.text import plural, printable, shape

_INDENT = "  "
_SHOWN = 40  # rows of a section; --unfold shows all

Alike = TypeVar("Alike", bound=Hashable)


def against(
    found: Against, class_name: str, checkpoint: Checkpoint, *, unfold: bool = False
) -> RenderableType:
    """What a strict `load_state_dict` finds, what is likely renamed, and the rest by name."""
    fold = _Fold(unfold)
    renamed = {each.name for each in found.renamed}
    stored = {each.stored for each in found.renamed}
    rest = " and not renamed" if renamed else ""
    missing = [each for each in found.missing if each.name not in renamed]
    unexpected = [each for each in found.unexpected if each.name not in stored]
    shapes = [*found.other_shape, *(each for each in found.renamed if each.other_shape)]
    parts: list[RenderableType] = [_verdict(found), _sides(found, class_name, checkpoint)]
    parts += [Text(f"problem: {printable(each)}", "yellow") for each in checkpoint.problems]
    if found.unsized:
        parts.append(
            Text(f"{plural(found.unsized, 'tensor')} of unknown shape: by name only", "yellow")
        )
    parts += _renames(found)
    parts += fold.section("of another shape", shapes, _name, _shape_cells)
    parts += fold.section(f"missing in the checkpoint{rest}", missing, _name, _missing_cells)
    parts += fold.section(
        f"unexpected in the checkpoint{rest}",
        unexpected,
        _name,
        lambda each: _unexpected_cells(each, found.left_out),
    )
    parts += fold.section(
        "tied: the parameter is there by another name", found.tied, _name, _tied_cells
    )
    parts += _dtypes(found, fold)
    return Group(*parts)


def _verdict(found: Against) -> Text:
    said = [
        (len(found.missing), "missing", "bold red"),
        (len(found.unexpected), "unexpected", "bold red"),
        (len(found.other_shape), "of another shape", "bold red"),
        (len(found.tied), "tied", "bold"),
    ]
    parts = [Text(f"{number:,} {words}", style) for number, words, style in said if number]
    match = Text(f"{found.same + len(found.other_dtype):,} match", "bold")
    if found.other_dtype:
        match.append(f" ({len(found.other_dtype):,} of another dtype)", "yellow")
    return Text(", ").join([*parts, match])


def _sides(found: Against, class_name: str, checkpoint: Checkpoint) -> Text:
    files = checkpoint.files
    where = printable(files[0]) if len(files) == 1 else plural(len(files), "file")
    tensors = f"{plural(found.tensors, 'tensor')} of {where} in {printable(checkpoint.folder)}"
    return Text(f"{plural(found.keys, 'key')} of {printable(class_name)}, {tensors}", "dim")


def _renames(found: Against) -> list[RenderableType]:
    if not found.rules:
        return []
    head = Text("likely renamed", "bold")
    head.append(
        f", {len(found.renamed):,} by shape and name: a guess (checkpoint → module)", "not bold"
    )
    return [head, rules(found.rules)]


def rules(found: Sequence[Rule]) -> Grid:
    """How many names, what they differ in, and the first of them as the checkpoint has it."""
    return Grid([_rule_cells(rule) for rule in found], right=frozenset({0}), wrap=1)


def _rule_cells(rule: Rule) -> tuple[Text, Text, Text]:
    example = Text(f"such as {printable(rule.tensors[0].stored)}", "dim")
    return Text(f"{_INDENT}{len(rule.tensors):,} ×"), _edit(rule.edit), example


def _edit(edit: Edit) -> Text:
    old, new = printable(edit.old), printable(edit.new)
    if not edit.prefix:
        return Text(f"{old} → {new}" if new else f"{old} left out", "cyan")
    if not new:
        return Text(f"prefix {old} lost", "cyan")
    return Text(f"prefix {old} → {new}" if old else f"prefix {new} added", "cyan")


# -- what is one thing many times ------------------------------------------------------------------


class _Fold:
    """Sections of rows that are alike but for their numbers."""

    def __init__(self, unfold: bool) -> None:
        self._unfold = unfold

    def section(
        self,
        head: str,
        found: Sequence[Alike],
        name_of: Callable[[Alike], str],
        cells_of: Callable[[Alike], tuple[str, ...]],
    ) -> list[RenderableType]:
        """*head*, and rows of name, number and *cells_of*; nothing where nothing was found."""
        if not found:
            return []
        grid = self.rows((name_of(each), cells_of(each)) for each in found)
        return [Text(head, "bold"), *grid]

    def rows(self, named: Iterable[tuple[str, tuple[str, ...]]]) -> list[RenderableType]:
        lines: list[tuple[str, int, tuple[str, ...] | None]]
        lines = [(n, 1, cells) for n, cells in named] if self._unfold else in_blocks(folded(named))
        shown = lines if self._unfold else lines[:_SHOWN]
        columns = max(len(cells) for _, _, cells in lines if cells)
        cells = [
            (
                Text(_INDENT + printable(name)),
                Text(f"{times:,} ×" if times > 1 else "", "bold"),
                *([Text()] * columns if cells is None else map(_cell, cells)),
            )
            for name, times, cells in shown
        ]
        parts: list[RenderableType] = [Grid(cells, right=frozenset({1}), wrap=0)]
        if len(lines) > len(shown):
            more = (
                f"{_INDENT}… and {plural(len(lines) - len(shown), 'row')} more; --unfold shows all"
            )
            parts.append(Text(more, "dim"))
        return parts


def _cell(text: str) -> Text:
    return Text(printable(text))


def _name(each: Meant | Missing | TensorEntry) -> str:
    return each.name


def _shape_cells(each: Meant) -> tuple[str, ...]:
    note = "transposed" if each.transposed else ""
    if each.stored != each.name:
        note = " · ".join(filter(None, (note, "likely renamed")))
    return f"module {shape(each.shape)}", f"checkpoint {shape(each.in_file)}", note


def _missing_cells(each: Missing) -> tuple[str, ...]:
    if each.shape is None:
        return "", "", ""
    return shape(each.shape), each.dtype or "", ""


def _unexpected_cells(each: TensorEntry, left_out: frozenset[str]) -> tuple[str, ...]:
    note = "a buffer of the module, persistent=False" if each.name in left_out else ""
    return shape(each.shape), each.dtype or "", note


def _tied_cells(each: Missing) -> tuple[str, ...]:
    return f"is {each.tied}", ""


def _dtypes(found: Against, fold: _Fold) -> list[RenderableType]:
    """A line for each pair of dtypes, and the names where that is not all that matches."""
    by_pair: dict[tuple[str | None, str | None], list[Meant]] = {}
    for each in found.other_dtype:
        by_pair.setdefault((each.dtype, each.file_dtype), []).append(each)
    parts: list[RenderableType] = []
    for (here, there), some in by_pair.items():
        words = f"module {here}, checkpoint {there}: {len(some):,} that load_state_dict converts"
        head = Text("of another dtype", "bold").append(f", {printable(words)}", "not bold")
        everything = len(by_pair) == 1 and not found.same
        parts += [head, *([] if everything else fold.rows((e.name, ("",)) for e in some))]
    return parts
