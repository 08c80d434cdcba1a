"""Runs llama.cpp's own converter classes on small models and judges what they make.

    python needs_of_conversion.py LLAMA_CPP FOLDER

Prints a JSON object: by model, how many tensors got which verdict, and the reasons for those that
are not ok. No tokenizer is needed, as nothing is written. In a process of its own, since llama.cpp
brings a gguf of its own.
"""

import json
import logging
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "intermediate_size": 96,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OF_HEADS = SIZES | {"head_dim": 16}
ALL_HEADS = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 96}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", SIZES),
    "granite": ("GraniteForCausalLM", SIZES),
    "smollm3": ("SmolLM3ForCausalLM", SIZES),
    "olmo": ("OlmoForCausalLM", SIZES),
    "command-r": ("CohereForCausalLM", SIZES),
    "chatglm": ("GlmForCausalLM", OF_HEADS),
    "ernie": ("Ernie4_5ForCausalLM", SIZES),
    "qwen3": ("Qwen3ForCausalLM", OF_HEADS),
    "gemma2": ("Gemma2ForCausalLM", OF_HEADS),
    "nemotron": ("NemotronForCausalLM", SIZES),
    "stablelm": ("StableLmForCausalLM", SIZES),
    "phi3": ("Phi3ForCausalLM", SIZES),
    "gptneox": ("GPTNeoXForCausalLM", ALL_HEADS),
    "gpt2": ("GPT2LMHeadModel", GPT),
    "bloom": ("BloomForCausalLM", {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 96}),
    "mamba": ("MambaForCausalLM", {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 96}),
    "bert": ("BertModel", ALL_HEADS),
    "t5": (
        "T5ForConditionalGeneration",
        {"d_model": 16, "d_ff": 24, "num_layers": 2, "num_heads": 2, "d_kv": 8, "vocab_size": 32},
    ),
}


def saved(name: str, folder: Path) -> Path:
    """A checkpoint with values that differ everywhere, biases and norms too."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    class_name, config = MODELS[name]
    cls = getattr(transformers, class_name)
    model = cls(cls.config_class(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.save_pretrained(folder / name)
    return folder / name


def converted(folder: Path) -> tuple[str, list[tuple[str, Any, str, Any]]]:
    """The architecture, and each tensor made with the one that it is made of."""
    import conversion
    import gguf

    base = sys.modules["conversion.base"].ModelBase
    hparams = base.load_hparams(folder, False)
    cls = conversion.get_model_class(
        conversion.get_model_architecture(hparams, conversion.ModelType.TEXT)
    )
    model = cls(folder, gguf.LlamaFileType.ALL_F32, folder / "out.gguf", eager=True)
    made = []

    class Noted(cls):  # type: ignore[misc, valid-type]
        model_arch = cls.model_arch

        def modify_tensors(self, data_torch: Any, name: str, bid: int | None) -> Any:
            source = data_torch.clone()
            results = list(super().modify_tensors(data_torch, name, bid))
            made.extend((written, tensor, name, source) for written, tensor in results)
            return results

    model.__class__ = Noted
    model.prepare_tensors()
    return gguf.MODEL_ARCH_NAMES[cls.model_arch], made


def verdicts(folder: Path) -> dict[str, Any]:
    from modpdb.probes.checkpoint_files import open_checkpoint
    from modpdb.probes.needs import judge, needs_of
    from modpdb.probes.relations import in_order, relations

    arch, made = converted(folder)
    config = json.loads((folder / "config.json").read_text())
    needs = needs_of(folder, config, open_checkpoint(folder).tensors, arch)
    counts: Counter[str] = Counter()
    reasons = []
    for written, target, name, source in made:
        need = needs.need((name,), written)
        found = [in_order(source, target, need.order) if need.order is not None else None]
        found += islice(relations(source, target), 3)
        verdict, reason = judge(need, *(each for each in found if each is not None))
        counts[verdict] += 1
        if verdict != "ok":
            reasons.append(f"{written}: {verdict}: {reason}")
    return {"counts": counts, "reasons": reasons}


if __name__ == "__main__":
    tree, scratch = Path(sys.argv[1]), Path(sys.argv[2])
    sys.path[:0] = [str(tree), str(tree / "gguf-py")]
    logging.disable(logging.CRITICAL)
    print(json.dumps({name: verdicts(saved(name, scratch)) for name in MODELS}))
