"""Names on one side that are likely those on the other, by what systematically differs.

Names that differ in their numbers only are one pattern, `layers.#.self_attn.q_proj.weight`, so
that a model's tens of thousands of names are some hundred patterns. Two patterns may be the same
tensors if they have equal shapes at equal numbers; what their parts differ in is a guess, and a
guess that explains several patterns is a rule.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

Shape = tuple[int, ...] | None
Parts = tuple[str, ...]
Numbers = tuple[str, ...]

_NUMBER = re.compile(r"(?<![^._])[0-9]+(?![^.])")  # a part, or the end of one: 12, layer_12
_PATTERNS = 1_000  # of either side, that rules are learned from; they are applied to all
_PEERS = 100  # patterns of equal shape that one is held against
_DIFFED = 16  # and of these the ones with most parts in common, whose differences are looked at
_LIKE = 0.5  # of whole names, from 0 to 1, where besides it only an equal shape speaks for a pair
_CONVENTIONS = {  # TensorFlow's names of a norm's tensors and torch's
    ("gamma", "weight"),
    ("beta", "bias"),
    ("weight", "gamma"),
    ("bias", "beta"),
}
_DEEPEST = 8  # parts that a prefix may have


@dataclass(frozen=True, slots=True)
class Edit:
    """Parts of a name, old to new; # stands for a number that is kept. *prefix*: at its start."""

    old: str
    new: str
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Rename:
    """A name of the one side and the other's that it likely is, by these edits."""

    old: str
    new: str
    edits: tuple[Edit, ...]


def likely_renames(old: Mapping[str, Shape], new: Mapping[str, Shape]) -> list[Rename]:
    """Which of the names *old* are likely which of *new*; each is used once at most.

    Names with their shapes, None where a file does not tell. Taken are: one prefix for several
    names; the same edits of several patterns; an edit of a single pattern where no other has
    its shape. Time is linear in the names.
    """
    if None in old.values() or None in new.values():
        old, new = dict.fromkeys(old), dict.fromkeys(new)
    left, right = dict(old), dict(new)
    found = _by_prefix(left, right)
    for rename in found:
        del left[rename.old], right[rename.new]
    return found + _by_edits(left, right, {edit for rename in found for edit in rename.edits})


# -- a prefix more or less -------------------------------------------------------------------------


def _by_prefix(left: Mapping[str, Shape], right: Mapping[str, Shape]) -> list[Rename]:
    found: list[Rename] = []
    used_left: set[str] = set()
    used_right: set[str] = set()
    pairs = _prefixed(left, right, lost=True)
    for edit, more in _prefixed(right, left, lost=False).items():
        pairs[edit] = [(old, new) for new, old in more]
    for edit, names in sorted(pairs.items(), key=lambda item: -len(item[1])):
        free = [(o, n) for o, n in names if o not in used_left and n not in used_right]
        if len(free) > 1:
            found += [Rename(old, new, (edit,)) for old, new in free]
            used_left.update(old for old, _ in free)
            used_right.update(new for _, new in free)
    return found


def _prefixed(
    longer: Mapping[str, Shape], shorter: Mapping[str, Shape], *, lost: bool
) -> dict[Edit, list[tuple[str, str]]]:
    """Names of *longer* that are one of *shorter* after a prefix, by the prefix."""
    pairs: dict[Edit, list[tuple[str, str]]] = {}
    for name, shape in longer.items():
        cut = name.find(".")
        for _ in range(_DEEPEST):
            if cut < 0:
                break
            rest = name[cut + 1 :]
            if rest in shorter and shorter[rest] == shape:
                head = name[: cut + 1]
                edit = Edit(head, "", True) if lost else Edit("", head, True)
                pairs.setdefault(edit, []).append((name, rest))
            cut = name.find(".", cut + 1)
    return pairs


# -- patterns that differ in some parts ------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Pattern:
    """Names alike but for their numbers, by these."""

    parts: Parts
    names: dict[Numbers, str] = field(default_factory=dict)
    shapes: dict[Numbers, Shape] = field(default_factory=dict)

    def shared(self, other: _Pattern) -> list[Numbers]:
        """The numbers at which both have a name, of equal shape."""
        return [
            numbers
            for numbers, shape in self.shapes.items()
            if numbers in other.shapes and other.shapes[numbers] == shape
        ]


def _patterns(names: Mapping[str, Shape]) -> dict[Parts, _Pattern]:
    found: dict[Parts, _Pattern] = {}
    for name, shape in names.items():
        parts = tuple(_NUMBER.sub("#", name).split("."))
        numbers = tuple(_NUMBER.findall(name))
        pattern = found.setdefault(parts, _Pattern(parts))
        pattern.names[numbers] = name
        pattern.shapes[numbers] = shape
    return found


def _by_edits(
    left: Mapping[str, Shape], right: Mapping[str, Shape], known: Iterable[Edit]
) -> list[Rename]:
    """By what patterns differ in; *known* edits are tried as well."""
    olds, news = _patterns(left), _patterns(right)
    guesses: dict[tuple[Edit, ...], list[tuple[_Pattern, _Pattern]]] = {}
    support: Counter[Edit] = Counter()
    peers = list(_peers(_biggest(olds), _biggest(news)))
    for old, new in peers:
        for edits in _edits(old.parts, new.parts):
            guesses.setdefault(edits, []).append((old, new))
            support.update(edits)
    taken = _Taken(olds, news)
    _apply_to_all([(edit,) for edit in known], taken)
    _apply_to_all(_systematic(guesses, support, taken), taken)
    _singles(guesses, support, peers, taken)
    return taken.renames


def _biggest(patterns: Mapping[Parts, _Pattern]) -> list[_Pattern]:
    return sorted(patterns.values(), key=lambda pattern: -len(pattern.names))[:_PATTERNS]


def _peers(
    olds: Iterable[_Pattern], news: Iterable[_Pattern]
) -> Iterable[tuple[_Pattern, _Pattern]]:
    """Pairs of as many numbers and some equal shape, of each old one those most like it."""
    by_shape: dict[tuple[int, Shape], list[_Pattern]] = {}
    for new in news:
        for numbers, shape in {(len(n), shape) for n, shape in new.shapes.items()}:
            by_shape.setdefault((numbers, shape), []).append(new)
    for old in olds:
        peers: dict[int, _Pattern] = {}
        for key in {(len(n), shape) for n, shape in old.shapes.items()}:
            for new in by_shape.get(key, ())[:_PEERS]:
                peers[id(new)] = new
        parts = set(old.parts)
        likely = sorted(peers.values(), key=lambda new: -len(parts.intersection(new.parts)))
        for new in likely[:_DIFFED]:
            if old.shared(new):
                yield old, new


def edits_between(old: str, new: str) -> tuple[Edit, ...]:
    """What the name *old* differs in from *new*, of which it is known that it is the same."""
    return _differences(tuple(old.split(".")), tuple(new.split(".")))[0]


def _edits(old: Parts, new: Parts) -> list[tuple[Edit, ...]]:
    """What makes *old* into *new*, in one or two ways; numbers are kept."""
    return [
        edits
        for edits in dict.fromkeys(_differences(old, new))
        if edits and all(edit.old.count("#") == edit.new.count("#") for edit in edits)
    ]


def _differences(old: Parts, new: Parts) -> tuple[tuple[Edit, ...], tuple[Edit, ...]]:
    """The edits with neighbouring parts changed together, and with each changed alone."""
    together: list[Edit] = []
    singly: list[Edit] = []
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag == "equal":
            continue
        if i == j and i > 0:  # put in: say before or after what
            at_end = i == len(old)
            i, j, k, m = (i - 1, j, k - 1, m) if at_end else (i, j + 1, k, m + 1)
        prefix = i == 0 and (j == 0 or k == m)
        whole = _edit(old[i:j], new[k:m], prefix)
        together.append(whole)
        if tag == "replace" and j - i == m - k:
            singly += [_edit((a,), (b,), False) for a, b in zip(old[i:j], new[k:m], strict=True)]
        else:
            singly.append(whole)
    return tuple(together), tuple(singly)


def _edit(old: Parts, new: Parts, prefix: bool) -> Edit:
    end = "." if prefix else ""
    return Edit(".".join(old) + (end if old else ""), ".".join(new) + (end if new else ""), prefix)


class _Taken:
    """What has been renamed so far; the rest is free."""

    def __init__(self, olds: dict[Parts, _Pattern], news: dict[Parts, _Pattern]) -> None:
        self.olds, self.news = olds, news
        self.renames: list[Rename] = []

    def free(self, pairs: Iterable[tuple[_Pattern, _Pattern]]) -> list[tuple[_Pattern, _Pattern]]:
        """Those of *pairs* of which names are left on both sides, each pattern once."""
        seen: set[int] = set()
        kept = []
        for old, new in pairs:
            if seen.isdisjoint((id(old), id(new))) and old.shared(new):
                seen |= {id(old), id(new)}
                kept.append((old, new))
        return kept

    def take(
        self, old: _Pattern, new: _Pattern, edits: tuple[Edit, ...], *, any_shape: bool
    ) -> None:
        numbers = [n for n in old.names if n in new.names] if any_shape else old.shared(new)
        for each in numbers:
            self.renames.append(Rename(old.names.pop(each), new.names.pop(each), edits))
            del old.shapes[each], new.shapes[each]


Guesses = Mapping[tuple[Edit, ...], Sequence[tuple[_Pattern, _Pattern]]]


def _systematic(
    guesses: Guesses, support: Mapping[Edit, int], taken: _Taken
) -> list[tuple[Edit, ...]]:
    """Take the edits that explain several patterns, those that explain most first.

    Where as many are explained as well by edits that pair them otherwise, as `gamma` and `beta`
    could each be `weight`, neither is taken, unless one is the convention.
    """
    order = sorted(
        (edits for edits, pairs in guesses.items() if len(pairs) > 1),
        key=lambda edits: (
            -len(guesses[edits]),
            len(edits),
            -_conventional(edits),
            -_mean(support, edits),
        ),
    )
    users: dict[int, list[tuple[Edit, ...]]] = {}
    for edits in order:
        for old, _ in guesses[edits]:
            users.setdefault(id(old), []).append(edits)
    used = []
    for edits in order:
        pairs = taken.free(guesses[edits])
        if len(pairs) > 1 and not _rivalled(edits, pairs, guesses, users, taken):
            used.append(edits)
            for old, new in pairs:
                taken.take(old, new, edits, any_shape=False)
    return used


def _rivalled(
    edits: tuple[Edit, ...],
    pairs: Sequence[tuple[_Pattern, _Pattern]],
    guesses: Guesses,
    users: Mapping[int, Sequence[tuple[Edit, ...]]],
    taken: _Taken,
) -> bool:
    """Whether other edits, no less simple or usual, explain as many and pair some otherwise."""
    partner = {id(old): new for old, new in pairs}
    rank = (len(edits), -_conventional(edits))
    rivals = {other for old, _ in pairs for other in users[id(old)] if other != edits}
    for other in rivals:
        if len(guesses[other]) < len(pairs) or (len(other), -_conventional(other)) > rank:
            continue
        free = taken.free(guesses[other])
        if len(free) >= len(pairs) and any(partner.get(id(o), n) is not n for o, n in free):
            return True
    return False


def _conventional(edits: Iterable[Edit]) -> int:
    return sum((edit.old, edit.new) in _CONVENTIONS for edit in edits)


def _mean(support: Mapping[Edit, int], edits: tuple[Edit, ...]) -> float:
    return sum(support[edit] for edit in edits) / len(edits)


def _apply_to_all(found: Sequence[tuple[Edit, ...]], taken: _Taken) -> None:
    """Apply rules to patterns that they were not learned from, or whose shapes differ; then what
    they consist of, each alone."""
    alone = dict.fromkeys((edit,) for edits in found for edit in edits if len(edits) > 1)
    for edits in (*found, *alone):
        for old in list(taken.olds.values()):
            parts = _applied(edits, old.parts) if old.names else None
            new = None if parts is None else taken.news.get(parts)
            if new is not None:
                taken.take(old, new, edits, any_shape=edits not in alone)


def _applied(edits: Iterable[Edit], parts: Parts) -> Parts | None:
    """*parts* with every edit done, None where one has nothing to do."""
    for edit in edits:
        old, new = (tuple(t.rstrip(".").split(".")) if t else () for t in (edit.old, edit.new))
        starts = (0,) if edit.prefix else range(len(parts) - len(old) + 1)
        start = next((i for i in starts if parts[i : i + len(old)] == old), None)
        if start is None:
            return None
        parts = parts[:start] + new + parts[start + len(old) :]
    return parts


# -- one pattern alone -----------------------------------------------------------------------------


def _alone(pairs: Iterable[tuple[_Pattern, _Pattern]]) -> list[tuple[_Pattern, _Pattern]]:
    """Of *pairs* that could be the same by their shapes those that no other pair rivals.

    Names alone do not decide between two: Llama's `attention_norm` is like transformers'
    `post_attention_layernorm`, and is its `input_layernorm`.
    """
    possible = [(old, new) for old, new in pairs if old.shared(new)]
    rivals = Counter(id(side) for pair in possible for side in pair)
    return [
        (old, new)
        for old, new in possible
        if rivals[id(old)] == rivals[id(new)] == 1
        and (old.parts[-1] == new.parts[-1] or _likeness(old.parts, new.parts) >= _LIKE)
    ]


def _likeness(old: Parts, new: Parts) -> float:
    return SequenceMatcher(None, ".".join(old), ".".join(new), autojunk=False).ratio()


def _singles(
    guesses: Guesses,
    support: Mapping[Edit, int],
    peers: Iterable[tuple[_Pattern, _Pattern]],
    taken: _Taken,
) -> None:
    """Take single patterns, each by the edits that have most in common with others'."""
    ways: dict[tuple[int, int], tuple[Edit, ...]] = {}
    for edits in sorted(guesses, key=lambda edits: (_mean(support, edits), -len(edits))):
        for old, new in guesses[edits]:
            ways[id(old), id(new)] = edits
    for old, new in _alone(peers):
        way = ways.get((id(old), id(new)))
        if way is not None:
            taken.take(old, new, way, any_shape=False)
