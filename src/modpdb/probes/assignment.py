"""What `obj.name = value` would do, by the kind of value, without doing it.

For modules that is `nn.Module.__setattr__` with `register_parameter` and `register_buffer`, branch
by branch in their order (torch/nn/modules/module.py, 2.13); for all else `object.__setattr__`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MemberDescriptorType
from typing import Any, Literal

from modpdb.probes._static import class_attribute, class_name, instance_dict, is_a, mro, namespace
from modpdb.probes._torch import torch_or_none
from modpdb.probes.attribute import REGISTRIES, defining, is_data_descriptor, is_standard
from modpdb.probes.builtins import Source, source_of
from modpdb.probes.hooks import Hook, global_registration_hooks
from modpdb.probes.module_state import entries, is_module

Value = Literal["Parameter", "Module", "Buffer", "tensor", "None", "anything else"]
VALUES: tuple[Value, ...] = ("Parameter", "Module", "Buffer", "tensor", "None", "anything else")

_FSET: Any = property.__dict__["fset"].__get__


@dataclass(frozen=True, slots=True)
class Assignment:
    """What becomes of a *value* of one kind.

    *place* is where it would stand: "_parameters", "instance __dict__", "class __dict__", "slot",
    "setter" (code of the class that was not run); "" where *error* is raised instead.
    *removed_from* is what loses the name first, and does so where an error follows, too.
    *hooks* may put another value in its place. *hidden_by* names the class or dict that a
    read would still come to first.
    """

    value: Value
    place: str
    error: str = ""
    removed_from: tuple[str, ...] = ()
    hooks: tuple[Hook, ...] = ()
    hidden_by: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Assignments:
    """One for each kind of value; *setter* is the class's own `__setattr__`, which may do
    something else, None where it is torch's or Python's."""

    outcomes: tuple[Assignment, ...]
    setter: Source | None = None
    setter_of: str = ""


def assignments(obj: Any, name: str) -> Assignments:
    """What each kind of value would come to as *name* of *obj*."""
    torch = torch_or_none()
    base, setter = defining(type(obj), "__setattr__")
    module = torch is not None and is_module(obj)
    usual = setter is torch.nn.Module.__setattr__ if module else is_standard(base, setter)
    if module:
        target = _Target(obj, name)
        kinds = [each for each in VALUES if each != "Buffer" or hasattr(torch.nn, "Buffer")]
        outcomes = tuple(_to_module(target, value) for value in kinds)
    else:
        outcomes = (_plainly(obj, name, "anything else"),)
    if usual:
        return Assignments(outcomes)
    owner = class_name(type(obj) if base is None else base)
    return Assignments(outcomes, source_of(setter), owner)


class _Target:
    """A module and the name that would be assigned."""

    def __init__(self, module: Any, name: str) -> None:
        self.module = module
        self.name = name
        self.state = instance_dict(module)
        self.base, self.held = defining(type(module), name)

    def has(self, registry: str) -> bool:
        """Whether *registry* is there and holds the name."""
        found: Any = self.state.get(registry)
        if is_a(found, set):
            return self.name in found
        return any(key == self.name for key, _ in entries(self.state, registry))

    def holders(self, *registries: str) -> tuple[str, ...]:
        """Which of *registries*, and of the instance's dict, hold the name."""
        own = ("instance __dict__",) if self.name in self.state else ()
        return own + tuple(registry for registry in registries if self.has(registry))

    def registered(
        self, value: Value, kind: str, removed: tuple[str, ...] = (), notes: tuple[str, ...] = ()
    ) -> Assignment:
        """A *kind* put into its dict, past the hooks for all modules."""
        hooks = () if (value, kind) == ("None", "parameter") else global_registration_hooks(kind)
        hidden = class_name(self.base) if self.base is not None else ""
        asked_before = REGISTRIES[: REGISTRIES.index(f"_{kind}s")]
        staying = [each for each in self.holders(*asked_before) if each not in removed]
        if not hidden and staying:
            hidden = staying[0]
        return Assignment(value, f"_{kind}s", "", removed, hooks, hidden, notes)

    def clash(self, value: Value, removed: tuple[str, ...]) -> Assignment | None:
        """The error of a registration under a name that `hasattr` finds elsewhere."""
        exists = f"KeyError: attribute {self.name!r} already exists"
        if self.base is not None:
            owner = class_name(self.base)
            if is_data_descriptor(self.held):
                note = (
                    f"unless reading {owner}.{self.name}, which hasattr does, raises AttributeError"
                )
            else:
                note = f"for {owner}.{self.name} of the class"
            return Assignment(value, "", exists, removed, notes=(note,))
        if "instance __dict__" not in removed and self.name in self.state:
            return Assignment(
                value, "", exists, removed, notes=("it is in the instance's __dict__",)
            )
        return None


def _to_module(target: _Target, value: Value) -> Assignment:
    """The branches of `nn.Module.__setattr__`, in its order."""
    registries = [registry for registry in REGISTRIES if registry in target.state]
    if value == "Parameter":
        return _parameter(target)
    if target.has("_parameters"):
        if value == "None":
            return target.registered(value, "parameter")
        what = f"as parameter {target.name!r} (torch.nn.Parameter or None expected)"
        return Assignment(value, "", f"TypeError: cannot assign it {what}")
    if value == "Module":
        if "_modules" not in registries:
            return _too_early(value, "module")
        removed = target.holders("_parameters", "_buffers", "_non_persistent_buffers_set")
        return target.registered(value, "module", removed)
    if target.has("_modules"):
        if value == "None":
            return target.registered(value, "module")
        what = f"as child module {target.name!r} (torch.nn.Module or None expected)"
        return Assignment(value, "", f"TypeError: cannot assign it {what}")
    if value == "Buffer" or target.has("_buffers"):
        return _buffer(target, value)
    return _plainly(target.module, target.name, value)


def _parameter(target: _Target) -> Assignment:
    if "_parameters" not in target.state:
        return _too_early("Parameter", "parameters")
    removed = target.holders("_buffers", "_modules", "_non_persistent_buffers_set")
    if not target.has("_parameters"):
        clash = target.clash("Parameter", removed)
        if clash is not None:
            return clash
    return target.registered("Parameter", "parameter", removed)


def _buffer(target: _Target, value: Value) -> Assignment:
    if value == "anything else":
        what = f"as buffer {target.name!r} (torch.nn.Buffer, torch.Tensor or None expected)"
        return Assignment(value, "", f"TypeError: cannot assign it {what}")
    if "_buffers" not in target.state:
        return _too_early(value, "buffer")
    if not target.has("_buffers"):
        clash = target.clash(value, ())
        if clash is not None:
            return clash
    notes: tuple[str, ...] = ()
    if target.has("_non_persistent_buffers_set"):
        kept = "stays non-persistent"
        notes = ("persistent or not as it says itself" if value == "Buffer" else kept,)
    return target.registered(value, "buffer", notes=notes)


def _too_early(value: Value, what: str) -> Assignment:
    return Assignment(
        value, "", f"AttributeError: cannot assign {what} before Module.__init__() call"
    )


def _plainly(obj: Any, name: str, value: Value) -> Assignment:
    """`object.__setattr__`, or `type.__setattr__` for a class."""
    base, held = defining(type(obj), name)
    owner = class_name(base) if base is not None else ""
    if type(held) is MemberDescriptorType:
        return Assignment(value, "slot", notes=(f"of {owner}",))
    if is_a(held, property):
        if _FSET(held) is None:
            return Assignment(
                value, "", f"AttributeError: property {name!r} of {owner} has no setter"
            )
        return Assignment(value, "setter", notes=(f"of the property {owner}.{name}",))
    if base is not None and class_attribute(type(held), "__set__") is not None:
        return Assignment(value, "setter", notes=(f"{class_name(type(held))}.__set__, in {owner}",))
    if is_a(obj, type):
        return Assignment(value, "class __dict__", notes=("if the class can be changed",))
    if not any("__dict__" in namespace(each) for each in mro(type(obj))):
        return Assignment(value, "", "AttributeError: it has no __dict__ and no such slot")
    return Assignment(value, "instance __dict__")
