"""A checkpoint's transformers model on the meta device: its modules, and where its tensors go.

Built in a forked copy of the process. transformers, imported in the program, would stay there:
it takes in `gguf`, sets environment variables and logging, and registers classes. The copy has
what the program has registered and patched, and only plain data comes back from it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from modpdb.probes.checkpoints import TensorEntry
from modpdb.probes.forked import ForkError, Result, in_fork
from modpdb.probes.skeleton_names import Names, loading_names
from modpdb.probes.tree import ModuleTree


@dataclass(frozen=True, slots=True)
class Skeleton:
    """*tree* is the model as the config describes it, before any quantisation of the checkpoint's
    is applied. *names* is None where there are no tensors to set beside it. *notes* say what is
    not as a user may expect."""

    tree: ModuleTree
    class_name: str
    version: str  # of transformers
    names: Names | None
    notes: tuple[str, ...]


class SkeletonError(ValueError):
    """Why there is no skeleton, in a sentence."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why the copy has built no model, in a sentence."""

    words: str


def build_skeleton(
    folder: Path,
    tensors: Iterable[TensorEntry],
    *,
    trust_remote_code: bool = False,
    slow: Callable[[], None] = lambda: None,
) -> Skeleton:
    """The model that *folder*'s config.json describes, beside *tensors*, the checkpoint's.

    No weight is read, no network asked; code of the checkpoint is run if *trust_remote_code*, in
    the copy. *slow* is called once after a second. Raises SkeletonError.
    """
    listed = tuple(tensors)
    notes = tuple(_notes(_config(folder)))
    return in_model_copy(
        folder,
        lambda model: _skeleton(model, listed, notes),
        trust_remote_code=trust_remote_code,
        slow=slow,
    )


def in_model_copy(
    folder: Path,
    look: Callable[[Any], Result],
    *,
    trust_remote_code: bool = False,
    slow: Callable[[], None] = lambda: None,
) -> Result:
    """What *look* returns, plain data, for the model of *folder*'s config on the meta device.

    Model and *look* run in a forked copy of the process. Raises SkeletonError.
    """
    config = _config(folder)
    with tempfile.TemporaryDirectory(prefix="modpdb-") as cache:  # for the checkpoint's code
        try:
            seen = in_fork(lambda: _seen(folder, config, look, trust_remote_code, cache), slow)
        except ForkError as error:
            raise SkeletonError(f"the model of {folder} cannot be built: {error}") from None
    if isinstance(seen, _Refusal):
        raise SkeletonError(seen.words)
    return seen


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SkeletonError(f"{folder}: no config.json, which describes the model") from None
    except (OSError, ValueError) as error:
        raise SkeletonError(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise SkeletonError(f"{path}: a JSON {type(found).__name__}, expected an object")
    return found


# -- in the copy -----------------------------------------------------------------------------------


def _seen(
    folder: Path,
    config: dict[str, Any],
    look: Callable[[Any], Result],
    trust: bool,
    cache: str,
) -> Result | _Refusal:
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": cache}
    try:
        torch, transformers = _imported("torch"), _imported("transformers")
    except ModuleNotFoundError as error:
        return _Refusal(f"skeleton needs transformers, and {error.name} is not installed")
    _cut_off(cache)
    refusal = _foreign_code(transformers, folder, config) if not trust else ""
    if refusal:
        return _Refusal(refusal)
    settings: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust}
    parsed = transformers.AutoConfig.from_pretrained(str(folder), **settings)
    torch.set_default_dtype(torch.float32)
    with torch.inference_mode(False), torch.no_grad():
        with torch.device("meta"):
            model = _model_class(transformers, folder, config, parsed, trust)._from_config(parsed)
        return look(model.eval())


def _skeleton(model: Any, tensors: tuple[TensorEntry, ...], notes: tuple[str, ...]) -> Skeleton:
    from modpdb.probes.modules import module_tree

    return Skeleton(
        module_tree(model),
        type(model).__name__,
        sys.modules["transformers"].__version__,
        loading_names(model, tensors) if tensors else None,
        notes,
    )


def _imported(name: str) -> ModuleType:
    return importlib.import_module(name)


def _cut_off(cache: str) -> None:
    """Reach no network, and keep the checkpoint's code out of the user's cache: for libraries
    that were imported before the environment said so."""
    for module, name, value in (
        ("huggingface_hub.constants", "HF_HUB_OFFLINE", True),
        ("transformers.dynamic_module_utils", "HF_MODULES_CACHE", cache),
    ):
        if module in sys.modules:
            setattr(sys.modules[module], name, value)


def _foreign_code(transformers: Any, folder: Path, config: dict[str, Any]) -> str:
    """Why the model cannot be built without code that lies with the checkpoint; "" if it can."""
    if "auto_map" not in config:
        return ""
    kind, names = config.get("model_type"), config.get("architectures") or ()
    if kind in transformers.CONFIG_MAPPING and all(hasattr(transformers, str(n)) for n in names):
        return ""
    return (
        f"{folder}: {', '.join(map(str, names)) or kind} is code that lies with the checkpoint; "
        "skeleton --trust-remote-code runs it, in a forked copy of the process"
    )


def _model_class(
    transformers: Any, folder: Path, config: dict[str, Any], parsed: Any, trust: bool
) -> Any:
    """The class that the config names first, the checkpoint's own where that is trusted."""
    names = [name for name in config.get("architectures") or () if isinstance(name, str)]
    if not names:
        raise LookupError("its config.json names no class in 'architectures'")
    references = config.get("auto_map")
    for reference in references.values() if trust and isinstance(references, dict) else ():
        if isinstance(reference, str) and reference.rpartition(".")[2] == names[0]:
            from_code = _imported("transformers.dynamic_module_utils").get_class_from_dynamic_module
            return from_code(reference, str(folder), local_files_only=True)
    found = getattr(transformers, names[0], None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise LookupError(f"transformers {transformers.__version__} has no model {names[0]!r}")
    return found


def _notes(config: dict[str, Any]) -> Iterable[str]:
    quantised = config.get("quantization_config")
    if isinstance(quantised, dict):
        method = quantised.get("quant_method", "a method it does not name")
        yield (
            f"the checkpoint is quantised ({method}): the modules are those before quantisation, "
            "and its scales have no parameter here"
        )
