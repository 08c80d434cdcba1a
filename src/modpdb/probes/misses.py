"""What comes nearest to a tensor that no relation explains: how much of it, how far the rest."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.encodings import Target, working_dtype
from modpdb.probes.pairs import paired, same_values
from modpdb.probes.row_relations import RowSearch, rope_orders
from modpdb.probes.tensor_summary import index_of
from modpdb.probes.tensors import CHUNK


@dataclass(frozen=True, slots=True)
class Miss:
    """*words* say what was done to the source, "" for nothing. *equal* of *elements* values are
    those that are written; the largest error of a finite one is *most*, at *where*; *first* is the
    place of the first that differs."""

    words: str
    equal: int
    elements: int
    most: float
    where: tuple[int, ...]
    first: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Guess:
    words: str
    values: Any  # the source in the target's shape, but for the order of its rows
    order: Any = None
    made: Callable[[Any], Any] | None = None


def closest(source: Any, target: Target) -> Miss | None:
    """The simplest changes of *source* tried on some values, the best measured on all; None where
    the shapes allow none of them."""
    torch = torch_or_none()
    with undisturbed(torch):
        guesses = list(_guesses(torch, source, target))
        if not guesses:
            return None
        return _measured(torch, target, max(guesses, key=lambda each: _share(target, each)))


def _guesses(torch: Any, source: Any, target: Target) -> Iterator[_Guess]:
    if math.prod(source.shape) != math.prod(target.shape):
        return
    plain = source.reshape(target.shape)
    yield _Guess("" if source.shape == plain.shape else "reshaped", plain)
    if source.ndim == 2 and tuple(source.T.shape) == target.shape:
        yield _Guess("transposed", source.T)
    if tuple(source.shape) == target.shape and target.has_rows:
        rows = source.shape[0]
        search = RowSearch(torch, source, target)
        orders = [(search.share(order), heads, order) for heads, order in rope_orders(torch, rows)]
        _, heads, order = max(orders, key=operator.itemgetter(0), default=(0.0, 0, None))
        if heads:
            yield _Guess(
                f"rows permuted within {heads} {'head' if heads == 1 else 'heads'}", source, order
            )
    if source.is_floating_point() and target.floating:
        dtype = working_dtype(torch, source.dtype)
        one, held = target.few(plain)
        apart = (target.decode(held).double().flatten() - one.double().flatten()).nan_to_num()
        constant = float(f"{float(apart.median()):.4g}")
        if constant:
            add = partial(operator.add, constant)
            words = f"{'-' if constant < 0 else '+'} {abs(constant):g}"
            yield _Guess(words, plain.to(dtype), None, add)


def _share(target: Target, guess: _Guess) -> float:
    """The share of values that are equal, of a few."""
    values = guess.values if guess.order is None else guess.values[guess.order]
    one, held = target.few(values)
    encoded = target.encode(one if guess.made is None else guess.made(one))
    return float(target.same(encoded, held).double().mean())


def _pairs(target: Target, guess: _Guess) -> Iterator[tuple[tuple[int, ...], Any, Any]]:
    if guess.order is None:
        yield from paired(guess.values, target.held)
        return
    rest = (0,) * (target.ndim - 1)
    high = max(1, CHUNK // max(1, math.prod(target.shape[1:])))
    for start in range(0, target.shape[0], high):
        rows = guess.values[guess.order[start : start + high]]
        yield (start, *rest), rows, target.held[start : start + high]


def _measured(torch: Any, target: Target, guess: _Guess) -> Miss:
    equal = 0
    most = -1.0
    where: tuple[int, ...] = ()
    first: tuple[int, ...] | None = None
    for start, one, held in _pairs(target, guess):
        encoded = target.encode(one if guess.made is None else guess.made(one))
        ours, theirs = target.decode(encoded), target.decode(held)
        same = same_values(torch, ours, theirs)
        if not target.blocks:  # -0 is not 0, and one NaN not another
            same &= target.same(encoded, held)
        equal += int(same.sum())
        if same.all():
            continue
        if first is None:
            place = int((~same).flatten().to(torch.uint8).argmax())
            first = _shifted(start, index_of(place, tuple(same.shape)))
        apart = (ours.double() - theirs.double()).abs()
        apart = torch.where(apart.isfinite() & ~same, apart, -1.0)
        if float(apart.max()) > most:
            most = float(apart.max())
            where = _shifted(start, index_of(int(apart.argmax()), tuple(same.shape)))
    elements = math.prod(target.shape)
    return Miss(guess.words, equal, elements, max(most, 0.0), where, first or ())


def _shifted(start: tuple[int, ...], index: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(begin + each for begin, each in zip(start, index, strict=True))
