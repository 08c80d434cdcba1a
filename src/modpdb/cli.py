"""The command line, into a Launch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from modpdb.collector import collector_paused

_USAGE = """\
usage: modpdb [OPTIONS] SCRIPT [ARGS…]  |  modpdb [OPTIONS] -m MODULE [ARGS…]
       modpdb [OPTIONS] model MODEL_DIR [PROMPT | IDS]
       modpdb verify [--all] [--json FILE] [--base DIR] MODEL_DIR FILE.gguf"""

_HELP = f"""\
{_USAGE}

Run a Python script under modpdb: pdb and pdbpp, and commands for the modules, parameters,
checkpoint tensors and files of a model conversion. Options end at the script: whatever follows
is the script's own.

  -c, --command COMMAND  run a debugger command at the start, as if in a .modpdbrc (repeatable)
  -m MODULE              run a module, as python -m does
  --preset NAME          use this preset instead of the one found by the script's file name
  --no-preset            use none
  --list-presets         list the presets and their stages
  --stop STAGE           stop at this stage, and not at the first line (repeatable)
  --rc FILE              read this file instead of ~/.modpdbrc and ./.modpdbrc
  --no-rc                read none
  --on-eof continue      at the end of input let the script run on, instead of quitting
  --version              print the version
  -h, --help             print this

Examples:
  modpdb convert_hf_to_gguf.py MODEL_DIR --outfile x.gguf
      stop at the first line; c runs to where all is known and nothing is written yet
  modpdb --stop init convert_hf_to_gguf.py MODEL_DIR
      run straight to the call of the model class
  modpdb -c 'b Gemma3Model.modify_tensors, "q_proj" in name' -c c convert_hf_to_gguf.py MODEL_DIR
      set a breakpoint in a file that is not imported yet, and go
  modpdb -m mypackage.convert --help
      debug a module; --help is the module's
  modpdb model MODEL_DIR "Hello, my name is"
      a plain session on a checkpoint: builds its transformers model, stops before it runs once
      (modpdb model --help)
  modpdb verify MODEL_DIR out.gguf
      is every tensor of the file what the architecture needs of the checkpoint?
      (modpdb verify --help)
  modpdb ./model
      a script called model (bare, `model` and `verify` are subcommands)

In your own code: import modpdb; modpdb.set_trace()
At a failing test: pytest --pdb --pdbcls=modpdb:ModPdb
"""

_VALUES = {
    "-c": "COMMAND",
    "--command": "COMMAND",
    "--preset": "NAME",
    "--stop": "STAGE",
    "--rc": "FILE",
    "--on-eof": "continue",
}
_FLAGS = {"--no-preset", "--list-presets", "--no-rc", "--version", "-h", "--help"}
PROGRAMS = {"model": "modpdb.programs.model"}
"""Subcommands that debug a program of modpdb's own, a module; a script of that name is ./model."""
TOOLS = {"verify": "modpdb.programs.verify"}
"""Subcommands that debug nothing, and their modules, whose main() gives the exit status."""


class CommandLineError(Exception):
    """A command line that cannot be understood, in one sentence."""


@dataclass
class Launch:
    """What to run, and how. ``target`` is a path, or a module's name where ``is_module``.

    ``program``: the subcommand of which that module is the program.
    """

    target: str = ""
    arguments: list[str] = field(default_factory=list)
    is_module: bool = False
    program: str = ""
    commands: list[str] = field(default_factory=list)
    preset: str | None = None
    use_preset: bool = True
    stops: list[str] = field(default_factory=list)
    rc: str | None = None
    use_rc: bool = True
    on_eof: str = "quit"
    action: str = "run"  # or "help", "version", "list-presets", "tool"


def parse(arguments: Sequence[str]) -> Launch:
    """The command line without the program's name. Raises CommandLineError."""
    launch = Launch()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word.startswith("-m") and not word.startswith("--"):
            launch.is_module = True
            launch.target = word[2:] or _value("-m", "MODULE", rest)
            launch.arguments = rest
            return launch
        if word == "--":
            word = rest.pop(0) if rest else ""
        elif word.startswith("-") and word != "-":
            _option(launch, word, rest)
            if launch.action != "run":
                return launch
            continue
        launch.target, launch.arguments = word, rest
        if word in PROGRAMS:
            launch.program, launch.target, launch.is_module = word, PROGRAMS[word], True
        return _checked(launch)
    raise CommandLineError("no script to run")


def _option(launch: Launch, word: str, rest: list[str]) -> None:
    name, given, value = word.partition("=")
    if word.startswith("-c") and len(word) > 2 and not word.startswith("--"):
        name, given, value = "-c", "=", word[2:]
    if name in _VALUES:
        _set(launch, name, value if given else _value(name, _VALUES[name], rest))
    elif name not in _FLAGS:
        raise CommandLineError(f"unknown option {name}")
    elif given:
        raise CommandLineError(f"{name} takes no value")
    elif name == "--no-preset":
        launch.use_preset = False
    elif name == "--no-rc":
        launch.use_rc = False
    else:
        launch.action = {"-h": "help"}.get(name, name.removeprefix("--"))


def _set(launch: Launch, name: str, value: str) -> None:
    if name in ("-c", "--command"):
        launch.commands.append(value)
    elif name == "--stop":
        launch.stops.append(value)
    elif name == "--preset":
        launch.preset = value
    elif name == "--rc":
        launch.rc = value
    elif value == "continue":
        launch.on_eof = value
    else:
        raise CommandLineError(f"--on-eof takes `continue`, not {value!r}")


def _value(name: str, of_what: str, rest: list[str]) -> str:
    if not rest:
        raise CommandLineError(f"{name} needs a value: {name} {of_what}")
    return rest.pop(0)


def _checked(launch: Launch) -> Launch:
    if not launch.target:
        raise CommandLineError("no script to run")
    if launch.target == "-":
        raise CommandLineError("the script cannot come from standard input: that is the prompt's")
    if launch.target in TOOLS:
        launch.action = "tool"
    return launch


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 2 for one that cannot be understood or a script that
    cannot be read, else as the script does."""
    try:
        launch = parse(sys.argv[1:] if arguments is None else arguments)
    except CommandLineError as error:
        print(f"modpdb: {error}\n{_USAGE}", file=sys.stderr)
        sys.exit(2)
    if launch.action == "help":
        print(_HELP, end="")
    elif launch.action == "version":
        print(_versions())
    elif launch.action == "list-presets":
        sys.exit(_list_presets())
    elif launch.action == "tool":
        sys.exit(importlib.import_module(TOOLS[launch.target]).main(launch.arguments))
    else:
        if launch.program:
            # What is wrong with the program's own options is said before anything is debugged.
            importlib.import_module(launch.target).parsed(launch.arguments)
        with collector_paused():
            from modpdb.launcher import run

        sys.exit(run(launch))
    sys.exit(0)


def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    from modpdb import __version__

    parts = [f"Python {sys.version.split()[0]}"]
    for name in ("pdbpp", "torch"):
        try:
            parts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            parts.append(f"no {name}")
    return f"modpdb {__version__} ({', '.join(parts)})"


def _list_presets() -> int:
    from modpdb.presets import PresetError, all_presets

    try:
        presets = all_presets()
    except PresetError as error:
        print(f"modpdb: {error}", file=sys.stderr)
        return 2
    for preset in presets.values():
        print(f"{preset.name}   for {', '.join(preset.scripts)}")
        for stage in preset.stages:
            mark = "stops" if stage.name in preset.default else ""
            print(f"  {stage.name:<16}{mark:<7}{stage.says}")
    return 0
