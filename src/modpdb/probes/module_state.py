"""One module as its instance dictionary and its class tell it, with nothing of it run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from modpdb.probes._static import (
    class_name,
    dict_reader,
    instance_dict,
    is_a,
    mro,
    qualified_name,
)
from modpdb.probes._torch import torch_or_none
from modpdb.probes.layers import Own
from modpdb.probes.tree import joined

_HOOKS = {
    "_forward_hooks": "hooked",
    "_forward_pre_hooks": "hooked",
    "_backward_hooks": "hooked",
    "_backward_pre_hooks": "hooked",
    "_state_dict_hooks": "state_dict hooks",
    "_state_dict_pre_hooks": "state_dict hooks",
    "_load_state_dict_pre_hooks": "state_dict hooks",
    "_load_state_dict_post_hooks": "state_dict hooks",
}
_SPECIAL = {
    "torch._dynamo.eval_frame.OptimizedModule": "compiled",
    "torch.jit._script.ScriptModule": "scripted",
}
_QUANTISED = ("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.")


@dataclass(frozen=True, slots=True)
class ModuleClass:
    """What is the same for every module of a class."""

    name: str
    key: str  # tells classes of one name apart
    special: tuple[str, ...]  # compiled, scripted, quantised: its instances look different
    container: bool  # holds modules and has no forward: ModuleList, ModuleDict
    state_of: Callable[[object], dict[str, Any]]  # an instance's own dictionary

    @property
    def scripted(self) -> bool:
        return "scripted" in self.special


def is_module(value: object) -> bool:
    """Whether *value* is an nn.Module, by its real type."""
    torch = torch_or_none()
    return torch is not None and is_a(value, torch.nn.Module)


def is_initialised(module: Any) -> bool:
    """Whether `nn.Module.__init__` has run, which a module's call takes for granted."""
    state = instance_dict(module)
    return "_parameters" in state or "_c" in state


def uncompiled(module: Any) -> Any:
    """What torch.compile was given where it made *module*, else *module* itself."""
    if qualified_name(type(module)) not in _SPECIAL:
        return module
    return dict(entries(instance_dict(module), "_modules")).get("_orig_mod", module)


def entries(state: dict[str, Any], registry: str) -> Sequence[tuple[str, Any]]:
    """What is registered in `_parameters`, `_buffers` or `_modules` of a module's dict."""
    registered: Any = state.get(registry)
    if type(registered) is dict and not registered:
        return ()
    if issubclass(type(registered), dict):
        return [item for item in dict.items(registered) if type(item[0]) is str]
    if class_name(type(registered)) in ("OrderedDictWrapper", "OrderedModuleDict"):
        return list(registered.items())  # TorchScript's view of a C++ module
    return ()


def named_modules(root: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, module) of *root* and all below it, parents first, under every name they have.

    A module inside itself is not entered again.
    """
    stack = [(prefix, root, frozenset({id(root)}))]
    while stack:
        path, module, above = stack.pop()
        yield path, module
        stack.extend(
            (joined(path, name), child, above | {id(child)})
            for name, child in reversed(entries(instance_dict(module), "_modules"))
            if is_module(child) and id(child) not in above
        )


def describe_class(torch: Any, cls: type) -> ModuleClass:
    key = qualified_name(cls)
    bases = {qualified_name(base) for base in mro(cls)}
    special = [word for base, word in _SPECIAL.items() if base in bases]
    if key.startswith(_QUANTISED):
        special.append("quantised")
    return ModuleClass(
        name=class_name(cls),
        key=key,
        special=tuple(special),
        container=cls in (torch.nn.ModuleList, torch.nn.ModuleDict),
        state_of=dict_reader(cls),
    )


def scripted_class(cls: ModuleClass, state: dict[str, Any]) -> ModuleClass:
    """TorchScript's one class for all modules, under the name of the class it was made from."""
    script = state.get("_c")
    if script is None:
        return cls
    kind = script._type()
    return replace(cls, name=kind.name(), key=kind.qualified_name())


def training(state: dict[str, Any]) -> bool | None:
    """The training flag; None before `super().__init__()`."""
    mode = state.get("training")
    if type(mode) is bool:
        return mode
    script = state.get("_c")
    inner = dict(entries(state, "_modules")).get("_orig_mod")
    if inner is not None:  # an OptimizedModule has its module's
        mode = instance_dict(inner).get("training")
    elif script is not None and script.hasattr("training"):
        mode = script.getattr("training")
    return mode if type(mode) is bool else None


def flags(cls: ModuleClass, state: dict[str, Any], own: Sequence[Own]) -> tuple[str, ...]:
    """In what a module differs from one that has just been made and only holds its tensors."""
    children = state.get("_modules")
    names = children if type(children) is dict else ()
    found: list[str] = []
    if cls.special:
        found += cls.special
    elif "_parameters" not in state:
        found.append("before super().__init__()")
    elif "forward" in state:
        found.append("forward replaced")
    if state.get("_compiled_call_impl") is not None:
        found.append("compiled")
    if "_packed_params" in state or "_packed_params" in names:
        found.append("packed weights")
    if "parametrizations" in names:
        found.append("parametrized")
    for hooks, word in _HOOKS.items():
        registered = state.get(hooks)
        if type(registered) in (OrderedDict, dict) and registered:
            found.append(word)
    for tensor in own:
        if tensor.plain:
            found.append("plain tensors")
        if tensor.facts.unsized:
            found.append(tensor.facts.unsized)
        if tensor.facts.local_shape is not None:
            found.append("sharded")
    return tuple(dict.fromkeys(found))
