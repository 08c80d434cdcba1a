"""ahead and map in the real conversions, which they leave as they are."""

from pathlib import Path

import pytest

from derived import derived
from looks import Looks, Run, digest, files_below

pytestmark = pytest.mark.conversion


def convert(tree: Path, checkpoint: Path, out: Path, *more: str) -> list[str | Path]:
    return [tree / "convert_hf_to_gguf.py", checkpoint, "--outfile", out, *more]


def squeezed(said: str) -> str:
    return " ".join(said.split())


def test_experts_at_every_stage(
    looks: Looks, modpdb_run: Run, tree: Path, mixtral_checkpoint: Path
) -> None:
    seen = looks(modpdb_run, "mixtral", tree / "convert_hf_to_gguf.py", mixtral_checkpoint)
    for stop in ("init", "tensors", "write"):
        said = seen[stop]
        assert "0 blockers, 0 missing keys, 0 unmapped: the dry run met nothing" in said
        assert "would write 43 tensors" in said
        assert ("from the start" in said) is (stop != "tensors")
        assert "passed by" not in said.partition("(ModPdb)")[0]  # the tracepoint is of the parent
    assert "79 checkpoint tensors → 43 GGUF tensors" in seen["map"]
    experts = "model.layers.{0…3}.block_sparse_moe.experts.{0…3} → blk.{0…3}   4 × each"
    assert experts in seen["map"]
    row = next(line for line in seen["map"].splitlines() if "ffn_gate_exps" in line)
    assert row.split()[:3] == ["w1.weight", "bf16", "[160,"]
    assert row.endswith("[4, 160, 64], 4 stacked")
    assert "swapaxes" in next(
        line for line in seen["map"].splitlines() if "→ attn_q.weight" in line
    )
    assert "16 checkpoint tensors → 4 GGUF tensors" in seen["some"]


def test_nothing_is_left_behind(
    looks: Looks,
    modpdb_run: Run,
    plain_run: Run,
    tree: Path,
    mixtral_checkpoint: Path,
    llama_checkpoint: Path,
) -> None:
    """No child, no file, and the same GGUF to the bit as without modpdb."""
    script = tree / "convert_hf_to_gguf.py"
    checkpoints = {"mixtral": mixtral_checkpoint, "llama": llama_checkpoint}
    plain = looks.plain(plain_run, script, checkpoints)
    for name, checkpoint in checkpoints.items():
        seen = looks(modpdb_run, name, script, checkpoint)
        assert digest(seen.file) == digest(plain[name])
        left = files_below(seen.file.parent / "temporary")
        assert left == files_below(plain[name].parent / "temporary")
        assert {each.name for each in seen.file.parent.iterdir()} == {"o.gguf", "temporary"}
    seen = looks(modpdb_run, "mixtral", script, mixtral_checkpoint)
    assert seen["children"].startswith("('children:', '')")
    assert seen["at last"].startswith("('children:', '')")


@pytest.mark.parametrize(
    ("model", "tensors"), [("gemma3", 54), ("llama", 39), ("phi3", 27), ("qwen2", 50)]
)
def test_others(
    looks: Looks,
    modpdb_run: Run,
    llama_cpp: Path,
    request: pytest.FixtureRequest,
    model: str,
    tensors: int,
) -> None:
    """q8_0, --split-max-tensors, --dry-run and --use-temp-file among them."""
    checkpoint = request.getfixturevalue(f"{model}_checkpoint")
    seen = looks(modpdb_run, model, llama_cpp / "convert_hf_to_gguf.py", checkpoint)
    assert "0 blockers, 0 missing keys, 0 unmapped" in seen["ahead"]
    assert f"would write {tensors} tensors" in seen["ahead"]
    assert f"→ {tensors} GGUF tensors" in seen["map"]
    if model != "llama":  # asked later, when torch has made a folder of its own
        assert seen["files"].startswith("('files:', ['temporary'], [])")


def test_a_lora_adapter(
    looks: Looks, modpdb_run: Run, tree: Path, llama_checkpoint: Path, llama_adapter: Path
) -> None:
    script = tree / "convert_lora_to_gguf.py"
    seen = looks(modpdb_run, "lora", script, llama_adapter, "--base", llama_checkpoint)
    for stop in ("init", "tensors", "write"):
        assert "0 blockers, 0 unmapped: the dry run met nothing" in seen[stop]
        assert "LoraModel → LLAMA would write 8 tensors" in seen[stop]
    assert "base_model.model.model.layers.{0…1} → blk.{0…1}   2 × each" in seen["map"]
    assert "self_attn.q_proj.lora_B.weight" in seen["map"]


def invented(llama_checkpoint: Path, folder: Path) -> Path:
    """An architecture that transformers does not know, with several faults at once."""
    import torch

    def faulty(tensors):
        for layer in range(2):
            tensors[f"model.layers.{layer}.self_attn.rotary.weight"] = torch.ones(4)
        tensors["lm_head2.weight"] = torch.ones(4)
        tensors["transformer.wte.weight"] = tensors["model.embed_tokens.weight"].clone()
        return tensors

    changed = {"model_type": "zeta", "num_attention_heads": None, "hidden_size": "64"}
    derived(llama_checkpoint, folder, changed, faulty)
    (folder / "tokenizer.model").unlink()
    return folder


def test_several_faults_at_once(modpdb_run, tree, llama_checkpoint, tmp_path) -> None:
    pytest.importorskip("torch")
    checkpoint = invented(llama_checkpoint, tmp_path / "zeta")
    done = modpdb_run(
        convert(tree, checkpoint, tmp_path / "o.gguf"),
        "c\nahead\nmap\nc\nahead\nq\n",
        env={"COLUMNS": "80"},
    )
    first, rest = squeezed(done.stdout).split("nothing was written", 1)
    assert "3 unmapped" in first
    order = ["num_attention_heads, asked for lm_head.weight", "no name lm_head2.weight"]
    order += ["no name model.layers.{0…1}.self_attn.rotary.weight 2 ×"]
    order += ["token_embd.weight from model.embed_tokens.weight and from transformer.wte.weight"]
    order += ["tokenizer", "metadata embedding_length"]
    places = [first.find(each) for each in order[:-1]]
    assert -1 not in places and places == sorted(places)
    assert (
        "embedding_length: struct.error" in first
    )  # a text where a number is wanted: at its writing
    assert "would write 39 tensors" in first
    assert "unmapped: 3 tensors" in rest
    assert rest.count("token_embd.weight from") == 1 and "from the start" in rest  # post-mortem
    assert "→ b @lm_head2.weight" in first and "→ b @" not in rest  # nothing runs any more
    assert not (tmp_path / "o.gguf").exists()


def test_what_only_the_loader_misses_and_what_comes_to_nothing(
    modpdb_run: Run, tree: Path, llama_checkpoint: Path, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")

    def more(tensors):
        tensors["model.vision_tower.weight"] = torch.ones(4)  # kept out by filter_tensors
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # passed over
        return tensors

    changed = {"model_type": "zeta", "rms_norm_eps": None}
    checkpoint = derived(llama_checkpoint, tmp_path / "c", changed, more)
    done = modpdb_run(convert(tree, checkpoint, tmp_path / "o.gguf"), "c\nahead\nq\n")
    said = squeezed(done.stdout)
    assert "0 blockers, 1 missing key, 0 unmapped: nothing stops the conversion, but" in said
    assert "llama.attention.layer_norm_rms_epsilon" in said, done.stderr
    filters = (tree / "conversion").is_dir()
    assert f"nothing is made of {'1 tensor' if filters else '2 tensors'}\n" in done.stdout
    assert "inv_freq" in done.stdout and "vision_tower" in done.stdout, done.stderr
    assert ("kept out by filter_tensors: 1 tensor\n" in done.stdout) is filters


def test_the_weaker_answer(
    looks: Looks, modpdb_run: Run, llama_cpp: Path, mixtral_checkpoint: Path
) -> None:
    script = llama_cpp / "convert_hf_to_gguf.py"
    seen = looks(modpdb_run, "mixtral, not lazy", script, mixtral_checkpoint)
    assert "`stage tensors` runs on to where it is" in seen["load"]
    assert "48 unmapped, guessed from the name map alone" in seen["ahead"]
    assert "not run: under --no-lazy every tensor would be read" in seen["ahead"]
    assert "not in the name map (a converter may handle them): 48 tensors" in seen["map"]
    assert seen["known"].startswith("0 unmapped")  # all are written
    assert "of what was written, 43, it was seen" in seen["known"]
