"""Hooks of modules and of their tensors, in the order in which they run.

That order is `Module._call_impl`'s, `state_dict`'s and `_load_from_state_dict`'s in
torch/nn/modules/module.py (2.13): within a kind the hooks for all modules come first, then the
module's own as they stand in its dict, where `prepend=True` has put one at the front.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

from modpdb.collector import collector_paused
from modpdb.probes._static import class_attribute, class_name, instance_dict, is_a, qualified_name
from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.builtins import Source, source_of, undecorated
from modpdb.probes.module_state import (
    ModuleClass,
    describe_class,
    entries,
    is_module,
    named_modules,
)
from modpdb.probes.tensors import TensorReader
from modpdb.probes.tree import joined

_CALL = (
    ("forward pre-hook", "forward_pre_hooks"),
    ("forward hook", "forward_hooks"),
    ("backward pre-hook", "backward_pre_hooks"),
    ("backward hook", "backward_hooks"),
)
_STATE = (
    ("state_dict pre-hook", "_state_dict_pre_hooks"),
    ("state_dict hook", "_state_dict_hooks"),
    ("load_state_dict pre-hook", "_load_state_dict_pre_hooks"),
    ("load_state_dict post-hook", "_load_state_dict_post_hooks"),
)
_OWN = (*(f"_{registry}" for _, registry in _CALL), *(registry for _, registry in _STATE))
_REGISTRATION = (
    ("parameter registration hook", "_global_parameter_registration_hooks"),
    ("buffer registration hook", "_global_buffer_registration_hooks"),
    ("module registration hook", "_global_module_registration_hooks"),
)
_TENSOR = (
    ("gradient hook", "_backward_hooks"),
    ("post-accumulate-grad hook", "_post_accumulate_grad_hooks"),
)
_WRAPPED = "torch.nn.modules.module._WrappedHook"
_LAYERS = 16  # of partials and methods around a function


@dataclass(frozen=True, slots=True)
class Hook:
    """One hook; *notes* say what is bound to it and how it is called, *everywhere* that it is for
    all modules."""

    kind: str
    function: Source
    notes: tuple[str, ...] = ()
    everywhere: bool = False


@dataclass(frozen=True, slots=True)
class Hooked:
    """A module or a tensor that has hooks, with what it is: `Linear`, `Parameter`."""

    path: str
    what: str
    hooks: tuple[Hook, ...]


@dataclass(frozen=True, slots=True)
class HookReport:
    """Hooks for all modules, then those of some modules, the roots, and of all below them.

    *modules* were looked at, the roots among them; *scripted* of these have hooks that TorchScript
    compiled in, if any, where they cannot be seen.
    """

    roots: Sequence[str]  # their classes
    everywhere: tuple[Hook, ...]
    hooked: tuple[Hooked, ...]
    modules: int
    scripted: int


def hook_report(roots: Sequence[tuple[str, Any]]) -> HookReport:
    """Every hook on the modules *roots*, each given with its path, on those below them and on
    their parameters and buffers.

    Nothing is called. Hooks on the nodes of an autograd graph cannot be listed.
    """
    torch = torch_or_none()
    modules: dict[int, tuple[str, Any]] = {}
    for prefix, root in roots:
        for path, module in named_modules(root, prefix):
            modules.setdefault(id(module), (path, module))
    paths = {key: path for key, (path, _) in modules.items()}
    hooked, scripted = [], 0
    classes: dict[int, ModuleClass] = {}  # by id: a metaclass may hash
    with undisturbed(torch), collector_paused():
        for path, module in modules.values():
            kind = type(module)
            if id(kind) not in classes:
                classes[id(kind)] = describe_class(torch, kind)
            scripted += classes[id(kind)].scripted
            state = classes[id(kind)].state_of(module)
            hooks = (
                *_extensions(classes[id(kind)], module, state),
                *_own_hooks(module, state, paths),
            )
            if hooks:
                hooked.append(Hooked(path, class_name(kind), hooks))
        hooked += _on_tensors(torch, modules.values(), paths)
    names = [class_name(type(root)) for _, root in roots]
    return HookReport(names, _global_hooks(), tuple(hooked), len(modules), scripted)


def call_hooks(module: Any) -> tuple[Hook, ...]:
    """The hooks that one call of *module* sets off, those for all modules among them.

    Backward hooks are set up by the forward call and run by a later backward().
    """
    shared, own = _of_all_modules(), instance_dict(module)
    return tuple(
        hook
        for kind, registry in _CALL
        for hook in (
            *_hooks(shared, "_global", kind, registry, module, {}),
            *_hooks(own, "", kind, registry, module, {}),
        )
    )


def own_hooks(module: Any) -> Iterator[Hook]:
    """The module's own, in the order in which they run."""
    yield from _own_hooks(module, instance_dict(module), {})


def _own_hooks(module: Any, state: dict[str, Any], paths: Mapping[int, str]) -> Iterator[Hook]:
    """The same; *paths* name modules by their id."""
    if not any(_holds(state.get(registry)) for registry in _OWN):
        return
    for kind, registry in _CALL:
        yield from _hooks(state, "", kind, registry, module, paths)
    for kind, registry in _STATE:
        for _, hook in _items(state.get(registry)):
            yield _hook(kind, hook, module, paths)


def _holds(registered: Any) -> bool:
    """Whether a hook dict has entries; most have none, and that must be told quickly."""
    if type(registered) is OrderedDict or type(registered) is dict:
        return len(registered) > 0
    return bool(_items(registered))


def global_registration_hooks(kind: str) -> tuple[Hook, ...]:
    """Those for the registration of a "parameter", "buffer" or "module": they may replace it."""
    registry = f"_global_{kind}_registration_hooks"
    return tuple(
        _hook(f"{kind} registration hook", hook, None, {}, everywhere=True)
        for _, hook in _items(_of_all_modules().get(registry))
    )


def _global_hooks() -> tuple[Hook, ...]:
    shared = _of_all_modules()
    hooks: list[Hook] = []
    for kind, registry in _CALL:
        hooks += _hooks(shared, "_global", kind, registry, None, {})
    for kind, registry in _REGISTRATION:
        hooks += [_hook(kind, hook, None, {}, True) for _, hook in _items(shared.get(registry))]
    return tuple(hooks)


def _of_all_modules() -> Mapping[str, Any]:
    return vars(sys.modules["torch.nn.modules.module"])


def _hooks(
    state: Mapping[str, Any],
    prefix: str,
    kind: str,
    registry: str,
    module: Any,
    paths: Mapping[int, str],
) -> Iterator[Hook]:
    """One kind's hooks in *state*: a module's dict, or what torch keeps for all modules."""
    if kind == "backward hook" and state.get(f"{prefix}_is_full_backward_hook") is True:
        kind = "full backward hook"
    with_kwargs = _ids(state.get(f"{prefix}_{registry}_with_kwargs"))
    always = _ids(state.get(f"{prefix}_{registry}_always_called"))
    for key, hook in _items(state.get(f"{prefix}_{registry}")):
        notes = ["with_kwargs"] * (key in with_kwargs)
        notes += ["always_call"] * (key in always)
        yield _hook(kind, hook, module, paths, bool(prefix), notes)


def _items(registered: Any) -> list[tuple[Any, Any]]:
    """A hook dict's entries in the order in which torch calls them."""
    if is_a(registered, OrderedDict):
        return list(OrderedDict.items(registered))  # dict.items does not know of move_to_end
    return list(dict.items(registered)) if is_a(registered, dict) else []


def _ids(registered: Any) -> set[int]:
    return {key for key, _ in _items(registered) if type(key) is int}


def _hook(
    kind: str,
    hook: Any,
    owner: Any,
    paths: Mapping[int, str],
    everywhere: bool = False,
    notes: list[str] | None = None,
) -> Hook:
    source, around = unwrapped(hook, owner, paths)
    return Hook(kind, source, (*around, *(notes or ())), everywhere)


def unwrapped(hook: Any, owner: Any, paths: Mapping[int, str]) -> tuple[Source, list[str]]:
    """The function of a hook without what is wrapped around it, and words for that.

    *owner* is what it hangs on, *paths* name modules by their id.
    """
    around: list[str] = []
    for _ in range(_LAYERS):
        if is_a(hook, partial):
            around.append("in a partial")
            hook = partial.func.__get__(hook)
        elif qualified_name(type(hook)) == _WRAPPED:
            hook = instance_dict(hook).get("hook")
        elif is_a(hook, MethodType):
            around.append(f"of {_whose(hook.__self__, owner, paths)}")
            hook = hook.__func__
        else:
            break
    inner = undecorated(hook)
    if inner is not hook:
        around.append(f"decorated by {hook.__code__.co_qualname.partition('.')[0]}")
    return source_of(inner), around


def _whose(bound: Any, owner: Any, paths: Mapping[int, str]) -> str:
    if bound is owner:
        return "this module"
    if is_module(bound) and paths.get(id(bound)):
        return paths[id(bound)]
    name = class_name(bound) if is_a(bound, type) else class_name(type(bound))
    return f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}"


def _extensions(cls: ModuleClass, module: Any, state: dict[str, Any]) -> Iterator[Hook]:
    """What stands between a call or a read and the class's own code without being a hook."""
    if "forward" in state and not cls.special:
        yield _hook("forward replaced", state["forward"], module, {})
    registered: Any = state.get("_modules")
    lists = dict.get(registered, "parametrizations") if is_a(registered, dict) else None
    if not is_module(lists):
        return
    for name, chain in entries(instance_dict(lists), "_modules"):
        for _, step in entries(instance_dict(chain), "_modules"):
            forward = class_attribute(type(step), "forward")
            notes = (f"computes {name} at each read",)
            yield Hook("parametrization", source_of(forward), notes)


def _on_tensors(torch: Any, modules: Any, paths: Mapping[int, str]) -> Iterator[Hooked]:
    """What `register_hook` and `register_post_accumulate_grad_hook` left, each tensor once."""
    reader, seen = TensorReader(torch), set()
    getters = [(kind, getattr(torch._C.TensorBase, name, None)) for kind, name in _TENSOR]
    for path, module in modules:
        state = instance_dict(module)
        for name, tensor in (*entries(state, "_parameters"), *entries(state, "_buffers")):
            if not reader.is_tensor(tensor) or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            hooks = tuple(
                _hook(kind, hook, module, paths)
                for kind, getter in getters
                if getter is not None
                for _, hook in _items(getter.__get__(tensor))
            )
            if hooks:
                yield Hooked(joined(path, name), class_name(type(tensor)), hooks)
