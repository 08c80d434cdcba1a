"""Paths that differ in their numbers only, as one."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from itertools import groupby
from typing import TypeVar

from modpdb.views.text import numbers

Alike = TypeVar("Alike", bound=Hashable)


def folded(items: Iterable[tuple[str, Alike]]) -> list[tuple[str, int, Alike]]:
    """(path, how many, what they are) of (path, what it is), in order of first appearance.

    Joined as `layers.{0…25}.experts.{0…7}.w1` are only paths of which every combination of the
    numbers is there, and whose second half is equal.
    """
    groups: dict[tuple[tuple[str | None, ...], Alike], list[tuple[int, ...]]] = {}
    for path, alike in items:
        parts = path.split(".")
        pattern = tuple(None if part.isdecimal() else part for part in parts)
        place = tuple(int(part) for part in parts if part.isdecimal())
        groups.setdefault((pattern, alike), []).append(place)
    joined = []
    for (pattern, alike), found in groups.items():
        for axes in _products(found):
            written = iter([numbers(axis) for axis in axes])
            path = ".".join(next(written) if part is None else part for part in pattern)
            joined.append((path, math.prod(map(len, axes)), alike))
    return joined


def in_blocks(
    lines: Iterable[tuple[str, int, Alike]],
) -> list[tuple[str, int, Alike | None]]:
    """Folded *lines* with what several in a row begin with, `layers.{0…25}`, on a line before
    them: that line has None and says how many, those below it are indented and count as one."""
    found: list[tuple[str, int, Alike | None]] = []
    for (block, times), group in groupby(lines, lambda line: (_block(line[0]), line[1])):
        members = list(group)
        if not block or len(members) == 1:
            found += members
            continue
        found.append((block, times, None))
        found += [(f"  {path[len(block) + 1 :]}", 1, alike) for path, _, alike in members]
    return found


def _block(path: str) -> str:
    """A folded path up to its last folded number; "" where that is all of it, or there is none."""
    end = path.rfind("}.")
    return path[: end + 1] if end >= 0 else ""


def _products(found: Sequence[tuple[int, ...]]) -> list[list[list[int]]]:
    """*found* parted into full products, each given by its axes."""
    if not found[0]:  # no numbers in the path: each stands for itself
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
