"""Rows of one tensor found again in another: in RoPE's order, as a part, in any order.

A row is known by a number that is made of its first elements as they would be held; so an order is
a matter of comparing a few thousand numbers, and what fits is then proved on all values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from modpdb.probes.encodings import SAMPLE, Cast, Target
from modpdb.probes.tensors import CHUNK

_HEADS = 512  # head counts tried for RoPE
_STARTS = 16  # places tried at which a part may begin
_ODD = 0x9E3779B97F4A7C1  # spreads what is added up over all bits


@dataclass(frozen=True, slots=True)
class Rows:
    """*order*: the rows of the source that are the target's, one for each; *cast* what that did."""

    order: Any
    cast: Cast | None


class RowSearch:
    """The rows, along the first dimension, of a *source* and of what is held as *target*; both
    have the same shape beyond that."""

    def __init__(self, torch: Any, source: Any, target: Target) -> None:
        self._torch = torch
        self._source = source
        self._target = target
        self._ours = _marks(torch, target, source, encoded=False)
        self._theirs = _marks(torch, target, target.held, encoded=True)

    def fits(self, order: Any) -> bool:
        """Whether rows in *order* look like the target's."""
        return bool((self._ours[order] == self._theirs).all())

    def share(self, order: Any) -> float:
        """The share of rows that fit."""
        return float((self._ours[order] == self._theirs).double().mean())

    def starts(self) -> list[int]:
        """Where in the source the first rows of the target may be."""
        length, rows = self._theirs.shape[0], self._ours.shape[0]
        first = self._ours[: rows - length + 1] == self._theirs[0]
        return first.nonzero().flatten()[:_STARTS].tolist()

    def proved(self, order: Any) -> Rows | None:
        """*order*, if the rows of the source in it are those of the target in all values."""
        source, target = self._source, self._target
        high = max(1, CHUNK // max(1, math.prod(source.shape[1:])))
        rows = order.shape[0]
        pieces = (
            (start, source[order[start : start + high]], target.held[start : start + high])
            for start in range(0, rows, high)
        )
        found = target.proof_of(source.dtype, pieces)
        if found is False:
            return None
        return Rows(order, found if isinstance(found, Cast) else None)

    def any_order(self) -> Rows | None:
        """The rows of the target, each somewhere in the source, once."""
        torch = self._torch
        if self._theirs.shape[0] > self._ours.shape[0]:
            return None
        ours, theirs = self._ours.argsort(stable=True), self._theirs.argsort(stable=True)
        marks, wanted = self._ours[ours], self._theirs[theirs]
        # Of equal rows the first ones are taken, each once.
        places = torch.searchsorted(marks, wanted)
        places = places + _repeats(torch, wanted)
        if int(places.max()) >= marks.shape[0] or not bool((marks[places] == wanted).all()):
            return None
        order = torch.empty_like(places)
        order[theirs] = ours[places]
        return self.proved(order)

    def part(self, start: int, length: int) -> Rows | None:
        order = self._torch.arange(start, start + length)
        return self.proved(order) if self.fits(order) else None

    def rope(self, start: int, length: int) -> Iterator[tuple[str, list[int], Rows]]:
        """Rows from *start* on reordered within each head, "permuted" for interleaved instead of
        NeoX rotation or "permuted back" (`LlamaModel.permute` in llama.cpp's conversion), with the
        head counts that explain it."""
        torch = self._torch
        found: dict[str, tuple[list[int], Any]] = {}
        if length < 4 or not bool(self._ours[start] == self._theirs[0]):
            return
        for heads, order in rope_orders(torch, length):
            for word, rearranged in (("permuted", order), ("permuted back", order.argsort())):
                if self.fits(rearranged + start):
                    found.setdefault(word, ([], rearranged + start))[0].append(heads)
        for word in ("permuted", "permuted back"):
            if word not in found:
                continue
            heads_of, order = found[word]
            rows = self.proved(order)
            if rows is not None:
                yield word, heads_of, rows


def rope_orders(torch: Any, rows: int) -> Iterator[tuple[int, Any]]:
    """Head counts that divide *rows*, with the order in which RoPE's pairs are neighbours."""
    for heads in range(1, min(rows // 4, _HEADS) + 1):
        if rows % (2 * heads) == 0:
            yield heads, torch.arange(rows).view(heads, 2, -1).transpose(1, 2).reshape(-1)


def _repeats(torch: Any, ordered: Any) -> Any:
    """How many equal values stand before each of *ordered* values."""
    place = torch.arange(ordered.shape[0])
    return place - torch.searchsorted(ordered, ordered)


def _marks(torch: Any, target: Target, rows: Any, *, encoded: bool) -> Any:
    """A number for each row, the same for rows whose first elements are held the same."""
    if rows.ndim == 1:
        few = rows.unsqueeze(1)
    else:
        few = rows
        for dim in range(1, rows.ndim - 1):
            few = few.narrow(dim, 0, 1)
        few = few.flatten(1) if few.ndim > 2 else few
        few = few[:, : _width(target, rows.shape[-1], encoded)]
    if not encoded:
        few = target.encode(few)
    if few.is_complex():
        few = torch.view_as_real(few).flatten(1)
    if few.is_floating_point():  # NaN is equal to NaN there, and 0 to -0
        few = few.to(torch.float64).nan_to_num().add(0.0).view(torch.int64)
    weights = torch.arange(1, few.shape[1] + 1) * _ODD | 1
    return (few.to(torch.int64) * weights).sum(1)  # modulo 2**64, so in any order


def _width(target: Target, columns: int, encoded: bool) -> int:
    """Columns of a row that are looked at first: whole blocks, where there are some."""
    if not target.blocks:
        return SAMPLE
    blocks = max(1, SAMPLE // target.blocks)
    if not encoded:
        return blocks * target.blocks
    return target.held.shape[-1] // (target.shape[-1] // target.blocks) * blocks
