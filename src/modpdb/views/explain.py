"""`explain`: the cause first, then what speaks for it, then what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from modpdb.probes.explanations.explanation import Cause, Explanation, Step, Table
from modpdb.views.folding import folded, in_blocks
from modpdb.views.grid import without_empty
from modpdb.views.places import short_file
from modpdb.views.text import plural, printable

_INDENT = 2
_BRIEF = 12  # lines
_BRIEF_ROWS = 5
_BRIEF_STEPS = 2
_BRIEF_PASTE = 4
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


class Brief:
    """What fits above the prompt, at most 12 lines: the likeliest cause, rows of the first table,
    the first step, and the second where it finds room whole."""

    def __init__(self, found: Explanation) -> None:
        self._found = found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        def height(part: RenderableType) -> int:
            if isinstance(part, Text) and part.no_wrap:  # the terminal breaks it
                return -(-cell_len(part.plain) // options.max_width)
            return len(console.render_lines(part, options, pad=False))

        def fits(parts: list[RenderableType]) -> bool:
            return sum(map(height, parts)) <= _BRIEF

        more = Text("`explain` says more", "dim")
        steps = [list(_step(each, _BRIEF_PASTE)) for each in self._found.steps[:_BRIEF_STEPS]]
        first = [part for step in steps[:1] for part in step]
        cause: list[RenderableType] = [_cause(each, first=True) for each in self._found.causes[:1]]
        tries = (cause + each + first for each in self._evidence())
        shown = next((each for each in tries if fits([*each, more])), cause + first)
        for step in steps[1:]:
            if fits([*shown, *step, more]):
                shown = [*shown, *step]
        yield from shown
        yield more

    def _evidence(self) -> Iterator[list[RenderableType]]:
        """From much to nothing."""
        tables = [table for table in self._found.tables[:1] if table.brief]
        if not tables:
            yield [Text(printable(self._found.says))]
            return
        for rows in range(_BRIEF_ROWS, 0, -1):
            whole = list(_table(tables[0], rows))
            yield whole
            yield whole[1:]  # without its heading


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
    words = (pair for row in table.rows for pair in enumerate(row.words, 1))
    columns = max((number for number, word in words if word), default=0)
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
    most = len(step.paste) if len(step.paste) == most + 1 else most  # in the place of `1 more`
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
