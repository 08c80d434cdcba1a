"""Which tensor of an architecture a name may be: by shape, by what is free, by likeness of name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from typing import Any

from modpdb.probes.conversion import SUFFIXES
from modpdb.probes.explanations.slots import Slot, member_name

_LEAST = 0.45  # likeness of names, from 0 to 1, that alone is worth a word
_SHAPE = 1.0  # what a shape that fits adds to it
_UNKNOWN = 0.2  # and one that is not known
_NEAR = 0.6  # likeness of a key that is named where nothing fits
_PATTERNS = 200  # names alike but for their numbers that are looked at


@dataclass(frozen=True, slots=True)
class Missing:
    """A checkpoint tensor without a GGUF name."""

    name: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Guess:
    """What *names*, alike but for their block's number, may be: the MODEL_TENSOR *slot*, "" for
    none; *key* is the text for tensor_mapping.py."""

    names: tuple[str, ...]
    slot: str
    key: str
    words: str


@dataclass(frozen=True, slots=True)
class _Pattern:
    """Names that differ in the number of their block; *stem* has {bid} for it, *tail* is what
    follows the number."""

    stem: str
    suffix: str
    tail: str
    shape: tuple[int, ...] | None
    names: tuple[str, ...]
    bids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Fit:
    score: float
    likeness: float
    fits: bool | None
    slot: Slot


def guesses_for(
    missing: Iterable[Missing],
    slots: Sequence[Slot],
    mapping: Mapping[str, Any],
    taken: set[str],
) -> list[Guess]:
    """The likeliest slot of each pattern of names; a slot is given once, to what fits it best."""
    patterns = _patterns(missing)[:_PATTERNS]
    tails = _tails(mapping)
    fits = {each: _fits(each, slots, tails, taken) for each in patterns}
    chosen: dict[_Pattern, _Fit] = {}
    given: set[tuple[str, str]] = set()
    best = sorted(
        ((fit, each) for each, some in fits.items() for fit in some),
        key=lambda pair: -pair[0].score,
    )
    for fit, each in best:
        if each not in chosen and (fit.slot.member, each.suffix) not in given:
            chosen[each] = fit
            given.add((fit.slot.member, each.suffix))
    keys = _keys(mapping)
    return [
        _guess(each, chosen.get(each), fits[each], "" if each in chosen else _nearest(each, keys))
        for each in patterns
    ]


def _guess(pattern: _Pattern, fit: _Fit | None, others: Sequence[_Fit], near: str) -> Guess:
    if fit is None:
        words = f"no tensor that is free is like it{f'; nearest key: {near}' if near else ''}"
        return Guess(pattern.names, "", "", words)
    words = f"→ {fit.slot.name('N', '')}?"
    also = [
        each.slot.name("N", "").rpartition(".")[2]
        for each in others
        if each is not fit and each.score > fit.score - 0.15
    ]
    words += f" or {' or '.join(also[:2])}" if also else ""
    if not fit.fits:
        words += ", by its name: what shape it has is not known"
    return Guess(pattern.names, fit.slot.member, pattern.stem, words)


def _keys(mapping: Mapping[str, Any]) -> list[str]:
    """What the name map takes, of its blocks the first."""
    numbers = ((key, re.search(r"\.(\d+)\.", key)) for key in mapping if type(key) is str)
    return [key for key, number in numbers if number is None or number[1] == "0"]


def _nearest(pattern: _Pattern, keys: Sequence[str]) -> str:
    found = get_close_matches(pattern.stem.replace("{bid}", "0"), keys, n=1, cutoff=_NEAR)
    return found[0] if found else ""


def _patterns(missing: Iterable[Missing]) -> list[_Pattern]:
    groups: dict[tuple[str, str, tuple[int, ...] | None], list[tuple[str, str]]] = {}
    for each in missing:
        suffix = next((end for end in SUFFIXES if each.name.endswith(end)), "")
        parts = each.name.removesuffix(suffix).split(".")
        at = next((number for number, part in enumerate(parts) if part.isdecimal()), None)
        bid = "" if at is None else parts[at]
        if at is not None:
            parts[at] = "{bid}"
        groups.setdefault((".".join(parts), suffix, each.shape), []).append((each.name, bid))
    return [
        _Pattern(
            stem,
            suffix,
            stem.partition("{bid}.")[2] or stem,
            shape,
            tuple(name for name, _ in members),
            tuple(bid for _, bid in members),
        )
        for (stem, suffix, shape), members in groups.items()
    ]


def _tails(mapping: Mapping[str, Any]) -> dict[str, set[str]]:
    """What follows the block's number in every name that the map has for a MODEL_TENSOR."""
    found: dict[str, set[str]] = {}
    for key, value in mapping.items():
        if type(key) is not str or type(value) is not tuple or len(value) != 2:
            continue
        number = re.search(r"\.(\d+)\.", key)
        if number is not None and number[1] != "0":
            continue  # block 0 stands for all
        tail = key[number.end() :] if number is not None else key
        found.setdefault(member_name(value[0]), set()).add(tail)
    return found


def _fits(
    pattern: _Pattern, slots: Sequence[Slot], tails: Mapping[str, set[str]], taken: set[str]
) -> list[_Fit]:
    matcher = SequenceMatcher(autojunk=False)
    matcher.set_seq2(pattern.tail.lower())
    found = []
    for slot in slots:
        if slot.in_block != ("{bid}" in pattern.stem):
            continue
        if any(slot.name(bid, pattern.suffix) in taken for bid in pattern.bids):
            continue
        fits = slot.fits(pattern.shape, pattern.suffix)
        own = slot.gguf.rpartition(".")[2]
        likeness = max(
            _likeness(matcher, each, pattern.tail) for each in (own, *tails.get(slot.member, ()))
        )
        if fits is False or (fits is None and likeness < _LEAST):
            continue
        bonus = {True: _SHAPE, None: _UNKNOWN, False: 0.0}[fits]
        found.append(_Fit(bonus + likeness, likeness, fits, slot))
    return sorted(found, key=lambda fit: -fit.score)


def _likeness(matcher: SequenceMatcher[str], one: str, other: str) -> float:
    """Of letters, and of words: `attn.q` and `attn_q` have the same words."""
    words, theirs = (set(re.split(r"[._]", each.lower())) for each in (one, other))
    shared = len(words & theirs) / len(words | theirs)
    matcher.set_seq1(one.lower())
    return max(matcher.ratio(), shared)
