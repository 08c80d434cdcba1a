"""The order of rows that an architecture needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class RowOrder:
    """How rows are reordered. `to pairs`: of each head's first *size* rows, row i and i + size / 2
    become neighbours; `to halves` is the way back. `parts together`: rows that lie head by head,
    each q, k and v, become all q, all k, all v.
    """

    kind: Literal["to pairs", "to halves", "parts together"]
    heads: int
    head_dim: int
    size: int


def row_index(torch: Any, order: RowOrder) -> Any:
    """The row of the source for each row of what is written."""
    if order.kind == "parts together":
        rows = torch.arange(order.heads * 3 * order.head_dim)
        return rows.view(order.heads, 3, order.head_dim).transpose(0, 1).reshape(-1)
    rows = torch.arange(order.heads * order.head_dim).view(order.heads, order.head_dim)
    turned, rest = rows[:, : order.size], rows[:, order.size :]
    two = (2, order.size // 2) if order.kind == "to pairs" else (order.size // 2, 2)
    turned = turned.reshape(order.heads, *two).transpose(1, 2).reshape(order.heads, order.size)
    return torch.cat((turned, rest), 1).reshape(-1)
