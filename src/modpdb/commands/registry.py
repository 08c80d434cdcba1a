"""The commands of the prompt: one dict, one decorator."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from modpdb.plugins import entry_points

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb

# Names and aliases by the module that registers them: it is imported when one is first used.
_OWN = {
    "modules": ("modules", "mods", "params", "buffers", "locals"),
    "linear": ("linear-path", "lp"),
    "tensor": ("tensor", "x", "compare"),
    "attributes": ("hooks", "attr", "internals"),
    "call_path": ("call-path", "cp"),
    "state": ("state",),
    "skeleton": ("skeleton",),
    "checkpoint": ("ckpt",),
    "hparams": ("hparams",),
    "gguf": ("gguf",),
    "coverage": ("coverage",),
    "provenance": ("provenance", "prov"),
    "ahead": ("ahead",),
    "tensor_map": ("tensor-map", "map"),
    "explain": ("explain",),
    "verify": ("verify",),
    "run_model": ("run-model",),
    "activations": ("record", "activations", "acts", "compare-runs"),
    "stages": ("stages", "stage"),
    "trace": ("trace-point", "tp"),
    "tensor_breaks": ("break-tensor",),
    "module_breaks": ("break-module", "into"),
    "nan_breaks": ("break-nan",),
    "saved_breaks": ("save-breaks",),
    "gdb": ("info", "finish", "fin", "delete"),
}
_TOKEN = re.compile(r"(\S+)\s*(.*)", re.DOTALL)


class UsageError(Exception):
    """What was typed cannot be understood: one sentence, and what would have been."""


class Arguments(NamedTuple):
    """What followed a command's name: its options, then the target as typed."""

    options: Mapping[str, str | bool]
    target: str

    def text(self, option: str) -> str | None:
        """The value of *option*, None where it was not given."""
        value = self.options.get(option)
        return None if value is None else str(value)

    def number(self, option: str) -> int | None:
        """The value of *option* as a whole number, None where it was not given."""
        value = self.options.get(option)
        if value is None:
            return None
        if not re.fullmatch(r"\d+", str(value)):
            raise UsageError(f"{option} takes a whole number, not {value!r}")
        return int(str(value))


@dataclass(frozen=True, slots=True, eq=False)
class Command:
    """A command as it is typed.

    ``options`` maps each option to the name of its value, "" for a flag. ``resumes``: the
    program runs on after it. ``needs_frame``: an rc line with it waits for the first stop.
    ``completes`` gives candidates for the target. ``file_after`` is the word after which a path
    is completed, "" where the target is one. ``options_anywhere``: options may follow words of the
    target too, as a path's do.
    ``bare_alias`` is False where an alias with nothing after it is Python: ``x`` is a variable.
    """

    name: str
    function: Callable[[ModPdb, Arguments], bool | None]
    aliases: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    resumes: bool = False
    needs_frame: bool = True
    completes: Callable[[ModPdb, str], Iterable[str]] | None = None
    file_after: str | None = None
    options_anywhere: bool = False
    bare_alias: bool = True

    def is_python(self, name: str, argument: str) -> bool:
        """Whether what was typed, *name* and then *argument*, is no command after all."""
        return not self.bare_alias and not argument and name in self.aliases

    def parse(self, text: str) -> Arguments:
        """Split *text* into options and target.

        Raises UsageError for an option that the command does not have or that lacks its value.
        """
        options: dict[str, str | bool] = {}
        before = ""
        while match := _TOKEN.match(text):
            if not is_option(match[1]):
                if not self.options_anywhere:
                    break
                before, text = f"{before} {match[1]}", match[2]
                continue
            name, given, value = match[1].partition("=")
            text = match[2]
            if name not in self.options:
                raise UsageError(f"{self.name} has no option {name}; {self._choice()}")
            if not self.options[name]:
                if given:
                    raise UsageError(f"{name} takes no value")
                options[name] = True
                continue
            if not given:
                match = _TOKEN.match(text)
                if match is None:
                    raise UsageError(f"{name} needs a value: {name} {self.options[name]}")
                value, text = match[1], match[2]
            options[name] = value
        return Arguments(options, f"{before} {text}".strip())

    def _choice(self) -> str:
        if not self.options:
            return "it takes none"
        return "it takes " + ", ".join(f"{k} {v}".rstrip() for k, v in self.options.items())

    @property
    def help(self) -> str:
        return inspect.cleandoc(self.function.__doc__ or "")


class _Commands(MutableMapping[str, Command]):
    """Commands by name. One of ours is there by name alone until it is asked for."""

    def __init__(self) -> None:
        self._found: dict[str, Command | None] = {}

    def __getitem__(self, name: str) -> Command:
        if self._found[name] is None:
            module = next(module for module, names in _OWN.items() if name in names)
            importlib.import_module(f"modpdb.commands.{module}")  # which registers it
        command = self._found[name]
        assert command is not None, name
        return command

    def __setitem__(self, name: str, command: Command) -> None:
        self._found[name] = command

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, name: object) -> bool:
        return name in self._found  # Mapping's own would import it

    def add_own(self) -> None:
        for name in itertools.chain.from_iterable(_OWN.values()):
            self._found.setdefault(name, None)


COMMANDS = _Commands()
"""Every name and alias as typed, to its command."""


def command(name: str, *aliases: str, **attributes: Any) -> Callable[[Any], Any]:
    """Register a function ``f(debugger, arguments)`` as the command *name*.

    Its docstring is its help, the first line its usage. It returns True for the program to go
    on. *attributes* are those of Command.
    """

    def register(function: Callable[[ModPdb, Arguments], bool | None]) -> Any:
        entry = Command(name, function, aliases, **attributes)
        for each in (name, *aliases):
            COMMANDS[each] = entry
        return function

    return register


def is_option(token: str) -> bool:
    """-d and --depth are options; -1 and - are the start of an expression."""
    return re.match(r"--?[A-Za-z]", token) is not None


def load_commands() -> list[str]:
    """Register modpdb's commands and those of other packages (entry point ``modpdb.commands``).

    Returns a sentence for each package whose commands cannot be loaded.
    """
    COMMANDS.add_own()
    problems = []
    for entry in entry_points("modpdb.commands"):
        try:
            entry.load()
        except Exception as error:
            problems.append(
                f"commands of {entry.value} not loaded: {type(error).__name__}: {error}"
            )
    return problems
