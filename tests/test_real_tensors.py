"""`tensor` and `compare` in real conversions: nothing is materialised, the file is the same."""

import hashlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.conversion


@pytest.fixture(params=["newest", "single file"])
def tree(request: pytest.FixtureRequest) -> Path:
    name = "llama_cpp" if request.param == "newest" else "llama_cpp_single_file"
    return request.getfixturevalue(name)


def convert(tree: Path, checkpoint: Path, out: Path, outtype: str = "f16") -> list[str | Path]:
    script = tree / "convert_hf_to_gguf.py"
    return [script, checkpoint, "--outfile", out, "--outtype", outtype]


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


LAZY = "p 'untouched', tensor._data is None and tensor._args[0]._data is None"


def test_a_look_at_every_tensor(
    modpdb_run, plain_run, tree: Path, gemma3_checkpoint, tmp_path
) -> None:
    plain, out = tmp_path / "plain.gguf", tmp_path / "out.gguf"
    done = plain_run(convert(tree, gemma3_checkpoint, plain))
    assert done.returncode == 0, done.stderr
    looks = ["b GGUFWriter.add_tensor", "commands", "x tensor", "compare tensor, tensor", LAZY]
    looks += [
        "b Gemma3Model.modify_tensors",
        "commands",
        "x data_torch",
        "x data_torch + 1",
    ]
    typed = "\n".join([*looks[:5], "c", "end", *looks[5:], "c", "end", "c"]) + "\n"
    done = modpdb_run(["--stop", "tensors", *convert(tree, gemma3_checkpoint, out)], typed)
    assert done.returncode == 0, done.stderr
    assert digest(out) == digest(plain)
    assert done.stdout.count("('untouched', True)") == 54
    assert done.stdout.count("identical: same shape, dtype and values") == 54
    assert "('untouched', False)" not in done.stdout
    assert "***" not in done.stdout
    known = (tree / "conversion").is_dir()  # before, the graph begins at a slice with no name
    assert known == (
        "model.safetensors: model.layers.0.input_layernorm.weight [64] bf16" in done.stdout
    )


def test_history_and_relation_of_what_is_written(
    modpdb_run, tree: Path, llama_checkpoint, tmp_path
) -> None:
    typed = """\
b GGUFWriter.add_tensor, "blk.0.attn_q.weight" == name
c
x tensor
compare model.layers.0.self_attn.q_proj.weight, tensor
x blk.1.ffn_up
x model.layers.0
q
"""
    said = modpdb_run(
        ["--stop", "tensors", *convert(tree, llama_checkpoint, tmp_path / "o.gguf")], typed
    ).stdout
    words = " ".join(said.split())
    name = "model.layers.0.self_attn.q_proj.weight"
    source = f"model.safetensors: {name}" if (tree / "conversion").is_dir() else "LEAF"
    assert (
        f"from {source} [64, 64] bf16 → to(f32) → reshape(4, 2, 8, 64) → swapaxes(1, 2) → reshape(64, 64) → numpy"
    ) in words
    assert "related: B is A rows permuted per head, as RoPE's pairs, 4 heads" in said
    assert "model.layers.1.mlp.up_proj.weight  [" in said
    assert "*** 'model.layers.0' is no tensor of the checkpoint here" in said


def test_before_there_is_a_list_the_file_is_read(
    modpdb_run, tree: Path, llama_checkpoint, tmp_path
) -> None:
    done = modpdb_run(
        ["--stop", "init", *convert(tree, llama_checkpoint, tmp_path / "o.gguf")],
        "x model.norm.weight\nx model.norm\nq\n",
    )
    assert done.stdout.count("model.norm.weight  [64] bf16 128 bytes") == 2
