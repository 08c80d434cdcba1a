"""Shapes of written tensors against those that the loader asks for."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from modpdb.probes.coverage_findings import Finding
from modpdb.probes.loader_facts import ANY_SHAPE, Expressions, TensorRow

Rows = list[tuple[TensorRow, int | None]]
"""Those that ask for a tensor, each with the block that it is in, None for none."""


def needed_shape(
    row: TensorRow, block: int | None, expressions: Expressions
) -> tuple[int, ...] | None:
    shape = tuple(expressions.value(each, block) for each in row.shape)
    return shape if all(type(each) is int for each in shape) else None


def wrong_shapes(
    expressions: Expressions,
    asked: Mapping[str, Rows],
    uncertain: Collection[str],
    tensors: Mapping[str, tuple[int, ...] | None],
) -> tuple[list[Finding], list[Finding]]:
    """Tensors that have another shape than any row asks for, and those of which that is not known,
    as of the *uncertain*, of which it is not known which rows ask for them."""
    wrong: list[Finding] = []
    unknown: list[Finding] = []
    for name, ne in tensors.items():
        rows = asked.get(name)
        if ne is None or not rows:
            continue
        shapes = [needed_shape(row, block, expressions) for row, block in rows]
        if any(
            needed is not None and _fits(ne, needed, _needed_flags(row, block, expressions))
            for needed, (row, block) in zip(shapes, rows, strict=True)
        ):
            continue
        row, block = rows[0]
        differ = name not in uncertain and all(_differs(ne, *each, expressions) for each in rows)
        if not differ:
            text = " × ".join(row.shape)
            unknown.append(Finding("doubtful", name, "whether the shape is right", ne, remark=text))
            continue
        words = _why_not(ne, row, block, expressions)
        wrong.append(Finding("shape", name, words, ne, shapes[0]))
    return wrong, unknown


def _differs(
    ne: tuple[int, ...], row: TensorRow, block: int | None, expressions: Expressions
) -> bool:
    """A dimension that is known is not as needed, whatever the others are."""
    return len(_without_ones(ne)) > len(row.shape) or bool(
        _wrong_sizes(ne, row, block, expressions)
    )


def _wrong_sizes(
    ne: tuple[int, ...], row: TensorRow, block: int | None, expressions: Expressions
) -> list[tuple[str, int]]:
    """The expressions of the dimensions that are not as needed, with what is needed."""
    padded = [*ne, *[1] * (len(row.shape) - len(ne))]
    values = [expressions.value(each, block) for each in row.shape]
    return [
        (text, value)
        for text, value, size in zip(row.shape, values, padded, strict=False)
        if type(value) is int and value != size
    ]


def _why_not(
    ne: tuple[int, ...], row: TensorRow, block: int | None, expressions: Expressions
) -> str:
    """`embedding_length is 4096`: what the sizes that are not as needed are worked out from."""
    said: dict[str, None] = {}
    for text, value in _wrong_sizes(ne, row, block, expressions):
        keys = [expressions.said(key) for key in expressions.mentioned(text, block)]
        said[" and ".join(keys) or f"{text} is {value}"] = None
    return "; ".join(said) or f"{len(row.shape)} dimensions are needed"


def _needed_flags(row: TensorRow, block: int | None, expressions: Expressions) -> bool:
    flags = expressions.value(row.flags, block)
    return type(flags) is int and bool(flags & ANY_SHAPE)


def _fits(ne: tuple[int, ...], needed: tuple[int, ...], any_shape: bool) -> bool:
    if any_shape:
        return math.prod(ne) == math.prod(needed)
    return _without_ones(ne) == _without_ones(needed)


def _without_ones(ne: tuple[int, ...]) -> tuple[int, ...]:
    """Dimensions beyond the last are ones to ggml."""
    end = len(ne)
    while end and ne[end - 1] == 1:
        end -= 1
    return ne[:end]
