"""What a value is in a few words, with no code of its own run: not even its repr."""

from __future__ import annotations

from collections import OrderedDict, deque
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from modpdb.probes._static import class_name, is_a
from modpdb.probes._torch import torch_or_none
from modpdb.probes.module_state import is_module
from modpdb.probes.values import one_line

LIMIT = 60  # characters

# Exact classes whose values say all, and those that torch and Python describe by their own means.
_PLAIN = tuple(map(id, (bool, int, float, complex, str, bytes, type(None))))
_CODE = (type, BuiltinFunctionType, MethodType, ModuleType)
_SIZED: tuple[Any, ...] = (list, tuple, OrderedDict, dict, set, frozenset, deque)


def briefly(value: Any) -> str:
    """`Parameter [8, 4] f32`, `Linear 40 parameters`, `0.5`, `list of 3`, `a Cache`."""
    if id(type(value)) in _PLAIN or is_tensor(value) or is_module(value):
        return one_line(value, LIMIT)
    if is_a(value, FunctionType):
        return f"function {value.__qualname__}"
    if any(is_a(value, kind) for kind in _CODE):
        return one_line(value, LIMIT)
    for kind in _SIZED:
        if is_a(value, kind):
            length = kind.__len__(value)
            return f"{class_name(type(value))} of {length:,}" if length else _empty(value)
    name = class_name(type(value))
    return f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}"


def is_tensor(value: object) -> bool:
    """isinstance(value, torch.Tensor), by its real type."""
    torch = torch_or_none()
    return torch is not None and is_a(value, torch.Tensor)


def _empty(value: object) -> str:
    written = {id(list): "[]", id(tuple): "()", id(dict): "{}"}
    return written.get(id(type(value)), f"empty {class_name(type(value))}")
