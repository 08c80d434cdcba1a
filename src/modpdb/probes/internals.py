"""What `nn.Module.__init__` set up in a module, as it stands now."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Literal

from modpdb.probes._static import class_name, instance_dict, is_a
from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.brief import briefly, is_tensor
from modpdb.probes.hooks import unwrapped
from modpdb.probes.module_state import entries, is_module

REGISTRIES = ("_parameters", "_buffers", "_modules")
# In the order in which __init__ sets them (torch/nn/modules/module.py, 2.13).
ATTRIBUTES = (
    "training",
    "_parameters",
    "_buffers",
    "_non_persistent_buffers_set",
    "_backward_pre_hooks",
    "_backward_hooks",
    "_is_full_backward_hook",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
    "_modules",
)
# The ten of torch.nn.modules.module, in the order in which it defines them.
GLOBALS = (
    "_global_buffer_registration_hooks",
    "_global_module_registration_hooks",
    "_global_parameter_registration_hooks",
    "_global_backward_pre_hooks",
    "_global_backward_hooks",
    "_global_is_full_backward_hook",
    "_global_forward_pre_hooks",
    "_global_forward_hooks",
    "_global_forward_hooks_always_called",
    "_global_forward_hooks_with_kwargs",
)
_SHOWN = 6  # entries that are written out
_CODE = (type, FunctionType, BuiltinFunctionType, MethodType)
_MISSING = object()

Kind = Literal["tensor", "module", "code", "value"]


@dataclass(frozen=True, slots=True)
class Internal:
    """One of them: *value* in a few words; *entries* are how many a container holds, None of what
    is none. *usual*: as `__init__` left it."""

    name: str
    value: str
    usual: bool
    entries: int | None = None
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Further:
    """An attribute of the instance beside those; a tensor or a module there is not registered."""

    name: str
    kind: Kind
    value: str


@dataclass(frozen=True, slots=True)
class Internals:
    """Of one module, and what torch keeps for all modules."""

    class_name: str
    own: tuple[Internal, ...]
    further: tuple[Further, ...]
    shared: tuple[Internal, ...]

    @property
    def initialised(self) -> bool:
        """Whether `super().__init__()` has run."""
        return not all(each.missing for each in self.own)


def internals(module: Any) -> Internals:
    """The attributes that `nn.Module.__init__` sets, others of the instance, and torch's own."""
    state = instance_dict(module)
    with undisturbed(torch_or_none()):
        own = tuple(_internal(name, state) for name in ATTRIBUTES)
        further = tuple(
            Further(name, _kind(value), briefly(value))
            for name, value in state.items()
            if type(name) is str and name not in ATTRIBUTES
        )
        everywhere = vars(sys.modules["torch.nn.modules.module"])
        shared = tuple(_internal(name, everywhere) for name in GLOBALS)
    return Internals(class_name(type(module)), own, further, shared)


def _internal(name: str, state: Mapping[str, Any]) -> Internal:
    value: Any = state.get(name, _MISSING)
    if value is _MISSING:
        return Internal(name, "", usual=False, missing=True)
    if name in REGISTRIES:
        found = entries(dict(state), name)
        return Internal(name, _registered(name, found), not found, len(found))
    for kind in (dict, set):
        if is_a(value, kind):
            length = kind.__len__(value)
            return Internal(name, _held(name, value) if length else "", not length, length)
    usual = value is (True if name == "training" else None)
    return Internal(name, briefly(value), usual)


def _registered(registry: str, found: Any) -> str:
    """`weight [8, 4] f32, bias None`; modules as `q_proj Linear`, numbered ones by class."""
    if registry == "_modules":
        if found and all(name.isdecimal() for name, _ in found):
            counted = Counter(class_name(type(child)) for _, child in found)
            return ", ".join(f"{number:,} × {name}" for name, number in counted.items())
        return _joined([f"{name} {_child(child)}" for name, child in found])
    return _joined([f"{name} {_tensor(value)}" for name, value in found])


def _child(child: Any) -> str:
    return class_name(type(child)) if is_module(child) else briefly(child)


def _tensor(value: Any) -> str:
    """Without the class that the registry's name tells."""
    return briefly(value).removeprefix("Parameter ").removeprefix("Tensor ")


def _held(name: str, value: Any) -> str:
    if is_a(value, set):
        return _joined(sorted(each for each in set.__iter__(value) if type(each) is str))
    if name.endswith(("_with_kwargs", "_always_called")):  # True by the id of each such hook
        return _joined([f"hook {key}" for key in dict.__iter__(value) if type(key) is int])
    return _joined([unwrapped(hook, None, {})[0].name for hook in dict.values(value)])


def _joined(words: list[str]) -> str:
    more = len(words) - _SHOWN
    return ", ".join(words[:_SHOWN] + ([f"{more:,} more"] if more > 0 else []))


def _kind(value: Any) -> Kind:
    if is_tensor(value):
        return "tensor"
    if is_module(value):
        return "module"
    return "code" if any(is_a(value, kind) for kind in _CODE) else "value"
