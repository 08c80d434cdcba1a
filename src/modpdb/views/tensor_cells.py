"""The first cells of a row of tensors, alone or many as one: name, dtype, shape."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from modpdb.views.text import printable, shape


def tensor_cells(
    path: str, block: str, times: int, dtype: str | None, dims: Sequence[int] | None
) -> tuple[Text, Text, Text]:
    """Of *times* tensors; one below *block*, whose row says how many there are, is indented."""
    name = f"  {path[len(block) + 1 :]}" if block else path
    many = Text(f"{times:,} × " if times > 1 and not block else "", "bold")
    return (
        Text(printable(name)),
        Text(printable(dtype or "?"), "cyan"),
        many.append("?" if dims is None else shape(dims), "not bold"),
    )


def block_cells(block: str, times: int) -> tuple[Text, Text, Text]:
    """Of a block of tensors that is there *times* times."""
    many = Text(f"{times:,} × ", "bold").append("each", "not bold dim")
    return Text(printable(block), "bold"), Text(), many
