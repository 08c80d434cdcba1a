"""Checkpoints that make the conversion scripts fail, each in the way that its name says."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from derived import Tensors, derived, lora_adapter, renamed


def renamed_blocks(source: Path, folder: Path) -> Path:
    """Names of nobody's: 4 layers' attention and feed-forward, to be guessed at."""
    names = {
        "self_attn.q_proj": "mixer.query_map",
        "self_attn.o_proj": "mixer.out_map",
        "mlp.down_proj": "feed.shrink",
        "input_layernorm": "mixer_norm",
    }
    return derived(source, folder, tensors=renamed(names))


def lost_prefix(source: Path, folder: Path) -> Path:
    return derived(source, folder, tensors=renamed({"model.layers.": "body.layers."}))


def unknown_pre_tokenizer(source: Path, folder: Path) -> Path:
    """A byte-level BPE that splits as GPT-2's does, in the place of the sentencepiece model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    derived(source, folder)
    for file in ("tokenizer.model", "tokenizer_config.json"):
        (folder / file).unlink(missing_ok=True)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet
    )
    made.train_from_iterator(["bada fora mano tile", "bada bada fora"], trainer)
    made.save(str(folder / "tokenizer.json"))
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind))
    return folder


def too_many_tokens(source: Path, folder: Path) -> Path:
    """More tokens in the tokenizer than config and embedding have rows for."""
    unknown_pre_tokenizer(source, folder)
    _change_config(folder, {"vocab_size": 200})

    def fewer(tensors: Tensors) -> Tensors:
        return {name: (t[:200].clone() if "embed" in name else t) for name, t in tensors.items()}

    _change_tensors(folder, fewer)
    return folder


def no_tokenizer_model(source: Path, folder: Path) -> Path:
    derived(source, folder)
    (folder / "tokenizer.model").unlink()
    return folder


def of_architecture(source: Path, folder: Path, name: str) -> Path:
    return derived(source, folder, {"architectures": [name]})


def no_layer_count(source: Path, folder: Path) -> Path:
    """A model_type of nobody's, as transformers would fill in the number; it is nested."""
    config = {
        "model_type": "invented",
        "num_hidden_layers": None,
        "decoder": {"num_hidden_layers": 4},
    }
    return derived(source, folder, config)


def same_twice(source: Path, folder: Path) -> Path:
    """The embedding under the name of another family as well."""

    def change(tensors: Tensors) -> Tensors:
        return tensors | {"transformer.wte.weight": tensors["model.embed_tokens.weight"].clone()}

    return derived(source, folder, tensors=change)


def in_two_files(source: Path, folder: Path) -> Path:
    """Two shards and their index, the second shard not there."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    first, second = (f"model-{number:05}-of-00002.safetensors" for number in (1, 2))
    save_file({name: tensors[name] for name in names[:20]}, folder / first, {"format": "pt"})
    weight_map = dict.fromkeys(names[:20], first) | dict.fromkeys(names[20:], second)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def cut_short(source: Path, folder: Path) -> Path:
    """The first half of the only file, as a download leaves it."""
    derived(source, folder)
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    return folder


def an_expert_less(source: Path, folder: Path) -> Path:
    def change(tensors: Tensors) -> Tensors:
        lost = next(name for name in tensors if ".layers.1." in name and ".experts.2.w3" in name)
        return {name: tensor for name, tensor in tensors.items() if name != lost}

    return derived(source, folder, tensors=change)


def no_image_mean(source: Path, folder: Path) -> Path:
    """Gemma 3 with an encoder of one layer and no preprocessor_config.json."""
    import torch

    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "model_type": "siglip_vision_model",
    }  # fmt: skip
    config = json.loads((source / "config.json").read_text())
    changed = {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "text_config": config, "vision_config": vision,
    }  # fmt: skip
    added = {
        "vision_tower.vision_model.post_layernorm.weight": torch.ones(32),
        "multi_modal_projector.mm_soft_emb_norm.weight": torch.ones(32),
    }

    def change(tensors: Tensors) -> Tensors:
        return {f"language_model.{name}": tensor for name, tensor in tensors.items()} | added

    return derived(source, folder, changed, change)


def null_head_size(source: Path, folder: Path) -> Path:
    """head_dim as transformers writes it of a Mixtral that was made without."""
    derived(source, folder)
    _change_config(folder, {"head_dim": None})
    return folder


def no_expert_count(source: Path, folder: Path) -> Path:
    """A key that the class reads by hparams[…]; a model_type that transformers cannot fill in."""
    return derived(source, folder, {"model_type": "invented", "num_local_experts": None})


def too_large(source: Path, folder: Path) -> Path:
    """A value that f16 does not hold."""

    def change(tensors: Tensors) -> Tensors:
        tensors["model.layers.2.mlp.up_proj.weight"][3, 5] = 1e6
        return tensors

    return derived(source, folder, tensors=change)


def many_faults(source: Path, folder: Path) -> Path:
    """A norm that LLAMA does not list, GPTQ's tensors, and names of nobody's."""
    import torch

    def change(tensors: Tensors) -> Tensors:
        del tensors["model.layers.0.self_attn.q_proj.weight"]
        for part in ("qweight", "qzeros", "scales"):
            tensors[f"model.layers.0.self_attn.q_proj.{part}"] = torch.zeros(8, 8)
        tensors["model.layers.1.self_attn.q_norm.weight"] = torch.ones(16)
        tensors["model.adapters.quux"] = torch.ones(3, 5, 7)
        tensors["model.layers.2.self_attn.o_proj.gamma"] = torch.ones(4)
        return tensors

    return derived(source, folder, {"num_hidden_layers": 3}, change)


def key_value_adapter(base: Path, folder: Path, adapter: Path) -> tuple[Path, Path]:
    """A base of DeepSeek 2's architecture (its config alone) and an adapter for kv_b_proj, whose
    transposed half has no form as A and B."""
    config = {
        "architectures": ["DeepseekV2ForCausalLM"], "model_type": "invented", "n_routed_experts": 4,
        "num_key_value_heads": 4, "v_head_dim": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
        "kv_lora_rank": 32, "q_lora_rank": None,
    }  # fmt: skip
    derived(base, folder, config)
    return folder, lora_adapter(adapter, {"self_attn.kv_b_proj": (128, 32)}, layers=1)


def output_adapter(source: Path, base: Path, folder: Path) -> tuple[Path, Path]:
    """A base of the first Gemma's architecture, whose class drops lm_head, and an adapter of it."""
    derived(source, base, {"architectures": ["GemmaForCausalLM"], "model_type": "invented"})
    lora_adapter(folder, {"self_attn.q_proj": (128, 64)}, layers=1)
    halves = {f"base_model.model.lm_head.lora_{half}.weight": half for half in "AB"}
    _change_tensors(
        folder,
        lambda tensors: (
            tensors
            | {
                name: tensors[next(t for t in tensors if f"lora_{half}" in t)].clone()
                for name, half in halves.items()
            }
        ),
        "adapter_model.safetensors",
    )
    return base, folder


def adapter_with(folder: Path, name: str, *shape: int) -> Path:
    """An adapter of q_proj that holds the tensor *name* as well."""
    lora_adapter(folder, {"self_attn.q_proj": (64, 64)}, layers=1)
    _change_tensors(
        folder, lambda tensors: _with(name, *shape)(tensors), "adapter_model.safetensors"
    )
    return folder


def _with(name: str, *shape: int) -> Any:
    import torch

    return lambda tensors: tensors | {name: torch.ones(shape)}


def _change_config(folder: Path, changed: Mapping[str, Any]) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(changed)))


def _change_tensors(folder: Path, change: Any, file: str = "model.safetensors") -> None:
    from safetensors.torch import load_file, save_file

    save_file(change(load_file(folder / file)), folder / file, {"format": "pt"})
