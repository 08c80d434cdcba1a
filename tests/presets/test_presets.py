"""Preset files: which is found, and what is wrong with a broken one."""

import os
from pathlib import Path

import pytest

from modpdb.presets import PresetError, all_presets, preset_for, preset_named, read_preset

GOOD = """\
name = "mine"
scripts = ["my_*.py"]
default = ["begin"]
[stages.begin]
at = ["Converter.run", "tool:main"]
on = ["writer"]
says = "it begins"
[tensors.load]
at = ["load"]
tensor = "name"
side = "file"
says = "is read"
"""


def user_preset(text: str, name: str = "mine.toml") -> Path:
    folder = Path(os.environ["XDG_CONFIG_HOME"], "modpdb", "presets")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(text)
    return file


def test_the_generic_plumbing_is_everyones() -> None:
    user_preset(GOOD)
    for preset in all_presets().values():
        assert {str(spec) for spec in preset_named("generic").plumbing} <= {
            str(spec) for spec in preset.plumbing
        }, preset.name
        assert preset.dispatchers, preset.name


def test_found_by_file_name() -> None:
    assert preset_for("/x/convert_hf_to_gguf.py").name == "llama.cpp"
    assert preset_for("convert_lora_to_gguf.py").name == "llama.cpp-lora"
    assert preset_for("scripts/causal/run-org-model.py").name == "llama.cpp-run-model"
    assert preset_for("anything.py").name == preset_for("model.py").name == "generic"


def test_ours_have_the_stages_promised() -> None:
    for name in ("llama.cpp", "llama.cpp-lora"):
        preset = preset_named(name)
        stages = [stage.name for stage in preset.stages]
        assert stages == ["load", "init", "tensors", "modify", "map", "params", "vocab", "write"]
        assert preset.default == ("tensors",)
        assert preset.known_at == "tensors" and "writer" in {t.name for t in preset.tensors}
        collects = preset.provenance
        assert collects is not None and [str(each) for each in collects.adds] == [
            "GGUFWriter.add_tensor"
        ]
    assert preset_named("generic").default == () and preset_named("generic").provenance is None
    assert preset_named("llama.cpp-run-model").default == ("forward",)
    assert preset_named("model").default == ("forward", "done")


def test_a_users_own_wins() -> None:
    user_preset(GOOD)
    assert preset_for("my_convert.py").name == "mine"
    user_preset(GOOD.replace("my_*", "convert_hf_to_gguf"))
    assert preset_for("convert_hf_to_gguf.py").name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"it begins"', "3", "stages.begin.says: found 3, expected a string"),
        ('says = "it begins"', "", "stages.begin.says: found nothing, expected a string"),
        ('["writer"]', '"writer"', "stages.begin.on: found 'writer', expected a list of strings"),
        ('["begin"]', '["start"]', "default: found 'start', expected one of begin"),
        ("default", "defualt", "defualt: not a key of a preset; expected name, extends"),
        ("Converter.run", "run it", "stages.begin.at: 'run it' is no place"),
        ('name = "mine"', "", "name: found nothing, expected a string"),
        ("[stages.begin]", "[stages", "not readable as TOML"),
        ("default", 'extends = "nobody"\ndefault', "extends: found 'nobody', expected one of"),
        ('tensor = "name"', "", "tensors.load.tensor: found nothing, expected a string"),
        (
            'tensor = "name"',
            'tensor = "a b"',
            "tensors.load.tensor: found 'a b', expected a Python expression",
        ),
        ('side = "file"', "side = []", "tensors.load.side: found [], expected a string"),
        ('side = "file"', "sides = 1", "tensors.load.sides: not a key of a preset; expected at, "),
        ('["load"]', '["to load"]', "tensors.load.at: 'to load' is no place"),
        (
            "default",
            'tensors_known_at = "end"\ndefault',
            "tensors_known_at: found 'end', expected one of begin",
        ),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    file = tmp_path / "broken.toml"
    file.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(PresetError) as caught:
        read_preset(file)
    assert str(caught.value).startswith(f"{file}: {sentence}") and "\n" not in str(caught.value)


def test_a_broken_file_stops_the_start(modpdb_run, tmp_path: Path) -> None:
    user_preset(GOOD.replace('"it begins"', "3"))
    (tmp_path / "s.py").write_text("print('ran')\n")
    done = modpdb_run(["s.py"], "c\n", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "mine.toml: stages.begin.says: found 3, expected a string" in done.stderr


def test_unknown_names_list_what_there_is(modpdb_run, tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("print('ran')\n")
    for option, sentence in (
        (["--preset", "nobody"], "there is no preset 'nobody'; there are generic, llama.cpp"),
        (["--stop", "init"], "--stop: 'init' is no stage of preset generic; there are"),
        (["--no-preset", "--stop", "save"], "--stop names a stage of a preset"),
    ):
        done = modpdb_run([*option, "s.py"], cwd=tmp_path)
        assert done.returncode == 2 and sentence in done.stderr and done.stdout == ""


SCRIPT = """\
class Base:
    def run(self):
        return self.helper()
    def helper(self):
        return 1
class Converter(Base):
    def __init__(self): self.writer = []
    def run(self):
        return super().run()
class Other(Converter):
    def __init__(self): pass
Other().run()
one, two = Converter(), Converter()
one.run(); one.run(); two.run()
"""


def test_a_stage_stops_once_for_an_object_at_the_outermost_call(modpdb_run, tmp_path) -> None:
    user_preset(GOOD.replace('["Converter.run", "tool:main"]', '["*.run"]'))
    (tmp_path / "my_script.py").write_text(SCRIPT)
    done = modpdb_run(["my_script.py"], "c\nw\nc\nstages\nc\n", cwd=tmp_path)
    assert done.returncode == 0
    assert "preset mine: c runs to stage begin" in done.stdout
    assert done.stdout.count("stage begin: it begins") == 2  # Other has no writer
    assert done.stdout.count("(9)run()") == 3  # twice as the stop, once in `w`
    assert "→  begin  3 ×  " in done.stdout and done.stderr == ""


def test_stage_runs_on_to_it_again(modpdb_run, tmp_path: Path) -> None:
    user_preset(GOOD.replace('["Converter.run", "tool:main"]', '["*.run"]'))
    (tmp_path / "my_script.py").write_text(SCRIPT)
    done = modpdb_run(
        ["my_script.py"], "stage begin\nstage begin\nstage nope\nc\nc\n", cwd=tmp_path
    )
    assert done.stdout.count("stage begin: it begins") == 3
    assert "*** 'nope' is no stage of preset mine; there are begin" in done.stdout


def test_a_pattern_that_matches_nothing_is_said(modpdb_run, tmp_path: Path) -> None:
    user_preset(GOOD)
    (tmp_path / "my_script.py").write_text("print('ran')\n")
    done = modpdb_run(["--stop", "begin", "my_script.py"], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert done.stderr == (
        "modpdb: preset mine: stage begin matched nothing (Converter.run, tool:main)\n"
    )


def test_all_presets_load() -> None:
    assert set(all_presets()) == {
        "generic",
        "llama.cpp",
        "llama.cpp-lora",
        "llama.cpp-run-model",
        "model",
    }
