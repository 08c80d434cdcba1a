"""Checkpoints made from others by changing a few things: to break a conversion in a known way."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Tensors = dict[str, Any]
NOTHING: Mapping[str, Any] = {}


def derived(
    source: Path,
    folder: Path,
    config: Mapping[str, Any] = NOTHING,
    tensors: Callable[[Tensors], Tensors] | None = None,
) -> Path:
    """A new *folder* with what *source* holds, but for the keys of *config* (None takes one away)
    and what *tensors* makes of its tensors, by name. Needs a model.safetensors; returns *folder*.
    """
    shutil.copytree(source, folder)
    changed = json.loads((folder / "config.json").read_text()) | dict(config)
    changed = {key: value for key, value in changed.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(changed, indent=2))
    if tensors is not None:
        from safetensors.torch import load_file, save_file

        file = folder / "model.safetensors"
        save_file(tensors(load_file(file)), file, {"format": "pt"})
    return folder


def renamed(names: Mapping[str, str]) -> Callable[[Tensors], Tensors]:
    """For `derived`: every part of a name that *names* has, replaced."""

    def rename(tensors: Tensors) -> Tensors:
        changed = {}
        for name, tensor in tensors.items():
            for old, new in names.items():
                name = name.replace(old, new)
            changed[name] = tensor
        return changed

    return rename


def lora_adapter(folder: Path, modules: Mapping[str, tuple[int, int]], layers: int = 2) -> Path:
    """A LoRA adapter of rank 4 for *modules*, such as `self_attn.q_proj`: (rows, columns)."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    chance = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(layers):
        for module, (rows, columns) in modules.items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(4, columns, generator=chance)
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(rows, 4, generator=chance)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    return folder
