"""Aligned columns for tables of any length."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.text import Text

_GAP = 2  # blanks between columns
_LEAST = 24  # columns that wrapped text needs to be read


class Grid:
    """Rows of cells under each other, with no more width than they need.

    *right* are the columns aligned to the right. A row of one cell is a heading, which takes no
    part in the columns. The last column holds remarks: where a row is too wide they are wrapped,
    and where that leaves them no room they go below, with column *wrap* wrapped too; also where a
    word of them would break, with *whole_words*: they hold what is to be typed. (rich's Table
    breaks words for that, and takes 20 seconds for the 60,000 rows of an unfolded mixture of
    experts.)
    """

    def __init__(
        self,
        rows: Sequence[Sequence[Text]],
        *,
        right: frozenset[int] = frozenset(),
        wrap: int | None = None,
        whole_words: bool = False,
    ) -> None:
        self._rows = rows
        self._whole_words = whole_words
        self._right = right
        self._wrap = wrap

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._rows:
            return
        last = max(map(len, self._rows)) - 1
        whole = [row for row in self._rows if len(row) > last]
        widths = [max(cell_len(row[column].plain) for row in whole) for column in range(last + 1)]
        spare = options.max_width - sum(widths) - _GAP * last
        if spare >= 0:
            for row in self._rows:
                yield from self._line(console, row, widths)
        elif widths[last] + spare >= self._least(whole):
            widths[last] += spare
            for row in self._rows:
                if len(row) > last:
                    yield from self._wrapped(console, row, last, widths)
                else:
                    yield from self._line(console, row, widths)
        else:
            yield from self._remarks_below(console, options.max_width, widths)

    def _least(self, rows: Sequence[Sequence[Text]]) -> int:
        """Columns that remarks need to stand beside the rest."""
        words = (word for row in rows for word in row[-1].plain.split() if self._whole_words)
        return max([_LEAST, *map(cell_len, words)])

    def _remarks_below(self, console: Console, room: int, widths: list[int]) -> RenderResult:
        *widths, _ = widths
        spare = room - sum(widths) - _GAP * (len(widths) - 1)
        column = self._wrap if self._wrap is not None else 0
        if spare < 0:
            widths[column] = max(widths[column] + spare, _LEAST)
        indent = min(widths[0] + _GAP, room // 2)
        for row in self._rows:
            if len(row) <= len(widths):
                yield from self._line(console, row, widths)
                continue
            yield from self._wrapped(console, row[:-1], column, widths)
            if row[-1].plain:
                for line in row[-1].wrap(console, room - indent):
                    yield Segment(" " * indent)
                    yield from line.render(console)
                    yield Segment.line()

    def _wrapped(
        self, console: Console, row: Sequence[Text], column: int, widths: Sequence[int]
    ) -> RenderResult:
        first, *more = _lines(console, row[column], widths[column])
        yield from self._line(console, [*row[:column], first, *row[column + 1 :]], widths)
        for line in more:
            yield from self._line(console, [*[Text()] * column, line], widths)

    def _line(self, console: Console, row: Sequence[Text], widths: Sequence[int]) -> RenderResult:
        blanks = 0
        for column, cell in enumerate(row):
            length = cell_len(cell.plain)
            room = max(widths[column] - length, 0)
            if not length:
                blanks += widths[column] + _GAP
                continue
            if column in self._right:
                blanks, room = blanks + room, 0
            if blanks:
                yield Segment(" " * blanks)
            yield from cell.render(console)
            blanks = _GAP + room
        yield Segment.line()


def _lines(console: Console, cell: Text, width: int) -> list[Text]:
    """*cell* over as many lines as it needs; a dotted name is broken where its parts end."""
    name = cell.plain.lstrip()
    if cell_len(cell.plain) <= width or " " in name:
        return list(cell.wrap(console, width)) or [Text()]
    indent = " " * (len(cell.plain) - len(name) + _GAP)
    lines, rest = [], cell
    while cell_len(rest.plain) > width:
        fits = set_cell_size(rest.plain, width).rstrip(" ")
        least = len(rest.plain) - len(rest.plain.lstrip())
        end = max(fits.rfind(".") + 1, fits.rfind("_") + 1)
        end = end if end > least + width // 3 else max(len(fits), least + 1)
        line, rest = rest.divide([end])
        lines.append(line)
        rest = Text(indent).append_text(rest)
    return [*lines, rest]


def without_empty(
    rows: Sequence[Sequence[Text]], *, right: frozenset[int] = frozenset(), wrap: int | None = None
) -> Grid:
    """A Grid without the columns that are empty in every row; that of remarks stays."""
    last = len(rows[0]) - 1 if rows else 0
    kept = [c for c in range(last + 1) if c == last or any(row[c].plain for row in rows)]
    return Grid(
        [[row[column] for column in kept] for row in rows],
        right=frozenset(kept.index(column) for column in right if column in kept),
        wrap=kept.index(wrap) if wrap in kept else None,
    )
