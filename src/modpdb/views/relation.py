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
    computed = relation.computed
    return f"{relation.words} in {computed}" if computed not in ("", "f32") else relation.words


def heads_words(heads: Sequence[int]) -> str:
    return f"{' or '.join(map(str, heads))} {'head' if tuple(heads) == (1,) else 'heads'}"


def cast_words(cast: Cast) -> str:
    """`cast bf16 → f16, lossless`, or what it changed."""
    word = "quantised" if cast.quantised else "cast"
    return f"{word} {cast.before} → {cast.after}, {cast_effect(cast)}"


def cast_effect(cast: Cast) -> str:
    """`lossless`, or how many values it changed and how much."""
    if not cast.rounded:
        return "lossless"
    most = f"{cast.most:.2g}"
    if cast.quantised:
        return f"off by up to {most}"
    overflow = f", {cast.overflow:,} overflow" if cast.overflow else ""
    return f"{cast.rounded:,} rounded{f', max {most}' if cast.most else ''}{overflow}"
