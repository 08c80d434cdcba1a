"""`explain`: the cause first, then what speaks for it, then what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.explanations.explanation import Cause, Explanation, Step, Table
from modpdb.views.folding import folded, in_blocks
from modpdb.views.grid import without_empty
from modpdb.views.places import short_file
from modpdb.views.text import plural, printable

_INDENT = 2
_BRIEF_ROWS = 5
_BRIEF_STEPS = 2
_BRIEF_PASTE = 3
_WHOLE_ROWS = 60
_PATH = 40  # characters of a path


def whole(found: Explanation) -> RenderableType:
    """All that is known of the failure."""
    parts: list[RenderableType] = [_says(found)]
    if found.where:
        parts.append(Text(f"at {printable(found.where)}", "dim"))
    parts += [_cause(each, first=not number) for number, each in enumerate(found.causes)]
    for table in found.tables:
        parts += [Text(), *_table(table, _WHOLE_ROWS)]
    if found.remark:
        parts.append(Text(printable(found.remark), "yellow"))
    if found.steps:
        parts += [Text(), Text("next", "bold")]
        parts += [line for step in found.steps for line in _step(step)]
    return Group(*parts)


def brief(found: Explanation) -> RenderableType:
    """What fits above the prompt: the first cause, a few rows, the first steps."""
    parts: list[RenderableType] = [_cause(each, first=True) for each in found.causes[:1]]
    tables = [table for table in found.tables[:1] if table.brief]
    if not tables:
        parts.append(Text(printable(found.says)))
    for table in tables:
        parts += _table(table, _BRIEF_ROWS)
    for step in found.steps[:_BRIEF_STEPS]:
        parts += _step(step, _BRIEF_PASTE)
    parts.append(Text("`explain` says more", "dim"))
    return Group(*parts)


def _says(found: Explanation) -> Text:
    return Text(printable(found.says), "bold")


def _cause(cause: Cause, *, first: bool) -> Text:
    # Causes that are facts may hold together, each of other names.
    more = "or: " if cause.guess else "also: "
    text = Text("cause: " if first else more, "bold" if first else "")
    text.append(printable(cause.words), "not bold")
    if cause.guess:
        text.append("  (a guess)", "not bold yellow")
    return text


def _table(table: Table, most: int) -> Iterator[RenderableType]:
    """Its rows, names that differ in their numbers and have equal words as one."""
    lines = in_blocks(folded((row.name, row.words) for row in table.rows))
    columns = max((len(row.words) for row in table.rows), default=0)
    yield Text(printable(table.head), "cyan")
    yield without_empty(
        [
            (
                Text(" " * _INDENT + printable(name)),
                Text(f"{times:,} ×" if times > 1 else ""),
                *(Text(printable(word)) for word in (*(words or ()), *[""] * columns)[:columns]),
            )
            for name, times, words in lines[:most]
        ],
        right=frozenset({1}),
        wrap=0,
    )
    if len(lines) > most:
        yield Text(" " * _INDENT + f"… and {plural(len(lines) - most, 'row')} more", "dim")


def _step(step: Step, most: int = _WHOLE_ROWS) -> Iterator[RenderableType]:
    words = printable(step.words)
    if step.file:
        words = f"{_short(step.file)}{f':{step.line}' if step.line else ''}, {words}"
    yield Text(f"- {words}" + (":" if step.paste else ""))
    for line in step.paste[:most]:  # longer than the screen rather than broken: it is copied
        yield Text(" " * 2 * _INDENT + printable(line), "green", no_wrap=True, overflow="ignore")
    if len(step.paste) > most:
        more = plural(len(step.paste) - most, "line")
        yield Text(" " * 2 * _INDENT + f"… and {more} more", "dim")


def _short(file: str) -> str:
    """A path's last parts, as many as tell one tree's from another's."""
    short = short_file(file)
    parts = short.split(os.sep)
    return short if len(short) <= _PATH else os.sep.join(["…", *parts[-3:]])
