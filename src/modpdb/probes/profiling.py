"""What a linear layer does when it runs once, as torch's profiler sees it.

profiler_legacy, because torch.profiler prints lines of its own to stderr, and because a
TorchDispatchMode would change the very branch it looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from modpdb.probes._static import class_name, qualified_name
from modpdb.probes._torch import torch_or_none
from modpdb.probes.linear_branch import Branch, Op, TensorFacts, intercepted, tensor_facts
from modpdb.probes.linear_layer import child, features, kind_of, operand, registered


@dataclass(frozen=True, slots=True)
class Event:
    """What the profiler saw once: "aten::linear", or a range of that name, and what is within.

    shapes has one entry for each argument, () for what is no tensor or has no dimensions.
    stack: "FILE(LINE): FUNCTION", innermost first.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    stack: tuple[str, ...]
    inner: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Observation:
    """One run. ops are those below aten::linear, or all where *ran* reaches it by no way.

    error is the exception's one line where the run raised. ran is "" where nothing was run, and
    error then says why.
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
        return Observation("", None, error=f"{watcher} and would see the run")
    run, ran = _runner(layer)
    if run is None:
        return Observation("", None, error=ran)
    made_up = x is None
    if x is None:
        x = _zeros(layer)
    if not isinstance(x, torch.Tensor):
        return Observation("", None, error=f"the input is a {class_name(type(x))}, no tensor")
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
    kind = kind_of(layer)
    if kind == "compiled":
        layer = child(layer, "_orig_mod")
    if kind_of(layer) == "dynamically quantised":
        return (lambda x: type(layer).forward(layer, x)), f"{qualified_name(type(layer))}.forward"
    weight, bias = operand(layer, "weight"), operand(layer, "bias")
    if weight.tensor is None:
        return None, f"weight: {weight.note or weight.place}"
    stored = registered(layer, "_parameters")
    w, b = (stored.get(each.name) for each in (weight, bias))
    if w is None or (b is None and bias.place != "none"):
        return None, "weight or bias is no parameter"
    w, b = _detached(w), None if b is None else _detached(b)
    eagerly = " eagerly" if kind in ("compiled", "scripted") else ""
    return (lambda x: torch.nn.functional.linear(x, w, b)), f"F.linear(x, weight, bias){eagerly}"


def _detached(tensor: Any) -> Any:
    """A view of the same memory that is a leaf of its own, so that no gradient gets further."""
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _zeros(layer: Any) -> Any:
    """One row for the layer, of the weight's dtype and device where it has a stored one."""
    torch = torch_or_none()
    if kind_of(layer) == "compiled":
        layer = child(layer, "_orig_mod")
    weight = registered(layer, "_parameters").get("weight")
    _, into = features(layer, operand(layer, "weight"))
    like = {} if weight is None else {"dtype": weight.dtype, "device": weight.device}
    return torch.zeros((1, into), **like)


def _profiled(call: Callable[[], object]) -> tuple[Op, ...]:
    """The operators of one call, nested."""

    def named(events: tuple[Event, ...]) -> tuple[Op, ...]:
        return tuple(Op(each.name.removeprefix("aten::"), named(each.inner)) for each in events)

    return named(events(call))


def events(call: Callable[[], object], *, details: bool = False) -> tuple[Event, ...]:
    """What the profiler sees of one call: operators and record_function ranges, nested.

    details: with the operands' shapes and the Python stacks. What *call* raises is passed on.
    """
    from torch.autograd.profiler_legacy import profile  # a part of torch, which is loaded

    with profile(record_shapes=details, with_stack=details) as seen:
        call()
    return _nested(seen.function_events)


def _nested(found: Iterable[Any]) -> tuple[Event, ...]:
    children: dict[int, list[Any]] = {}
    for event in found:
        parent = event.cpu_parent
        children.setdefault(0 if parent is None else id(parent), []).append(event)

    def below(parent: int) -> tuple[Event, ...]:
        return tuple(
            Event(
                event.name,
                tuple(tuple(each) for each in event.input_shapes or ()),
                tuple(event.stack or ()),
                below(id(event)),
            )
            for event in children.get(parent, [])
        )

    return below(0)


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
    return first_difference(branch.ops, observation.ops)


def first_difference(predicted: tuple[Op, ...], seen: tuple[Op, ...], within: str = "") -> str:
    """The first operator in which they part, in words; "" where they agree as deep as predicted."""
    for place in range(max(len(predicted), len(seen))):
        wanted = predicted[place].name if place < len(predicted) else "no more"
        found = seen[place].name if place < len(seen) else "no more"
        if wanted != found:
            return f"operator {place + 1}{within}: predicted {wanted}, observed {found}"
        if predicted[place].inner:
            inner = f" of {wanted}{within}"
            below = first_difference(predicted[place].inner, seen[place].inner, inner)
            if below:
                return below
    return ""
