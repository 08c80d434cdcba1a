"""The real convert_hf_to_gguf.py under modpdb: the newest tree, and one of a single file."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from derived import lora_adapter

pytestmark = pytest.mark.conversion

SCENARIO = """\
b Gemma3Model.modify_tensors, "layers.0.self_attn.q_proj" in name
c
modules
linear-path model.layers.0.self_attn.q_proj
c
p name
locals
stages
c
"""


@pytest.fixture(params=["newest", "single file"])
def tree(request: pytest.FixtureRequest) -> Path:
    name = "llama_cpp" if request.param == "newest" else "llama_cpp_single_file"
    return request.getfixturevalue(name)


@pytest.fixture(scope="session")
def plain_gguf(tmp_path_factory: pytest.TempPathFactory):
    """Hashes of what each tree writes without modpdb, by (tree, output type)."""
    from conftest import run_python

    known: dict[tuple[Path, Path, str], str] = {}

    def of(tree: Path, checkpoint: Path, outtype: str = "bf16") -> str:
        key = (tree, checkpoint, outtype)
        if key not in known:
            out = tmp_path_factory.mktemp("plain") / "out.gguf"
            done = run_python(
                [tree / "convert_hf_to_gguf.py", checkpoint, "--outfile", out, "--outtype", outtype]
            )
            assert done.returncode == 0, done.stderr
            known[key] = digest(out)
        return known[key]

    return of


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def convert(tree: Path, checkpoint: Path, out: Path) -> list[str | Path]:
    script = tree / "convert_hf_to_gguf.py"
    return [script, checkpoint, "--outfile", out, "--outtype", "bf16"]


def test_the_scenario(modpdb_run, plain_gguf, tree: Path, gemma3_checkpoint, tmp_path) -> None:
    out = tmp_path / "out.gguf"
    done = modpdb_run(convert(tree, gemma3_checkpoint, out), SCENARIO)
    said = done.stdout
    assert done.returncode == 0 and done.stderr.count("modpdb:") == 0
    assert "preset llama.cpp: c runs to stage tensors" in said
    newest = (tree / "conversion").is_dir()
    assert (
        "Breakpoint 1 pending: Gemma3Model.modify_tensors is not imported yet" in said
    ) == newest
    assert "prepare_tensors()\n" in said
    assert "stage tensors: all is known, nothing written yet\n" in said
    assert re.search(r"layers\.\{0…3\} +4 ×", said)
    assert re.search(r"blk\.0\.attn_q\.weight +ne \[64, 128\]", said)
    assert "modify_tensors()\n" in said
    assert "(ModPdb) 'model.layers.0.self_attn.q_proj.weight'\n" in said
    assert "LazyTorchTensor" in said
    assert digest(out) == plain_gguf(tree, gemma3_checkpoint)


SKELETON = """\
c
skeleton
modules --skeleton -d 1
state
p __import__("torch").is_inference_mode_enabled()
c
"""


def test_a_skeleton_leaves_the_conversion_as_it_was(
    modpdb_run, plain_gguf, tree: Path, gemma3_checkpoint, tmp_path
) -> None:
    out = tmp_path / "out.gguf"
    done = modpdb_run(convert(tree, gemma3_checkpoint, out), SKELETON)
    assert done.returncode == 0 and done.stderr.count("modpdb:") == 0
    assert "Gemma3ForCausalLM   " in done.stdout and "no weight read" in done.stdout
    assert "parameters from the checkpoint, each by its own name" in done.stdout
    assert "lm_head.weight  [384, 64]  bf16  tied with model.embed_tokens.weight" in done.stdout
    assert "*** a conversion holds tensors and no module: `params` lists them" in done.stdout
    assert "(ModPdb) True\n" in done.stdout
    assert digest(out) == plain_gguf(tree, gemma3_checkpoint)


@pytest.mark.parametrize(
    ("stage", "function"),
    [
        ("load", "load_hparams()"),
        ("init", "__init__()"),
        ("tensors", "prepare_tensors()"),
        ("modify", "modify_tensors()"),
        ("map", "map_tensor_name()"),
        ("params", "set_gguf_parameters()"),
        ("vocab", "set_vocab()"),
        ("write", "write_header_to_file()"),
    ],
)
def test_every_stage_is_reached(
    modpdb_run, tree: Path, gemma3_checkpoint, tmp_path, stage: str, function: str
) -> None:
    done = modpdb_run(
        ["--stop", stage, *convert(tree, gemma3_checkpoint, tmp_path / "out.gguf")],
        "p type(self).__name__\nq\n",
    )
    first, second, third = done.stdout.splitlines()[:3]
    assert first.endswith(function) and second.startswith("-> ")
    assert third.startswith(f"stage {stage}: ")
    if stage not in ("load", "write"):
        assert "(ModPdb) 'Gemma3Model'\n" in done.stdout
    assert done.returncode == 1


def test_stages_stop_once_and_all_are_found(
    modpdb_run, plain_gguf, tree: Path, llama_checkpoint, tmp_path
) -> None:
    # Llama's prepare_tensors calls the base's, its modify_tensors super()'s: one stop each.
    out = tmp_path / "out.gguf"
    options = [f"--stop={name}" for name in ("init", "tensors", "modify", "map", "params", "vocab")]
    done = modpdb_run([*options, *convert(tree, llama_checkpoint, out)], "c\n" * 6)
    assert done.returncode == 0 and "modpdb:" not in done.stderr
    stops = re.findall(r"^stage (\w+):", done.stdout, re.MULTILINE)
    assert stops[:2] == ["init", "tensors"]
    assert sorted(stops) == sorted(["init", "tensors", "modify", "map", "params", "vocab"])
    assert digest(out) == plain_gguf(tree, llama_checkpoint)


def test_at_init_the_tree_comes_from_the_headers(
    modpdb_run, tree: Path, gemma3_checkpoint, tmp_path
) -> None:
    done = modpdb_run(
        ["--stop", "init", *convert(tree, gemma3_checkpoint, tmp_path / "out.gguf")],
        "p vars(self)\nmodules -d 2\nparams model.norm\nparams --stats\nbuffers\nq\n",
    )
    assert "(ModPdb) {}\n" in done.stdout
    assert re.search(r"layers\.\{0…3\} +4 ×", done.stdout)
    assert re.search(r"model\.norm\.weight +\[64\] +bf16 +128 bytes", done.stdout)
    assert "*** --stats is for modules: of a checkpoint only headers are read" in done.stdout
    assert "*** a checkpoint does not tell buffers from parameters" in done.stdout


def test_globs_gguf_names_and_the_converter_itself(
    modpdb_run, llama_cpp, gemma3_checkpoint, tmp_path
) -> None:
    typed = "lp model.layers.*.mlp.up_proj\nlp blk.0.attn_q\nmodules -d 1 self\nlp nowhere\nq\n"
    line = convert(llama_cpp, gemma3_checkpoint, tmp_path / "out.gguf")
    said = modpdb_run(["--stop", "tensors", *line], typed).stdout
    assert re.search(r"model\.layers\.\{0…3\}\.mlp\.up_proj +4 × +64 → 160", said)
    assert "checkpoint  model.layers.0.self_attn.q_proj.weight" in said
    assert "54 tensors as the converter lists them" in said
    assert "*** 'nowhere' is no tensor of the checkpoint here" in said


def test_a_ghost(modpdb_run, plain_run, plain_gguf, llama_cpp, gemma3_checkpoint, tmp_path) -> None:
    """Looking at all there is changes neither the file nor what the script prints."""
    plain_out, out = tmp_path / "plain.gguf", tmp_path / "out.gguf"
    plain = plain_run(convert(llama_cpp, gemma3_checkpoint, plain_out))
    looks = [
        "modules",
        "params",
        "linear-path",
        "locals",
        "args",
        "up",
        "locals",
        "modules",
        "down",
    ]
    commands = ["b Gemma3Model.modify_tensors", "commands", *looks, "p data_torch", "c", "c"]
    done = modpdb_run(
        ["--stop", "tensors", *convert(llama_cpp, gemma3_checkpoint, out)],
        "\n".join([*looks, *commands, "end"]) + "\n",
    )
    assert done.returncode == plain.returncode == 0
    assert digest(out) == digest(plain_out) == plain_gguf(llama_cpp, gemma3_checkpoint)

    def log(text: str) -> list[str]:
        text = text.replace(str(plain_out), "OUT").replace(str(out), "OUT")
        return [line for line in text.splitlines() if line.startswith(("INFO", "WARN"))]

    assert log(done.stderr) == log(plain.stderr)
    assert done.stdout.count("LazyTorchTensor") >= 54


def test_only_what_was_asked_is_printed(modpdb_run, llama_cpp, gemma3_checkpoint, tmp_path) -> None:
    line = convert(llama_cpp, gemma3_checkpoint, tmp_path / "out.gguf")
    done = modpdb_run(["--no-preset", "-c", "b nothing.like.this", "-c", "c", *line])
    assert done.returncode == 0
    assert done.stdout == "Breakpoint 1 pending: nothing.like.this is not imported yet\n"
    assert "modpdb: breakpoint 1 was never reached: no nothing.like.this was loaded" in done.stderr


def test_options_of_the_script_stay_its_own(modpdb_run, plain_run, llama_cpp) -> None:
    script = llama_cpp / "convert_hf_to_gguf.py"
    plain = plain_run([script, "--help"])
    done = modpdb_run(["--stop", "tensors", script, "--help"])
    assert (done.returncode, done.stdout) == (0, plain.stdout)
    wrong = modpdb_run(["--stop", "tensors", script, "--no-such-option"])
    assert wrong.returncode == 2 and "--no-such-option" in wrong.stderr


def test_post_mortem_in_the_converter(modpdb_run, llama_cpp, gemma3_checkpoint, tmp_path) -> None:
    broken = tmp_path / "ck"
    broken.mkdir()
    for file in gemma3_checkpoint.iterdir():
        if file.suffix != ".model":
            (broken / file.name).write_bytes(file.read_bytes())
    config = json.loads((broken / "config.json").read_text())
    del config["num_hidden_layers"]
    (broken / "config.json").write_text(json.dumps(config))
    done = modpdb_run(convert(llama_cpp, broken, tmp_path / "o.gguf"), "c\nw\nmodules -d 1\nq\n")
    assert done.returncode == 1
    assert "find_hparam()" in done.stdout and "KeyError" in done.stderr
    assert re.search(r"^model +247\.1 k", done.stdout, re.MULTILINE)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A LoRA adapter for the tiny Llama's q_proj and v_proj."""
    pytest.importorskip("torch")
    modules = {"self_attn.q_proj": (64, 64), "self_attn.v_proj": (32, 64)}
    return lora_adapter(tmp_path / "adapter", modules)


def test_lora(modpdb_run, plain_run, tree: Path, llama_checkpoint, adapter, tmp_path) -> None:
    config = json.loads((llama_checkpoint / "config.json").read_text())
    heads = config["hidden_size"], config["num_key_value_heads"], config["num_attention_heads"]
    assert heads[0] == 64, heads
    out, plain_out = tmp_path / "lora.gguf", tmp_path / "plain.gguf"
    script = tree / "convert_lora_to_gguf.py"
    options = ["--base", llama_checkpoint, "--outtype", "f32", "--outfile"]
    plain = plain_run([script, adapter, *options, plain_out])
    assert plain.returncode == 0, plain.stderr
    done = modpdb_run([script, adapter, *options, out], "c\np type(self).__name__\nstages\nc\n")
    assert done.returncode == 0
    assert "preset llama.cpp-lora: c runs to stage tensors" in done.stdout
    assert "(ModPdb) 'LoraModel'\n" in done.stdout
    assert digest(out) == digest(plain_out)


def test_display_args_and_p_of_tensors(modpdb_run, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text(
        "import torch\n"
        "def f(t, state):\n"
        "    u = t\n"
        "    t = t + 1\n"
        "    t = torch.empty(1 << 40, device='meta')\n"
        "    return u\n"
        "f(torch.zeros(1000, 1000), {'w': torch.ones(3, 3)})\n"
    )
    typed = "b f\nc\ndisplay t\nargs\nn\nn\nn\np t.shape\np 'alive'\nq\n"
    said = modpdb_run([script], typed).stdout
    assert "t = Tensor [1000, 1000] f32" in said and "state = {'w': Tensor [3, 3] f32}" in said
    assert said.count("-->") == 2 and "'alive'" in said
    assert said.count("tensor([") == 0
