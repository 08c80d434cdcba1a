"""Which branch of at::native::linear a call takes, told from properties alone.

The rules are those of `aten/src/ATen/native/Linear.cpp` and, for what happens inside matmul,
of `should_fold` in `LinearAlgebra.cpp`. They were measured op by op on torch 2.13 (CPU and
meta device); elsewhere the outcome is called a guess, or not known.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from modpdb.probes._torch import torch_or_none

MEASURED_VERSION = (2, 13)
_MEASURED_DTYPES = {"float32", "float64", "bfloat16", "float16"}
_MEASURED_DEVICES = {"cpu", "meta"}
_MEASURED_LAYOUTS = {"strided", "mkldnn"}
_FLATTEN_VARIABLE = "TORCH_LINEAR_FLATTEN_3D"

Certainty = Literal["predicted", "guessed", "refused", "not known"]


@dataclass(frozen=True, slots=True)
class Op:
    """An aten operator, by its name without the namespace, and what it calls in turn.

    In a prediction an empty *inner* says nothing about what the operator calls.
    """

    name: str
    inner: tuple[Op, ...] = ()


@dataclass(frozen=True, slots=True)
class Branch:
    """What at::native::linear does with one kind of input.

    refused: torch raises, for the reason given. not known: no ops are claimed.
    """

    certainty: Certainty
    reason: str
    ops: tuple[Op, ...] = ()


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """The properties of a tensor on which the branch depends.

    stride is counted in elements and None for a layout without strides; subclass is the
    class's name where it is not torch's own, "" otherwise.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...] | None
    dtype: str
    device: str = "cpu"
    layout: str = "strided"
    requires_grad: bool = False
    inference: bool = False
    subclass: str = ""

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def device_type(self) -> str:
        return self.device.partition(":")[0]

    @property
    def contiguous(self) -> bool:
        """As Tensor.is_contiguous() has it: dimensions of size 1 do not count."""
        if self.stride is None:
            return False
        if 0 in self.shape:
            return True
        pairs = zip(self.shape, self.stride, row_major(self.shape), strict=True)
        return all(size == 1 or stride == wanted for size, stride, wanted in pairs)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What beside the tensors decides.

    autocast: the dtype to which autocast turns operands, "" if it is off. intercepted: what
    stands between the call and the dispatcher, as a phrase, "" if nothing does.
    """

    version: tuple[int, int]
    flatten: bool = False
    grad: bool = True
    autocast: str = ""
    intercepted: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One linear: x [..., in], weight [out, in], bias (usually [out], or None)."""

    x: TensorFacts
    weight: TensorFacts
    bias: TensorFacts | None
    around: Surroundings

    @property
    def operands(self) -> tuple[TensorFacts, ...]:
        given = (self.x, self.weight)
        return given if self.bias is None else (*given, self.bias)

    @property
    def fused(self) -> bool:
        """Whether addmm adds the bias, in the multiplication itself."""
        if self.bias is None:
            return False
        if self.x.rank == 2:
            return True
        bias = self.bias
        squeezed = bias.rank if bias.rank == 1 else sum(size != 1 for size in bias.shape)
        return squeezed == 1 and (self.x.contiguous or self.around.flatten)


def tensor_facts(tensor: Any) -> TensorFacts:
    """Read off *tensor* without computing anything."""
    torch = torch_or_none()
    layout = str(tensor.layout).removeprefix("torch.")
    own = (torch.Tensor, torch.nn.Parameter)
    return TensorFacts(
        shape=tuple(int(size) for size in tensor.shape),
        stride=tuple(tensor.stride()) if layout == "strided" else None,
        dtype=str(tensor.dtype).removeprefix("torch."),
        device=str(tensor.device),
        layout="nested" if tensor.is_nested else layout.strip("_"),
        requires_grad=tensor.requires_grad,
        inference=tensor.is_inference(),
        subclass="" if type(tensor) in own else type(tensor).__name__,
    )


def surroundings(device_type: str) -> Surroundings:
    """The state of torch at this moment, for operands on a device of this type."""
    torch = torch_or_none()
    autocast = ""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        autocast = str(torch.get_autocast_dtype(device_type)).removeprefix("torch.")
    return Surroundings(
        version=version_of(torch.__version__),
        flatten=os.environ.get(_FLATTEN_VARIABLE) == "1",
        grad=torch.is_grad_enabled(),
        autocast=autocast,
        intercepted=intercepted(),
    )


def version_of(text: str) -> tuple[int, int]:
    """(2, 13) of "2.13.0+cpu"; (0, 0) of what is no version."""
    found = re.match(r"(\d+)\.(\d+)", str(text))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def intercepted() -> str:
    """What would see or change a call before the dispatcher does, "" if nothing would."""
    torch = torch_or_none()
    if torch._C._len_torch_dispatch_stack():
        return "a TorchDispatchMode is on"
    if torch._C._len_torch_function_stack():
        return "a TorchFunctionMode is on"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a torch.func transform is on"
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode differentiation is on"
    return ""


def kinds_of_input(
    weight: TensorFacts, bias: TensorFacts | None, around: Surroundings
) -> tuple[tuple[str, Branch], ...]:
    """The branch by kind of input for this weight [out, in], as pairs of label and branch.

    The inputs are imagined: the weight's dtype and device, two of everything but features.
    """
    if weight.rank != 2:
        return ()
    features = weight.shape[1]
    kinds = (
        ("1-D", (features,), None),
        ("2-D", (2, features), None),
        ("3-D contiguous", (2, 2, features), None),
        ("3-D transposed", (2, 2, features), (features, 2 * features, 1)),
        ("4-D contiguous", (2, 2, 2, features), None),
        ("4-D transposed", (2, 2, 2, features), (2 * features, 4 * features, features, 1)),
    )
    found = []
    for label, shape, stride in kinds:
        x = TensorFacts(shape, stride or row_major(shape), weight.dtype, weight.device)
        found.append((label, branch(Call(x, weight, bias, around))))
    return tuple(found)


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of a contiguous tensor of this shape."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    return tuple(strides)


def branch(call: Call) -> Branch:
    """The branch that a call with these properties takes."""
    unknown = _why_not_known(call)
    if unknown:
        return Branch("not known", unknown)
    if call.x.layout == "mkldnn":
        return Branch(_certainty(call), "mkldnn input", (Op("mkldnn_linear"),))
    if any(_is_cast(each, call.around) for each in call.operands):
        return _autocast_branch(call)
    refused = _why_refused(call)
    if refused:
        return Branch("refused", refused)
    reason, ops = _native_linear(call)
    return Branch(_certainty(call), reason, ops)


def _why_not_known(call: Call) -> str:
    around = call.around
    if around.version > MEASURED_VERSION:
        found, measured = ("{}.{}".format(*each) for each in (around.version, MEASURED_VERSION))
        return f"torch {found} is newer than {measured}, on which this was measured"
    unusual_bias = call.bias is not None and call.bias.rank != 1
    if around.version < MEASURED_VERSION and (around.flatten or unusual_bias):
        return f"{_FLATTEN_VARIABLE} and biases that are not 1-D were measured on 2.13 only"
    if around.intercepted:
        return around.intercepted
    for each in call.operands:
        if each.subclass:
            return f"{each.subclass} is a tensor subclass, which may bring its own linear"
        if each.layout not in ("strided", call.x.layout) or each.layout not in _MEASURED_LAYOUTS:
            return f"{each.layout} layout"
        if each.dtype.startswith(("q", "float8", "float4", "bits")):
            return f"{each.dtype} has kernels of its own"
        if each.device_type in ("xla", "mps"):
            return f"{each.device_type} has a way of its own"
    if call.weight.rank != 2:
        return f"the weight is {call.weight.rank}-D, not [out, in]"
    return ""


def _certainty(call: Call) -> Certainty:
    measured = call.around.version == MEASURED_VERSION and all(
        each.dtype in _MEASURED_DTYPES and each.device_type in _MEASURED_DEVICES
        for each in call.operands
    )
    return "predicted" if measured else "guessed"


def _is_cast(operand: TensorFacts, around: Surroundings) -> bool:
    """Whether autocast copies this operand: it leaves float64 and what is not floating alone."""
    floating = operand.dtype.startswith(("float", "bfloat"))
    return bool(around.autocast) and floating and operand.dtype not in ("float64", around.autocast)


def _autocast_branch(call: Call) -> Branch:
    """One `to` for each operand that is cast, then linear again on the copies."""
    x, around = call.x, call.around
    if _is_cast(x, around) and x.rank != 2 and not x.contiguous:
        return Branch("not known", "autocast copies the input, and the copy's strides decide")
    below = branch(
        Call(
            x=_after_cast(x, around),
            weight=_after_cast(call.weight, around),
            bias=None if call.bias is None else _after_cast(call.bias, around),
            around=replace(around, autocast=""),
        )
    )
    if not below.ops:
        return below
    copies = sum(_is_cast(each, around) for each in call.operands)
    reason = f"autocast to {around.autocast}, then {below.reason}"
    return Branch(below.certainty, reason, (*[Op("to")] * copies, Op("linear", below.ops)))


def _after_cast(operand: TensorFacts, around: Surroundings) -> TensorFacts:
    if not _is_cast(operand, around):
        return operand
    tracked = operand.requires_grad and around.grad
    return replace(operand, dtype=around.autocast, requires_grad=tracked, inference=False)


def _why_refused(call: Call) -> str:
    x, weight = call.x, call.weight
    if x.rank == 0:
        return "a 0-D input: linear wants at least one dimension"
    if x.shape[-1] != weight.shape[1]:
        return f"x has {x.shape[-1]} features in its last dimension, the layer {weight.shape[1]}"
    devices = dict.fromkeys(each.device for each in call.operands)
    if len(devices) > 1:
        return f"operands on {' and '.join(devices)}"
    # matmul's add_ promotes a bias of another dtype; addmm does not.
    multiplied = call.operands if call.fused else (x, weight)
    dtypes = dict.fromkeys(each.dtype for each in multiplied)
    if len(dtypes) > 1:
        return f"operands of {' and '.join(dtypes)}: one dtype is wanted"
    if call.bias is not None and not _bias_fits(call.bias, call):
        return f"bias {list(call.bias.shape)} does not broadcast to the output"
    return ""


def _bias_fits(bias: TensorFacts, call: Call) -> bool:
    batch, out = call.x.shape[:-1], call.weight.shape[0]
    target = (math.prod(batch), out) if call.fused else (*batch, out)
    if bias.rank > len(target):
        return False
    pairs = zip(reversed(bias.shape), reversed(target), strict=False)
    return all(size in (1, wanted) for size, wanted in pairs)


def _native_linear(call: Call) -> tuple[str, tuple[Op, ...]]:
    """at::native::linear itself, for operands that fit each other: reason and operators."""
    x, bias = call.x, call.bias
    kind = f"{x.rank}-D {'contiguous' if x.contiguous else 'non-contiguous'} input"
    if bias is None:
        return f"{kind}, no bias", (Op("t"), _matmul(x, call.weight))
    if x.rank == 2:
        return "2-D input with bias", (Op("t"), Op("addmm"))
    squeeze = () if bias.rank == 1 else (Op("squeeze"),)
    if not call.fused:
        # isTensorSubclassLike() holds for a meta tensor: such a bias is added out of place.
        add = Op("add" if bias.device_type == "meta" else "add_")
        reason = f"{kind} with a {bias.rank}-D bias, added after matmul"
        return reason, (*squeeze, Op("t"), _matmul(x, call.weight), add)
    flattened = (Op("view"), Op("t"), Op("addmm"), Op("view"))
    if x.contiguous:
        return f"{kind} with bias, flattened to 2-D", (*squeeze, *flattened)
    reason = f"{kind} with bias, copied and flattened to 2-D as {_FLATTEN_VARIABLE}=1 asks"
    return reason, (*squeeze, Op("contiguous"), *flattened)


def _matmul(x: TensorFacts, weight: TensorFacts) -> Op:
    if x.rank == 1:
        inner = ["unsqueeze", "mm", "squeeze_"]
    elif x.rank == 2:
        inner = ["mm"]
    elif _folds(x, weight):
        inner = ["reshape", "mm", "_unsafe_view"]
    else:
        inner = ["expand", "reshape", "expand", "reshape", "bmm", "_unsafe_view"]
    return Op("matmul", tuple(Op(name) for name in inner))


def _folds(x: TensorFacts, weight: TensorFacts) -> bool:
    """Whether matmul folds the batch of x into rows, for one mm in place of bmm.

    A weight that wants a gradient always makes it fold, under no_grad too: the view that
    `weight.t()` makes there still says requires_grad. A view of an inference tensor does not.
    """
    if (weight.requires_grad and not weight.inference) or 0 in x.shape:
        return True
    assert x.stride is not None
    return all(
        x.stride[axis] == x.stride[axis + 1] * x.shape[axis + 1] for axis in range(x.rank - 2)
    )
