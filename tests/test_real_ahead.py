"""ahead and map in the real conversions, which they leave as they are."""

import hashlib
from pathlib import Path

import pytest

from derived import derived, lora_adapter

pytestmark = pytest.mark.conversion

NO_CHILDREN = 'p "children:", open("/proc/thread-self/children").read()'


@pytest.fixture(params=["llama_cpp", "llama_cpp_single_file"])
def tree(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def convert(tree: Path, checkpoint: Path, out: Path, *more: str) -> list[str | Path]:
    return [tree / "convert_hf_to_gguf.py", checkpoint, "--outfile", out, *more]


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def names_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.glob("*/*")) + sorted(
        path.name for path in folder.iterdir()
    )


def squeezed(said: str) -> str:
    return " ".join(said.split())


def test_experts_at_every_stage(modpdb_run, plain_run, tree, mixtral_checkpoint, tmp_path) -> None:
    plain, out = tmp_path / "plain" / "o.gguf", tmp_path / "watched" / "o.gguf"
    for folder in (plain.parent, out.parent):
        (folder / "temporary").mkdir(parents=True)
    done = plain_run(
        convert(tree, mixtral_checkpoint, plain), env={"TMPDIR": str(plain.parent / "temporary")}
    )
    assert done.returncode == 0
    typed = ["ahead", "b *.set_vocab", "trace-point *.map_tensor_name, 'passed by'", "ahead", "c"]
    typed += ["ahead", "map", "map *gate_exps*", NO_CHILDREN, "clear 2", "c", "clear 1"]
    done = modpdb_run(
        ["--stop=init", "--stop=tensors", "--stop=write"] + convert(tree, mixtral_checkpoint, out),
        "\n".join([*typed, "c", "ahead", NO_CHILDREN, "c"]) + "\n",
        env={"COLUMNS": "160", "TMPDIR": str(out.parent / "temporary")},
        cwd=out.parent,
    )
    said = done.stdout
    assert done.returncode == 0, done.stderr
    assert said.count("0 blockers, 0 missing keys, 0 unmapped: the dry run met nothing") == 4
    assert said.count("would write 43 tensors") == 4
    assert "from the start" in said
    assert "79 checkpoint tensors → 43 GGUF tensors" in said
    assert "model.layers.{0…3}.block_sparse_moe.experts.{0…3} → blk.{0…3}   4 × each" in said
    row = next(line for line in said.splitlines() if "ffn_gate_exps" in line)
    assert row.split()[:3] == ["w1.weight", "bf16", "[160,"]
    assert row.endswith("[4, 160, 64], 4 stacked")
    assert "16 checkpoint tensors → 4 GGUF tensors" in said
    assert "swapaxes" in next(line for line in said.splitlines() if "→ attn_q.weight" in line)
    assert "passed by" not in said.split("[3]")[0]  # while it ran dry
    assert said.count("children: \n") + said.count("('children:', '')") == 2
    assert digest(out) == digest(plain)
    assert names_below(out.parent) == names_below(plain.parent)


@pytest.mark.parametrize(
    ("model", "more", "tensors"),
    [
        ("gemma3", ["--use-temp-file"], 54),
        ("llama", ["--outtype", "q8_0"], 39),
        ("phi3", ["--split-max-tensors", "5", "--dry-run"], 27),
    ],
)
def test_others(modpdb_run, llama_cpp, request, tmp_path, model, more, tensors) -> None:
    checkpoint = request.getfixturevalue(f"{model}_checkpoint")
    done = modpdb_run(
        convert(llama_cpp, checkpoint, tmp_path / "o.gguf", *more),
        "c\nahead\nmap\nq\n",
        env={"COLUMNS": "160"},
    )
    assert "0 blockers, 0 missing keys, 0 unmapped" in done.stdout, done.stderr
    assert f"would write {tensors} tensors" in done.stdout
    assert f"→ {tensors} GGUF tensors" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_lora_adapter(modpdb_run, tree, llama_checkpoint, tmp_path) -> None:
    pytest.importorskip("torch")
    adapter = lora_adapter(tmp_path / "adapter", {"self_attn.q_proj": (64, 64)})
    line = [tree / "convert_lora_to_gguf.py", adapter, "--base", llama_checkpoint]
    done = modpdb_run(
        ["--stop=init", "--stop=tensors", "--stop=write", *line, "--outfile", tmp_path / "o.gguf"],
        "ahead\nc\nahead\nmap\nc\nahead\nq\n",
        env={"COLUMNS": "160"},
    )
    assert done.stdout.count("0 blockers, 0 unmapped") == 3, done.stderr
    assert done.stdout.count("LoraModel → LLAMA would write 4 tensors") == 3
    assert "base_model.model.model.layers.{0…1} → blk.{0…1}   2 × each" in done.stdout
    assert "self_attn.q_proj.lora_B.weight" in done.stdout


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
    assert "embedding_length: error" in first  # a text where a number is wanted: at its writing
    assert "would write 39 tensors" in first
    assert "unmapped: 3 tensors" in rest
    assert rest.count("token_embd.weight from") == 1 and "from the start" in rest  # post-mortem
    assert not (tmp_path / "o.gguf").exists()


def test_what_only_the_loader_misses(modpdb_run, tree, llama_checkpoint, tmp_path) -> None:
    changed = {"model_type": "zeta", "rms_norm_eps": None}
    checkpoint = derived(llama_checkpoint, tmp_path / "c", changed)
    done = modpdb_run(convert(tree, checkpoint, tmp_path / "o.gguf"), "c\nahead\nq\n")
    said = squeezed(done.stdout)
    assert "0 blockers, 1 missing key, 0 unmapped: nothing stops the conversion, but" in said
    assert "llama.attention.layer_norm_rms_epsilon" in said, done.stderr


def test_the_weaker_answer(modpdb_run, llama_cpp, mixtral_checkpoint, tmp_path) -> None:
    done = modpdb_run(
        ["--stop=load", "--stop=tensors"]
        + convert(llama_cpp, mixtral_checkpoint, tmp_path / "o.gguf", "--no-lazy"),
        "ahead\nc\nahead\nmap\nq\n",
        env={"COLUMNS": "160"},
    )
    said = done.stdout
    assert "`stage tensors` runs on to where it is" in said, done.stderr
    assert "48 unmapped, guessed from the name map alone" in said
    assert "not run: under --no-lazy every tensor would be read" in said
    assert "not in the name map (a converter may handle them): 48 tensors" in said


def test_tensors_that_come_to_nothing(modpdb_run, tree, llama_checkpoint, tmp_path) -> None:
    torch = pytest.importorskip("torch")

    def more(tensors):
        tensors["model.vision_tower.weight"] = torch.ones(4)  # kept out by filter_tensors
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # passed over
        return tensors

    checkpoint = derived(llama_checkpoint, tmp_path / "c", tensors=more)
    done = modpdb_run(convert(tree, checkpoint, tmp_path / "o.gguf"), "c\nahead\nq\n")
    filters = (tree / "conversion").is_dir()
    assert f"nothing is made of {'1 tensor' if filters else '2 tensors'}\n" in done.stdout
    assert "inv_freq" in done.stdout and "vision_tower" in done.stdout, done.stderr
    assert ("kept out by filter_tensors: 1 tensor\n" in done.stdout) is filters
