#!/usr/bin/env python3
"""Makes a small checkpoint that llama.cpp's conversion script converts, and prints its folder.

The model is built by transformers from a config, with random weights; its sentencepiece tokenizer
is trained on made-up words. The same options give the same files. The weights are chosen so that
a wrong conversion shows: in a fresh model norms of all ones make `x`, `x + 1` and `x * c` look
alike, and attention is so flat that permuted rows of q and k change nothing.
"""

import argparse
import hashlib
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

# torch, transformers and sentencepiece are imported where they are used: a checkpoint that is
# there already is named at once, without the seconds that importing them takes.

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "checkpoints"
DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
VOCABULARY = 384
ATTENTION_GAIN = 20.0
"""By which q and k are multiplied: attention as sharp as that of a trained model."""
NORM_SPREAD = 0.3
"""Standard deviation of norm weights about what a fresh model has."""

TINY = {
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
}
# By the name of transformers' class, and the numbers of its config.
CLASSES = {
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig"),
    "llama": ("LlamaForCausalLM", "LlamaConfig"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config"),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig"),
    "phi3": ("Phi3ForCausalLM", "Phi3Config"),
}
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "gemma3": {
        "tiny": {
            "num_hidden_layers": 4,
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "sliding_window": 64,
            "vocab_size": VOCABULARY,
        },
        "148m": {
            "num_hidden_layers": 18,
            "hidden_size": 640,
            "intermediate_size": 2048,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "sliding_window": 512,
            "vocab_size": 74_752,
        },
    },
    "llama": {"tiny": TINY},
    # Biases on q, k and v, and NeoX RoPE: rows must not be permuted.
    "qwen2": {"tiny": TINY | {"tie_word_embeddings": True}},
    # Experts of their own in the checkpoint, stacked in the GGUF file. Conversion scripts of 2025
    # fail at the head_dim of null that transformers would write.
    "mixtral": {
        "tiny": TINY | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16},
    },
    # q, k and v in one weight, gate and up in another.
    "phi3": {"tiny": TINY},
}


class RecipeError(Exception):
    """No checkpoint can be made by these options; the message is a sentence that says why."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides the checkpoint; equal recipes give equal files.

    `layers` None is the size's own number; `shards` over 1 writes that many files and an index.
    """

    model: str = "gemma3"
    size: str = "tiny"
    layers: int | None = None
    dtype: str = "bf16"
    shards: int = 1
    seed: int = 0

    def sizes(self) -> dict[str, Any]:
        """The config's numbers; raises RecipeError where the model has no such size."""
        try:
            sizes = SIZES[self.model][self.size]
        except KeyError:
            known = ", ".join(f"{model} {size}" for model in SIZES for size in SIZES[model])
            raise RecipeError(f"no {self.model} of size {self.size}; there is: {known}") from None
        return sizes if self.layers is None else {**sizes, "num_hidden_layers": self.layers}


def say(message: str) -> None:
    print(f"make_checkpoint: {message}", file=sys.stderr, flush=True)


# -- the model --------------------------------------------------------------------------------


def build(recipe: Recipe) -> Any:
    """The model with its weights, in float32 on the CPU; the caller's RNG state stays as it was."""
    import torch
    import transformers

    config = recipe.sizes() | {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if recipe.model == "gemma3":
            # llama.cpp scales by 1/sqrt(head_dim) in small models, whatever the config says.
            config["query_pre_attn_scalar"] = config["head_dim"]
        model_class, config_class = (getattr(transformers, name) for name in CLASSES[recipe.model])
        model = model_class(config_class(**config))
        make_errors_visible(model)
    return model


def make_errors_visible(model: Any) -> None:
    """Random norms and biases, and sharp attention, in place: see the top of this file."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight", "qkv_proj.weight")):
                weight.mul_(ATTENTION_GAIN)
            elif name.endswith((".bias", "norm.weight")):
                weight.add_(torch.randn_like(weight), alpha=NORM_SPREAD)


def split(folder: Path, shards: int) -> None:
    """Splits folder's model.safetensors into shards of about as many tensors, with an index."""
    from safetensors.torch import load_file, save_file

    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    if not 1 <= shards <= len(tensors):
        raise RecipeError(f"{len(tensors)} tensors do not make {shards} shards")
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for index in range(shards):
        part = names[index * len(names) // shards : (index + 1) * len(names) // shards]
        file = f"model-{index + 1:05}-of-{shards:05}.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index_json = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_json, indent=2))
    whole.unlink()


# -- the tokenizer ----------------------------------------------------------------------------


def made_up_sentences(seed: int, count: int = 2000) -> Iterator[str]:
    """Sentences of made-up words, some words far more frequent than others, as in a language."""
    chance = random.Random(seed)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in ("a", "e", "i", "o", "u", "an", "or")]
    words = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(300)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    for _ in range(count):
        yield " ".join(chance.choices(words, weights, k=chance.randint(3, 12)))


def train_tokenizer(seed: int) -> bytes:
    """A sentencepiece model of VOCABULARY pieces with byte fallback, ids as in Gemma."""
    import sentencepiece

    trained = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=made_up_sentences(seed),
        model_writer=trained,
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        num_threads=1,
        minloglevel=2,
    )
    return trained.getvalue()


# -- the folder -------------------------------------------------------------------------------


def make(recipe: Recipe, folder: Path) -> None:
    """Writes the checkpoint into folder, which must not exist; raises RecipeError."""
    if folder.exists():
        raise RecipeError(f"{folder} exists already")
    write(recipe, folder)


def write(recipe: Recipe, folder: Path) -> None:
    """Writes the checkpoint into folder, or leaves what another run has put there meanwhile.

    The folder gets its name when all is written, by a rename: it is never there half made.
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    recipe.sizes()
    say(f"making a {recipe.size} {recipe.model} with random weights")
    disable_progress_bar()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="making-", dir=folder.parent) as work:
        partial = Path(work, folder.name)
        model = build(recipe).to(getattr(torch, DTYPES[recipe.dtype]))
        model.save_pretrained(partial, max_shard_size="100GB")
        if recipe.shards != 1:
            split(partial, recipe.shards)
        (partial / "tokenizer.model").write_bytes(train_tokenizer(recipe.seed))
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another run was quicker, by the same recipe
                raise


def cached(recipe: Recipe, cache: Path = CACHE) -> Path:
    """Returns the checkpoint's folder in the cache, made if it is not there yet.

    The path holds a hash of the recipe and of this file, so a change of either makes a new one.
    """
    source = Path(__file__).read_bytes() + repr(astuple(recipe)).encode()
    key = hashlib.sha256(source).hexdigest()[:12]
    folder = cache / key / f"{recipe.size}-{recipe.model}"
    if not folder.is_dir():
        write(recipe, folder)  # not make(): two runs that find none yet both make it
    return folder


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Makes a small checkpoint with random weights.")
    parser.add_argument("model", nargs="?", default="gemma3", choices=SIZES)
    parser.add_argument("folder", nargs="?", type=Path, help="a new folder (one in .cache)")
    parser.add_argument("--size", default="tiny", help="tiny, or 148m for gemma3 (%(default)s)")
    parser.add_argument("--layers", type=int, help="how many (the size's own)")
    parser.add_argument("--dtype", default="bf16", choices=DTYPES, help="(%(default)s)")
    parser.add_argument("--shards", type=int, default=1, help="files to write (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    return parser.parse_args()


def main() -> int:
    args = parsed()
    recipe = Recipe(args.model, args.size, args.layers, args.dtype, args.shards, args.seed)
    try:
        if args.folder is None:
            args.folder = cached(recipe)
        else:
            make(recipe, args.folder)
    except (RecipeError, OSError) as error:
        say(str(error))
        return 1
    print(args.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
