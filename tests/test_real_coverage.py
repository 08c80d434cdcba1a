"""`coverage` in real conversions: complete where they are, and what is missing where not."""

import json
from pathlib import Path

import pytest

from derived import derived
from looks import Looks, Run

pytestmark = pytest.mark.conversion

LOOK = "coverage\nc\n"


def converted(modpdb_run: Run, script: Path, checkpoint: Path, out: Path, typed: str) -> str:
    stops = [] if typed != LOOK else ["--stop", "write"]
    program = [script / "convert_hf_to_gguf.py", checkpoint, "--outfile", out]
    done = modpdb_run([*stops, *program], typed)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("gemma3", "complete: 54 of 54 tensors that gemma3 needs, 6 keys"),
        ("llama", "complete: 38 of 38 tensors that llama needs, 6 keys"),
        ("mixtral", "complete: 38 of 38 tensors that llama needs, 6 keys"),
        ("qwen2", "complete: 38 of 38 tensors that qwen2 needs, 6 keys"),
        ("phi3", "complete: 22 of 22 tensors that phi3 needs, 6 keys"),
    ],
)
def test_what_converts_well_is_complete(
    model: str,
    says: str,
    looks: Looks,
    modpdb_run: Run,
    llama_cpp: Path,
    request: pytest.FixtureRequest,
) -> None:
    checkpoint = request.getfixturevalue(f"{model}_checkpoint")
    seen = looks(modpdb_run, model, llama_cpp / "convert_hf_to_gguf.py", checkpoint)
    assert f"{says}   " in seen["coverage"]
    assert "optional tensors absent" in seen["coverage"]
    assert "note:" not in seen["coverage"]  # the source is at hand: tied or not is known


def test_broken_in_several_ways(
    modpdb_run: Run, llama_cpp: Path, llama_checkpoint: Path, tmp_path: Path
) -> None:
    """A config that transformers does not know is taken as it stands, without defaults."""

    def change(tensors):
        for block in (1, 2):
            del tensors[f"model.layers.{block}.input_layernorm.weight"]
        del tensors["lm_head.weight"]
        return tensors

    config = {"model_type": "made-up", "rms_norm_eps": None, "hidden_size": None}
    broken = derived(llama_checkpoint, tmp_path / "broken", config, change)
    typed = "\n".join(
        ("c", "coverage", "stage params", "coverage", "stage write", "coverage", "coverage --unfold",
         "c", "")
    )  # fmt: skip
    file = tmp_path / "out.gguf"
    out = converted(modpdb_run, llama_cpp, broken, file, typed)
    assert "so far nothing wrong: tensors and metadata are still to come   llama" in out
    assert "so far nothing wrong: the metadata is still to come   llama" in out
    assert "3 tensors missing, 2 keys missing" in out
    assert "blk.{1…2}.attn_norm.weight" in out
    assert "blk.2.attn_norm.weight" in out  # unfolded
    assert "not known without the keys: whether the shape is right (36 names; --unfold)" in out
    assert "output.weight" in out and "the source is not tied" in out
    for key, source in (
        ("llama.embedding_length", "hidden_size"),
        ("llama.attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ):
        (line,) = {each for each in out.splitlines() if key in each and "from " in each}
        assert source in line
    # and the file, at a prompt that knows nothing of its conversion
    empty = tmp_path / "empty.py"
    empty.write_text("pass\n")
    done = modpdb_run([empty], f"coverage {file}\nq\n")
    assert "2 tensors missing, 2 keys missing" in done.stdout
    assert "note: output.weight is not there" in done.stdout


def test_metadata_that_the_tensors_do_not_have(
    modpdb_run: Run, llama_cpp_single_file: Path, llama_checkpoint: Path, tmp_path: Path
) -> None:
    """The single-file script of 2025, and a config that says other sizes than the checkpoint."""
    broken = derived(llama_checkpoint, tmp_path / "broken", {"intermediate_size": 161})
    out = converted(modpdb_run, llama_cpp_single_file, broken, tmp_path / "out.gguf", LOOK)
    assert "12 wrong shapes   llama" in out
    assert "wrong shape: feed_forward_length is 161" in out
    assert "[160, 64], needs [161, 64]" in out
    assert json.loads((broken / "config.json").read_text())["intermediate_size"] == 161


def test_every_architecture_with_facts_is_one_of_the_script_s(
    plain_run: Run, llama_cpp: Path
) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import gguf\n"
        "from modpdb.probes.loader_facts import known_architectures\n"
        "from modpdb.probes.gguf_table import gguf_tensors\n"
        "unknown = known_architectures() - set(gguf.MODEL_ARCH_NAMES.values())\n"
        "empty = [a for a in known_architectures() - unknown if not gguf_tensors(gguf, a)]\n"
        "print(sorted(unknown), sorted(empty))\n"
    )
    done = plain_run(["-c", code, llama_cpp / "gguf-py"])
    assert done.stdout.strip() == "[] []", done.stdout + done.stderr
