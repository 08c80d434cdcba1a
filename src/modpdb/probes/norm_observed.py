"""What a module does with its weight, seen by running it: a norm's multiplier, a router's product.

Each module is copied from the meta device to memory and run on random numbers with weights that
are known. No class name decides: Gemma's 1 + weight shows as that.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_CLOSE = 1e-3  # by which float32 results with a norm's epsilon may differ, relative
_OPEN = 1.2784645428  # x for which silu(x) = 1
_LARGEST = 1 << 25  # elements of a matrix with which a module is run
_LARGEST_NORM = 1 << 18  # and of a norm's weight, of which the input is a multiple


@dataclass(frozen=True, slots=True)
class NormEffect:
    """A norm gives N(x) · (plus + times · weight), with N the RMS or the standard norm of *kind*.

    *words* say what is not so: then the rest means nothing.
    """

    kind: str = ""  # "rms", "layer"
    plus: float = 0.0
    times: float = 1.0
    words: str = ""


def norm_effect(torch: Any, module: Any) -> NormEffect | None:
    """What *module* multiplies its normalised input by; None if it is no norm."""
    weight = _parameters(module).get("weight")
    if weight is None or not 1 <= weight.ndim <= 2 or weight.numel() > _LARGEST_NORM:
        return None
    if any(each.shape != weight.shape for each in _parameters(module).values()):
        return None
    try:
        return _observed(torch, _in_memory(torch, module))
    except Exception as error:  # of any module's code
        name, kind = type(module).__name__, type(error).__name__
        return NormEffect(words=f"{name} does not run alone as a norm does: {kind}")


def _observed(torch: Any, module: Any) -> NormEffect:
    weight = module.weight
    chance = torch.Generator().manual_seed(0)
    x = 10 * torch.randn((3, 5, *weight.shape), generator=chance) + 3  # eps is nothing beside it
    zero, one, two = (_run(torch, module, x, torch.full_like(weight, n)) for n in (0.0, 1.0, 2.0))
    name = type(module).__name__
    if not _near(two - one, one - zero):
        return NormEffect(words=f"{name} is no linear function of its weight")
    for kind, normal in _normals(torch, x):
        plus, times = _ratio(zero, normal), _ratio(one - zero, normal)
        if plus is None or times is None:
            continue
        random = torch.randn(weight.shape, generator=chance)
        if _near(_run(torch, module, x, random), normal * (plus + times * random)):
            return NormEffect(kind, plus, times)
    return NormEffect(words=f"what {name} does with its weight is not known here")


def _run(torch: Any, module: Any, x: Any, weight: Any) -> Any:
    """What *module* gives without its bias."""
    bias = _parameters(module).get("bias")
    with torch.no_grad():
        module.weight.copy_(weight)
        if bias is not None:
            bias.zero_()
        made = _called(torch, module, x)
        if bias is not None:
            bias.fill_(1.0)
            if not _near(_called(torch, module, x) - made, torch.ones_like(made)):
                raise ValueError("its bias is not added")
    return made


def _called(torch: Any, module: Any, x: Any) -> Any:
    """*module* of x; where it takes a gate, one that SiLU lets through as it is."""
    try:
        return module(x)
    except TypeError:
        return module(x, torch.full_like(x, _OPEN))


def _normals(torch: Any, x: Any) -> Iterator[tuple[str, Any]]:
    yield "rms", x * x.square().mean(-1, keepdim=True).rsqrt()
    centred = x - x.mean(-1, keepdim=True)
    yield "layer", centred * centred.square().mean(-1, keepdim=True).rsqrt()


def _ratio(made: Any, normal: Any) -> float | None:
    """The number by which *normal* was multiplied, None if not by one."""
    ratio = float((made * normal).sum() / normal.square().sum())
    rounded = float(f"{ratio:.3g}") if abs(ratio - float(f"{ratio:.3g}")) < _CLOSE else ratio
    return rounded if _near(made, normal * rounded) else None


def _near(one: Any, other: Any) -> bool:
    room = _CLOSE * max(1.0, float(other.abs().max()))
    return one.shape == other.shape and bool(((one - other).abs() <= room).all())


def is_linear(torch: Any, module: Any) -> bool:
    """Whether *module*, such as a router of experts, multiplies its input by its weight as
    nn.Linear does, then at most takes the softmax or the sigmoid."""
    weight = _parameters(module).get("weight")
    if weight is None or weight.ndim != 2 or weight.numel() > _LARGEST:
        return False
    try:
        real = _in_memory(torch, module)
        chance = torch.Generator().manual_seed(0)
        x = torch.randn((2, weight.shape[1]), generator=chance)
        values = torch.randn(weight.shape, generator=chance) / weight.shape[1] ** 0.5
        with torch.no_grad():
            real.weight.copy_(values)
            bias = torch.randn(weight.shape[0], generator=chance)
            if "bias" in _parameters(real):
                real.bias.copy_(bias)
            else:
                bias.zero_()
            made = real(x)
        product = x @ values.T + bias
        wanted = (product, product.softmax(-1), product.sigmoid())
        outputs = made if isinstance(made, (tuple, list)) else (made,)
        return any(
            isinstance(each, torch.Tensor) and each.shape == product.shape and _near(each, like)
            for each in outputs
            for like in wanted
        )
    except Exception:  # of any module's code: it takes something else
        return False


def _parameters(module: Any) -> dict[str, Any]:
    return dict(module.named_parameters(recurse=False))


def _in_memory(torch: Any, module: Any) -> Any:
    """A copy of *module* in memory, its values all zero."""
    made = copy.deepcopy(module).to_empty(device="cpu").float().eval()
    with torch.no_grad():
        for tensor in (*made.parameters(), *made.buffers()):
            tensor.zero_()
    return made
