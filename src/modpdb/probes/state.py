"""What `state_dict()` would hold, read from the registries: nothing of the module is run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from modpdb.collector import collector_paused
from modpdb.probes._static import class_attribute, class_name, instance_dict
from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.builtins import Source, source_of
from modpdb.probes.module_state import (
    describe_class,
    entries,
    named_modules,
    scripted_class,
)
from modpdb.probes.registered import TensorRow
from modpdb.probes.tensors import TensorReader, is_parameter
from modpdb.probes.tree import joined

EXTRA = "_extra_state"

# What may change the keys while state_dict() runs, and while load_state_dict() does.
_HOOKS = (
    ("state_dict pre-hook", "_state_dict_pre_hooks"),
    ("state_dict hook", "_state_dict_hooks"),
    ("load_state_dict pre-hook", "_load_state_dict_pre_hooks"),
    ("load_state_dict post-hook", "_load_state_dict_post_hooks"),
)
_OVERRIDABLE = ("get_extra_state", "state_dict", "_save_to_state_dict")


@dataclass(frozen=True, slots=True)
class StateCode:
    """Code that has a say in the state dict: a hook, or a method that a class overrides.

    *kind* is "state_dict hook" and the like, or the method's name; *path* is the module's.
    """

    path: str
    class_name: str
    kind: str
    source: Source


@dataclass(frozen=True, slots=True)
class State:
    """The keys that `state_dict()` would give, as far as nothing has to be run to know them.

    *left_out* are buffers registered as not persistent. *extra* are modules that override
    `get_extra_state`, each with a key of its own, *code* whatever may add, rename or drop keys,
    *unready* the modules that stand before their `super().__init__()`: state_dict() raises.
    """

    class_name: str
    rows: tuple[TensorRow, ...]
    left_out: tuple[TensorRow, ...]
    extra: tuple[StateCode, ...]
    code: tuple[StateCode, ...]
    unready: tuple[str, ...]


def state_of(root: Any, prefix: str = "") -> State:
    """The state of *root*, an nn.Module, with *prefix* as the path that its keys begin with.

    Looks at registries only: no hook, no `get_extra_state`, no property and no data.
    """
    torch = torch_or_none()
    with undisturbed(torch), collector_paused():
        return _Scan(torch).state(root, prefix)


@dataclass(frozen=True, slots=True)
class _Found:
    """A registered tensor; *kept*: it is in the state dict."""

    name: str
    tensor: Any
    kept: bool
    plain: bool  # no Parameter, among the parameters


class _Scan:
    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._reader = TensorReader(torch)
        self._classes: dict[int, dict[str, Any]] = {}  # by id: a metaclass may hash
        self._extra: list[StateCode] = []
        self._code: list[StateCode] = []
        self._unready: list[str] = []

    def state(self, root: Any, prefix: str) -> State:
        found: list[_Found] = []
        for path, module in named_modules(root, prefix):
            state = instance_dict(module)
            found += self._tensors(path, state)
            self._look_at_code(path, module, state)
        names: dict[int, list[str]] = {}
        for each in found:
            if each.kept:
                names.setdefault(id(each.tensor), []).append(each.name)
        rows = [(each.kept, self._row(each, names)) for each in found]
        return State(
            _name_of(self._torch, root),
            tuple(row for kept, row in rows if kept),
            tuple(row for kept, row in rows if not kept),
            tuple(self._extra),
            tuple(self._code),
            tuple(self._unready),
        )

    def _tensors(self, path: str, state: dict[str, Any]) -> Iterator[_Found]:
        """What a module registers itself, in the order of `_save_to_state_dict`."""
        parameter = self._torch.nn.Parameter
        scripted = "_c" in state  # TorchScript gives its parameters out as plain tensors
        for name, tensor in entries(state, "_parameters"):
            if self._reader.is_tensor(tensor):
                plain = not scripted and not is_parameter(tensor, parameter)
                yield _Found(joined(path, name), tensor, True, plain)
        transient = state.get("_non_persistent_buffers_set")
        for name, tensor in entries(state, "_buffers"):
            if self._reader.is_tensor(tensor):
                kept = type(transient) is not set or name not in transient
                yield _Found(joined(path, name), tensor, kept, False)

    def _row(self, found: _Found, names: dict[int, list[str]]) -> TensorRow:
        others = dict.fromkeys(names.get(id(found.tensor), ())) if found.kept else ()
        return TensorRow(
            found.name,
            self._reader.facts(found.tensor),
            tuple(other for other in others if other != found.name),
            ("plain tensor",) if found.plain else (),
        )

    def _look_at_code(self, path: str, module: Any, state: dict[str, Any]) -> None:
        cls = type(module)
        if "_parameters" not in state and "_c" not in state:
            self._unready.append(path)
            return
        for method in _OVERRIDABLE:
            function = state[method] if method in state else self._overridden(cls)[method]
            if function is not None:
                code = StateCode(path, class_name(cls), method, source_of(function))
                (self._extra if method == "get_extra_state" else self._code).append(code)
        for kind, registry in _HOOKS:
            hooks: Any = state.get(registry)
            if issubclass(type(hooks), dict) and dict.__len__(hooks):
                for hook in dict.values(hooks):
                    source = source_of(instance_dict(hook).get("hook", hook))
                    self._code.append(StateCode(path, class_name(cls), kind, source))

    def _overridden(self, cls: type) -> dict[str, Any]:
        """By method, the function of *cls*; None where it is nn.Module's own."""
        known = self._classes.get(id(cls))
        if known is None:
            known = self._classes[id(cls)] = {}
            for method in _OVERRIDABLE:
                function = class_attribute(cls, method)
                own = function is class_attribute(self._torch.nn.Module, method)
                known[method] = None if own else function
        return known


def _name_of(torch: Any, root: Any) -> str:
    cls = describe_class(torch, type(root))
    return scripted_class(cls, instance_dict(root)).name if cls.scripted else cls.name
