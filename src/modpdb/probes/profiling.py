"""What a linear layer does when it runs once, as torch's profiler sees it.

profiler_legacy, because torch.profiler prints lines of its own to stderr, and because a
TorchDispatchMode would change the very branch it looks at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modpdb.probes._torch import torch_or_none
from modpdb.probes.linear_branch import Branch, Op, TensorFacts, intercepted, tensor_facts


@dataclass(frozen=True, slots=True)
class Observation:
    """One run. ops are those below aten::linear, or all where *ran* reaches it by no way.

    error is the exception's one line where the run raised, or why nothing was run.
    """

    ran: str
    x: TensorFacts | None
    made_up: bool = False
    ops: tuple[Op, ...] = ()
    error: str = ""


def observe(layer: Any, x: Any = None) -> Observation:
    """Run *layer*'s linear once on x [..., in] and list the aten operators, nested, in order.

    Neither the module nor its `forward` is called, but F.linear on detached views of x, weight
    and bias: no hook fires, no code of the user runs, no gradient reaches a leaf, no random
    number is drawn, and the strides, dtypes and requires_grad that decide the branch are the
    layer's own. Nothing is copied, since linear only reads. A dynamically quantised layer has
    its packed weight and torch's own `forward` instead, which keeps no state and is run.
    Without x a row of zeros is made up.
    """
    torch = torch_or_none()
    watcher = "a profiler is on" if torch.autograd._profiler_enabled() else intercepted()
    if watcher:
        return Observation("nothing", None, error=f"{watcher} and would see the run")
    run, ran = _runner(layer)
    if run is None:
        return Observation("nothing", None, error=ran)
    made_up = x is None
    if x is None:
        x = _zeros(layer)
    if not isinstance(x, torch.Tensor):
        return Observation("nothing", None, error=f"the input is a {type(x).__name__}, no tensor")
    facts = tensor_facts(x)
    operand = _detached(x)
    try:
        ops = _profiled(lambda: run(operand))
    except Exception as problem:  # whatever the operators raise, it is what was observed
        first_line = str(problem).strip().partition("\n")[0]
        return Observation(ran, facts, made_up, error=f"{type(problem).__name__}: {first_line}")
    return Observation(ran, facts, made_up, ops=_below_linear(ops))


def _runner(layer: Any) -> tuple[Callable[[Any], object] | None, str]:
    """What to run on the input, and its name; or None, and why not."""
    torch = torch_or_none()
    kind = type(layer)
    if kind.__module__.startswith("torch.ao.nn.quantized.dynamic"):
        return (lambda x: kind.forward(layer, x)), f"{kind.__module__}.{kind.__qualname__}.forward"
    parameters = object.__getattribute__(layer, "__dict__").get("_parameters") or {}
    weight, bias = parameters.get("weight"), parameters.get("bias")
    if not isinstance(weight, torch.Tensor):
        return None, "the weight is no stored tensor, and computing it could run code of the model"
    if torch.nn.parameter.is_lazy(weight):
        return None, "the weight has no shape yet: the first input decides it"
    weight, bias = _detached(weight), None if bias is None else _detached(bias)
    return (lambda x: torch.nn.functional.linear(x, weight, bias)), "F.linear(x, weight, bias)"


def _detached(tensor: Any) -> Any:
    """A view of the same memory that is a leaf of its own, so that no gradient gets further."""
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _zeros(layer: Any) -> Any:
    torch = torch_or_none()
    features = int(layer.in_features)
    weight = object.__getattribute__(layer, "__dict__").get("_parameters", {}).get("weight")
    like = {} if weight is None else {"dtype": weight.dtype, "device": weight.device}
    return torch.zeros((1, features), **like)


def _profiled(call: Callable[[], object]) -> tuple[Op, ...]:
    """The operators of one call, nested."""
    from torch.autograd.profiler_legacy import profile  # a part of torch, which is loaded

    with profile() as seen:
        call()
    children: dict[int, list[Any]] = {}
    for event in seen.function_events:
        parent = event.cpu_parent
        children.setdefault(0 if parent is None else id(parent), []).append(event)

    def nested(events: list[Any]) -> tuple[Op, ...]:
        return tuple(
            Op(event.name.removeprefix("aten::"), nested(children.get(id(event), [])))
            for event in events
        )

    return nested(children.get(0, []))


def _below_linear(ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """What the outermost aten::linear calls; all of it where there is none."""
    linear = [op for op in ops if op.name == "linear"]
    return linear[0].inner if len(linear) == 1 else ops


def difference(branch: Branch, observation: Observation) -> str:
    """Where prediction and observation part, in words; "" where they agree.

    A refused branch agrees with an error. Only the depth that was predicted is compared.
    Not to be asked of a branch that is not known.
    """
    if branch.certainty == "refused":
        return "" if observation.error else "it ran, though predicted to be refused"
    if observation.error:
        return f"it raised {observation.error}"
    return _first_difference(branch.ops, observation.ops, "")


def _first_difference(predicted: tuple[Op, ...], seen: tuple[Op, ...], within: str) -> str:
    for place in range(max(len(predicted), len(seen))):
        wanted = predicted[place].name if place < len(predicted) else "no more"
        found = seen[place].name if place < len(seen) else "no more"
        if wanted != found:
            return f"operator {place + 1}{within}: predicted {wanted}, observed {found}"
        if predicted[place].inner:
            inner = f" of {wanted}{within}"
            below = _first_difference(predicted[place].inner, seen[place].inner, inner)
            if below:
                return below
    return ""
