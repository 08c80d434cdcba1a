"""What the README shows is what the program prints."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from tour import session

README = (ROOT / "README.md").read_text(encoding="utf-8")
TRANSCRIPTS = re.findall(r"```console\n(\$ python -m modpdb .*?)```", README, re.DOTALL)
SHOWN_HOME = "/home/you"  # where the README's user works


@pytest.fixture
def home(tmp_path: Path, llama_cpp: Path, gemma3_checkpoint: Path) -> Path:
    """A folder with what the README's commands name."""
    shutil.copytree(llama_cpp, tmp_path / "llama.cpp")
    shutil.copytree(gemma3_checkpoint, tmp_path / "tiny-gemma3")
    for name, source in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README, re.DOTALL):
        (tmp_path / name).write_text(f"# {name}\n{source}")
    return tmp_path


@pytest.mark.conversion
@pytest.mark.parametrize("shown", TRANSCRIPTS, ids=range(len(TRANSCRIPTS)))
def test_transcripts_are_what_is_printed(home: Path, shown: str, monkeypatch) -> None:
    monkeypatch.delenv("COLUMNS")  # piped, and as wide as need be
    command, _, screen = shown.partition("\n")
    typed = re.findall(r"^\(ModPdb\) (.*)$", screen, re.MULTILINE)
    arguments = [sys.executable, *shlex.split(command)[2:]]
    printed, status = session(arguments, typed, cwd=home)
    assert status == 0
    printed = printed.replace(str(home), SHOWN_HOME)
    pattern = ".*?".join(re.escape(part) for part in re.split(r"^…\n", screen, flags=re.MULTILINE))
    if not re.fullmatch(pattern + r"\s*", printed, re.DOTALL):
        assert printed == screen  # for the difference


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 2


def test_every_command_and_stage_is_listed() -> None:
    for stage in ("load", "init", "tensors", "modify", "map", "params", "vocab", "write"):
        assert f"`{stage}`" in README
    from modpdb.commands import COMMANDS, load_commands

    load_commands()
    for name in COMMANDS:
        assert re.search(rf"`{name}\b", README), name
