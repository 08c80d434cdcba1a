"""How one tensor is made of another, in words."""

from __future__ import annotations

from collections.abc import Sequence

from modpdb.probes.relations import Cast, Relation


def relation_words(relation: Relation) -> str:
    """What was done beside a cast: `+ 1`, `rope: rows permuted within 4 heads`; "" for nothing."""
    if relation.kind == "rope":
        done = relation.words.replace(" per head, as RoPE's pairs", "")
        return f"rope: {done} within {heads_words(relation.heads)}"
    if relation.parts:
        each = list(dict.fromkeys(relation_words(part) for part in relation.parts))
        if each != [""]:
            return f"{relation.words}: {', '.join(word or 'copied' for word in each)}"
    return relation.words


def heads_words(heads: Sequence[int]) -> str:
    return f"{' or '.join(map(str, heads))} {'head' if tuple(heads) == (1,) else 'heads'}"


def cast_words(cast: Cast, rounded: int | None = None) -> str:
    """`cast bf16 → f16, lossless`, or what it changed; *rounded* values, where several are told
    of together."""
    rounded = cast.rounded if rounded is None else rounded
    word = "quantised" if cast.quantised else "cast"
    words = f"{word} {cast.before} → {cast.after}"
    if not rounded:
        return f"{words}, lossless"
    most = f", max {cast.most:.2g}" if cast.most else ""
    overflow = f", {cast.overflow:,} overflow" if cast.overflow else ""
    return f"{words}{'' if cast.quantised else f', {rounded:,} rounded'}{most}{overflow}"
