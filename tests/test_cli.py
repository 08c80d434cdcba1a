"""The command line: options end at the script."""

import pytest

from modpdb.cli import CommandLineError, parse


@pytest.mark.parametrize(
    ("line", "target", "arguments"),
    [
        ("s.py", "s.py", []),
        ("s.py -c x -m y --help -- z", "s.py", ["-c", "x", "-m", "y", "--help", "--", "z"]),
        ("-c c s.py --stop", "s.py", ["--stop"]),
        ("-- -odd.py -m", "-odd.py", ["-m"]),
        ("./verify MODEL", "./verify", ["MODEL"]),
        ("./model MODEL", "./model", ["MODEL"]),
    ],
)
def test_what_follows_the_script_is_its_own(line: str, target: str, arguments: list[str]) -> None:
    launch = parse(line.split())
    assert (launch.target, launch.arguments, launch.is_module) == (target, arguments, False)


@pytest.mark.parametrize("line", ["-m pkg.tool -c x --no-rc", "-mpkg.tool -c x --no-rc"])
def test_a_module_ends_the_options_too(line: str) -> None:
    launch = parse(line.split())
    assert (launch.target, launch.is_module) == ("pkg.tool", True)
    assert launch.arguments == ["-c", "x", "--no-rc"]
    assert launch.commands == [] and launch.use_rc


def test_a_program_of_our_own() -> None:
    launch = parse(["--stop", "build", "model", "--dtype", "f32", "DIR", "Hello"])
    assert (launch.program, launch.target, launch.is_module) == (
        "model",
        "modpdb.programs.model",
        True,
    )
    assert launch.arguments == ["--dtype", "f32", "DIR", "Hello"] and launch.stops == ["build"]


def test_a_tool_that_debugs_nothing() -> None:
    launch = parse(["verify", "--all", "DIR", "out.gguf"])
    assert (launch.action, launch.target) == ("tool", "verify")
    assert launch.arguments == ["--all", "DIR", "out.gguf"]


def test_options_in_every_spelling() -> None:
    launch = parse(
        ["-c", "b 3", "-cc", "--command=p 1", "--stop", "init", "--stop=map", "--preset=llama.cpp"]
        + ["--rc", "my.rc", "--on-eof", "continue", "s.py"]
    )
    assert launch.commands == ["b 3", "c", "p 1"]
    assert launch.stops == ["init", "map"]
    assert (launch.preset, launch.rc, launch.on_eof) == ("llama.cpp", "my.rc", "continue")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "no script to run"),
        ("-c", "-c needs a value: -c COMMAND"),
        ("-m", "-m needs a value: -m MODULE"),
        ("--stpo init s.py", "unknown option --stpo"),
        ("--no-rc=1 s.py", "--no-rc takes no value"),
        ("--on-eof stop s.py", "--on-eof takes `continue`, not 'stop'"),
        ("-", "the script cannot come from standard input"),
        ("--", "no script to run"),
    ],
)
def test_bad_lines_say_what_is_wrong(line: str, sentence: str) -> None:
    with pytest.raises(CommandLineError) as caught:
        parse(line.split())
    assert sentence in str(caught.value)


def test_bad_line_exits_with_2(modpdb_run) -> None:
    done = modpdb_run(["--stpo", "init", "s.py"])
    assert done.returncode == 2
    assert done.stderr.startswith("modpdb: unknown option --stpo\nusage: modpdb ")
    assert done.stdout == ""


def test_help_version_and_presets(modpdb_run) -> None:
    shown = modpdb_run(["--help"])
    assert shown.returncode == 0 and "Examples:" in shown.stdout and "--on-eof" in shown.stdout
    assert modpdb_run(["--version"]).stdout.startswith("modpdb 0.")
    presets = modpdb_run(["--list-presets"]).stdout
    assert "llama.cpp-lora   for convert_lora_to_gguf.py" in presets
    assert "tensors         stops  all is known, nothing written yet" in presets
