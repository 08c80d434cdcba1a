"""Words that stay whole, over as many lines as they need."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.text import Text


class Flow:
    """*parts* beside each other, *gap* between them; where the line ends the next part begins a
    new one, indented. A part that is longer than a line is folded."""

    def __init__(self, parts: Sequence[Text], *, gap: str = "  ", indent: int = 2) -> None:
        self._parts = [part for part in parts if part.plain]
        self._gap = gap
        self._indent = indent

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        widths = [cell_len(part.plain) for part in self._parts] or [0]
        whole = sum(widths) + cell_len(self._gap) * (len(widths) - 1)
        return Measurement(min(max(widths), options.max_width), min(whole, options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text()
        for part in self._parts:
            together = cell_len(line.plain) + cell_len(self._gap) + cell_len(part.plain)
            if line.plain.strip() and together > options.max_width:
                yield from self._lines(console, line, options.max_width)
                line = Text(" " * self._indent)
            elif line.plain.strip():
                line.append(self._gap, "dim")
            line.append_text(part)
        yield from self._lines(console, line, options.max_width)

    def _lines(self, console: Console, line: Text, width: int) -> RenderResult:
        if cell_len(line.plain.rstrip()) <= width:
            lines = [line]
        else:
            lines = list(line.wrap(console, max(width - self._indent, 1)))
        for place, each in enumerate(lines):
            each.rstrip()
            if place:
                yield Segment(" " * self._indent)
            yield from each.render(console)
            yield Segment.line()
