"""Tensors by name that a frame holds: dicts of them, and safetensors files that are open."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from modpdb.probes._static import instance_dict, is_a
from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.checkpoints import Checkpoint, Shared
from modpdb.probes.safetensors_files import TensorEntry, bytes_of
from modpdb.probes.tensors import TensorReader, short_dtype


def held_checkpoints(variables: Mapping[str, Any]) -> Iterator[Checkpoint]:
    """What *variables*, or the attributes of `self` among them, hold; each tensor's `file` is the
    expression that reaches what holds it."""
    owner = variables.get("self")
    own = {f"self.{name}": value for name, value in instance_dict(owner).items()}
    for name, value in {**variables, **own}.items():
        found = of_dict(name, value) if is_a(value, dict) else _open_file(name, value)
        if found is not None:
            yield found


def of_dict(where: str, held: dict[Any, Any]) -> Checkpoint | None:
    """A dict of nothing but torch tensors and numpy arrays by name, None of another."""
    tensors = []
    storages: dict[int, list[str]] = {}
    torch = torch_or_none()
    reader = TensorReader(torch) if torch is not None else None
    for name, value in dict.items(held):
        if type(name) is not str:
            return None
        if reader is not None and reader.is_tensor(value):
            with undisturbed(torch):
                facts = reader.facts(value)
                storage = _storage(torch, value)
            tensors.append(TensorEntry(name, facts.dtype, facts.shape, facts.nbytes, where))
            if storage:
                storages.setdefault(storage, []).append(name)
        else:
            entry = _array(name, value, where)
            if entry is None:
                return None
            tensors.append(entry)
    if not tensors:
        return None
    shared = [Shared(tuple(names), where) for names in storages.values() if len(names) > 1]
    return Checkpoint("", (), tuple(tensors), shared=tuple(shared))


def _storage(torch: Any, tensor: Any) -> int:
    """Where a plain tensor's storage lies; 0 of one that has none in memory."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return 0
    if tensor.layout is not torch.strided or tensor.device.type == "meta":
        return 0
    return tensor.untyped_storage().data_ptr()


def _array(name: str, value: Any, where: str) -> TensorEntry | None:
    numpy = sys.modules.get("numpy")
    ndarray = getattr(numpy, "ndarray", None)
    if ndarray is None or not is_a(value, ndarray):
        return None
    shape, dtype = ndarray.shape.__get__(value), ndarray.dtype.__get__(value)
    return TensorEntry(name, short_dtype(str(dtype)), shape, ndarray.nbytes.__get__(value), where)


def _open_file(where: str, value: Any) -> Checkpoint | None:
    """What safetensors.safe_open holds open, by the header that it has read."""
    module = sys.modules.get("safetensors")
    if module is None or type(value) is not getattr(module, "safe_open", None):
        return None
    tensors = []
    try:
        for name in value.keys():  # noqa: SIM118 - no mapping
            part = value.get_slice(name)
            shape, dtype = tuple(part.get_shape()), str(part.get_dtype())
            size = bytes_of(dtype, shape)
            tensors.append(TensorEntry(name, short_dtype(dtype), shape, size, where))
    except Exception:  # closed
        return None
    return Checkpoint("", (), tuple(tensors))
