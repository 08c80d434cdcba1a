"""Checkpoints of tensors made by hand, for architectures and quantisations that transformers does
not make small."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 384,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ROWS = {"q_proj": 64, "k_proj": 32, "v_proj": 32, "o_proj": 64}
Tensors = dict[str, Any]


def handmade(
    folder: Path,
    tokenizer: Path,
    architecture: str,
    config: Mapping[str, Any],
    tensors: Tensors,
) -> Path:
    """A new *folder* with a config, *tensors*, and the tokenizer of another checkpoint."""
    from safetensors.torch import save_file

    folder.mkdir()
    shutil.copy(tokenizer / "tokenizer.model", folder)
    whole = {**SMALL, **config, "architectures": [architecture]}
    (folder / "config.json").write_text(json.dumps(whole))
    save_file(tensors, folder / "model.safetensors")
    return folder


def bf16(*shape: int) -> Any:
    """Zeros."""
    import torch

    return torch.zeros(shape, dtype=torch.bfloat16)


def around(layers: int = 2) -> Tensors:
    """What every model has: embedding, output and norms."""
    tensors = {f"{name}.weight": bf16(384, 64) for name in ("model.embed_tokens", "lm_head")}
    tensors["model.norm.weight"] = bf16(64)
    for layer in range(layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = bf16(64)
    return tensors


def nvfp4(name: str, rows: int) -> Tensors:
    """A weight as ModelOpt stores it, and its scales."""
    import torch

    return {
        f"{name}.weight": torch.zeros((rows, 32), dtype=torch.uint8),
        f"{name}.weight_scale": torch.ones((rows, 4)).to(torch.float8_e4m3fn),
        f"{name}.weight_scale_2": torch.tensor(0.5),
        f"{name}.input_scale": torch.tensor(0.25),
    }
