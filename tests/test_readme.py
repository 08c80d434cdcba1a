"""What the README and the walkthroughs in docs/ show is what the program prints."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from derived import derived, renamed
from tour import session

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONSOLE = re.compile(r"```console\n(\$ python -m modpdb .*?)```", re.DOTALL)
SCRIPT = re.compile(r"```python\n# (\w+\.py)\n(.*?)```", re.DOTALL)
SHOWN_HOME = "/home/you"  # where the reader works
# What a document's commands name beside its own scripts, and the fixtures that bring it.
BROUGHT = {
    "llama.cpp": "llama_cpp",
    "tiny-gemma3": "gemma3_checkpoint",
    "renamed-gemma3": "renamed_checkpoint",
}


@pytest.fixture
def renamed_checkpoint(gemma3_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("renamed") / "gemma3"
    return derived(gemma3_checkpoint, folder, tensors=renamed({"mlp.up_proj": "mlp.widen"}))


def transcripts() -> list[object]:
    """Each transcript with its document; those that need the conversion script are marked."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for number, shown in enumerate(CONSOLE.findall(text)):
            marks = [pytest.mark.conversion] if needed(shown) else []
            identity = f"{document.stem}-{number}"
            found.append(pytest.param(document, shown, id=identity, marks=marks))
    return found


def needed(shown: str) -> list[str]:
    command = shown.partition("\n")[0]
    return [name for name in BROUGHT if name in command]


@pytest.mark.parametrize(("document", "shown"), transcripts())
def test_transcripts_are_what_is_printed(
    document: Path,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.delenv("COLUMNS")  # piped, and as wide as need be
    for name in needed(shown):
        shutil.copytree(request.getfixturevalue(BROUGHT[name]), tmp_path / name)
    for name, source in SCRIPT.findall(document.read_text(encoding="utf-8")):
        (tmp_path / name).write_text(f"# {name}\n{source}")
    command, _, screen = shown.partition("\n")
    typed = re.findall(r"^\(ModPdb\) (.*)$", screen, re.MULTILINE)
    arguments = [sys.executable, *shlex.split(command)[2:]]
    printed, status = session(arguments, typed, cwd=tmp_path)
    assert status == (1 if "Traceback" in screen else 0)
    printed = printed.replace(str(tmp_path), SHOWN_HOME)
    pattern = ".*?".join(re.escape(part) for part in re.split(r"^…\n", screen, flags=re.MULTILINE))
    if not re.fullmatch(pattern + r"\s*", printed, re.DOTALL):
        assert printed == screen  # for the difference


def test_there_are_transcripts() -> None:
    for document in DOCUMENTS:
        assert CONSOLE.search(document.read_text(encoding="utf-8")), document


def test_every_command_and_stage_is_listed() -> None:
    for stage in ("load", "init", "tensors", "modify", "map", "params", "vocab", "write"):
        assert f"`{stage}`" in README
    from modpdb.commands import COMMANDS, load_commands

    load_commands()
    for name in COMMANDS:
        assert re.search(rf"`{name}\b", README), name
