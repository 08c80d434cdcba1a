"""Names with a few words about each, those alike in all but their numbers joined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import RenderableType
from rich.text import Text

from modpdb.views.folding import folded, in_blocks
from modpdb.views.grid import without_empty
from modpdb.views.text import plural, printable

_INDENT = "  "
SHOWN = 40  # rows of a section


def named_rows(
    head: str, named: Iterable[tuple[str, tuple[str, ...]]], *, unfold: bool = False
) -> Iterator[RenderableType]:
    """*head*, and a row for each name or block of names with equal words, all with as many; no
    more than fit on a screen, unless *unfold* gives every name its own. Nothing for no names."""
    lines: list[tuple[str, int, tuple[str, ...] | None]]
    lines = [(name, 1, words) for name, words in named] if unfold else in_blocks(folded(named))
    if not lines:
        return
    shown = lines if unfold else lines[:SHOWN]
    columns = max(len(words) for _, _, words in lines if words is not None)
    yield Text(head, "bold")
    yield without_empty(
        [
            (
                Text(_INDENT + printable(name)),
                Text(f"{times:,} ×" if times > 1 else "", "bold"),
                *(Text(printable(word)) for word in words or [""] * columns),
            )
            for name, times, words in shown
        ],
        right=frozenset({1}),
        wrap=0,
    )
    if len(lines) > len(shown):
        yield more_rows(len(lines) - len(shown))


def more_rows(number: int) -> Text:
    """That *number* rows are left out."""
    return Text(f"{_INDENT}… and {plural(number, 'row')} more; --unfold shows all", "dim")
