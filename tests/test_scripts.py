"""The scripts that bring the environment, the conversion script and the checkpoints."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

import environment
import fetch_llama_cpp
import make_checkpoint
from conftest import SCRIPTS, Run
from make_checkpoint import Recipe, RecipeError

# -- environment.py ---------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n")
    return tmp_path


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, repository: Path) -> list[list[str]]:
    """What environment.py runs; nothing is really run, but a made environment has a Python."""
    seen: list[list[str]] = []

    def note(command: list[str | Path], failure: str) -> None:
        seen.append([str(word) for word in command])
        if "venv" in seen[-1]:
            (repository / ".venv" / "bin").mkdir(parents=True)
            (repository / ".venv" / "bin" / "python").symlink_to(sys.executable)

    monkeypatch.setattr(environment, "run", note)
    return seen


def test_environment_is_made_once(repository: Path, commands: list[list[str]]) -> None:
    python = environment.ensure(repository)
    assert python == repository / ".venv" / "bin" / "python"
    assert [words[1:3] for words in commands] == [["-m", "venv"], ["-m", "pip"]]
    assert str(repository / "constraints.txt") in commands[1]
    commands.clear()
    assert environment.ensure(repository) == python
    assert commands == []


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_changed_recipe_is_installed_into_the_same_environment(
    repository: Path, commands: list[list[str]], file: str
) -> None:
    environment.ensure(repository)
    commands.clear()
    (repository / file).write_text("# changed\n")
    environment.ensure(repository)
    assert [words[1:3] for words in commands] == [["-m", "pip"]]


def test_failed_installation_is_taken_up_again(
    repository: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str | Path], failure: str) -> None:
        raise environment.SetUpError(failure)

    with monkeypatch.context() as patched:
        patched.setattr(environment, "run", fail)
        with pytest.raises(environment.SetUpError, match="virtual environment"):
            environment.ensure(repository)
    environment.ensure(repository)
    assert [words[2] for words in commands] == ["venv", "pip"]


def test_old_python_is_refused_with_a_sentence(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    with pytest.raises(environment.SetUpError, match=r"needs Python 3\.11 or later"):
        environment.ensure(repository)


def test_missing_python_is_said(tmp_path: Path) -> None:
    done = subprocess.run(
        [SCRIPTS / "test"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(tmp_path / "python3")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"no {tmp_path / 'python3'} here: install Python 3.11")


# -- fetch_llama_cpp.py -----------------------------------------------------------------------


def sdist(folder: Path, files: dict[str, bytes], *, keep: float = 1.0) -> Path:
    """A source distribution as pip leaves it in folder; `keep` is the part that was received."""
    archive = folder / "llama_cpp_python-1.0.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=0) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"llama_cpp_python-1.0/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * keep)])
    return archive


CONVERSION_FILES = {
    "vendor/llama.cpp/convert_hf_to_gguf.py": b"import gguf\n",
    "vendor/llama.cpp/convert_lora_to_gguf.py": b"\n" * 50_000,
    "vendor/llama.cpp/conversion/base.py": b"",
    "vendor/llama.cpp/gguf-py/gguf/__init__.py": b"",
    "vendor/llama.cpp/examples/model-conversion/scripts/causal/run-org-model.py": b"",
    "vendor/llama.cpp/examples/simple/simple.cpp": b"int main() {}",
    "vendor/llama.cpp/src/llama.cpp": b"int main() {}",
    "llama_cpp/__init__.py": b"",
}


def test_fetch_keeps_the_conversion_scripts_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_llama_cpp, "download", lambda _, to: sdist(to, CONVERSION_FILES))
    tree = fetch_llama_cpp.fetch("1.0", tmp_path)
    assert {str(file.relative_to(tree)) for file in tree.rglob("*.*") if file.is_file()} == {
        "convert_hf_to_gguf.py",
        "convert_lora_to_gguf.py",
        "conversion/base.py",
        "gguf-py/gguf/__init__.py",
        "examples/model-conversion/scripts/causal/run-org-model.py",
    }
    assert list(tmp_path.iterdir()) == [tree]  # neither the archive nor anything half done


def test_fetch_downloads_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_llama_cpp, "download", lambda _, to: sdist(to, CONVERSION_FILES))
    tree = fetch_llama_cpp.fetch("1.0", tmp_path)
    monkeypatch.delattr(fetch_llama_cpp, "download")
    assert fetch_llama_cpp.fetch("1.0", tmp_path) == tree


def test_fetch_leaves_nothing_of_a_broken_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        fetch_llama_cpp, "download", lambda _, to: sdist(to, CONVERSION_FILES, keep=0.5)
    )
    with pytest.raises(fetch_llama_cpp.FetchError, match="cannot be unpacked"):
        fetch_llama_cpp.fetch("1.0", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vendor/llama.cpp/gguf-py/../../../../escaped.py", "outside the destination"),
        ("vendor/llama.cpp/README.md", "holds no vendor/llama.cpp/convert_hf_to_gguf.py"),
    ],
)
def test_fetch_refuses_other_archives(tmp_path: Path, name: str, message: str) -> None:
    archive = sdist(tmp_path, {name: b""})
    with pytest.raises(fetch_llama_cpp.FetchError, match=message):
        fetch_llama_cpp.extract(archive, tmp_path / "in" / "tree")
    assert not list(tmp_path.rglob("escaped.py"))


def test_fetch_without_network_fails_with_a_sentence(tmp_path: Path, plain_run: Run) -> None:
    nowhere = {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
    }
    done = plain_run([SCRIPTS / "fetch_llama_cpp.py", "--cache", tmp_path / "cache"], env=nowhere)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip could not download llama-cpp-python" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "cache").iterdir()) == []


# -- make_checkpoint.py -----------------------------------------------------------------------


def weights(folder: Path) -> dict:
    """All tensors of a checkpoint, by name."""
    from safetensors.torch import load_file

    return {k: v for f in sorted(folder.glob("*.safetensors")) for k, v in load_file(f).items()}


def test_equal_recipes_make_equal_files(tmp_path: Path) -> None:
    import torch

    recipe = Recipe(layers=1)
    state = torch.random.get_rng_state()
    make_checkpoint.make(recipe, tmp_path / "a")
    assert torch.equal(torch.random.get_rng_state(), state)
    make_checkpoint.make(recipe, tmp_path / "b")
    make_checkpoint.make(Recipe(layers=1, seed=1), tmp_path / "c")
    for name in ("model.safetensors", "tokenizer.model", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    for name in ("model.safetensors", "tokenizer.model"):
        assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "c" / name).read_bytes()


@pytest.mark.parametrize(("model", "fresh_norm"), [("gemma3", 0.0), ("llama", 1.0)])
def test_checkpoint_is_not_blind(tmp_path: Path, model: str, fresh_norm: float) -> None:
    make_checkpoint.make(Recipe(model, layers=2, dtype="f32"), tmp_path / model)
    config = json.loads((tmp_path / model / "config.json").read_text())
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    assert config.get("query_pre_attn_scalar", config["head_dim"]) == config["head_dim"]

    tensors = weights(tmp_path / model)
    norms = [tensor for name, tensor in tensors.items() if name.endswith("norm.weight")]
    assert len(norms) > 4
    for norm in norms:
        assert 0.1 < (norm - fresh_norm).std() < 0.6
        assert norm.unique().numel() == norm.numel()
    for layer in ("model.layers.0.self_attn", "model.layers.1.self_attn"):
        v = tensors[f"{layer}.v_proj.weight"].std()
        for sharp in ("q_proj", "k_proj"):
            assert 15 < tensors[f"{layer}.{sharp}.weight"].std() / v < 25


def test_shards_hold_what_the_whole_holds(tmp_path: Path) -> None:
    make_checkpoint.make(Recipe("llama", layers=1), tmp_path / "whole")
    make_checkpoint.make(Recipe("llama", layers=1, shards=3), tmp_path / "parts")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(whole[name].equal(parts[name]) for name in whole)

    files = sorted(file.name for file in (tmp_path / "parts").glob("*.safetensors"))
    assert files == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == whole.keys()
    assert sorted(set(index["weight_map"].values())) == files
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())


def test_cached_checkpoint_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def write(recipe: Recipe, folder: Path) -> None:
        made.append(folder)
        folder.mkdir(parents=True)

    monkeypatch.setattr(make_checkpoint, "write", write)
    first = make_checkpoint.cached(Recipe(), tmp_path)
    assert make_checkpoint.cached(Recipe(), tmp_path) == first
    assert make_checkpoint.cached(Recipe(seed=1), tmp_path) != first
    assert len(made) == 2


def test_a_checkpoint_made_meanwhile_is_as_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers that find no checkpoint both make it; the slower one takes the quicker one's."""
    folder = make_checkpoint.cached(Recipe(layers=1), tmp_path / "cache")
    (folder / "theirs").touch()
    aside = folder.rename(tmp_path / "aside")
    sizes = Recipe.sizes

    def another_is_quicker(recipe: Recipe) -> dict[str, Any]:
        if aside.exists():
            aside.rename(folder)
        return sizes(recipe)

    monkeypatch.setattr(Recipe, "sizes", another_is_quicker)
    assert make_checkpoint.cached(Recipe(layers=1), tmp_path / "cache") == folder
    assert (folder / "theirs").exists()


def test_unknown_recipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no llama of size 148m; there is: gemma3 tiny"):
        make_checkpoint.make(Recipe("llama", "148m"), tmp_path / "new")
    with pytest.raises(RecipeError, match="exists already"):
        make_checkpoint.make(Recipe(), tmp_path)


def test_148m_has_that_many_parameters() -> None:
    import torch

    with torch.device("meta"):
        model = make_checkpoint.build(Recipe(size="148m"))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 148


# -- tour.py ----------------------------------------------------------------------------------

SESSION = """
import sys
print("a (ModPdb) is no prompt within a line")
for number in range(3):
    print("(ModPdb) ", end="", flush=True)
    line = sys.stdin.readline()
    print(f"{PREFIX}{number}: {line!r}", file=sys.stderr, flush=True)
sys.exit(STATUS)
"""


def session(prefix: str, status: int) -> str:
    """A program that answers three commands in lines that start with prefix."""
    return SESSION.replace("{PREFIX}", prefix).replace("STATUS", str(status))


def test_tour_prints_what_it_types_after_the_prompt(plain_run: Run) -> None:
    done = plain_run([SCRIPTS / "tour.py", sys.executable, "-c", session("", 7)])
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        "a (ModPdb) is no prompt within a line",
        "(ModPdb) stages",
        "0: 'stages\\n'",
    ]
    assert len(lines) == 7
    assert done.returncode == 7


def test_tour_fails_when_a_command_does(plain_run: Run) -> None:
    done = plain_run([SCRIPTS / "tour.py", sys.executable, "-c", session("*** no ", 0)])
    assert done.returncode == 1
    assert "a command failed" in done.stderr


# -- the real conversion ----------------------------------------------------------------------


@pytest.mark.conversion
@pytest.mark.parametrize("tree", ["llama_cpp", "llama_cpp_single_file"])
@pytest.mark.parametrize("checkpoint", ["gemma3_checkpoint", "llama_checkpoint"])
def test_real_script_converts_the_checkpoint(
    request: pytest.FixtureRequest, tmp_path: Path, plain_run: Run, tree: str, checkpoint: str
) -> None:
    script = request.getfixturevalue(tree) / "convert_hf_to_gguf.py"
    folder = request.getfixturevalue(checkpoint)
    outfile = tmp_path / "out.gguf"
    done = plain_run([script, folder, "--outfile", outfile, "--outtype", "bf16"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert outfile.read_bytes()[:4] == b"GGUF"
    assert outfile.stat().st_size > sum(tensor.nbytes for tensor in weights(folder).values())
