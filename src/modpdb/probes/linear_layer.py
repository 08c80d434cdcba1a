"""What a linear layer is made of: its kind, weight and bias, hooks and `forward`.

Everything is read from instance and class dicts, so that no property, `__getattr__` or
`__repr__` of the model's own code runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import FunctionType
from typing import Any

from modpdb.probes._static import (
    class_attribute,
    class_name,
    instance_dict,
    is_a,
    mro,
    qualified_name,
)
from modpdb.probes._torch import torch_or_none
from modpdb.probes.builtins import Source, source_of
from modpdb.probes.linear_branch import TensorFacts, tensor_facts

# Where Module.__getattr__ looks for a tensor, in its order.
_REGISTRIES = ("_parameters", "_buffers")


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
    if torch is None:
        return None
    kind, name = type(module), qualified_name(type(module))
    if name.startswith("torch.ao.nn.quantized.") and class_name(kind) == "Linear":
        return "dynamically quantised" if ".dynamic." in name else "quantised"
    if name == "torch._dynamo.eval_frame.OptimizedModule":
        return "compiled" if kind_of(child(module, "_orig_mod")) else None
    if is_a(module, torch.jit.ScriptModule):
        return "scripted" if module.original_name == "Linear" else None
    if not is_a(module, torch.nn.Linear):
        return None
    if kind is torch.nn.Linear:
        return "Linear"
    if child(module, "parametrizations") is not None:
        return "parametrized"
    return "lazy" if is_a(module, torch.nn.modules.lazy.LazyModuleMixin) else "subclass"


def registered(module: Any, registry: str) -> dict[str, Any]:
    """A copy of `_modules`, `_parameters`, …; {} before `Module.__init__` has run."""
    # TorchScript has wrappers with items() in place of dicts.
    found = instance_dict(module).get(registry)
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
    names = [name for name, value in instance_dict(owner).items() if value is module]
    return f"__dict__[{names[0]!r}]" if names else ""


def class_names(module: Any) -> tuple[str, ...]:
    """The classes in the order in which Python looks, down to nn.Linear (else nn.Module)."""
    torch = torch_or_none()
    classes = [each for each in mro(type(module)) if each is not object]
    last = torch.nn.Linear if torch.nn.Linear in classes else torch.nn.Module
    return tuple(qualified_name(each) for each in classes[: classes.index(last) + 1])


def operand(layer: Any, name: str) -> Operand:
    """The layer's "weight" or "bias", found as Python would and never computed."""
    torch = torch_or_none()
    in_class = class_attribute(type(layer), name)
    if is_a(in_class, property):
        return Operand(name, "property", note=originals(layer, name))
    if name not in instance_dict(layer) and is_a(in_class, FunctionType):
        return Operand(name, "method", note=f"packed; {name}() unpacks a copy")
    state = instance_dict(layer)
    holders = {"__dict__": state, **{key: state.get(key) or {} for key in _REGISTRIES}}
    holder = next((each for each, found in holders.items() if name in found), None)
    if holder is None:
        return Operand(name, "missing")
    value, place = holders[holder][name], f"{holder}[{name!r}]"
    if value is None:
        return Operand(name, "none")
    if not is_a(value, torch.Tensor):
        return Operand(name, place, note=f"a {class_name(type(value))}, no tensor")
    if torch.nn.parameter.is_lazy(value):
        return Operand(name, place, note="no shape until the first call")
    # TorchScript gives out its parameters as plain tensors.
    scripted = is_a(layer, torch.jit.ScriptModule)
    stored = scripted or isinstance(value, torch.nn.Parameter) or holder != "_parameters"
    note = "" if stored else "a plain tensor, not a Parameter: functional_call is under way"
    return Operand(name, place, tensor_facts(value), note)


def originals(layer: Any, name: str) -> str:
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
    steps = [class_name(type(step)) for step in registered(chain, "_modules").values()]
    source = f"parametrizations.{name}: {originals}" if originals else f"parametrizations.{name}"
    return f"computed at each read by {' then '.join(steps)} from {source}; not run"


def features(layer: Any, weight: Operand) -> tuple[int | None, int | None]:
    """(out_features, in_features): of the weight where it is a plain matrix, else as declared.

    None where the layer does not know yet.
    """
    if weight.tensor is not None and weight.tensor.rank == 2 and not weight.tensor.subclass:
        return weight.tensor.shape[0], weight.tensor.shape[1]
    declared = [instance_dict(layer).get(name) for name in ("out_features", "in_features")]
    outs, ins = (each if isinstance(each, int) and each > 0 else None for each in declared)
    return outs, ins


def forward_of(layer: Any) -> tuple[Source, str]:
    """Where the `forward` that a call comes to is defined, and whose it is.

    "nn.Linear's", "overridden", "set on the instance", "compiled" (source is the inner layer's),
    "scripted" or "the class's own" (a quantised layer's).
    """
    torch = torch_or_none()
    kind = kind_of(layer)
    if kind == "compiled":
        return forward_of(child(layer, "_orig_mod"))[0], "compiled"
    if kind == "scripted":
        return Source("forward"), "scripted"
    if "forward" in instance_dict(layer):
        return source_of(instance_dict(layer)["forward"]), "set on the instance"
    function = class_attribute(type(layer), "forward")
    if not is_a(layer, torch.nn.Linear):
        return source_of(function), "the class's own"
    own = function is torch.nn.Linear.forward
    return source_of(function), "nn.Linear's" if own else "overridden"
