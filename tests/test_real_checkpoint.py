"""ckpt, hparams and gguf in the real conversions, which they leave as they are."""

import hashlib
import json
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.conversion

LOOKS = ["ckpt", "ckpt --shared", "ckpt --unfold q_proj", "hparams", "gguf", "gguf kv general.*"]
ONE_TENSOR = 'b *.modify_tensors, "layers.1.self_attn.q_proj" in name'


@pytest.fixture(params=["llama_cpp", "llama_cpp_single_file"])
def tree(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def convert(tree: Path, checkpoint: Path, out: Path, outtype: str = "q8_0") -> list[str | Path]:
    script = tree / "convert_hf_to_gguf.py"
    return [script, checkpoint, "--outfile", out, "--outtype", outtype]


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_at_each_stage(modpdb_run, plain_run, tree: Path, llama_checkpoint, tmp_path) -> None:
    plain_out, out = tmp_path / "out.gguf", tmp_path / "watched" / "out.gguf"
    out.parent.mkdir()
    assert plain_run(convert(tree, llama_checkpoint, plain_out)).returncode == 0
    typed = [*LOOKS, ONE_TENSOR, "c", *LOOKS, "clear 1", "stage params", *LOOKS, "c"]
    typed += [*LOOKS, f"ckpt {llama_checkpoint}", "c"]
    done = modpdb_run(
        ["--stop=init", "--stop=tensors", "--stop=write", *convert(tree, llama_checkpoint, out)],
        "\n".join([*LOOKS, "c", *typed]) + "\n",
    )
    said = done.stdout
    assert done.returncode == 0, done.stderr
    assert digest(out) == digest(plain_out)
    assert "the converter is being made" in said and "no name map yet" in said
    assert "0 of 39 read · 39 in the name map · the writer holds 0 tensors" in said
    assert "tensors are being converted: model.layers.1.self_attn.q_proj.weight" in said
    assert re.search(r"\n(\d+) of 39 read · 39 in the name map · the writer holds \1 tensors", said)
    assert re.search(r"\nat hand +model\.layers\.1\.self_attn\.q_proj\.weight +bf16", said)
    assert "the metadata is being set" in said and "the file is being written" in said
    assert "39 of 39 read · 39 in the name map · the writer holds" in said
    assert re.search(
        r"num_key_value_heads +2 +LlamaModel\.|num_key_value_heads +2 +TextModel\.", said
    )
    assert "named by no function of LlamaModel or its bases" in said
    assert re.search(r"blk\.\{0…3\} +4 × each", said) and "q8_0" in said
    assert "*** " not in said.split("no GGUF writer here")[-1]


def test_a_lora_adapter(modpdb_run, tree: Path, llama_checkpoint, tmp_path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    names = [f"base_model.model.model.layers.{n}.self_attn.q_proj.lora_" for n in range(2)]
    tensors = {f"{name}A.weight": torch.ones(4, 64) for name in names}
    tensors |= {f"{name}B.weight": torch.ones(64, 4) for name in names}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    script = tree / "convert_lora_to_gguf.py"
    line = [script, tmp_path, "--base", llama_checkpoint, "--outfile", tmp_path / "o.gguf"]
    typed = f"ckpt\nstage map\nckpt\nstage write\nckpt\ngguf\nckpt {tmp_path}\nc\n"
    done = modpdb_run(["--stop=tensors", *line], typed)
    assert done.returncode == 0, done.stderr
    assert "LoraModel → LLAMA\n4 tensors" in done.stdout
    assert done.stdout.count("\nat hand  base_model") == 2  # both halves
    assert "4 of 4 read · 4 in the name map · the writer holds 4 tensors" in done.stdout
    assert re.search(r"attn_q\.weight\.lora_a +f32", done.stdout) and "'adapter'" in done.stdout
    assert f"adapter_model.safetensors in {tmp_path}" in " ".join(done.stdout.split())


@pytest.fixture
def mixtral(llama_checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny Llama's attention with four experts in place of each MLP."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "mixtral"
    folder.mkdir()
    config = json.loads((llama_checkpoint / "config.json").read_text())
    config |= {"architectures": ["MixtralForCausalLM"], "num_local_experts": 4}
    config |= {"num_experts_per_tok": 2, "num_hidden_layers": 2, "model_type": "mixtral"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.model").write_bytes((llama_checkpoint / "tokenizer.model").read_bytes())
    old = load_file(llama_checkpoint / "model.safetensors")
    kept = {k: v for k, v in old.items() if ".mlp." not in k and not re.search(r"layers\.[23]", k)}
    for layer in range(2):
        moe = f"model.layers.{layer}.block_sparse_moe"
        kept[f"{moe}.gate.weight"] = torch.randn(4, 64)
        for expert in range(4):
            for name, shape in (("w1", (160, 64)), ("w2", (64, 160)), ("w3", (160, 64))):
                kept[f"{moe}.experts.{expert}.{name}.weight"] = torch.randn(shape)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_stacked_experts_are_read_and_not_held_by_name(
    modpdb_run, tree: Path, mixtral: Path, tmp_path
) -> None:
    done = modpdb_run(
        ["--stop=params", *convert(tree, mixtral, tmp_path / "o.gguf", "f16")],
        "ckpt\ngguf tensors *exps*\nc\n",
        env={"COLUMNS": "120"},
    )
    assert done.returncode == 0, done.stderr
    assert "41 of 41 read" in done.stdout and "tensors have been converted" not in done.stdout
    assert re.search(r"experts\.\{0…3\} +8 × each", done.stdout)
    assert len(re.findall(r"\nread +  w\d\.weight +f32", done.stdout)) == 3
    assert re.search(r"\nheld +model\.embed_tokens\.weight +bf16", done.stdout)
    assert re.search(r"ffn_down_exps\.weight +f16 +\[160, 64, 4\]", done.stdout)
