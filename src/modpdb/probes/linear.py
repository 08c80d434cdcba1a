"""A linear layer's way from the attribute down to the kernels, as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from modpdb.probes._static import class_name
from modpdb.probes._torch import torch_or_none
from modpdb.probes.builtins import (
    Builtin,
    CppSource,
    Kernel,
    Source,
    kernels,
    linear_builtin,
    linear_cpp,
)
from modpdb.probes.hooks import Hook, call_hooks
from modpdb.probes.linear_branch import (
    Branch,
    Call,
    TensorFacts,
    branch,
    kinds_of_input,
    surroundings,
    tensor_facts,
)
from modpdb.probes.linear_layer import (
    Operand,
    child,
    class_names,
    features,
    forward_of,
    held_in,
    kind_of,
    operand,
    registered,
)
from modpdb.probes.module_state import named_modules

# What fits on the screen: larger matrices are shown by their shapes only.
_SHOWN_COLUMNS = 8
_SHOWN_ROWS = 8

Number = int | float | bool | complex
Matrix = tuple[tuple[Number, ...], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A name in y = x Wᵀ + b with its shape; "…" stands for what no input has fixed."""

    name: str
    shape: tuple[int | str, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """The numbers of y = x Wᵀ + b, the input's leading dimensions flattened to rows.

    product and y were computed by Python from the values, in its float64.
    """

    x: Matrix
    weight_t: Matrix
    product: Matrix
    bias: tuple[Number, ...] | None
    y: Matrix


@dataclass(frozen=True, slots=True)
class Native:
    """The way from the dispatcher on. branch is set with an input, branches without one.

    operator: "aten::linear", or that of a quantised layer, for which cpp is None.
    """

    operator: str
    cpp: CppSource | None
    kernels: tuple[Kernel, ...]
    branch: Branch | None
    branches: tuple[tuple[str, Branch], ...]


@dataclass(frozen=True, slots=True)
class LinearPath:
    """The whole way of one layer.

    held_in: "_modules['q_proj'] of Gemma3Attention", "" if unknown. kind: see `kind_of`.
    forward_is: see `forward_of`. x: the input's properties, None without one.
    """

    path: str
    held_in: str
    kind: str
    classes: tuple[str, ...]
    in_features: int | None
    out_features: int | None
    weight: Operand
    bias: Operand
    hooks: tuple[Hook, ...]
    forward: Source
    forward_is: str
    builtin: Builtin
    native: Native
    x: TensorFacts | None
    steps: tuple[Step, ...]
    arithmetic: Arithmetic | None

    @property
    def fast_path(self) -> bool:
        """Whether _call_impl goes straight to `forward`, as it does without hooks."""
        return not self.hooks


@dataclass(frozen=True, slots=True)
class LinearRow:
    """One linear among others. shared_with: the path under which it was met first, or ""."""

    path: str
    kind: str
    class_name: str
    in_features: int | None
    out_features: int | None
    bias: bool
    dtype: str
    hooked: bool = False
    shared_with: str = ""


def linear_path(layer: Any, path: str = "", x: Any = None, owner: Any = None) -> LinearPath:
    """The way of `layer(x)`; nothing of it is run.

    path: how the frame reaches the layer, as it is to be shown. x: a tensor [..., in] or None.
    owner: the module that holds the layer, if known; which of its dicts does is then looked up.
    Raises TypeError for a layer that is no linear, or an x that is no tensor.
    """
    torch = torch_or_none()
    kind = kind_of(layer)
    if kind is None:
        raise TypeError(f"{class_name(type(layer))} is no linear layer")
    if x is not None and not isinstance(x, torch.Tensor):
        raise TypeError(f"the input is a {class_name(type(x))}, no tensor")
    holder = held_in(owner, layer)
    inner = child(layer, "_orig_mod") if kind == "compiled" else layer
    weight, bias = operand(inner, "weight"), operand(inner, "bias")
    outs, ins = features(inner, weight)
    facts = None if x is None else tensor_facts(x)
    forward, forward_is = forward_of(layer)
    native = _native(kind, weight, bias, facts)
    refused = native.branch is not None and native.branch.certainty == "refused"
    return LinearPath(
        path=path,
        held_in=f"{holder} of {class_name(type(owner))}" if holder else "",
        kind=kind,
        classes=class_names(layer),
        in_features=ins,
        out_features=outs,
        weight=weight,
        bias=bias,
        hooks=(*call_hooks(layer), *(call_hooks(inner) if inner is not layer else ())),
        forward=forward,
        forward_is=forward_is,
        builtin=linear_builtin(),
        native=native,
        x=facts,
        steps=_steps(facts, outs, ins, bias, packed=weight.place == "method", fits=not refused),
        arithmetic=None if x is None or refused else _arithmetic(inner, x),
    )


def _native(kind: str, weight: Operand, bias: Operand, x: TensorFacts | None) -> Native:
    device = next((each.device_type for each in (weight.tensor, x) if each is not None), "cpu")
    if kind.endswith("quantised"):
        operator = "quantized::linear_dynamic" if kind.startswith("dyn") else "quantized::linear"
        own = Branch("not known", f"{operator} has kernels of its own")
        return Native(operator, None, kernels(operator, device), own, ())
    around = surroundings(device)
    kinds: tuple[tuple[str, Branch], ...] = ()
    if x is None and weight.tensor is not None and kind != "compiled":
        kinds = kinds_of_input(weight.tensor, bias.tensor, around)
    return Native(
        operator="aten::linear",
        cpp=linear_cpp(),
        kernels=kernels("aten::linear", device, autocast=bool(around.autocast)),
        branch=None if x is None else _branch(kind, weight, bias, x),
        branches=kinds,
    )


def predict(layer: Any, x: Any) -> Branch:
    """The branch of at::native::linear that `layer(x)` takes within F.linear; nothing is run."""
    kind = kind_of(layer) or class_name(type(layer))
    return _branch(kind, operand(layer, "weight"), operand(layer, "bias"), tensor_facts(x))


def _branch(kind: str, weight: Operand, bias: Operand, x: TensorFacts) -> Branch:
    if kind == "compiled":
        return Branch("not known", "torch.compile may fuse or replace the operators")
    if weight.tensor is None:
        return Branch("not known", f"weight: {weight.note or weight.place}")
    if bias.tensor is None and bias.place != "none":
        return Branch("not known", f"bias: {bias.note or bias.place}")
    return branch(Call(x, weight.tensor, bias.tensor, surroundings(x.device_type)))


def _steps(
    x: TensorFacts | None,
    outs: int | None,
    ins: int | None,
    bias: Operand,
    packed: bool,
    fits: bool,
) -> tuple[Step, ...]:
    """The shapes of y = x Wᵀ + b in order; they end where x does not fit."""
    out, into = "?" if outs is None else outs, "?" if ins is None else ins
    batch: tuple[int | str, ...] = ("…",) if x is None else x.shape[:-1]
    steps = [
        Step("x", (*batch, into) if x is None else x.shape),
        Step("W", (out, into), "packed" if packed else "stored as [out, in]"),
        Step("Wᵀ", (into, out), "" if packed else "a view, no copy"),
    ]
    if not fits or (x is not None and (not x.shape or x.shape[-1] != into)):
        return tuple(steps)
    steps.append(Step("x Wᵀ", (*batch, out)))
    if bias.place != "none":
        shape = (out,) if bias.tensor is None else bias.tensor.shape
        steps.append(Step("b", shape, "broadcast over the rows"))
    steps.append(Step("y", (*batch, out)))
    return tuple(steps)


def _arithmetic(layer: Any, x: Any) -> Arithmetic | None:
    """The numbers, if all of them are stored and few enough to look at."""
    parameters = registered(layer, "_parameters")
    weight, bias = (parameters.get(name) for name in ("weight", "bias"))
    if weight is None or operand(layer, "weight").place == "property":
        return None
    if not all(_readable(each) for each in (x, weight, bias) if each is not None):
        return None
    rows = math.prod(x.shape[:-1])
    fits = x.dim() > 0 and weight.dim() == 2 and x.shape[-1] == weight.shape[1]
    fits = fits and 0 < rows <= _SHOWN_ROWS and 0 < max(weight.shape) <= _SHOWN_COLUMNS
    if not fits or (bias is not None and tuple(bias.shape) != (weight.shape[0],)):
        return None
    numbers = _rows(x.detach().tolist(), x.dim())
    stored = weight.detach().tolist()
    product = tuple(
        tuple(sum(a * b for a, b in zip(row, column, strict=True)) for column in stored)
        for row in numbers
    )
    offsets = None if bias is None else tuple(bias.detach().tolist())
    y = product
    if offsets is not None:
        y = tuple(tuple(a + b for a, b in zip(row, offsets, strict=True)) for row in product)
    return Arithmetic(numbers, tuple(zip(*stored, strict=True)), product, offsets, y)


def _readable(tensor: Any) -> bool:
    """Whether tolist() gives the values, and nothing of the user's sees that they are read."""
    torch = torch_or_none()
    if torch.nn.parameter.is_lazy(tensor):
        return False
    facts = tensor_facts(tensor)
    plain = facts.layout == "strided" and facts.device_type != "meta" and not facts.subclass
    return plain and not tensor.is_quantized and not surroundings(facts.device_type).intercepted


def _rows(values: Any, depth: int) -> Matrix:
    """Nested lists flattened to rows; a 1-D input is one row."""
    if depth == 1:
        return (tuple(values),)
    for _ in range(depth - 2):
        values = [row for block in values for row in block]
    return tuple(tuple(row) for row in values)


def linears(root: Any, prefix: str = "") -> list[LinearRow]:
    """Every linear below *root* (itself included), in the order of named_modules().

    A layer reachable under several names is listed under each, with the first one's.
    """
    met: dict[int, str] = {}
    rows = []
    for path, module in named_modules(root, prefix):
        kind = kind_of(module)
        if kind is None or kind == "compiled":  # its inner layer comes next
            continue
        rows.append(_row(path, kind, module, met.get(id(module), "")))
        met.setdefault(id(module), path)
    return rows


def _row(path: str, kind: str, module: Any, shared_with: str) -> LinearRow:
    weight, bias = operand(module, "weight"), operand(module, "bias")
    outs, ins = features(module, weight)
    return LinearRow(
        path=path,
        kind=kind,
        class_name=class_name(type(module)),
        in_features=ins,
        out_features=outs,
        bias=bias.place not in ("none", "missing"),
        dtype=weight.tensor.dtype if weight.tensor else "",
        hooked=any(not hook.everywhere for hook in call_hooks(module)),
        shared_with=shared_with,
    )
