"""What a checkpoint's transformers model does with each of its parameters, seen by running parts
of it in a forked copy of the process: plain data, for modpdb.probes.needs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from modpdb.probes.checkpoints import TensorEntry
from modpdb.probes.norm_observed import NormEffect, is_linear, norm_effect
from modpdb.probes.rope_observed import Rotation, Rotations, observe_rotations
from modpdb.probes.skeleton import in_model_copy
from modpdb.probes.skeleton_names import Loads, loading_names

Use = Literal[
    "linear",
    "transposed",
    "embedding",
    "norm",
    "convolution",
    "experts",
    "transposed experts",
    "other",
]
"""`transposed`: a matrix of (in, out), as transformers' Conv1D; `experts`: matrices of
(expert, out, in), `transposed experts` of (expert, in, out)."""


@dataclass(frozen=True, slots=True)
class ParameterFacts:
    """One parameter or buffer. *module* is the path of what registers it, *role* its name there,
    *around* the class of the module around that. *rotation* is what that does to q and k, None if
    it and others of its class were not seen to rotate; *skipped* where it itself ran and did not.
    *norm* is there for what is run as a norm, if only to say why it is none.
    """

    module: str
    role: str
    class_name: str
    shape: tuple[int, ...]
    use: Use
    norm: NormEffect | None = None
    around: str = ""
    rotation: Rotation | None = None
    head_dim: int | None = None
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """*parameters*, and buffers, by name; *loads* the one that each checkpoint tensor becomes, or
    a part of. *failed* says why the model did not run to its end when its rotations were watched,
    "" if it did."""

    class_name: str
    version: str  # of transformers
    parameters: Mapping[str, ParameterFacts]
    loads: Mapping[str, Loads]
    failed: str


def model_facts(
    folder: Path,
    tensors: Iterable[TensorEntry],
    *,
    trust_remote_code: bool = False,
    slow: Callable[[], None] = lambda: None,
) -> ModelFacts:
    """The facts of the model that *folder*'s config.json describes, with *tensors* to load.

    Takes the seconds that importing transformers does. *slow* is called once after one of them.
    Raises modpdb.probes.skeleton.SkeletonError.
    """
    listed = tuple(tensors)
    return in_model_copy(
        folder, lambda model: _facts(model, listed), trust_remote_code=trust_remote_code, slow=slow
    )


# -- in the copy -----------------------------------------------------------------------------------


def _facts(model: Any, tensors: tuple[TensorEntry, ...]) -> ModelFacts:
    torch = sys.modules["torch"]
    loads = loading_names(model, tensors).loads
    parameters = dict(_parameters(torch, model))
    rotations = observe_rotations(torch, model)
    by_class = {
        type(module): rotations.by_module[path]
        for path, module in model.named_modules()
        if path in rotations.by_module
    }
    for name, facts in parameters.items():
        path = facts.module.rpartition(".")[0]
        attention = model.get_submodule(path)
        head_dim = vars(attention).get("head_dim")
        parameters[name] = replace(
            facts,
            around=type(attention).__name__,
            rotation=rotations.by_module.get(path) or by_class.get(type(attention)),
            head_dim=head_dim if type(head_dim) is int else None,
            skipped=_skipped(rotations, path),
        )
    return ModelFacts(
        type(model).__name__,
        sys.modules["transformers"].__version__,
        parameters,
        {source: each for each in loads for source in each.sources},
        rotations.failed,
    )


def _skipped(rotations: Rotations, path: str) -> bool:
    """Whether the module at *path* ran and rotated nothing."""
    done = path in rotations.ran and not rotations.failed
    return done and path not in rotations.by_module


def _parameters(torch: Any, model: Any) -> Iterable[tuple[str, ParameterFacts]]:
    effects: dict[Any, tuple[Use, NormEffect | None]] = {}
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        own |= module.named_buffers(recurse=False)
        if not own:
            continue
        alike = _alike(module, own)
        if alike not in effects:
            effects[alike] = _use(torch, module)
        use, norm = effects[alike]
        for role, parameter in own.items():
            by_name = use if role in ("weight", "bias") or "experts" in use else "other"
            name = f"{path}.{role}" if path else role
            shape = tuple(parameter.shape)
            kind = type(module).__name__
            yield name, ParameterFacts(path, role, kind, shape, by_name, norm)


def _alike(module: Any, own: Mapping[str, Any]) -> Any:
    """The same for modules that do the same: class, shapes and plain attributes."""
    plain = sorted(
        (name, repr(value))
        for name, value in vars(module).items()
        if isinstance(value, (bool, int, float, str, tuple)) and name != "layer_idx"
    )
    return type(module), tuple((n, tuple(p.shape)) for n, p in own.items()), tuple(plain)


def _use(torch: Any, module: Any) -> tuple[Use, NormEffect | None]:
    nn = torch.nn
    forward = type(module).forward
    if forward is nn.Linear.forward:
        return "linear", None
    if isinstance(module, nn.Embedding):
        return "embedding", None
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return "convolution", None
    if _is_conv1d(module):
        return "transposed", None
    turned = vars(module).get("is_transposed")  # of transformers' use_experts_implementation
    if turned is not None:
        return ("transposed experts" if turned else "experts"), None
    if is_linear(torch, module):
        return "linear", None
    norm = norm_effect(torch, module)
    return ("norm" if norm and not norm.words else "other"), norm


def _is_conv1d(module: Any) -> bool:
    """transformers' Conv1D: x @ weight, of GPT-2."""
    pytorch_utils = sys.modules.get("transformers.pytorch_utils")
    return pytorch_utils is not None and isinstance(module, pytorch_utils.Conv1D)
