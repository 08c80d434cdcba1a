"""Stepping passes through what a preset calls plumbing. No torch: a script with a preset."""

import gc
import re
import textwrap
import weakref
from pathlib import Path
from typing import Any

import pytest

from modpdb.plumbing import Plumbing

SCRIPT = """\
    import functools
    def wraps(function):
        @functools.wraps(function)
        def wrapper(*args):
            noted = helper(args)
            result = function(*args)
            return result
        return wrapper
    def helper(args):
        return len(args)
    class Thing:
        def __getattr__(self, name):
            value = 7
            return value
        @wraps
        def work(self, n):
            doubled = 2 * n
            if n < 0:
                raise ValueError(n)
            return doubled
    thing = Thing()
    def main():
        a = thing.work(1)
        b = thing.other
        try:
            thing.work(-1)
        except ValueError:
            c = 3
        return a
    main()
    print("done")
    """
PRESET = """\
name = "stepped"
scripts = ["script.py"]
default = []
plumbing = ["__main__:wraps.wrapper", "*.__getattr__"]
"""


@pytest.fixture
def run(modpdb_run, tmp_path: Path):
    """The output, and line and function of every stop, of commands typed at `main`'s first line."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    preset = tmp_path / "config" / "modpdb" / "presets" / "stepped.toml"
    preset.parent.mkdir(parents=True)
    preset.write_text(PRESET)

    def run(typed: str, *options: str) -> tuple[str, list[str]]:
        env = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
        done = modpdb_run([*options, script], f"tbreak 23\nc\n{typed}c\nc\nc\n", env=env)
        assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stdout + done.stderr
        found = re.findall(r"> \S*script\.py\((\d+)\)([\w<>]+)\(\)", done.stdout)
        return done.stdout, [f"{line} {function}" for line, function in found[2:]]

    return run


def test_step_passes_through_plumbing_and_stops_in_what_it_calls(run) -> None:
    """From a call through plumbing to the first line, which is what `into` stops at, too."""
    _, stops = run("s\n" * 6)
    assert stops == [
        *("10 helper", "10 helper"),
        *("17 work", "18 work", "20 work", "20 work"),
    ]


def test_stepping_out_lands_where_it_was_called(run) -> None:
    for leave in ("s\n", "n\n", "r\n"):
        _, stops = run("tbreak 20\nc\nn\n" + leave)
        assert [stop for stop in stops if "work" not in stop] == ["24 main"], (leave, stops)


def test_attributes_that_plumbing_computes(run) -> None:
    _, stops = run("n\ns\n")
    assert stops == ["24 main", "25 main"]


def test_raw_shows_it(run) -> None:
    _, stops = run("s --raw\ns\ns\ns\n")
    assert stops == ["3 wrapper", "5 wrapper", "9 helper", "10 helper"]
    _, stops = run("n\nstep --raw\nn\nn\nn\nn\n")
    assert stops == [
        *("24 main", "12 __getattr__", "13 __getattr__", "14 __getattr__"),
        *("14 __getattr__", "25 main"),
    ]


def test_without_the_preset_all_is_stepped_through(run) -> None:
    _, stops = run("s\ns\ns\n", "--no-preset")
    assert stops == ["3 wrapper", "5 wrapper", "9 helper"]


def test_a_breakpoint_in_plumbing_stops_and_steps_on_there(run) -> None:
    _, stops = run("b 6\nc\nn\ns\nclear 2\n")
    assert stops[:3] == ["6 wrapper", "7 wrapper", "7 wrapper"]


def test_return_sees_an_exception_where_it_can_stop(run) -> None:
    said, stops = run("tbreak 19\nc\nr\nr\n")
    assert stops == ["19 work", "19 work", "26 main"] and "ValueError: -1" in said


def test_its_frames_are_hidden_until_asked_for(run) -> None:
    said, _ = run("tbreak 17\nc\nw\nup\nhf_unhide\nw\nhf_hide\nw\nhf_list\n")
    where = [re.findall(r"\)([\w<>]+)\(\)", part) for part in said.split("(ModPdb)")]
    assert "1 frame hidden" in said
    assert [names for names in where[5:] if names] == [
        ["<module>", "main", "work"],
        ["main"],
        ["<module>", "main", "wrapper", "work"],
        ["<module>", "main", "work"],
        ["wrapper"],
    ]


def test_bad_input_is_one_sentence(run) -> None:
    said, _ = run("s 3\nstep --row\n")
    assert re.findall(r"\*\*\* (.*)", said) == [
        "step takes --raw or nothing, not '3'",
        "step takes --raw or nothing, not '--row'",
    ]


def test_post_mortem_stands_where_plumbing_raised(run, modpdb_run, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    text = script.read_text().replace("value = 7", "raise AttributeError(name)")
    script.write_text(text)
    env = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    done = modpdb_run([script], "c\nw\nq\n", env=env)
    assert "> " in done.stdout and "__getattr__()" in done.stdout.partition("AttributeError")[0]
    assert re.findall(r"\)([\w<>]+)\(\)", done.stdout.split("(ModPdb)")[2]) == [
        *("<module>", "main", "__getattr__")
    ]


def test_a_broken_preset_does_not_end_a_session(modpdb_run, tmp_path: Path) -> None:
    preset = tmp_path / "modpdb" / "presets" / "broken.toml"
    preset.parent.mkdir(parents=True)
    preset.write_text('name = "x"\nscripts = []\ndefault = []\nplumbing = 3\n')
    (tmp_path / "script.py").write_text("x = 1\nx = 2\nprint('done')\n")
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    done = modpdb_run(["--no-preset", "script.py"], "s\nw\nc\n", env=env, cwd=tmp_path)
    assert done.stdout.endswith("done\n") and done.returncode == 0
    done = modpdb_run(["script.py"], "c\n", env=env, cwd=tmp_path)
    assert "broken.toml: plumbing: found 3, expected a list of strings" in done.stderr


def test_a_preset_adds_to_the_generic_one() -> None:
    from modpdb.presets import GENERIC, all_presets

    presets = all_presets()
    assert presets[GENERIC].plumbing
    assert presets["llama.cpp"].plumbing == presets[GENERIC].plumbing


def test_code_is_not_kept_for_having_been_asked_about() -> None:
    """What is kept of a conversion's functions makes the end of the process look for it."""
    plumbing = Plumbing.generic()
    made: dict[str, Any] = {}
    exec("import sys\ndef function(): return sys._getframe()", made)
    code = weakref.ref(made["function"].__code__)
    assert made["function"]() not in plumbing
    assert made["function"]() not in plumbing
    made.clear()
    gc.collect()
    assert code() is None
