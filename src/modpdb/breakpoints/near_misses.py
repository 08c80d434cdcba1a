"""What was probably meant by the name of a function that is not there."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator

from modpdb.breakpoints.loaded import class_name, definer, loaded_classes, mro, namespace
from modpdb.breakpoints.locations import Spec

_OURSELVES = __name__.partition(".")[0]
_CLOSE = 0.75
_SHOWN = 3
_AS_GOOD = 0.05  # what is this much less alike than the best is not shown beside it

Functions = Iterable[tuple[str, types.CodeType]]


def near_misses(spec: Spec, functions: Functions) -> list[str]:
    """The places most like *spec*, as they would be typed, out of *functions* (module, code)
    and the methods that loaded classes inherit; the best first. None are modpdb's own."""
    if spec.last is None:
        return []
    like = _Likeness(spec.last)
    found: dict[str, list[tuple[str, str]]] = {}
    for module, code in functions:  # a hundred thousand: no more than a look at each
        if like[code.co_name] and module.partition(".")[0] != _OURSELVES:
            found.setdefault(code.co_name, []).append((module, code.co_qualname))
    scored: dict[str, float] = {}
    for last, names in found.items():
        for place, likeness in _places(spec, last, names):
            scored[place] = max(scored.get(place, 0), like[last] + likeness)
    for place, likeness in _inherited(spec):
        scored[place] = max(scored.get(place, 0), likeness)
    scored.pop(str(spec), None)
    return _best(scored)


def nearest_names(wanted: str, names: Iterable[str]) -> list[str]:
    """Those of *names* most like *wanted*, the best first; *wanted* itself is none."""
    return _best({name: score for name, score in _close(wanted, names) if name != wanted})


def _best(scored: dict[str, float]) -> list[str]:
    best = max(scored.values(), default=0)
    good = [place for place, score in scored.items() if score >= best - _AS_GOOD]
    return sorted(good, key=lambda place: (-scored[place], place))[:_SHOWN]


def _places(spec: Spec, last: str, found: list[tuple[str, str]]) -> Iterator[tuple[str, float]]:
    """The functions called *last* whose classes or modules are like those of *spec*."""
    prefix = spec.name.rpartition(".")[0]
    if spec.is_glob:
        # `*.modify_tensor`: the name is what may be mistyped.
        place = Spec(spec.module, f"{prefix}.{last}" if prefix else last)
        if any(place.names(*each) for each in found):
            yield str(place), 1.0
        return
    if not prefix and spec.module is None:
        if any(_is_bare(last, qualname) for _, qualname in found):
            yield last, 1.0
        return
    parts = prefix.count(".") + 1 if prefix else 0
    ways: dict[str, str] = {}
    for module, qualname in found:
        holder = qualname.replace("<locals>.", "").rpartition(".")[0]
        if spec.module is not None:
            ways[f"{module}:{holder}"] = (
                f"{module}:{holder}.{last}" if holder else f"{module}:{last}"
            )
        else:
            tail = ".".join(f"{module}.{holder}".rstrip(".").split(".")[-parts:])
            ways[tail] = f"{tail}.{last}"
    wanted = prefix if spec.module is None else f"{spec.module}:{prefix}"
    for holder, score in _close(wanted, ways):
        yield ways[holder], score


def _is_bare(last: str, qualname: str) -> bool:
    """Whether a bare name finds it: a function, nested in another or not, but no method."""
    return qualname == last or qualname.endswith(f"<locals>.{last}")


def _inherited(spec: Spec) -> Iterator[tuple[str, float]]:
    """Methods of classes named like that of *spec*, their own or inherited."""
    _, _, wanted = spec.name.rpartition(".")[0].rpartition(".")
    if not wanted or spec.is_glob or spec.last is None:
        return
    classes: dict[str, list[type]] = {}
    for cls in loaded_classes():
        classes.setdefault(class_name(cls), []).append(cls)
    for name, score in _close(wanted, classes):
        for cls in classes[name]:
            if definer(cls, spec.last) is not None:
                yield f"{name}.{spec.last}", score + 1
                continue
            attributes = {each for base in mro(cls) for each in namespace(base)}
            for attribute, likeness in _close(spec.last, attributes):
                yield f"{name}.{attribute}", score + likeness


def _close(wanted: str, names: Iterable[str]) -> Iterator[tuple[str, float]]:
    """The *names* like *wanted*, and how much."""
    like = _Likeness(wanted)
    return ((name, like[name]) for name in names if like[name])


class _Likeness(dict[str, float]):
    """How much each name is like *wanted*, worked out when first asked: 1 is equal but for
    case, 0 too little to matter.

    difflib's three ratios in turn, each dearer than the one before and never above it.
    """

    def __init__(self, wanted: str) -> None:
        super().__init__()
        self._size = len(wanted)
        self._letters = frozenset(wanted.lower())
        self._matcher = difflib.SequenceMatcher(autojunk=False)
        self._matcher.set_seq2(wanted.lower())

    def __missing__(self, name: str) -> float:
        self[name] = score = self._score(name)
        return score

    def _score(self, name: str) -> float:
        size = self._size + len(name)
        if 2 * min(self._size, len(name)) < _CLOSE * size or name.startswith("<"):
            return 0
        name = name.lower()
        # What no letter of the name can be matched with.
        lost = len(self._letters.difference(name))
        if 2 * (self._size - lost) < _CLOSE * size:
            return 0
        self._matcher.set_seq1(name)
        if self._matcher.quick_ratio() < _CLOSE:
            return 0
        score = self._matcher.ratio()
        return score if score >= _CLOSE else 0
