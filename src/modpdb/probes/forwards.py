"""What a call of a module runs: its ``forward``, below the decorators around it."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modpdb.probes._static import class_attribute, class_name, instance_dict, is_a
from modpdb.probes._torch import torch_or_none
from modpdb.probes.module_state import ModuleClass, describe_class

Dispatches = Callable[[types.FunctionType], bool]
"""Whether a wrapper of a forward may call something else in its place."""

_COMPILED = 'is compiled: torch.compiler.set_stance("force_eager") lets Python run its forward'
INSIDE_COMPILED = f"is inside a module that {_COMPILED}"
"""Why a module cannot stop that is called by a compiled one."""
_NOBODY_CALLS = "which has no forward to be called"
_MISSING = object()
_FUNC: Any = functools.partial.__dict__["func"]
_DEEPEST = 50  # wrappers around each other: a chain may lead back to itself


def is_container(problem: str) -> bool:
    """Whether that is the problem of a module which nobody calls, as a ModuleList."""
    return problem.endswith(_NOBODY_CALLS)


@dataclass(frozen=True, slots=True)
class Forward:
    """The code of a module's ``forward``; None where Python has none to stop in, with the reason
    in ``problem``, as what follows the module's name: `is scripted: …`."""

    code: types.CodeType | None
    problem: str = ""


class Forwards:
    """The forward of each module, as its class or the module itself has it.

    Below decorators, by ``__wrapped__`` or the wrapper's closure; but a wrapper that *dispatches*
    is the forward itself, since what it wraps may not be called at all.
    """

    def __init__(self, dispatches: Dispatches = lambda function: False) -> None:
        self._dispatches = dispatches
        self._classes: dict[type, ModuleClass] = {}

    def of(self, module: Any) -> Forward:
        """The forward of *module*, which must be an nn.Module. Runs none of its code."""
        described = self._class(module)
        state = instance_dict(module)
        if "scripted" in described.special:
            return Forward(None, "is scripted: TorchScript runs its forward, no line of Python")
        if self.is_compiled(module):
            return Forward(None, _COMPILED)
        value = state.get("forward", _MISSING)
        if value is _MISSING:
            value = class_attribute(type(module), "forward", _MISSING)
        code = self._code(value)
        if code is None:
            return Forward(None, f"has no forward in Python: it is a {class_name(type(value))}")
        if code.co_name == "_forward_unimplemented":
            return Forward(None, f"is a {described.name}, {_NOBODY_CALLS}")
        return Forward(code)

    def is_compiled(self, module: Any) -> bool:
        """Whether torch.compile runs *module* and what it calls, called by its `__call__`."""
        state = instance_dict(module)
        special = self._class(module).special
        return "compiled" in special or state.get("_compiled_call_impl") is not None

    def _class(self, module: Any) -> ModuleClass:
        cls = type(module)
        described = self._classes.get(cls)
        if described is None:
            described = self._classes[cls] = describe_class(torch_or_none(), cls)
        return described

    def _code(self, value: Any) -> types.CodeType | None:
        for _ in range(_DEEPEST):
            kind = type(value)
            if kind is types.FunctionType:
                inner = None if self._dispatches(value) else _wrapped(value)
                if inner is None:
                    return value.__code__
                value = inner
            elif kind in (types.MethodType, staticmethod, classmethod):
                value = value.__func__
            elif is_a(value, functools.partial):
                state = instance_dict(
                    value
                )  # accelerate's: functools.update_wrapper(partial(…), …)
                value = state["__wrapped__"] if "__wrapped__" in state else _FUNC.__get__(value)
            else:
                return None
        return None


def _wrapped(function: types.FunctionType) -> Any:
    """What *function* decorates; None where it tells by nothing that it does."""
    if "__wrapped__" in function.__dict__:
        return function.__dict__["__wrapped__"]
    if function.__code__.co_name == "forward":
        return None
    for cell in function.__closure__ or ():
        try:
            held = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        if type(held) is types.FunctionType and held.__code__.co_name == "forward":
            return held
    return None
