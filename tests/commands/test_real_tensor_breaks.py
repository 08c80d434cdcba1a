"""`b @GLOB` in llama.cpp's own conversions: plain, of experts, MXFP4, NVFP4, LoRA."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handmade import ROWS, Tensors, around, bf16, handmade, nvfp4

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.conversion

Make = Callable[[str, dict[str, Any], Tensors], Path]


@pytest.fixture(params=["newest", "single file"])
def tree(request: pytest.FixtureRequest) -> Path:
    name = "llama_cpp" if request.param == "newest" else "llama_cpp_single_file"
    return request.getfixturevalue(name)


@pytest.fixture
def checkpoint(llama_checkpoint: Path, tmp_path: Path) -> Make:
    """Makes a folder of a config and tensors by hand, with the tiny Llama's tokenizer."""

    def make(architecture: str, config: dict[str, Any], tensors: Tensors) -> Path:
        return handmade(tmp_path / "checkpoint", llama_checkpoint, architecture, config, tensors)

    return make


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def stops(said: str) -> list[str]:
    return re.findall(r"^tensor (.*)$", said, re.MULTILINE)


def test_both_sides_and_the_same_file(
    modpdb_run, plain_run, tree: Path, llama_checkpoint: Path, tmp_path: Path
) -> None:
    script, plain, out = tree / "convert_hf_to_gguf.py", tmp_path / "p.gguf", tmp_path / "m.gguf"
    options = [llama_checkpoint, "--outtype", "f16", "--outfile"]
    assert plain_run([script, *options, plain]).returncode == 0
    typed = (
        'b @blk.0.attn_q*\nb @model.layers.*.self_attn.k_proj, "2" in name and data_torch.ndim\n'
        "b @model.layers.0.mlp.gat_proj.weight\nc\nc\np name, new_name, tuple(data_torch.shape)\n"
        "c\np name, tuple(data_torch.shape)\nc\n"
    )
    done = modpdb_run([script, *options, out], typed)
    assert done.returncode == 0
    assert (
        "Breakpoint 1 at @blk.0.attn_q*: 1 GGUF tensor (predicted)\n"
        "    blk.0.attn_q.weight  from model.layers.0.self_attn.q_proj.weight\n"
    ) in done.stdout
    assert "k_proj: 4 checkpoint tensors\n    model.layers.{0…3}.self_attn.k_proj" in done.stdout
    assert "known\n    near: model.layers.0.mlp.gate_proj.weight\n" in done.stdout
    assert stops(done.stdout) == [
        "blk.0.attn_q.weight is about to be written",
        "model.layers.2.self_attn.k_proj.weight is about to be renamed and reshaped",
    ]
    assert (
        "('model.layers.0.self_attn.q_proj.weight', 'blk.0.attn_q.weight', (64, 64))" in done.stdout
    )
    assert "('model.layers.2.self_attn.k_proj.weight', (32, 64))" in done.stdout
    assert done.stderr.count("modpdb: ") == 1 and "@model.layers.0.mlp.gat_proj" in done.stderr
    assert digest(out) == digest(plain)


def test_every_tensor_once_on_each_side(
    modpdb_run, llama_cpp: Path, llama_checkpoint: Path, tmp_path: Path
) -> None:
    # All stop: 39 of the checkpoint and 39 of the file, LlamaModel's super() calls and all.
    script = llama_cpp / "convert_hf_to_gguf.py"
    typed = "b @model.*\nb @lm_head*\nb @blk.*\nb @out*\nb @tok*\nc\n" + "c\n" * 79
    out = tmp_path / "o.gguf"
    done = modpdb_run([script, llama_checkpoint, "--outfile", out], typed)
    assert done.returncode == 0 and "modpdb:" not in done.stderr, done.stderr
    said = stops(done.stdout)
    assert len(said) == len(set(said)) == 78
    assert sum(each.endswith("is about to be written") for each in said) == 39


def test_experts_are_met_one_by_one_and_stacked(
    modpdb_run, llama_cpp_single_file: Path, checkpoint: Make, tmp_path: Path
) -> None:
    tensors = around()
    for layer in range(2):
        at = f"model.layers.{layer}"
        tensors |= {f"{at}.self_attn.{name}.weight": bf16(rows, 64) for name, rows in ROWS.items()}
        tensors[f"{at}.block_sparse_moe.gate.weight"] = bf16(4, 64)
        for expert in range(4):
            for w in ("w1", "w2", "w3"):
                tensors[f"{at}.block_sparse_moe.experts.{expert}.{w}.weight"] = bf16(64, 64)
    config = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
    folder = checkpoint("MixtralForCausalLM", config, tensors)
    typed = (
        "b @*.1.*experts.2.w1\nb @blk.0.ffn_*_exps\nc\nc\np name, data_torch.shape[0]\nc\nc\nq\n"
    )
    script = llama_cpp_single_file / "convert_hf_to_gguf.py"
    options = ["--stop", "tensors", script, folder]
    done = modpdb_run([*options, "--outfile", tmp_path / "o.gguf"], typed)
    assert "Breakpoint 2 at @blk.0.ffn_*_exps: none predicted\n    not predicted" in done.stdout
    assert sorted(stops(done.stdout)) == [
        *(
            f"blk.0.ffn_{kind}_exps.weight is about to be written"
            for kind in ("down", "gate", "up")
        ),
        "model.layers.1.block_sparse_moe.experts.2.w1.weight is about to be renamed and reshaped",
    ]
    # The caller's name is that of the expert that came last; what is written is the stack.
    assert "experts.3.w3.weight', 4)" in done.stdout or "experts.3.w1.weight', 4)" in done.stdout


def test_mxfp4_blocks_and_scales(modpdb_run, llama_cpp: Path, checkpoint: Make, tmp_path) -> None:
    tensors = around()
    for layer in range(2):
        at = f"model.layers.{layer}"
        for name, rows in ROWS.items():
            tensors[f"{at}.self_attn.{name}.weight"] = bf16(rows, 64)
            tensors[f"{at}.self_attn.{name}.bias"] = bf16(rows)
        tensors[f"{at}.self_attn.sinks"] = bf16(4)
        tensors |= {
            f"{at}.mlp.router.{kind}": bf16(4, *more)
            for kind, more in (("weight", (64,)), ("bias", ()))
        }
        for name, rows in (("gate_up_proj", 128), ("down_proj", 64)):
            experts = f"{at}.mlp.experts.{name}"
            tensors[f"{experts}_blocks"] = torch.zeros((4, rows, 2, 16), dtype=torch.uint8)
            tensors[f"{experts}_scales"] = torch.zeros((4, rows, 2), dtype=torch.uint8)
            tensors[f"{experts}_bias"] = bf16(4, rows)
    config = {
        "model_type": "gpt_oss",
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "head_dim": 16,
        "sliding_window": 32,
        "quantization_config": {"quant_method": "mxfp4"},
    }
    folder = checkpoint("GptOssForCausalLM", config, tensors)
    typed = (
        "b @*.0.*down_proj_blocks\nb @*.1.*gate_up_proj_scales\nb @blk.1.ffn_up_exps.weight\n"
        "c\np name, data_torch.dtype\nc\nc\np name, tensor.shape\nclear 1\nclear 2\nclear 3\nc\nq\n"
    )
    options = ["--stop", "tensors", llama_cpp / "convert_hf_to_gguf.py", folder]
    done = modpdb_run([*options, "--outfile", tmp_path / "o.gguf"], typed)
    assert stops(done.stdout) == [
        "model.layers.0.mlp.experts.down_proj_blocks is about to be repacked as MXFP4",
        "model.layers.1.mlp.experts.gate_up_proj_scales is about to be repacked as MXFP4",
        "blk.1.ffn_up_exps.weight is about to be written",
    ]
    assert "('model.layers.0.mlp.experts.down_proj_scales', torch.uint8)" in done.stdout
    assert "('blk.1.ffn_up_exps.weight', (4, 64, 34))" in done.stdout


@pytest.mark.parametrize("packed", [False, True], ids=["ModelOpt", "compressed-tensors"])
def test_nvfp4_weights_and_their_scales(
    modpdb_run, llama_cpp: Path, checkpoint: Make, tmp_path: Path, packed: bool
) -> None:
    names = {"weight": "weight", "scale": "weight_scale_2"}
    quantization: dict[str, Any] = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    tensors = around()
    for layer in range(2):
        for name, rows in {**ROWS, "up": 64}.items():
            where = f"mlp.{name}_proj" if name == "up" else f"self_attn.{name}"
            tensors |= nvfp4(f"model.layers.{layer}.{where}", rows)
        for name in ("gate_proj", "down_proj"):
            tensors[f"model.layers.{layer}.mlp.{name}.weight"] = bf16(64, 64)
    if packed:
        names = {"weight": "weight_packed", "scale": "weight_global_scale"}
        quantization = {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}
        quantization["config_groups"] = {"all": {"format": "nvfp4-pack-quantized"}}
        for name in [each for each in tensors if each.endswith(".weight_scale_2")]:
            stem = name.removesuffix(".weight_scale_2")
            for old, new in (
                *(("weight", "weight_packed"), ("weight_scale_2", "weight_global_scale")),
                ("input_scale", "input_global_scale"),
            ):
                tensors[f"{stem}.{new}"] = tensors.pop(f"{stem}.{old}")
    config = {"model_type": "llama", "quantization_config": quantization}
    folder = checkpoint("LlamaForCausalLM", config, tensors)
    q = "model.layers.0.self_attn.q_proj"
    typed = (
        f"b @{q}.{names['weight']}\nb @*.1.mlp.up_proj.{names['scale']}\nb @blk.0.attn_q\n"
        "b @model.layers.1.mlp.gate_proj\nc\np name, tuple(weight.shape)\nc\nc\nc\nc\n"
    )
    options = ["--stop", "tensors", llama_cpp / "convert_hf_to_gguf.py", folder]
    done = modpdb_run([*options, "--outfile", tmp_path / "o.gguf"], typed)
    assert done.returncode == 0, done.stderr
    assert f"('{q}.weight', (64, 32))" in done.stdout
    assert sorted(stops(done.stdout)) == sorted(
        [
            f"{q}.{names['weight']} is about to be repacked as NVFP4",
            "blk.0.attn_q.weight is about to be written",
            f"model.layers.1.mlp.up_proj.{names['scale']} is about to be repacked as NVFP4",
            "model.layers.1.mlp.gate_proj.weight is about to be renamed and reshaped",
        ]
    )


def test_nvfp4_experts(modpdb_run, llama_cpp: Path, checkpoint: Make, tmp_path: Path) -> None:
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
        "model_type": "qwen3_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "head_dim": 16,
        "moe_intermediate_size": 64,
        "decoder_sparse_step": 1,
        "quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    }
    folder = checkpoint("Qwen3MoeForCausalLM", config, tensors)
    typed = (
        "b @model.layers.0.mlp.experts.3.up_proj\nb @*.1.*experts.2.gate_proj.input_scale\n"
        "b @blk.1.ffn_up_exps.weight\nc\np name, tuple(weight.shape)\nc\nc\np name\n"
        "clear 1\nclear 2\nclear 3\nq\n"
    )
    options = ["--stop", "tensors", llama_cpp / "convert_hf_to_gguf.py", folder]
    done = modpdb_run([*options, "--outfile", tmp_path / "o.gguf"], typed)
    assert stops(done.stdout) == [
        "model.layers.0.mlp.experts.3.up_proj.weight is about to be repacked as NVFP4",
        "model.layers.1.mlp.experts.2.gate_proj.input_scale is about to be repacked as NVFP4",
        "blk.1.ffn_up_exps.weight is about to be written",
    ]
    assert "('model.layers.0.mlp.experts.3.up_proj.weight', (64, 32))" in done.stdout


def test_a_lora_adapter_by_its_base_names(
    modpdb_run, llama_cpp: Path, llama_checkpoint: Path, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    q = "base_model.model.model.layers.0.self_attn.q_proj"
    halves = {f"{q}.lora_A.weight": torch.ones(4, 64), f"{q}.lora_B.weight": torch.ones(64, 4)}
    save_file(halves, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    script = llama_cpp / "convert_lora_to_gguf.py"
    options = ["--base", llama_checkpoint, "--outfile", tmp_path / "o.gguf"]
    typed = "b @model.layers.*.q_proj\nb @blk.0.attn_q\nc\nc\np name\nc\nc\nc\n"
    done = modpdb_run([script, adapter, *options], typed)
    assert done.returncode == 0 and "modpdb:" not in done.stderr, done.stderr
    assert "q_proj: 1 checkpoint tensor\n" in done.stdout  # the adapter's, not the base's four
    assert "@blk.0.attn_q: 2 GGUF tensors (predicted)\n" in done.stdout
    assert stops(done.stdout) == [
        "model.layers.0.self_attn.q_proj.weight is about to be renamed and reshaped",
        "blk.0.attn_q.weight.lora_a is about to be written",
        "blk.0.attn_q.weight.lora_b is about to be written",
    ]
