"""The way of a call: attribute, class, `__call__`, `forward`, what that calls, operators."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from modpdb.probes._static import class_attribute, class_name, instance_dict, is_a
from modpdb.probes._torch import torch_or_none
from modpdb.probes.builtins import Operator, Source, operator, peeled, source_of
from modpdb.probes.forward_source import read_calls
from modpdb.probes.hooks import Hook, call_hooks
from modpdb.probes.known_calls import (
    Prediction,
    attention_backends,
    known_layer,
    predicted,
    why_not_fast,
)
from modpdb.probes.linear_branch import Branch, kinds_of_input, surroundings
from modpdb.probes.linear_layer import (
    class_names,
    held_in,
    operand,
    registered,
)
from modpdb.probes.module_state import is_initialised, is_module, uncompiled
from modpdb.probes.source_calls import Called, Given, Reading
from modpdb.probes.source_names import MISSING


@dataclass(frozen=True, slots=True)
class Forward:
    """What a call comes to after the hooks.

    state: "the class's own", "set on the instance", "compiled", "scripted", "missing" (a
    container) or "called directly" (a function). wrappers: decorators around it, outermost first.
    """

    source: Source
    state: str
    wrappers: tuple[Source, ...] = ()


@dataclass(frozen=True, slots=True)
class CallPath:
    """The whole way of one module or function.

    held_in: "_modules['mlp'] of LlamaDecoderLayer", "" if unknown. call: a `__call__` of a class
    of its own, None for nn.Module's. layer: the name of a layer that is known here, else "".
    prediction: for the arguments given, None without. notes: what can be said without them.
    """

    path: str
    class_name: str
    held_in: str
    classes: tuple[str, ...]
    hooks: tuple[Hook, ...]
    call: Source | None
    forward: Forward
    reading: Reading
    operators: tuple[Operator, ...]
    layer: str
    prediction: Prediction | None
    by_input: tuple[tuple[str, Branch], ...] = ()
    notes: tuple[str, ...] = ()
    initialised: bool = True  # whether nn.Module.__init__ has run


def call_path(
    target: Any,
    path: str = "",
    given: Given | None = None,
    owner: Any = None,
) -> CallPath:
    """The way of `target(*args, **kwargs)`; nothing of it is run.

    target: a module, a function or a builtin. owner: the module that holds it, if known.
    Raises TypeError for anything else.
    """
    if not is_module(target):
        return _of_function(target, path, given)
    forward, function = _forward(target)
    inner = uncompiled(target)
    reading = _reading(function, inner, given, forward.state)
    call = class_attribute(type(target), "__call__")
    torch = torch_or_none()
    holder = held_in(owner, target)
    compiled = forward.state in ("compiled", "scripted")
    return CallPath(
        path=path,
        class_name=_class_name(target),
        held_in=f"{holder} of {class_name(type(owner))}" if holder else "",
        classes=class_names(target),
        hooks=(*call_hooks(target), *(call_hooks(inner) if inner is not target else ())),
        call=None if call is torch.nn.Module.__call__ or compiled else source_of(call),
        forward=forward,
        reading=reading,
        operators=_operators(reading.calls, _device(inner)),
        layer=known_layer(target) or "",
        prediction=None if given is None else predicted(target, *given),
        by_input=_by_input(target) if given is None else (),
        notes=tuple(_notes(target, given)),
        initialised=is_initialised(target),
    )


def _of_function(function: Any, path: str, given: Given | None) -> CallPath:
    torch = torch_or_none()
    plain = function.__func__ if is_a(function, types.MethodType) else function
    if not is_a(plain, types.FunctionType) and not is_a(plain, types.BuiltinFunctionType):
        raise TypeError(f"a {class_name(type(function))} is neither a module nor a function")
    inner, around = peeled(plain)
    forward = Forward(source_of(inner), "called directly", _wrappers(around))
    builtin = is_a(plain, types.BuiltinFunctionType)
    # TorchScript has aten::len, too, to which Python's own len does not lead.
    name = plain.__name__ if builtin and (plain.__module__ or "torch").startswith("torch") else ""
    operators: tuple[Operator, ...] = ()
    if builtin:
        reading = Reading()
        operators = (operator(f"aten::{name}", "cpu"),) if name else ()
    else:
        reading = read_calls(function, given=given)
        operators = _operators(reading.calls, "cpu")
    attention = function is torch.nn.functional.scaled_dot_product_attention
    return CallPath(
        path=path,
        class_name=class_name(type(function)),
        held_in="",
        classes=(),
        hooks=(),
        call=None,
        forward=forward,
        reading=reading,
        operators=operators,
        layer=name if attention else "",
        prediction=None if given is None else predicted(function, *given),
        notes=(_backends(),) if attention else (),
    )


def _class_name(module: Any) -> str:
    name = instance_dict(module).get("original_name")
    return name if isinstance(name, str) else class_name(type(module))


def _forward(module: Any) -> tuple[Forward, Any]:
    """Where a call of *module* goes, and the function with the source, MISSING without one."""
    torch = torch_or_none()
    inner = uncompiled(module)
    if inner is not module:
        forward, function = _forward(inner)
        return Forward(forward.source, "compiled", forward.wrappers), function
    if is_a(module, torch.jit.ScriptModule):
        return Forward(Source("forward"), "scripted"), MISSING
    state = instance_dict(module)
    own = state.get("forward")
    function = own if own is not None else class_attribute(type(module), "forward", MISSING)
    if function is MISSING or function is torch.nn.Module.forward:
        return Forward(Source("forward"), "missing"), MISSING
    plain = function.__func__ if is_a(function, types.MethodType) else function
    original, around = peeled(plain)
    compiled = state.get("_compiled_call_impl") is not None
    word = "compiled" if compiled else "the class's own"
    word = "set on the instance" if own is not None else word
    return Forward(source_of(original), word, _wrappers(around)), function


def _wrappers(around: Sequence[types.CodeType]) -> tuple[Source, ...]:
    return tuple(Source(code.co_qualname, code.co_filename, code.co_firstlineno) for code in around)


def _reading(
    function: Any,
    module: Any,
    given: Given | None,
    state: str,
) -> Reading:
    if state == "scripted":
        return Reading(problem="TorchScript: its interpreter runs a graph, no Python")
    if function is MISSING:
        return Reading(problem="it has no forward: a container, or made to be overridden")
    return read_calls(function, module, given)


def code_of(target: Any) -> types.CodeType | None:
    """The code of the Python function whose lines a run is told by; None where there is none."""
    function = _forward(target)[1] if is_module(target) else target
    function = function.__func__ if is_a(function, types.MethodType) else function
    function, _ = peeled(function)
    return function.__code__ if is_a(function, types.FunctionType) else None


def _device(module: Any) -> str:
    """The device type of the first tensor that the module holds by itself."""
    for registry in ("_parameters", "_buffers"):
        for value in registered(module, registry).values():
            if is_a(value, torch_or_none().Tensor):
                return str(value.device.type)
    return "cpu"


def _operators(calls: Sequence[Called], device_type: str) -> tuple[Operator, ...]:
    """Each operator that the source names, in that order."""
    autocast = bool(surroundings(device_type).autocast)
    names = dict.fromkeys(each.operator for each in _all(calls) if each.operator)
    return tuple(operator(name, device_type, autocast) for name in names)


def _all(calls: Sequence[Called]) -> Iterator[Called]:
    for each in calls:
        yield each
        yield from _all(each.inner)


def _by_input(module: Any) -> tuple[tuple[str, Branch], ...]:
    """Of a linear layer: the branch by kind of input, as `linear-path` has it."""
    if known_layer(module) != "Linear":
        return ()
    weight, bias = operand(module, "weight"), operand(module, "bias")
    if weight.tensor is None:
        return ()
    return kinds_of_input(weight.tensor, bias.tensor, surroundings(weight.tensor.device_type))


def _notes(module: Any, given: object) -> Iterator[str]:
    if known_layer(module) == "MultiheadAttention" and given is None:
        why = why_not_fast(module)
        if why:
            yield f"not the fast path (torch._native_multi_head_attention), since {why}"
        else:
            yield (
                "the fast path (torch._native_multi_head_attention), if query, key and value are "
                "one batched tensor and no mask is floating point"
            )


def _backends() -> str:
    enabled = [name for name, on in attention_backends() if on]
    return f"backends enabled now: {', '.join(enabled)}; which is taken depends on the arguments"
