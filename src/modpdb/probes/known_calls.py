"""Layers whose operators are known beforehand: predicted from properties, nothing is run.

Measured op by op on torch 2.13 (CPU); which convolution and which attention are taken is asked of
torch's own choosers, which look at shapes, strides and dtypes and compute nothing. For linear
layers see `linear_branch`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modpdb.probes._static import class_attribute, class_name, instance_dict, is_a
from modpdb.probes._torch import torch_or_none
from modpdb.probes.linear import predict as predict_linear
from modpdb.probes.linear_branch import (
    MEASURED_VERSION,
    Branch,
    Certainty,
    Op,
    surroundings,
    tensor_facts,
)
from modpdb.probes.linear_layer import child, kind_of, registered
from modpdb.probes.module_state import is_module

_MEASURED_DTYPES = {"float32", "float64", "bfloat16", "float16"}
_CONVOLUTIONS = {
    "Mkldnn": "mkldnn_convolution",
    "Slow2d": "thnn_conv2d",
    "Slow3d": "slow_conv3d",
    "SlowDilated2d": "slow_conv_dilated2d",
    "SlowDilated3d": "slow_conv_dilated3d",
    "Cudnn": "cudnn_convolution",
    "CudaDepthwise2d": "_conv_depthwise2d",
    "CudaDepthwise3d": "conv_depthwise3d",
    "Miopen": "miopen_convolution",
}
# By SDPBackend's number; the first has a kernel of its own on the CPU.
_ATTENTIONS = {
    0: ("math", "_scaled_dot_product_attention_math"),
    1: ("flash", "_scaled_dot_product_flash_attention"),
    2: ("memory-efficient", "_scaled_dot_product_efficient_attention"),
    3: ("cuDNN", "_scaled_dot_product_cudnn_attention"),
    4: ("overrideable", "_scaled_dot_product_fused_attention_overrideable"),
}
FAST_ATTENTION = "_native_multi_head_attention"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a call will do.

    layer: as it is known, "Conv2d". branch.ops are all of its operators, to the depth given, or
    () where only *among* is claimed: operators that run somewhere within. never: those that do
    not.
    """

    layer: str
    branch: Branch
    among: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


def predicted(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Prediction | None:
    """What `target(*args, **kwargs)` does; None where it is not known here or does not fit.

    A class that has a `forward` of its own is not known, whatever it is derived from.
    """
    torch = torch_or_none()
    if target is torch.nn.functional.scaled_dot_product_attention:
        return _attention(args, kwargs)
    known = known_layer(target)
    if known is None:
        return None
    try:
        given = inspect.signature(class_attribute(type(target), "forward")).bind(
            target, *args, **kwargs
        )
    except TypeError:
        return None
    given.apply_defaults()
    own = dict(list(given.arguments.items())[1:])
    x = next(iter(own.values()))
    if not is_a(x, torch.Tensor):
        return None
    around = surroundings(x.device.type)
    if around.intercepted:
        return Prediction(known, Branch("not known", around.intercepted))
    if known == "Linear":
        branch = predict_linear(target, x)
        ops = (Op("linear", branch.ops),) if branch.ops else ()
        return Prediction(known, Branch(branch.certainty, branch.reason, ops))
    if known == "MultiheadAttention":
        tensors = [own[each] for each in ("query", "key", "value")]
        tensors += [
            each for each in (own["attn_mask"], own["key_padding_mask"]) if each is not None
        ]
        return _multihead(target, own) if all(is_a(t, torch.Tensor) for t in tensors) else None
    if around.autocast:
        return Prediction(known, Branch("not known", f"autocast to {around.autocast} is on"))
    why = _why_not_known(target, x)
    return Prediction(known, Branch("not known", why)) if why else _LAYERS[known](known, target, x)


def known_layer(target: Any) -> str | None:
    """ "Conv2d", "Linear", …: the layer of torch whose `forward` *target*'s call comes to."""
    torch = torch_or_none()
    if not is_module(target) or "forward" in instance_dict(target):
        return None
    if kind_of(target) in ("compiled", "scripted"):
        return None
    forward = class_attribute(type(target), "forward")
    for name in ("Linear", "MultiheadAttention", *_LAYERS):
        if forward is getattr(torch.nn, name).forward:
            return name
    return None


def _why_not_known(layer: Any, x: Any) -> str:
    torch = torch_or_none()
    if type(x) not in (torch.Tensor, torch.nn.Parameter):
        return f"the input is a {class_name(type(x))}"
    facts = tensor_facts(x)
    if facts.layout != "strided":
        return f"{facts.layout} layout"
    if not (x.is_floating_point() or "int" in facts.dtype):
        return f"an input of {facts.dtype}"
    if "int" in facts.dtype and not is_a(layer, torch.nn.Embedding):
        return f"an input of {facts.dtype}"
    weight = _stored(layer, "weight")
    if weight is not None and weight.device != x.device and not torch.nn.parameter.is_lazy(weight):
        return f"the input is on {x.device}, the weight on {weight.device}"
    return ""


def _certainty(*tensors: Any) -> Certainty:
    facts = [tensor_facts(each) for each in tensors if each is not None]
    version = surroundings("cpu").version
    measured = version == MEASURED_VERSION and all(
        each.device_type == "cpu" and (each.dtype in _MEASURED_DTYPES or "int" in each.dtype)
        for each in facts
    )
    return "predicted" if measured else "guessed"


def _stored(layer: Any, name: str) -> Any:
    """A parameter as it is stored: None where there is none, or where it is not a plain one."""
    torch = torch_or_none()
    if is_a(class_attribute(type(layer), name), property):
        return None
    value = registered(layer, "_parameters").get(name)
    return value if type(value) in (torch.nn.Parameter, torch.Tensor) else None


def _unplain(name: str) -> Prediction:
    return Prediction(name, Branch("not known", "the weight is no plain parameter"))


def _embedding(name: str, layer: Any, x: Any) -> Prediction:
    weight, state = _stored(layer, "weight"), instance_dict(layer)
    if weight is None:
        return _unplain(name)
    if x.dtype not in (torch_or_none().int64, torch_or_none().int32):
        dtype = str(x.dtype).removeprefix("torch.")
        return Prediction(name, Branch("refused", f"indices of {dtype}: int64 or int32 is wanted"))
    inner: tuple[Op, ...] = (Op("index_select"),)
    if x.dim() != 1:
        inner = (Op("reshape"), Op("index_select"), Op("view"))
    if weight.device.type == "meta":
        inner = ()
    ops: tuple[Op, ...] = (Op("embedding", inner),)
    if state.get("max_norm") is not None:
        copied = () if x.is_contiguous() else (Op("contiguous"),)
        ops = (*copied, Op("detach"), Op("embedding_renorm_"), *ops)
        reason = "max_norm: the weight's rows are rescaled in place first"
    else:
        reason = f"{x.dim()}-D indices, flattened" if x.dim() != 1 else "1-D indices"
    return Prediction(name, Branch(_certainty(weight, x), reason, ops))


def _layer_norm(name: str, layer: Any, x: Any) -> Prediction:
    weight = _stored(layer, "weight")
    problem = _shape_problem(layer, x)
    if problem:
        return Prediction(name, Branch("refused", problem))
    mixed = weight is not None and weight.dtype != x.dtype
    if mixed and (str(weight.dtype) != "torch.float32" or x.dtype.itemsize != 2):
        return Prediction(name, Branch("not known", "input and weight are of different dtypes"))
    over = len(instance_dict(layer)["normalized_shape"])
    reason = "over the last dimension" if over == 1 else f"over the last {over} dimensions"
    ops = (Op("layer_norm", (Op("native_layer_norm"),)),)
    return Prediction(name, Branch(_certainty(weight, x), reason, ops))


def _rms_norm(name: str, layer: Any, x: Any) -> Prediction:
    weight = _stored(layer, "weight")
    problem = _shape_problem(layer, x)
    if problem:
        return Prediction(name, Branch("refused", problem))
    if weight is not None and weight.dtype != x.dtype:
        reason = "input and weight are of different dtypes: composed of other operators"
        ops, never = (Op("rms_norm"),), ("_fused_rms_norm",)
        return Prediction(name, Branch(_certainty(weight, x), reason, ops), ("rsqrt",), never)
    ops = (Op("rms_norm", (Op("_fused_rms_norm"),)),)
    return Prediction(name, Branch(_certainty(weight, x), "one dtype: the fused operator", ops))


def _shape_problem(layer: Any, x: Any) -> str:
    wanted = tuple(instance_dict(layer).get("normalized_shape", ()))
    if wanted and tuple(x.shape[-len(wanted) :]) != wanted:
        return f"x is {list(x.shape)}, and the last dimensions must be {list(wanted)}"
    return ""


def _convolution(name: str, layer: Any, x: Any) -> Prediction:
    weight, state = _stored(layer, "weight"), instance_dict(layer)
    if weight is None:
        return _unplain(name)
    spatial = weight.dim() - 2
    batched = x.dim() == spatial + 2
    if not batched and x.dim() != spatial + 1:
        wanted = f"{spatial + 1}-D or {spatial + 2}-D"
        return Prediction(name, Branch("refused", f"a {x.dim()}-D input: {wanted} is wanted"))
    shape = _padded(state, x, spatial)
    if x.dtype != weight.dtype:
        dtypes = " and ".join(str(each.dtype).removeprefix("torch.") for each in (x, weight))
        return Prediction(name, Branch("refused", f"operands of {dtypes}: one dtype is wanted"))
    if _pads_too_much(state, x, shape):
        reason = (
            f"{state['padding_mode']} padding of {list(x.shape)} to {shape}: more than is there"
        )
        return Prediction(name, Branch("refused", reason))
    try:
        chosen = _backend(layer, weight, x, shape if batched else [1, *shape])
    except AttributeError:
        return Prediction(name, Branch("not known", "this torch has no chooser to ask"))
    except RuntimeError as error:  # it checks channels and sizes as the convolution does
        return Prediction(name, Branch("refused", str(error).partition("\n")[0]))
    inner: tuple[Op, ...] = (Op("convolution", (Op("_convolution"),)),)
    if weight.device.type == "meta":
        chosen, inner = "", (Op("convolution"),)
    pads = state["padding_mode"] != "zeros"
    if isinstance(state["padding"], str) and not pads:
        # Where "same" pads the two sides unequally it may pad by an operator of its own.
        uneven = any((size - 1) % 2 for size in weight.shape[2:])
        inner = (Op("_convolution_mode", () if uneven else inner),)
    if not batched:
        inner = (Op("unsqueeze"), *inner, Op("squeeze"))
    ops = (*(Op("pad"),) * pads, Op(name.lower(), inner))
    reason = f"{'batched' if batched else 'unbatched'} input"
    reason += f", torch's own choice of a backend: {chosen}" if chosen else ""
    among = (_CONVOLUTIONS[chosen],) if chosen in _CONVOLUTIONS else ()
    return Prediction(name, Branch(_certainty(x, weight), reason, ops), among)


def _padded(state: Mapping[str, Any], x: Any, spatial: int) -> list[int]:
    """The shape of *x* as F.conv gets it: `forward` pads by itself unless it is with zeros."""
    shape = list(x.shape)
    if state["padding_mode"] != "zeros":
        twice = state["_reversed_padding_repeated_twice"]
        for axis in range(spatial):
            shape[-1 - axis] += twice[2 * axis] + twice[2 * axis + 1]
    return shape


def _pads_too_much(state: Mapping[str, Any], x: Any, shape: Sequence[int]) -> bool:
    """Whether reflected or circular padding, its wider side rounded up, needs more than *x* has."""
    if state["padding_mode"] not in ("reflect", "circular"):
        return False
    least = state["padding_mode"] == "reflect"
    pairs = zip(x.shape, shape, strict=True)
    return any(after > size and (after - size + 1) // 2 + least > size for size, after in pairs)


def _zeros_around(state: Mapping[str, Any], weight: Any) -> list[int]:
    """How many zeros the operator itself puts on each side; one more than some of "same"."""
    if state["padding_mode"] != "zeros" or state["padding"] == "valid":
        return [0] * (weight.dim() - 2)
    if state["padding"] == "same":
        reaches = zip(state["dilation"], weight.shape[2:], strict=True)
        return [(dilation * (size - 1) + 1) // 2 for dilation, size in reaches]
    return list(state["padding"])


def _backend(layer: Any, weight: Any, x: Any, shape: Sequence[int]) -> str:
    """The name of torch's ConvBackend for an input like *x* of *shape*; nothing is copied."""
    state, spatial = instance_dict(layer), weight.dim() - 2
    # Whether a gradient is wanted is one of the things that decide.
    like = x.detach().new_empty(()).expand(shape).requires_grad_(x.requires_grad)
    backend = torch_or_none()._C._select_conv_backend(
        like,
        weight,
        _stored(layer, "bias"),
        list(state["stride"]),
        _zeros_around(state, weight),
        list(state["dilation"]),
        False,
        [0] * spatial,
        state["groups"],
    )
    return str(backend).rpartition(".")[2]


_LAYERS = {
    "Embedding": _embedding,
    "LayerNorm": _layer_norm,
    "RMSNorm": _rms_norm,
    "Conv1d": _convolution,
    "Conv2d": _convolution,
    "Conv3d": _convolution,
}


# -- attention -----------------------------------------------------------------------------------


def _attention(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Prediction | None:
    torch = torch_or_none()
    name = "scaled_dot_product_attention"
    tensors = [each for each in (*args, *kwargs.values()) if is_a(each, torch.Tensor)]
    if len(tensors) < 3:
        return None
    around = surroundings(tensors[0].device.type)
    if around.intercepted:
        return Prediction(name, Branch("not known", around.intercepted))
    try:
        choice = int(torch._fused_sdp_choice(*args, **kwargs))
    except (AttributeError, RuntimeError, TypeError) as problem:
        return Prediction(name, Branch("not known", str(problem).partition("\n")[0]))
    word, operator = _ATTENTIONS.get(choice, (f"number {choice}", ""))
    if choice == 1 and tensors[0].device.type == "cpu":
        operator += "_for_cpu"
    reason = f"torch's own choice of a backend: {word}"
    ops = (Op(name),)
    among = (operator,) if operator else ()
    return Prediction(name, Branch(_certainty(*tensors[:3]), reason, ops), among)


def attention_backends() -> tuple[tuple[str, bool], ...]:
    """The backends of scaled_dot_product_attention, and whether they are enabled now."""
    cuda = torch_or_none().backends.cuda
    return (
        ("flash", cuda.flash_sdp_enabled()),
        ("memory-efficient", cuda.mem_efficient_sdp_enabled()),
        ("cuDNN", cuda.cudnn_sdp_enabled()),
        ("math", cuda.math_sdp_enabled()),
    )


def _multihead(layer: Any, given: Mapping[str, Any]) -> Prediction:
    name = "MultiheadAttention"
    why = why_not_fast(layer, given)
    certainty: Certainty = (
        "predicted" if surroundings("cpu").version == MEASURED_VERSION else "guessed"
    )
    if not why:
        reason = f"the fast path: torch.{FAST_ATTENTION}"
        return Prediction(name, Branch(certainty, reason), (FAST_ATTENTION,))
    reason = f"F.multi_head_attention_forward; not the fast path, since {why}"
    masked = any(given.get(mask) is not None for mask in ("attn_mask", "key_padding_mask"))
    among: tuple[str, ...] = ("baddbmm" if masked else "bmm", "softmax")
    if not given["need_weights"]:
        among = ("scaled_dot_product_attention",)
    return Prediction(name, Branch(certainty, reason), among, (FAST_ATTENTION,))


def why_not_fast(layer: Any, given: Mapping[str, Any] | None = None) -> str:
    """Why MultiheadAttention does not take its fast path, "" if it does; its `forward`'s tests.

    given: the arguments by name. None: only what the layer as it stands rules out.
    """
    torch = torch_or_none()
    state = instance_dict(layer)
    stored = registered(layer, "_parameters")
    packed, bias = stored.get("in_proj_weight"), stored.get("in_proj_bias")
    tests = [
        (torch.backends.mha.get_fastpath_enabled(), "torch.backends.mha has it disabled"),
        (packed is not None, "in_proj_weight is None: key and value have widths of their own"),
        (not state.get("training"), "training is enabled"),
        (state.get("num_heads", 0) % 2 == 0, "num_heads is not even"),
        (bool(state.get("batch_first")), "batch_first is not set"),
        (stored.get("bias_k") is None and stored.get("bias_v") is None, "bias_k or bias_v is set"),
        (not state.get("add_zero_attn"), "add_zero_attn is set"),
        (bias is not None, "it has no in_proj_bias"),
        (not torch.is_autocast_enabled(), "autocast is on"),
    ]
    if given is not None:
        tests = [*_tests_of_call(given, packed), *tests]
    projection = child(layer, "out_proj")
    weights = [packed, bias]
    if projection is not None:
        weights += registered(projection, "_parameters").values()
    wanting = [each for each in weights if each is not None and each.requires_grad]
    if given is not None and is_a(given["query"], torch.Tensor) and given["query"].requires_grad:
        wanting.append(given["query"])
    no_grad = not (torch.is_grad_enabled() and wanting)
    tests.append((no_grad, "gradients are on and the query or a weight requires one"))
    return next((why for holds, why in tests if not holds), "")


def _tests_of_call(given: Mapping[str, Any], packed: Any) -> list[tuple[bool, str]]:
    torch = torch_or_none()
    query, key, value = given["query"], given["key"], given["value"]
    masks = [given.get(name) for name in ("attn_mask", "key_padding_mask")]
    floating = any(mask is not None and mask.is_floating_point() for mask in masks)
    same = query is key and key is value
    dtype = packed is None or packed.dtype == query.dtype
    return [
        (query.dim() == 3, f"the query is {query.dim()}-D, not batched"),
        (same, "query, key and value are not the same tensor"),
        (dtype, "query and in_proj_weight are of different dtypes"),
        (not floating, "a mask is floating point"),
        (not torch.overrides.has_torch_function((query, key, value)), "a tensor is a subclass"),
    ]
