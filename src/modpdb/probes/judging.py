"""Whether a tensor was written as its architecture needs it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from modpdb.probes.relations import Relation
from modpdb.probes.row_orders import RowOrder

Verdict = Literal["ok", "WRONG", "unjudged"]
What = Literal["copy", "rope", "plus", "function", "unknown"]

_CHANGES = frozenset({"transposed", "permuted", "rope", "plus", "times", "negated exp"})
_NUMBER = re.compile(r"number ([\d,]+) of the ([\d,]+)")


@dataclass(frozen=True, slots=True)
class Need:
    """What must be done to a tensor of the checkpoint.

    *words* say it shortly, or, of "unknown", why it is not known; *why* it is needed; *source*
    where the facts are from, with version; *subject* what needs it: `q of llama`.

    "rope": rows in another *order*, *heads* where that is RoPE's within whole heads, *back* from
    pairs to halves. *unrotated*: nothing rotates the rows, so that any order will do in which q's
    and k's are alike. "plus": *constant* added. "function": the relation of kind *function*.
    "copy": *experts* are the numbers of those that are stacked, in the order of the sources;
    *reshaped* where the shape may differ.
    """

    what: What
    words: str
    heads: int | None = None
    constant: float | None = None
    source: str = ""
    subject: str = ""
    why: str = ""
    function: str = ""
    back: bool = False
    experts: tuple[int, ...] = ()
    reshaped: bool = False
    unrotated: bool = False
    order: RowOrder | None = None


def judge(need: Need, *relations: Relation) -> tuple[Verdict, str]:
    """Whether one of *relations*, all of which hold, is what is needed; and what, or why not.

    The first relation, the simplest, is the one that a reason speaks of. Without any, or where the
    need is not known, or where one holds no closer than rounding, it is unjudged.
    """
    if need.what == "unknown":
        return "unjudged", need.words
    if not relations:
        return "unjudged", f"how it was made is not known; {_needs(need)}"
    judged = [_judge(need, relation) for relation in relations]
    return next((each for each in judged if each[0] == "ok"), judged[0])


def _judge(need: Need, relation: Relation) -> tuple[Verdict, str]:
    verdict, reason = _RULES[need.what](need, relation)
    if verdict == "ok" and not relation.exact:
        return "unjudged", f"{reason}; no closer than rounding"
    return verdict, reason


def _copy(need: Need, relation: Relation) -> tuple[Verdict, str]:
    if relation.kind == "identical" or (relation.kind == "reshaped" and need.reshaped):
        return "ok", need.words
    if relation.kind == "stacked":
        return _stacked(need, relation)
    if relation.kind == "reshaped" and relation.words == "reshaped":  # not by dimensions of 1
        return "WRONG", f"{_needs(need)}; it was reshaped"
    if relation.kind == "slice":
        return "unjudged", f"it is {relation.words}: whether those are the right ones is not known"
    if relation.kind == "rope" and need.unrotated:
        words = "its rows were permuted, which is right if both q's and k's were alike"
        return "unjudged", f"{words}: {need.why}"
    if relation.kind == "times":
        # A factor of the model's may be folded in where llama.cpp's graph leaves it out.
        return "unjudged", f"it was multiplied, {relation.words}; {_needs(need)}"
    return _otherwise(need, relation)


def _stacked(need: Need, relation: Relation) -> tuple[Verdict, str]:
    found = _NUMBER.search(relation.words)
    if found and len(need.experts) == 1:
        place, expert = int(found[1].replace(",", "")), need.experts[0]
        if place == expert:
            return "ok", need.words
        return "WRONG", f"expert {expert} stands at number {place} of the stacked"
    if len(need.experts) < 2:
        return "unjudged", f"it is {relation.words or 'stacked'}: whether at its place is not known"
    if list(need.experts) == list(range(len(need.experts))):
        return "ok", need.words
    order = ", ".join(map(str, need.experts))
    return "WRONG", f"experts are stacked in the order {order}; llama.cpp takes them by number"


def _rope(need: Need, relation: Relation) -> tuple[Verdict, str]:
    if relation.order is not None and relation.order == need.order:
        return "ok", need.words
    if relation.kind == "rope" and need.heads is not None:
        back = "back" in relation.words  # as relations.py says it
        if back == need.back and need.heads in relation.heads:
            return "ok", need.words
        if back == need.back:
            heads = " or ".join(f"{each:,}" for each in relation.heads)
            return "WRONG", f"{_needs(need)}; it was permuted within {heads} heads"
        return "WRONG", f"{_needs(need)}; it was permuted the other way"
    if relation.kind == "identical" and need.unrotated:
        return "unjudged", f"it was copied, which is right if both q and k were: {need.why}"
    return _otherwise(need, relation)


def _plus(need: Need, relation: Relation) -> tuple[Verdict, str]:
    if relation.kind == "plus" and relation.constant == need.constant:
        return "ok", need.words
    return _otherwise(need, relation)


def _function(need: Need, relation: Relation) -> tuple[Verdict, str]:
    if relation.kind == need.function:
        return "ok", need.words
    return _otherwise(need, relation)


def _otherwise(need: Need, relation: Relation) -> tuple[Verdict, str]:
    """Of a relation that is not the needed one: of a part or of a shape alone it does not tell
    what has become of the values."""
    if relation.kind == "identical":
        return "WRONG", f"{_needs(need)}; it was copied"
    verdict: Verdict = "WRONG" if relation.kind in _CHANGES else "unjudged"
    return verdict, f"{_needs(need)}; what was done is {relation.words or relation.kind}"


def _needs(need: Need) -> str:
    why = f" ({need.why})" if need.why and need.what in ("plus", "function") else ""
    return f"{need.subject or 'it'} needs {need.words}{why}"


_RULES = {"copy": _copy, "rope": _rope, "plus": _plus, "function": _function}
