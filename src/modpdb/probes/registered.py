"""Parameters and buffers one by one, under every name they have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from modpdb.probes._static import instance_dict, is_a
from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.initialisation import Fans, Initialisation, fans, initialisation
from modpdb.probes.module_state import entries
from modpdb.probes.tensors import (
    NoStatistics,
    Statistics,
    TensorFacts,
    TensorReader,
    is_parameter,
    statistics,
)
from modpdb.probes.tree import joined

Kind = Literal["parameters", "buffers"]

NONE = "None"  # the note of a name that is registered and holds nothing


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One name of one tensor; *facts* is None where None is registered or nothing is known."""

    name: str
    facts: TensorFacts | None
    tied: tuple[str, ...] = ()  # the tensor's other names
    notes: tuple[str, ...] = ()
    statistics: Statistics | None = None
    initialisation: Initialisation | None = None  # of a parameter that has statistics
    no_statistics: str = ""  # why, where they were asked for and there are none
    file: str = ""  # of a checkpoint's tensor
    frozen: bool = False  # a parameter that requires no gradient


def parameters(
    root: Any,
    kind: Kind = "parameters",
    *,
    prefix: str = "",
    stats: bool = False,
    wanted: Callable[[str], bool] = lambda name: True,
) -> list[TensorRow]:
    """Every parameter or buffer of *root*, as `state_dict()` names them: tied ones repeatedly.

    Entries registered as None, non-persistent buffers and the packed weights of quantised
    layers are there as well, with a note. With *stats* the data is read, each tensor once.
    *wanted* chooses by name.
    """
    torch = torch_or_none()
    reader = TensorReader(torch)
    with undisturbed(torch):
        found = list(_registered(torch, root, prefix, f"_{kind}"))
        names: dict[int, list[str]] = {}
        for name, value, _ in found:
            if reader.is_tensor(value):
                names.setdefault(id(value), []).append(name)
        found = [entry for entry in found if wanted(entry[0])]
        rows = [_row(torch, reader, names, *entry) for entry in found]
    return _with_statistics(found, rows) if stats else rows


def named_tensors(root: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every parameter and buffer of *root* itself, by each of its names."""
    torch = torch_or_none()
    reader = TensorReader(torch)
    for registry in ("_parameters", "_buffers"):
        for name, value, _ in _registered(torch, root, prefix, registry):
            if reader.is_tensor(value):
                yield name, value


def _registered(
    torch: Any, root: Any, prefix: str, registry: str
) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Full name, what is registered under it, and the state of the module that holds it."""
    stack = [(prefix, root, frozenset({id(root)}))]
    while stack:
        path, module, above = stack.pop()
        state = instance_dict(module)
        for name, value in entries(state, registry):
            yield joined(path, name), value, state
        if registry == "_parameters" and "_packed_params" in state:
            yield joined(path, "_packed_params"), _PACKED, state
        stack.extend(
            (joined(path, name), child, above | {id(child)})
            for name, child in reversed(entries(state, "_modules"))
            if is_a(child, torch.nn.Module) and id(child) not in above
        )


_PACKED = object()  # weights that a quantised layer keeps outside of its parameters


def _row(
    torch: Any,
    reader: TensorReader,
    names: dict[int, list[str]],
    name: str,
    value: Any,
    state: dict[str, Any],
) -> TensorRow:
    if value is _PACKED:
        return TensorRow(name, None, notes=("packed weights of a quantised layer",))
    if not reader.is_tensor(value):
        return TensorRow(name, None, notes=(NONE if value is None else "no tensor",))
    tied = tuple(other for other in dict.fromkeys(names[id(value)]) if other != name)
    facts = reader.facts(value)
    frozen = is_parameter(value, torch.nn.Parameter) and not facts.requires_grad
    return TensorRow(name, facts, tied, tuple(_notes(torch, name, value, state)), frozen=frozen)


def _notes(torch: Any, name: str, tensor: Any, state: dict[str, Any]) -> Iterator[str]:
    own_name = name.rpartition(".")[2]
    transient = state.get("_non_persistent_buffers_set")
    buffers = state.get("_buffers")
    if type(buffers) is dict and own_name in buffers:
        if type(transient) is set and own_name in transient:
            yield "not in state_dict"
    elif not is_parameter(tensor, torch.nn.Parameter):
        yield "plain tensor"  # torch.func.functional_call puts one there while it runs


def _with_statistics(
    found: list[tuple[str, Any, dict[str, Any]]], rows: list[TensorRow]
) -> list[TensorRow]:
    known: dict[int, TensorRow] = {}
    full = []
    for (_, tensor, state), row in zip(found, rows, strict=True):
        if row.facts is None:
            full.append(row)
            continue
        if id(tensor) not in known:
            known[id(tensor)] = _described(row, tensor, state)
        read = known[id(tensor)]
        full.append(
            replace(
                row,
                statistics=read.statistics,
                no_statistics=read.no_statistics,
                initialisation=read.initialisation,
            )
        )
    return full


def _described(row: TensorRow, tensor: Any, state: dict[str, Any]) -> TensorRow:
    try:
        read = statistics(tensor)
    except NoStatistics as reason:
        return replace(row, no_statistics=str(reason))
    guess = None
    if row.facts is not None and row.name.rpartition(".")[2] in dict(entries(state, "_parameters")):
        fan = fans(row.facts.shape) or _fans_beside(state)
        guess = initialisation(tensor, read, fan)
    return replace(row, statistics=read, initialisation=guess)


def _fans_beside(state: dict[str, Any]) -> Fans | None:
    """A bias goes by its weight's: nn.Linear's is uniform within 1/√fan_in as well."""
    torch = torch_or_none()
    weight = dict(entries(state, "_parameters")).get("weight")
    if weight is None or not is_a(weight, torch.Tensor):
        return None
    with undisturbed(torch):
        return fans(TensorReader(torch).facts(weight).shape)
