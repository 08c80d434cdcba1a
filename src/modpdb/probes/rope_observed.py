"""Which rows of q and k a transformers model rotates with each other, seen by running it.

The model runs on the meta device with the functions that rotate (`apply_rotary_pos_emb` and its
like) watched. What each was called with is then computed for unit vectors of real numbers: inputs
that reach the same outputs are rotated with each other. No name decides. The model is disturbed
by it: only for a forked copy.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from modpdb.probes.rope_facts import Layout

_ROTATES = re.compile(r"_?apply_(\w*rotary|\w*rope)\w*|rotate_queries_or_keys")
_TOKENS = 4  # that the model is run with


@dataclass(frozen=True, slots=True)
class Rotation:
    """What an attention module does to q and k. *size*: rows of a head that are rotated;
    *function* does it, by name. *words*: why *layout* is unknown."""

    layout: Layout
    size: int = 0
    function: str = ""
    words: str = ""


@dataclass(frozen=True, slots=True)
class Rotations:
    """By the path of the module that rotates. *ran* are the paths of modules that were called:
    unless the run *failed*, for the reason given, one that is not in *by_module* rotates nothing.
    """

    by_module: Mapping[str, Rotation]
    ran: frozenset[str]
    failed: str


def observe_rotations(torch: Any, model: Any) -> Rotations:
    """Run *model*, a transformers model on the meta device, and note what it rotates."""
    watch = _Watch(torch, model)
    watch.begin()
    failed = ""
    try:
        if hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation("eager")  # others run kernels that need values
        with _no_values(torch):
            model(**_inputs(torch, model))
    except Exception as error:  # some cannot run without values; what ran is known
        failed = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return Rotations(watch.found, frozenset(watch.ran), failed)


def _no_values(torch: Any) -> Any:
    """Lets a model on the meta device branch on values, which are then all zero: whether a mask is
    full, which tokens an expert has."""
    from torch.utils._python_dispatch import TorchDispatchMode

    zero = torch.ops.aten._local_scalar_dense.default
    none = torch.ops.aten.nonzero.default

    class AllZero(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if args and isinstance(args[0], torch.Tensor) and args[0].is_meta:
                if function is zero:
                    return torch.zeros((), dtype=args[0].dtype, device="cpu").tolist()
                if function is none:
                    shape = (0, args[0].ndim)
                    return torch.empty(shape, dtype=torch.long, device="meta")
            return function(*args, **(kwargs or {}))

    return AllZero()


def _inputs(torch: Any, model: Any) -> dict[str, Any]:
    tokens = torch.zeros((1, _TOKENS), dtype=torch.long, device="meta")
    inputs = {"input_ids": tokens, "use_cache": False}
    if getattr(model.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = tokens
    return inputs


class _Watch:
    def __init__(self, torch: Any, model: Any) -> None:
        self.torch = torch
        self.found: dict[str, Rotation] = {}
        self.ran: set[str] = set()
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._files = {type(module).__module__ for module in model.modules()}
        self._known: dict[Any, Rotation] = {}
        self._inside = False

    def begin(self) -> None:
        self.torch.nn.modules.module.register_module_forward_pre_hook(self._called)
        for file in self._files:
            names = vars(sys.modules[file])
            for name, function in list(names.items()):
                rotates = _ROTATES.fullmatch(name) and callable(function)
                if rotates and not isinstance(function, type):
                    names[name] = self._watched(name, function)

    def _called(self, module: Any, _: Any) -> None:
        self.ran.add(self._paths.get(id(module), ""))

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            if not self._inside:
                self._inside = True  # one may call another
                try:
                    self._note(sys._getframe(1), name, function, args, kwargs)
                finally:
                    self._inside = False
            return function(*args, **kwargs)

        return watched

    def _note(
        self,
        frame: FrameType,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        path = self._paths.get(id(frame.f_locals.get("self")))
        if path is None:
            return
        key = (function, _signature(self.torch, args), _signature(self.torch, kwargs))
        if key not in self._known:
            self._known[key] = _rotation(self.torch, name, function, args, kwargs)
        rotation = self._known[key]
        before = self.found.setdefault(path, rotation)
        if before.layout != rotation.layout:
            words = f"{before.function} and {name} rotate different rows"
            self.found[path] = Rotation("unknown", words=words)


def _signature(torch: Any, value: Any) -> Any:
    """What is the same for calls that rotate alike."""
    if isinstance(value, torch.Tensor):
        return (tuple(value.shape), value.dtype)
    if isinstance(value, dict):
        return tuple((name, _signature(torch, each)) for name, each in value.items())
    if isinstance(value, (tuple, list)):
        return tuple(_signature(torch, each) for each in value)
    return repr(value)


def _rotation(
    torch: Any,
    name: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Rotation:
    generator = torch.Generator().manual_seed(0)
    try:
        real = _real(torch, args, generator)
        named = _real(torch, kwargs, generator)
        mixed = _mixed(torch, function, real, named)
    except Exception as error:  # of any model's code, with values that it did not expect
        return Rotation("unknown", function=name, words=f"{name}: {type(error).__name__}")
    layout, size = _layout(mixed)
    words = f"{name} rotates rows in another order" if layout == "unknown" else ""
    return Rotation(layout, size, name, words)


def _real(torch: Any, value: Any, generator: Any) -> Any:
    """*value* with random tensors of the same shapes in place of those without values."""
    if isinstance(value, dict):
        return {name: _real(torch, each, generator) for name, each in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_real(torch, each, generator) for each in value)
    if not isinstance(value, torch.Tensor):
        return value
    if not (value.is_floating_point() or value.is_complex()):
        return torch.zeros(value.shape, dtype=value.dtype)
    dtype = torch.complex64 if value.is_complex() else torch.float32
    return torch.rand(value.shape, dtype=dtype, generator=generator) + 0.5


def _mixed(
    torch: Any, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[frozenset[int]]:
    """The outputs that each input row of a head reaches; the first argument is what is rotated."""
    rotated = args[0] if args else next(iter(kwargs.values()))
    reached = []
    for row in range(rotated.shape[-1]):
        rotated.zero_()
        rotated[..., row] = 1
        made = function(*args, **kwargs)
        first = made[0] if isinstance(made, (tuple, list)) else made
        last_token = first.reshape(-1, first.shape[-1])[-1]
        reached.append(frozenset(last_token.nonzero().flatten().tolist()))
    return reached


def _layout(reached: list[frozenset[int]]) -> tuple[Layout, int]:
    """How rows are paired, and how many are, from the outputs that each reaches."""
    partner: dict[int, int] = {}
    for row, outputs in enumerate(reached):
        others = [n for n, each in enumerate(reached) if n != row and each & outputs]
        if len(others) > 1:
            return "unknown", 0
        if others:
            partner[row] = others[0]
    size = len(partner)
    if not size:
        return "none", 0
    start = min(partner)
    if sorted(partner) != list(range(start, start + size)):
        return "unknown", size
    if all(partner[start + n] == start + (n ^ 1) for n in range(size)):
        return "interleaved", size
    if all(partner[start + n] == start + (n + size // 2) % size for n in range(size)):
        return "half", size
    return "unknown", size
