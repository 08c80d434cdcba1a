"""Paths that differ in their numbers only, as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import groupby, product
from operator import itemgetter
from typing import TypeVar

from modpdb.probes.tree import is_number
from modpdb.views.text import numbers

Alike = TypeVar("Alike", bound=Hashable)
Member = TypeVar("Member")


def folded(items: Iterable[tuple[str, Alike]]) -> list[tuple[str, int, Alike]]:
    """(path, how many, what they are) of (path, what it is), in order of first appearance.

    Joined as `layers.{0…25}.experts.{0…7}.w1` are only paths of which every combination of the
    numbers is there, and whose second half is equal.
    """
    lines = folded_members(list(items), itemgetter(0), itemgetter(1))
    return [(path, len(members), alike) for path, members, alike in lines]


def folded_members(
    members: Sequence[Member], path: Callable[[Member], str], alike: Callable[[Member], Alike]
) -> list[tuple[str, list[Member], Alike]]:
    """As `folded`, of anything that has a path and something in which members of a row are equal:
    (path, members, in what they are alike).

    Paths that are alike but for their digits are looked at together, by columns: of 60,000
    tensors each is split and compared in C.
    """
    groups: dict[bytes, list[Member]] = {}
    for key, member in zip(_without_digits(list(map(path, members))), members, strict=True):
        group = groups.get(key)
        if group is None:
            group = groups[key] = []
        group.append(member)
    rows = [
        (joined, inside, kind)
        for group in groups.values()
        for kind, some in _by_kind(group, alike)
        for joined, inside in _joined(list(map(path, some)), some)
    ]
    place = {id(member): number for number, member in enumerate(members)}
    return sorted(rows, key=lambda row: place[id(row[1][0])])


def _without_digits(paths: list[str]) -> list[bytes]:
    together = "\n".join(paths).encode("utf-8", "surrogatepass").translate(None, b"0123456789")
    keys = together.split(b"\n")
    if len(keys) == len(paths):
        return keys
    # A path has a line break, or there is none.
    return [key for path in paths for key in (_without_digits([path.replace("\n", "\r")]))]


def _by_kind(
    members: list[Member], alike: Callable[[Member], Alike]
) -> Iterable[tuple[Alike, list[Member]]]:
    kinds = list(map(alike, members))
    if kinds.count(kinds[0]) == len(kinds):  # without a hash of each
        return [(kinds[0], members)]
    parts: dict[Alike, list[Member]] = {}
    for kind, member in zip(kinds, members, strict=True):
        parts.setdefault(kind, []).append(member)
    return parts.items()


def _joined(paths: list[str], members: list[Member]) -> Iterator[tuple[str, list[Member]]]:
    """Paths of equally many parts as few, each with the members that it stands for."""
    width = paths[0].count(".") + 1
    flat = ".".join(paths).split(".")
    written: list[str | None] = []
    axes = []
    for column in (flat[start::width] for start in range(width)):
        if column.count(column[0]) == len(column):
            written.append(column[0])
            continue
        values = set(column)
        if not all(map(is_number, values)):  # w1, w2: digits that are part of a word
            yield from _by_word(column, paths, members)
            return
        written.append(None)
        axes.append((column, sorted(map(int, values))))
    if math.prod(len(there) for _, there in axes) == len(paths):
        yield _written(written, [there for _, there in axes]), members
        return
    if not axes:  # the same path several times
        yield from ((path, [member]) for path, member in zip(paths, members, strict=True))
        return
    places = list(zip(*(map(int, column) for column, _ in axes), strict=True))
    at = dict(zip(places, members, strict=True))
    for each in _products(list(at)):
        yield _written(written, each), [at[place] for place in product(*each)]


def _by_word(
    column: list[str], paths: list[str], members: list[Member]
) -> Iterator[tuple[str, list[Member]]]:
    """Each word's paths by themselves, and those with a number there together."""
    parts: dict[str, tuple[list[str], list[Member]]] = {}
    for word, path, member in zip(column, paths, members, strict=True):
        inside = parts.setdefault("" if is_number(word) else f".{word}", ([], []))
        inside[0].append(path)
        inside[1].append(member)
    for some, theirs in parts.values():
        yield from _joined(some, theirs)


def _written(parts: list[str | None], axes: Iterable[Iterable[int]]) -> str:
    there = iter([numbers(axis) for axis in axes])
    return ".".join(next(there) if part is None else part for part in parts)


def by_block(
    lines: Iterable[tuple[str, list[Member], Alike]],
) -> list[tuple[str, list[tuple[str, list[Member], Alike]]]]:
    """Folded *lines* by what they begin with, `layers.{0…25}`, in order of first appearance; ""
    where that is all of a line, or one line's alone."""
    blocks: dict[tuple[str, int], list[tuple[str, list[Member], Alike]]] = {}
    for line in lines:
        block = block_of(line[0])
        place = (block, len(line[1])) if block else (line[0], -1)
        blocks.setdefault(place, []).append(line)
    return [
        (block if times >= 0 and len(inside) > 1 else "", inside)
        for (block, times), inside in blocks.items()
    ]


def in_blocks(
    lines: Iterable[tuple[str, int, Alike]],
) -> list[tuple[str, int, Alike | None]]:
    """Folded *lines* with what several in a row begin with, `layers.{0…25}`, on a line before
    them: that line has None and says how many, those below it are indented and count as one."""
    found: list[tuple[str, int, Alike | None]] = []
    for (block, times), group in groupby(lines, lambda line: (block_of(line[0]), line[1])):
        members = list(group)
        if not block or len(members) == 1:
            found += members
            continue
        found.append((block, times, None))
        found += [(f"  {path[len(block) + 1 :]}", 1, alike) for path, _, alike in members]
    return found


def block_of(path: str) -> str:
    """A folded path up to its last folded number; "" where that is all of it, or there is none."""
    end = path.rfind("}.")
    return path[: end + 1] if end >= 0 else ""


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
