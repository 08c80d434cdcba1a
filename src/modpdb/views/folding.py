"""Paths that differ in their numbers only, as one."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Sequence
from itertools import product
from operator import itemgetter
from typing import Any, TypeVar

from modpdb.views.text import numbers

Alike = TypeVar("Alike", bound=Hashable)
Member = TypeVar("Member")

# A number that is all of a part of the path, as it would be written: not 007.
_NUMBERS = re.compile(r"\.(0|[1-9][0-9]{0,8})(?=\.|\Z)").split


def folded(items: Iterable[tuple[str, Alike]]) -> list[tuple[str, int, Alike]]:
    """(path, how many, what they are) of (path, what it is), in order of first appearance.

    Joined as `layers.{0…25}.experts.{0…7}.w1` are only paths of which every combination of the
    numbers is there, and whose second half is equal.
    """
    lines = folded_members((path, alike, None) for path, alike in items)
    return [(path, len(members), alike) for path, members, alike in lines]


def folded_members(
    items: Iterable[tuple[str, Alike, Member]],
) -> list[tuple[str, list[Member], Alike]]:
    """As `folded`, of (path, what it is, member), with the members in place of their number."""
    groups: dict[tuple[Any, ...], tuple[list[list[str]], list[Member]]] = {}
    for path, alike, member in items:
        parts = _NUMBERS(f".{path}")  # words and numbers in turn
        key = (*parts[::2], alike)
        group = groups.get(key)
        if group is None:
            group = groups[key] = [], []
        group[0].append(parts)
        group[1].append(member)
    joined = []
    for (*words, alike), (paths, members) in groups.items():
        for axes, inside in _parted(paths, members):
            between = [f".{numbers(axis)}" for axis in axes] + [""]
            path = "".join(map("".join, zip(words, between, strict=True)))[1:]
            joined.append((path, inside, alike))
    return joined


def _parted(
    paths: list[list[str]], members: list[Member]
) -> list[tuple[list[list[int]], list[Member]]]:
    """The full products of the numbers in *paths*, each by its axes, with what stands in it."""
    columns = range(1, len(paths[0]), 2)
    if not columns:  # no numbers in the path: each stands for itself
        return [([], [member]) for member in members]
    axes = [sorted(map(int, set(map(itemgetter(column), paths)))) for column in columns]
    if math.prod(map(len, axes)) == len(paths):
        return [(axes, members)]
    places = [tuple(map(int, path[1::2])) for path in paths]
    at = dict(zip(places, members, strict=True))
    return [(each, [at[place] for place in product(*each)]) for each in _products(list(at))]


def in_blocks(
    lines: Iterable[tuple[str, list[Member], Alike]],
) -> list[tuple[str, list[tuple[str, list[Member], Alike]]]]:
    """Folded *lines* by what they begin with, `layers.{0…25}`, in order of first appearance; ""
    where that is all of a line, or one line's alone."""
    blocks: dict[tuple[str, int], list[tuple[str, list[Member], Alike]]] = {}
    for line in lines:
        end = line[0].rfind("}.")
        place = (line[0][: end + 1], len(line[1])) if end >= 0 else (line[0], -1)
        blocks.setdefault(place, []).append(line)
    return [
        (block if times >= 0 and len(inside) > 1 else "", inside)
        for (block, times), inside in blocks.items()
    ]


def _products(found: Sequence[tuple[int, ...]]) -> list[list[list[int]]]:
    """*found* parted into full products, each given by its axes."""
    if not found[0]:
        return [[] for _ in found]
    axes = [sorted(set(axis)) for axis in zip(*found, strict=True)]
    if math.prod(map(len, axes)) == len(found):
        return [axes]
    rests: dict[int, list[tuple[int, ...]]] = {}
    for first, *rest in found:
        rests.setdefault(first, []).append(tuple(rest))
    alike: dict[frozenset[tuple[int, ...]], list[int]] = {}
    for first, below in rests.items():
        alike.setdefault(frozenset(below), []).append(first)
    return [[firsts, *axes] for below, firsts in alike.items() for axes in _products(sorted(below))]
