"""`state against`: the verdict first, then what is behind each of its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.checkpoints import Checkpoint, TensorEntry
from modpdb.probes.renames import Edit
from modpdb.probes.state_against import Against, Meant, Missing, Rule
from modpdb.views.grid import Grid
from modpdb.views.named_rows import SHOWN, more_rows, named_rows
from modpdb.views.text import plural, printable, shape

_INDENT = "  "


def against(
    found: Against, class_name: str, checkpoint: Checkpoint, *, unfold: bool = False
) -> RenderableType:
    """What a strict `load_state_dict` finds, what is likely renamed, and the rest by name."""
    renamed = {each.name for each in found.renamed}
    stored = {each.stored for each in found.renamed}
    rest = " and not renamed" if renamed else ""
    missing = [each for each in found.missing if each.name not in renamed]
    unexpected = [each for each in found.unexpected if each.name not in stored]
    shapes = [*found.other_shape, *(each for each in found.renamed if each.other_shape)]
    sections = (
        ("of another shape", [(each.name, _shapes(each)) for each in shapes]),
        (f"missing in the checkpoint{rest}", [(each.name, _missing(each)) for each in missing]),
        (
            f"unexpected in the checkpoint{rest}",
            [(each.name, _unexpected(each, found.left_out)) for each in unexpected],
        ),
        (
            "tied: the parameter is there by another name (only strict=True minds)",
            [(each.name, (f"is {each.tied}",)) for each in found.tied],
        ),
    )
    parts: list[RenderableType] = [_verdict(found), _sides(found, class_name, checkpoint)]
    parts += [Text(f"problem: {printable(each)}", "yellow") for each in checkpoint.problems]
    if found.unsized:
        parts.append(Text(f"{plural(found.unsized, 'tensor')} of unknown shape: by name", "yellow"))
    parts += _renames(found, unfold)
    for head, rows in sections:
        parts += named_rows(head, rows, unfold=unfold)
    return Group(*parts, *_dtypes(found, unfold))


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


def _renames(found: Against, unfold: bool) -> list[RenderableType]:
    if not found.rules:
        return []
    head = Text("likely renamed", "bold")
    head.append(
        f", {len(found.renamed):,} by shape and name: a guess (checkpoint → module)", "not bold"
    )
    return [head, *rules(found.rules, unfold=unfold)]


def rules(found: Sequence[Rule], *, unfold: bool = False) -> Iterator[RenderableType]:
    """How many names, what they differ in, and the first of them as the checkpoint has it."""
    shown = found if unfold else found[:SHOWN]
    yield Grid([_rule_cells(rule) for rule in shown], right=frozenset({0}), wrap=1)
    if len(found) > len(shown):
        yield more_rows(len(found) - len(shown))


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


def _shapes(each: Meant) -> tuple[str, ...]:
    note = "transposed" if each.transposed else ""
    if each.stored != each.name:
        note = " · ".join(filter(None, (note, "likely renamed")))
    return f"module {shape(each.shape)}", f"checkpoint {shape(each.in_file)}", note


def _missing(each: Missing) -> tuple[str, ...]:
    if each.shape is None:
        return "", "", ""
    return shape(each.shape), each.dtype or "", ""


def _unexpected(each: TensorEntry, left_out: frozenset[str]) -> tuple[str, ...]:
    note = "a buffer of the module, persistent=False" if each.name in left_out else ""
    return shape(each.shape), each.dtype or "", note


def _dtypes(found: Against, unfold: bool) -> Iterator[RenderableType]:
    """A line for each pair of dtypes, and the names where that is not all that matches."""
    by_pair: dict[tuple[str | None, str | None], list[Meant]] = {}
    for each in found.other_dtype:
        by_pair.setdefault((each.dtype, each.file_dtype), []).append(each)
    everything = len(by_pair) == 1 and not found.same
    for (here, there), some in by_pair.items():
        head = f"of another dtype, module {here}, checkpoint {there}: load_state_dict converts"
        if everything:
            yield Text(printable(head), "bold")
        else:
            yield from named_rows(printable(head), [(e.name, ("",)) for e in some], unfold=unfold)
