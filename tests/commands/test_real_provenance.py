"""`provenance` in llama.cpp's own conversions: what each written tensor is made of."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from derived import derived
from handmade import ROWS, Tensors, around, bf16, handmade, nvfp4
from looks import Lines, Looks, Run, Seen

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.conversion

Convert = Callable[..., str]
WIDE = {"COLUMNS": "400"}  # no line is folded


@pytest.fixture
def asked(modpdb_run: Any, tmp_path: Path) -> Convert:
    """`asked(tree, checkpoint, *typed, stop=…, outtype=…, more=…)`: what is said at a stop."""

    def run(
        tree: Path,
        checkpoint: Path,
        *typed: str,
        stop: str = "params",
        outtype: str = "bf16",
        more: tuple[str, ...] = (),
    ) -> str:
        command = [tree / "convert_hf_to_gguf.py", checkpoint, "--outfile", tmp_path / "o.gguf"]
        lines = "\n".join([*typed, "q"]) + "\n"
        done = modpdb_run(
            [f"--stop={stop}", *command, "--outtype", outtype, *more], lines, env=WIDE
        )
        assert "incomplete" not in done.stdout and "Error" not in done.stdout, done.stdout
        return done.stdout

    return run


def test_llamas_permuted_heads(
    looks: Looks, modpdb_run: Run, tree: Path, llama_checkpoint: Path
) -> None:
    seen = looks(modpdb_run, "llama", tree / "convert_hf_to_gguf.py", llama_checkpoint)
    assert seen["to come"].startswith(
        "model.layers.0.self_attn.q_proj.weight  not converted yet  "
        "predicted by the name map: blk.0.attn_q.weight\n"
    )
    assert "39 tensors written from 39 of the checkpoint\n" in seen["prov"]
    assert (
        "model.safetensors: model.layers.1.self_attn.q_proj.weight [64, 64] bf16 → to(f32) "
        "→ reshape(4, 2, 8, 64) → swapaxes(1, 2) → reshape(64, 64) → numpy → quantize Q8_0 "
        "→ blk.1.attn_q.weight q8_0 [64, 64] ne [64, 64]\n  converter "
    ) in seen["q"]
    assert (
        "reshape(2, 2, 8, 64)" in seen["k"] and "→ blk.2.attn_k.weight q8_0 [32, 64]" in seen["k"]
    )
    assert re.search(r"converter +\S+\.py:\d+ LlamaModel\.modify_tensors", seen["q"])
    assert re.search(r"written at +\S+\.py:\d+ ModelBase\.prepare_tensors", seen["q"])
    assert "9 tensors of 39 written from 9 of the checkpoint" in seen["block"]
    assert "'atn_q' is no tensor of the checkpoint or the file here" in seen["odd"]


def test_gemmas_norms(looks: Looks, modpdb_run: Run, tree: Path, gemma3_checkpoint: Path) -> None:
    seen = looks(modpdb_run, "gemma3", tree / "convert_hf_to_gguf.py", gemma3_checkpoint)
    assert re.search(r"attn_norm\.weight +f32 +← input_layernorm\.weight · \+ 1", seen["prov"])
    norm = seen["norm"]
    assert re.search(r"→ \+ 1(\.0)? → numpy → .*→ blk\.0\.attn_norm\.weight f32 \[64\]", norm)
    assert "Gemma3Model.modify_tensors" in norm
    assert "54 of 54 read · 54 in the name map · the writer holds 54 tensors" in seen["ckpt"]


def test_stacked_experts(
    looks: Looks, modpdb_run: Run, tree: Path, mixtral_checkpoint: Path
) -> None:
    seen = looks(modpdb_run, "mixtral", tree / "convert_hf_to_gguf.py", mixtral_checkpoint)
    assert "43 tensors written from 79 of the checkpoint\n" in seen["prov"]
    rows = r"ffn_up_exps\.weight +f16 +← block_sparse_moe\.experts\.\{0…3\}\.w3\.weight · stack\("
    assert re.search(rows, seen["prov"])
    sources = "model.layers.1.block_sparse_moe.experts.{0…3}.w3.weight (4) [160, 64] bf16"
    assert sources in seen["w3"]
    assert "→ blk.1.ffn_up_exps.weight f16 [4, 160, 64] ne [64, 160, 4]" in seen["w3"]
    # The name map has no name for experts; what was seen is that they are held.
    assert "\nread" not in seen["ckpt"] and "79 of 79 read" in seen["ckpt"]


def test_without_lazy_tensors_it_is_inferred(
    looks: Looks, modpdb_run: Run, llama_cpp: Path, mixtral_checkpoint: Path
) -> None:
    script = llama_cpp / "convert_hf_to_gguf.py"
    seen = looks(modpdb_run, "mixtral, not lazy", script, mixtral_checkpoint)
    assert "43 tensors written from 79 of the checkpoint · 43 inferred\n" in seen["prov"]
    assert (
        "model.safetensors: model.layers.2.block_sparse_moe.experts.{0…3}.w2.weight "
        "(inferred, operations not known) → blk.2.ffn_down_exps.weight bf16 [4, 64, 160]"
    ) in seen["down"]


def test_fused_qkv_that_stays(
    looks: Looks, modpdb_run: Run, llama_cpp: Path, phi3_checkpoint: Path
) -> None:
    seen = looks(modpdb_run, "phi3", llama_cpp / "convert_hf_to_gguf.py", phi3_checkpoint)
    assert "model.layers.0.self_attn.qkv_proj.weight" in seen["qkv"]
    assert "→ blk.0.attn_qkv.weight" in seen["qkv"]


def test_fused_qkv_that_is_split(
    asked: Convert, llama_cpp_single_file: Path, llama_checkpoint: Path, tmp_path: Path
) -> None:
    def packed(tensors: Tensors) -> Tensors:
        for layer in range(4):
            at = f"model.layers.{layer}.self_attn"
            parts = [tensors.pop(f"{at}.{name}_proj.weight") for name in "qkv"]
            rows = parts[0].shape[0]
            parts = [each.repeat(rows // each.shape[0], 1) for each in parts]
            tensors[f"{at}.W_pack.weight"] = torch.cat(parts)
        return tensors

    config = {"architectures": ["BaichuanForCausalLM"], "num_key_value_heads": None}
    folder = derived(llama_checkpoint, tmp_path / "baichuan", config, packed)
    said = asked(llama_cpp_single_file, folder, "prov model.layers.1.self_attn.W_pack", "prov")
    for name in ("attn_q", "attn_k", "attn_v"):
        assert f"→ blk.1.{name}.weight bf16 [64, 64]" in said
    assert said.count("model.layers.1.self_attn.W_pack.weight [192, 64] bf16") == 3
    assert "[64:128, …]" in said
    assert "39 tensors written from 31 of the checkpoint" in said


def test_a_lora_adapter(
    looks: Looks, modpdb_run: Run, tree: Path, llama_checkpoint: Path, llama_adapter: Path
) -> None:
    script = tree / "convert_lora_to_gguf.py"
    seen = looks(modpdb_run, "lora", script, llama_adapter, "--base", llama_checkpoint)
    key = "base_model.model.model.layers"
    assert f"{key}.1.self_attn.q_proj.lora_B.weight [64, 4] f32 → reshape(4, 2, 8, 4)" in seen["b"]
    assert "→ blk.1.attn_q.weight.lora_b f32 [64, 4]" in seen["b"]
    assert f"{key}.0.self_attn.q_proj.lora_A.weight [4, 64] f32" in seen["q"]
    assert "8 tensors written from 8 of the checkpoint\n" in seen["prov"]
    said = seen["ckpt"]
    assert "\nheld" not in said and "\nread" not in said  # all are held: no column


def _internlm(checkpoint: Path, folder: Path) -> Path:
    tensors = {"model.tok_embeddings.weight": bf16(384, 64), "output.weight": bf16(384, 64)}
    tensors["model.norm.weight"] = bf16(64)
    for layer in range(2):
        at = f"model.layers.{layer}"
        tensors |= {f"{at}.{each}.weight": bf16(64) for each in ("attention_norm", "ffn_norm")}
        tensors |= {f"{at}.feed_forward.w{each}.weight": bf16(64, 64) for each in (1, 2, 3)}
        tensors[f"{at}.attention.wqkv.weight"] = bf16(128, 64)
        tensors[f"{at}.attention.wo.weight"] = bf16(64, 64)
    return handmade(
        folder, checkpoint, "InternLM2ForCausalLM",
        {"model_type": "internlm2", "bias": False}, tensors,
    )  # fmt: skip


def _mxfp4(checkpoint: Path, folder: Path) -> Path:
    tensors = around()
    for layer in range(2):
        at = f"model.layers.{layer}"
        for name, rows in ROWS.items():
            tensors[f"{at}.self_attn.{name}.weight"] = bf16(rows, 64)
            tensors[f"{at}.self_attn.{name}.bias"] = bf16(rows)
        tensors[f"{at}.self_attn.sinks"] = bf16(4)
        tensors |= {f"{at}.mlp.router.weight": bf16(4, 64), f"{at}.mlp.router.bias": bf16(4)}
        for name, rows in (("gate_up_proj", 128), ("down_proj", 64)):
            experts = f"{at}.mlp.experts.{name}"
            tensors[f"{experts}_blocks"] = torch.zeros((4, rows, 2, 16), dtype=torch.uint8)
            tensors[f"{experts}_scales"] = torch.zeros((4, rows, 2), dtype=torch.uint8)
            tensors[f"{experts}_bias"] = bf16(4, rows)
    config = {
        "model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16,
        "sliding_window": 32, "quantization_config": {"quant_method": "mxfp4"},
    }  # fmt: skip
    return handmade(folder, checkpoint, "GptOssForCausalLM", config, tensors)


def _nvfp4(checkpoint: Path, folder: Path, packed: bool) -> Path:
    weight, scale = "weight", "weight_scale_2"
    quantization: dict[str, Any] = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    tensors = around()
    for layer in range(2):
        for name, rows in ROWS.items():
            tensors |= nvfp4(f"model.layers.{layer}.self_attn.{name}", rows)
        for name in ("gate_proj", "up_proj", "down_proj"):
            tensors[f"model.layers.{layer}.mlp.{name}.weight"] = bf16(64, 64)
    if packed:
        weight, scale = "weight_packed", "weight_global_scale"
        quantization = {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}
        quantization["config_groups"] = {"all": {"format": "nvfp4-pack-quantized"}}
        for name in [each for each in tensors if each.endswith(".weight_scale_2")]:
            stem = name.removesuffix(".weight_scale_2")
            tensors[f"{stem}.{weight}"] = tensors.pop(f"{stem}.weight")
            tensors[f"{stem}.{scale}"] = tensors.pop(f"{stem}.weight_scale_2")
            tensors[f"{stem}.input_global_scale"] = tensors.pop(f"{stem}.input_scale")
    config = {"model_type": "llama", "quantization_config": quantization}
    return handmade(folder, checkpoint, "LlamaForCausalLM", config, tensors)


def _nvfp4_experts(checkpoint: Path, folder: Path) -> Path:
    tensors = around()
    for layer in range(2):
        at = f"model.layers.{layer}"
        tensors |= {f"{at}.self_attn.{name}.weight": bf16(rows, 64) for name, rows in ROWS.items()}
        tensors |= {f"{at}.self_attn.{name}_norm.weight": bf16(16) for name in "qk"}
        tensors[f"{at}.mlp.gate.weight"] = bf16(4, 64)
        for expert in range(4):
            for name in ("gate_proj", "up_proj", "down_proj"):
                tensors |= nvfp4(f"{at}.mlp.experts.{expert}.{name}", 64)
    config = {
        "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 16,
        "moe_intermediate_size": 64, "decoder_sparse_step": 1,
        "quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    }  # fmt: skip
    return handmade(folder, checkpoint, "Qwen3MoeForCausalLM", config, tensors)


@pytest.fixture
def by_hand(looks: Looks, modpdb_run: Run, llama_cpp: Path, llama_checkpoint: Path) -> Seen:
    """Checkpoints of tensors that pass neither modify_tensors nor the loop, and others that no
    model of ours has."""

    def make(folder: Path) -> dict[str, tuple[Path, Lines]]:
        nvfp4 = ("prov blk.0.attn_q", "prov blk.1.attn_k.scale", "prov")
        lines = {
            "internlm": ("prov model.layers.1.attention.wqkv",),
            "mxfp4": ("prov blk.1.ffn_up_exps.weight", "prov"),
            "ModelOpt": nvfp4,
            "compressed-tensors": nvfp4,
            "experts": ("prov blk.1.ffn_up_exps", "prov blk.1.ffn_up_exps.scale"),
        }
        made = {
            "internlm": _internlm(llama_checkpoint, folder / "internlm"),
            "mxfp4": _mxfp4(llama_checkpoint, folder / "oss"),
            "ModelOpt": _nvfp4(llama_checkpoint, folder / "modelopt", packed=False),
            "compressed-tensors": _nvfp4(llama_checkpoint, folder / "compressed", packed=True),
            "experts": _nvfp4_experts(llama_checkpoint, folder / "moe"),
        }
        return {
            name: (made[name], tuple(f"{name} {n}: {line}" for n, line in enumerate(lines[name])))
            for name in made
        }

    return looks.by_hand(modpdb_run, llama_cpp / "convert_hf_to_gguf.py", make)


def said_of(seen: Seen, name: str) -> str:
    """All that was said of one of them."""
    assert "incomplete" not in seen.done.stdout and "Error" not in seen.done.stdout
    return "".join(said for line, said in seen.answers.items() if line.startswith(f"{name} "))


def test_internlm_splits_in_the_newest(by_hand: Seen) -> None:
    said = said_of(by_hand, "internlm")
    for name, rows in (("attn_q", 64), ("attn_k", 32), ("attn_v", 32)):
        assert f"→ blk.1.{name}.weight bf16 [{rows}, 64]" in said
    assert said.count("model.layers.1.attention.wqkv.weight [128, 64] bf16") == 3


def test_mxfp4(by_hand: Seen) -> None:
    said = said_of(by_hand, "mxfp4")
    at = "model.layers.1.mlp.experts.gate_up_proj"
    assert f"{at}_blocks" in said and f"{at}_scales" in said
    assert "→ blk.1.ffn_up_exps.weight mxfp4 [4, 64, 64] ne [64, 64, 4]" in said
    assert "GptOssModel.repack_mxfp4" in said


@pytest.mark.parametrize(
    ("name", "weight", "scale"),
    [
        ("ModelOpt", "weight", "weight_scale_2"),
        ("compressed-tensors", "weight_packed", "weight_global_scale"),
    ],
)
def test_nvfp4(by_hand: Seen, name: str, weight: str, scale: str) -> None:
    said = said_of(by_hand, name)
    q = "model.layers.0.self_attn.q_proj"
    assert f"{q}.{weight}, {q}.weight_scale (inferred, operations not known)" in said
    assert "→ blk.0.attn_q.weight nvfp4 [64, 64] ne [64, 64]" in said
    assert f"model.layers.1.self_attn.k_proj.{scale} (inferred" in said
    assert "24 inferred" in said and "made by the converter" not in said


def test_nvfp4_experts(by_hand: Seen) -> None:
    said = said_of(by_hand, "experts")
    at = "model.layers.1.mlp.experts.{0…3}.up_proj"
    assert f"{at}.weight, {at}.weight_scale (inferred" in said
    assert "→ blk.1.ffn_up_exps.weight nvfp4 [4, 64, 64]" in said
    assert f"{at}.weight_scale_2 (inferred" in said
