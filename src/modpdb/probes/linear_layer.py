"""What a linear layer is made of: its kind, weight and bias, hooks and `forward`.

Everything is read from instance and class dicts, so that no property, `__getattr__` or
`__repr__` of the model's own code runs.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from typing import Any

from modpdb.probes._torch import torch_or_none
from modpdb.probes.builtins import Source, source_of
from modpdb.probes.linear_branch import TensorFacts, tensor_facts

# In the order in which Module._call_impl takes them up, those for all modules first.
_HOOKS = (
    ("forward pre-hook", "forward_pre_hooks"),
    ("backward pre-hook", "backward_pre_hooks"),
    ("forward hook", "forward_hooks"),
    ("backward hook", "backward_hooks"),
)


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook that a call of the module sets off; everywhere: registered for all modules."""

    kind: str
    function: Source
    everywhere: bool


@dataclass(frozen=True, slots=True)
class Operand:
    """The weight or the bias of a layer.

    place: where Python finds it: "_parameters['weight']", "property", "method", "none" (the
    layer has no bias) or "missing". tensor is None where there is none to be read without
    computing it, or where it has no shape yet; note then says so.
    """

    name: str
    place: str
    tensor: TensorFacts | None = None
    note: str = ""


def kind_of(module: Any) -> str | None:
    """What kind of linear layer *module* is, None if it is none.

    "Linear", "subclass", "parametrized", "lazy", "dynamically quantised", "quantised",
    "compiled" (by torch.compile) or "scripted" (by TorchScript).
    """
    torch = torch_or_none()
    kind = type(module)
    if kind.__name__ == "Linear" and kind.__module__.startswith("torch.ao.nn.quantized."):
        return "dynamically quantised" if ".dynamic." in kind.__module__ else "quantised"
    if kind.__name__ == "OptimizedModule" and kind.__module__.startswith("torch._dynamo."):
        return "compiled" if kind_of(child(module, "_orig_mod")) else None
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted" if module.original_name == "Linear" else None
    if not issubclass(kind, torch.nn.Linear):
        return None
    if kind is torch.nn.Linear:
        return "Linear"
    if child(module, "parametrizations") is not None:
        return "parametrized"
    return "lazy" if issubclass(kind, torch.nn.modules.lazy.LazyModuleMixin) else "subclass"


def state_of(module: Any) -> dict[str, Any]:
    """The instance dict, past any `__getattribute__` that the class may have."""
    found: dict[str, Any] = object.__getattribute__(module, "__dict__")
    return found


def registered(module: Any, registry: str) -> dict[str, Any]:
    """A copy of `_modules`, `_parameters`, …; {} before `Module.__init__` has run."""
    # TorchScript has wrappers with items() in place of dicts.
    found = state_of(module).get(registry)
    return {} if found is None else dict(found.items())


def child(module: Any, name: str) -> Any:
    """The submodule of that name, or None."""
    return registered(module, "_modules").get(name)


def held_in(owner: Any, module: Any) -> str:
    """Which dict of *owner* holds *module*: "_modules['q_proj']"; "" if none does."""
    if owner is None:
        return ""
    for name, value in registered(owner, "_modules").items():
        if value is module:
            return f"_modules[{name!r}]"
    names = [name for name, value in state_of(owner).items() if value is module]
    return f"__dict__[{names[0]!r}]" if names else ""


def class_names(module: Any) -> tuple[str, ...]:
    """The classes in the order in which Python looks, down to nn.Linear (else nn.Module)."""
    torch = torch_or_none()
    mro = [each for each in type(module).__mro__ if each is not object]
    last = torch.nn.Linear if torch.nn.Linear in mro else torch.nn.Module
    shown = mro[: mro.index(last) + 1] if last in mro else mro
    return tuple(f"{each.__module__}.{each.__qualname__}" for each in shown)


def operand(layer: Any, name: str) -> Operand:
    """The layer's "weight" or "bias", found as Python would and never computed."""
    torch = torch_or_none()
    in_class = inspect.getattr_static(type(layer), name, None)
    if isinstance(in_class, property):
        return Operand(name, "property", note=_originals(layer, name))
    if name not in state_of(layer) and inspect.isfunction(in_class):
        return Operand(name, "method", note="a packed weight, unpacked at each call of it")
    places = [(name, state_of(layer), "__dict__")]
    places += [(name, registered(layer, each), each) for each in ("_parameters", "_buffers")]
    for key, found, label in places:
        if key in found:
            break
    else:
        return Operand(name, "missing")
    value, place = found[key], f"{label}[{name!r}]"
    if value is None:
        return Operand(name, "none")
    if not isinstance(value, torch.Tensor):
        return Operand(name, place, note=f"a {type(value).__name__}, no tensor")
    if torch.nn.parameter.is_lazy(value):
        return Operand(name, place, note="no shape until the first call")
    temporary = label == "_parameters" and not isinstance(value, torch.nn.Parameter)
    note = "a plain tensor, not a Parameter: functional_call is under way" if temporary else ""
    scripted = isinstance(layer, torch.jit.ScriptModule)
    return Operand(name, place, tensor_facts(value), "" if scripted else note)


def _originals(layer: Any, name: str) -> str:
    """What a parametrized weight is computed from; it is not computed here."""
    lists = child(layer, "parametrizations")
    chain = None if lists is None else child(lists, name)
    if chain is None:
        return "computed at each read; not run"
    originals = ", ".join(
        f"{key} {[int(size) for size in value.shape]}"
        for key, value in registered(chain, "_parameters").items()
        if value is not None
    )
    steps = [type(step).__name__ for step in registered(chain, "_modules").values()]
    source = f"parametrizations.{name}: {originals}" if originals else f"parametrizations.{name}"
    return f"computed at each read by {' then '.join(steps)} from {source}; not run"


def features(layer: Any, weight: Operand) -> tuple[int | None, int | None]:
    """(out_features, in_features): of the weight where it is a plain matrix, else as declared.

    None where the layer does not know yet.
    """
    if weight.tensor is not None and weight.tensor.rank == 2 and not weight.tensor.subclass:
        return weight.tensor.shape[0], weight.tensor.shape[1]
    declared = [state_of(layer).get(name) for name in ("out_features", "in_features")]
    outs, ins = (each if isinstance(each, int) and each > 0 else None for each in declared)
    return outs, ins


def hooks_of(layer: Any) -> tuple[Hook, ...]:
    """The hooks that one call sets off, in that order.

    Backward hooks are set up by the forward call and run by a later backward().
    """
    shared = vars(sys.modules["torch.nn.modules.module"])
    found = []
    for kind, registry in _HOOKS:
        for hook in shared.get(f"_global_{registry}", {}).values():
            found.append(Hook(kind, source_of(hook), everywhere=True))
        for hook in registered(layer, f"_{registry}").values():
            found.append(Hook(kind, source_of(hook), everywhere=False))
    return tuple(found)


def forward_of(layer: Any) -> tuple[Source, str]:
    """Where the `forward` that a call reaches is defined, and whose it is.

    "nn.Linear's own", "overridden", "set on the instance" or "TorchScript's own".
    """
    torch = torch_or_none()
    if isinstance(layer, torch.jit.ScriptModule):
        return Source("forward"), "TorchScript's own"
    if "forward" in state_of(layer):
        return source_of(state_of(layer)["forward"]), "set on the instance"
    function = inspect.getattr_static(type(layer), "forward", None)
    own = function is torch.nn.Linear.forward
    return source_of(function), "nn.Linear's own" if own else "overridden"
