"""A checkpoint tensor as the weight of a linear: no module is at hand, shapes say it all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from modpdb.probes.linear import LinearRow

# Tensors that are looked up by row (ggml_get_rows), not multiplied: GGUF's names, and, before a
# name map is known, what converters' models call such modules.
_TABLES = re.compile(r"(^|[._])(embed\w*|\w*embeddings?|wte|wpe)\.weight$")
_LOOKED_UP = ("token_embd.", "per_layer_token_embd.", "position_embd.", "token_types.")

Role = Literal["linear", "lookup", "stack", "other"]


@dataclass(frozen=True, slots=True)
class GgmlStep:
    """A name in y = x Wᵀ + b with its shape in torch's order and in ggml's (ne, reversed)."""

    name: str
    shape: tuple[int | str, ...]
    ne: tuple[int | str, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointLinear:
    """What becomes of one checkpoint tensor in llama.cpp's terms.

    role: "linear" (2-D, ggml_mul_mat), "lookup" (a table, ggml_get_rows), "stack" (3-D, if
    experts ggml_mul_mat_id) or "other" (norms, biases: not multiplied). Roles are told by shape
    and name. gguf_name: None where the name map has none; observed: it is known from the tensor
    being written, not from the name map. ne: the shape in the GGUF, expected or observed.
    """

    name: str
    file: str
    shape: tuple[int, ...]
    dtype: str
    gguf_name: str | None
    observed: bool
    ne: tuple[int, ...]
    role: Role
    steps: tuple[GgmlStep, ...]

    @property
    def reversed_only(self) -> bool:
        """Whether ne is the checkpoint's shape reversed, and nothing else happened to it."""
        return self.ne == self.shape[::-1]


def checkpoint_linear_path(
    name: str,
    shape: Sequence[int],
    dtype: str,
    file: str,
    gguf_name: str | None = None,
    ggml_shape: Sequence[int] | None = None,
    bias: Sequence[int] | None = None,
    *,
    observed: bool = False,
) -> CheckpointLinear:
    """The way of a checkpoint tensor `name` of `shape` (torch's order) found in `file`.

    ggml_shape: ne, as in the GGUF; without it the shape reversed. bias: the shape of the bias
    that goes with it, if the checkpoint has one. observed: gguf_name and ggml_shape come from
    the converter's own add_tensor, not from the name map.
    """
    stored = tuple(int(size) for size in shape)
    ne = stored[::-1] if ggml_shape is None else tuple(int(size) for size in ggml_shape)
    role = _role(name, stored, gguf_name)
    return CheckpointLinear(
        name=name,
        file=file,
        shape=stored,
        dtype=dtype,
        gguf_name=gguf_name,
        observed=observed,
        ne=ne,
        role=role,
        steps=_steps(stored, bias) if role == "linear" else (),
    )


def _role(name: str, shape: tuple[int, ...], gguf_name: str | None) -> Role:
    if len(shape) == 2:
        if gguf_name is None:
            return "lookup" if _TABLES.search(name) else "linear"
        looked_up = gguf_name.startswith(_LOOKED_UP)
        return "lookup" if looked_up else "linear"
    return "stack" if len(shape) == 3 else "other"


def _steps(shape: tuple[int, ...], bias: Sequence[int] | None) -> tuple[GgmlStep, ...]:
    out, into = shape
    steps = [
        GgmlStep("x", ("…", into), (into, "…")),
        GgmlStep("W", (out, into), (into, out), "the same memory, named in reverse"),
        GgmlStep("x Wᵀ", ("…", out), (out, "…"), "ggml_mul_mat(W, x)"),
    ]
    if bias is not None:
        sizes = tuple(int(size) for size in bias)
        steps.append(GgmlStep("b", sizes, sizes[::-1], "ggml_add, repeated over the rows"))
    steps.append(GgmlStep("y", ("…", out), (out, "…")))
    return tuple(steps)


def linear_rows(tensors: Iterable[CheckpointLinear]) -> list[LinearRow]:
    """The checkpoint's matrices that are multiplied with, as rows of `linear-path`."""
    return [
        LinearRow(
            path=each.name.removesuffix(".weight"),
            kind="Linear",
            class_name="",
            in_features=each.shape[1],
            out_features=each.shape[0],
            bias=any(step.name == "b" for step in each.steps),
            dtype=each.dtype,
        )
        for each in tensors
        if each.role == "linear"
    ]
