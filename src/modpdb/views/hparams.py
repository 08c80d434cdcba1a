"""`hparams`: a config as a tree, the keys that the converter's code names first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes._static import class_name
from modpdb.probes.hparams import HParam, HParams
from modpdb.views.grid import Grid
from modpdb.views.text import plural, printable

_TEXT = 60  # characters of a value
_RUNS = 6  # of a list


def hparams(found: HParams, *, by_path: bool = False) -> RenderableType:
    """Key, value and the function that names it; *by_path* gives each key's whole path."""
    leaves = sum(not each.nested for each in found.keys)
    head = Text(printable(found.where), "bold").append(f"   {plural(leaves, 'key')}", "not bold")
    if found.left_out:
        head.append(f", {found.left_out:,} more left out", "yellow")
    if not found.class_name:
        return Group(head, Grid(list(_rows(found.keys, by_path))))
    groups = list(_top_level(found.keys))
    named = [each for group in groups if _any_named(group) for each in group]
    rest = [each for group in groups if not _any_named(group) for each in group]
    parts: list[RenderableType] = [head, Grid(list(_rows(named, by_path)))]
    if rest:
        words = (
            f"named by no function of {printable(found.class_name)} or its bases: a hint, no proof"
        )
        parts += [Text(words, "yellow"), Grid(list(_rows(rest, by_path)))]
    return Group(*parts)


def _top_level(keys: Sequence[HParam]) -> Iterator[list[HParam]]:
    """Each key of the outermost level with those below it."""
    for _, group in groupby(keys, lambda each: each.path.split(".")[0]):
        yield list(group)


def _any_named(group: Sequence[HParam]) -> bool:
    return any(each.named_in for each in group)


def _rows(keys: Sequence[HParam], by_path: bool) -> Iterator[tuple[Text, ...]]:
    for each in keys:
        name = each.path if by_path else "  " * each.level + each.key
        value = "" if each.nested else value_text(each.value)
        yield (
            Text(printable(name)),
            Text(printable(value), "cyan"),
            Text(printable(each.named_in), "dim"),
        )


def value_text(value: Any) -> str:
    """A value as JSON has it; of a list its runs, `sliding_attention ×5, full_attention, …`."""
    if type(value) is list:
        return _list_text(value)
    if value is None or type(value) is bool:
        return {None: "null", True: "true", False: "false"}[value]
    if type(value) is str:
        return value if len(value) <= _TEXT else f"{value[:_TEXT]}… {len(value):,} characters"
    if type(value) in (int, float):
        return repr(value)
    return "{}" if type(value) is dict else class_name(type(value))


def _list_text(values: list[Any]) -> str:
    if not values:
        return "[]"
    if any(type(value) in (list, dict) for value in values):
        return f"[{len(values):,} lists or objects]"
    runs = [(text, len(list(group))) for text, group in groupby(map(value_text, values))]
    shown = [f"{text} ×{times}" if times > 1 else text for text, times in runs[:_RUNS]]
    more = ["…"] if len(runs) > _RUNS else []
    length = f" {len(values):,} items" if more or 1 < len(runs) < len(values) else ""
    return f"[{', '.join(shown + more)}]{length}"
