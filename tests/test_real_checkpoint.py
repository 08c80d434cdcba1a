"""ckpt, hparams and gguf in the real conversions, which they leave as they are."""

import hashlib
import re
from pathlib import Path

import pytest

from derived import lora_adapter

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
    pytest.importorskip("torch")
    lora_adapter(tmp_path / "adapter", {"self_attn.q_proj": (64, 64)})
    script = tree / "convert_lora_to_gguf.py"
    line = [
        script,
        tmp_path / "adapter",
        "--base",
        llama_checkpoint,
        "--outfile",
        tmp_path / "o.gguf",
    ]
    typed = f"ckpt\nstage map\nckpt\nstage write\nckpt\ngguf\nckpt {tmp_path}/adapter\nc\n"
    done = modpdb_run(["--stop=tensors", *line], typed)
    assert done.returncode == 0, done.stderr
    assert "LoraModel → LLAMA\n4 tensors" in done.stdout
    assert done.stdout.count("\nat hand  base_model") == 2  # both halves
    assert "4 of 4 read · 4 in the name map · the writer holds 4 tensors" in done.stdout
    assert re.search(r"attn_q\.weight\.lora_a +f32", done.stdout) and "'adapter'" in done.stdout
    assert f"adapter_model.safetensors in {tmp_path}/adapter" in " ".join(done.stdout.split())


def test_stacked_experts_are_held_as_was_seen(
    modpdb_run, tree: Path, mixtral_checkpoint, tmp_path
) -> None:
    done = modpdb_run(
        ["--stop=params", *convert(tree, mixtral_checkpoint, tmp_path / "o.gguf", "f16")],
        "ckpt\ngguf tensors *exps*\nc\n",
        env={"COLUMNS": "120"},
    )
    assert done.returncode == 0, done.stderr
    assert "79 of 79 read" in done.stdout and "tensors have been converted" not in done.stdout
    assert re.search(r"experts\.\{0…3\} +16 × each", done.stdout)
    # The name map has no name for them. All are held, so there is no column that says so.
    assert "the writer holds 43 tensors" in done.stdout
    assert "\nread" not in done.stdout and "\nheld" not in done.stdout
    assert re.search(r"ffn_down_exps\.weight +f16 +\[160, 64, 4\]", done.stdout)
