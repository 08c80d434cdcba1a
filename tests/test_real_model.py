"""The original, run: in a real conversion, from a checkpoint alone, by llama.cpp's own script."""

import filecmp
import hashlib
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.conversion

ORIGINAL = "examples/model-conversion/scripts/causal/run-org-model.py"
STATE = (
    "hash(torch.random.get_rng_state().numpy().tobytes()), hash(__import__('random').getstate()), "
    "torch.get_default_dtype(), torch.get_num_threads(), torch.is_inference_mode_enabled(), "
    "__import__('sys').modules['gguf'].__file__"
)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("tree", ["llama_cpp", "llama_cpp_single_file"])
def test_run_model_in_a_conversion_is_a_ghost(
    request, modpdb_run, plain_run, tree: str, gemma3_checkpoint, tmp_path
) -> None:
    script = request.getfixturevalue(tree) / "convert_hf_to_gguf.py"
    plain_out, out = tmp_path / "plain.gguf", tmp_path / "out.gguf"
    line = [script, gemma3_checkpoint, "--outtype", "bf16", "--outfile"]
    plain = plain_run([*line, plain_out])
    commands = [
        f"before = {STATE}",
        "b Gemma3Attention.forward, self.layer_idx == 2",
        "run-model",
        "p tuple(hidden_states.shape)",
        "q",
        "run-model",
        "c",
        "clear 1",
        "run-model --dtype f32 [5, 6]",
        f"p 'the same', before == ({STATE})",
        "modules -d 1",
        "modules -d 1 _model",
        "c",
    ]
    done = modpdb_run(["--stop", "tensors", *line, out], "\n".join(commands) + "\n")
    assert done.returncode == plain.returncode == 0, done.stderr
    assert digest(out) == digest(plain_out)
    said = done.stdout
    assert "((ModPdb)) (1, 13, 64)\n((ModPdb)) the model's run was given up\n" in said
    assert "bound in this frame: _model, _tokenizer, _inputs\n" in said
    assert said.count("bound in this frame") == 2  # the second adds _out; the model is used again
    assert "logits  [1, 13, 384] bf16\n" in said and "logits   [1, 2, 384] f32\n" in said
    assert "('the same', True)\n" in said
    assert "implied by the tensor names   247.1 k" in said  # still what `modules` is about
    assert "lm_head  Linear 64 → 384" in said

    def log(text: str) -> list[str]:
        text = text.replace(str(plain_out), "OUT").replace(str(out), "OUT")
        return [line for line in text.splitlines() if line.startswith(("INFO", "WARN"))]

    assert log(done.stderr) == log(plain.stderr)


def test_before_the_script_has_its_own_gguf(
    modpdb_run, llama_cpp, gemma3_checkpoint, tmp_path
) -> None:
    """At the first line nothing is imported yet: building a model brings no gguf in."""
    line = [llama_cpp / "convert_hf_to_gguf.py", gemma3_checkpoint, "--outfile", tmp_path / "o"]
    typed = f"run-model --from {gemma3_checkpoint} 5\np 'gguf' in __import__('sys').modules\nc\nc\n"
    done = modpdb_run(line, typed)
    assert done.returncode == 0 and "(ModPdb) False\n" in done.stdout
    assert "logits   [1, 1, 384] bf16\n" in done.stdout


def test_a_plain_session_on_a_checkpoint(modpdb_run, llama_checkpoint, tmp_path) -> None:
    (tmp_path / "tokenizers.py").write_text("raise SystemExit('the library was meant')\n")
    commands = ["modules -d 1", "b LlamaAttention.forward, self.layer_idx == 3", "c"]
    commands += ["p tuple(hidden_states.shape)", "c", "p tuple(outputs.logits.shape)"]
    commands += ["clear 1", "run-model 1 2", "stages", "c"]
    done = modpdb_run(
        ["model", llama_checkpoint, "Hello", "you"], "\n".join(commands), cwd=tmp_path
    )
    said = done.stdout
    assert (done.returncode, done.stderr) == (0, "")
    assert "forward()\n-> import torch\nstage forward: the model is about to run; c runs" in said
    assert re.search(r"^lm_head +Linear 64 → 384", said, re.MULTILINE)
    assert re.search(r"\(ModPdb\) \(1, \d+, 64\)\n", said)
    assert "prompt  'Hello you'\n" in said and "done()\n-> return\nstage done: " in said
    assert "tokens   2: 1 </s>, 2 <s>\n" in said
    assert re.search(r"^   build +passed", said, re.MULTILINE)


def test_the_stages_of_a_plain_session(modpdb_run, llama_checkpoint) -> None:
    line = ["--stop", "config", "--stop", "build", "--stop", "tokenize", "model", llama_checkpoint]
    done = modpdb_run([*line, "5"], "p 1\nc\np 2\nc\np 3\nc\n")
    stops = re.findall(r"^stage (\w+): ", done.stdout, re.MULTILINE)
    assert stops == ["config", "build", "tokenize"] and done.returncode == 0
    assert "logits  [1, 1, 384] bf16" in done.stdout and "stage done" not in done.stdout


def test_a_plain_session_that_cannot_be(modpdb_run, gemma3_checkpoint, tmp_path) -> None:
    for line, sentence in (
        (["model"], "the following arguments are required: MODEL_DIR"),
        (["model", tmp_path], "has no config.json, which says what the model is"),
        (["model", "--dtype", "f8", tmp_path], "invalid choice: 'f8'"),
    ):
        done = modpdb_run(line)
        assert (done.returncode, done.stdout) == (2, "")
        assert sentence in done.stderr and "Traceback" not in done.stderr
    shown = modpdb_run(["model", "--help"])
    assert shown.returncode == 0 and "A script called model is ./model." in shown.stdout
    (tmp_path / "config.json").write_bytes((gemma3_checkpoint / "config.json").read_bytes())
    done = modpdb_run(["model", tmp_path, "5"], "p 'at the exit'\nq\n")
    assert done.returncode == 1 and "'at the exit'" in done.stdout
    assert "no model*.safetensors and no pytorch_model*.bin file" in done.stderr


# -- llama.cpp's examples/model-conversion/scripts/causal/run-org-model.py ----------------------


@pytest.fixture
def original(llama_cpp: Path, gemma3_checkpoint: Path) -> list[str | Path]:
    pytest.importorskip("accelerate")  # which the script's device_map needs
    return [llama_cpp / ORIGINAL, "--model-path", gemma3_checkpoint, "--device", "cpu"]


def test_the_script_that_runs_the_original_is_not_disturbed(
    modpdb_run, plain_run, original, tmp_path
) -> None:
    folders = tmp_path / "plain", tmp_path / "under"
    for folder in folders:
        folder.mkdir()
    plain = plain_run([*original, "--verbose"], cwd=folders[0])
    typed = "p 1\nc\nmodules -d 1\nlocals\nstages\nc\n"
    line = ["--stop", "tokenize", "--stop", "forward", *original, "--verbose"]
    done = modpdb_run(line, typed, cwd=folders[1])
    assert done.returncode == plain.returncode == 0, done.stderr
    assert "stage forward: the model is about to run\n" in done.stdout
    # What follows a prompt stands in its line.
    lines = iter(done.stdout.replace("\n(ModPdb) ", "\n(ModPdb) \n").splitlines())
    assert [line for line in plain.stdout.splitlines() if line not in lines] == []
    names = sorted(str(each.relative_to(folders[0])) for each in folders[0].rglob("*.*"))
    assert len(names) == 4
    assert filecmp.cmpfiles(*folders, names, shallow=False) == (names, [], [])


def test_its_stages_in_order(modpdb_run, original, tmp_path) -> None:
    stages = ["load", "config", "weights", "tokenize", "forward", "logits"]
    options = [word for stage in stages for word in ("--stop", stage)]
    done = modpdb_run([*options, *original], "c\n" * 9, cwd=tmp_path)
    assert done.returncode == 0
    stops = re.findall(r"stage (\w+): ", done.stdout)
    assert list(dict.fromkeys(stops)) == stages


def test_its_status_where_it_fails(modpdb_run, plain_run, original, tmp_path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((Path(original[2]) / "config.json").read_bytes())
    line = [original[0], "--model-path", broken, "--device", "cpu"]
    plain = plain_run(line, cwd=tmp_path)
    done = modpdb_run(line, "c\nq\n", cwd=tmp_path)
    assert done.returncode == plain.returncode == 1
