"""What can follow what is typed. Looks at the script's objects without running their code."""

from __future__ import annotations

import keyword
import os
import re
import types
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from modpdb.commands.registry import COMMANDS, Command, is_option
from modpdb.commands.tensor_breaks import at_means_tensors
from modpdb.probes._static import class_attribute, instance_dict, is_a, mro, namespace
from modpdb.prompt.places import function_names, places

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb

_CHAIN = re.compile(r"(?<![\w.)\]'\"])[A-Za-z_][\w.]*$")
_MODULE_TABLES = ("_parameters", "_buffers", "_modules")
_MISSING = object()
_LIMIT = 500


class PromptCompleter(Completer):
    """Completes commands, their options and targets, and the names of the frame."""

    def __init__(self, debugger: ModPdb) -> None:
        self._debugger = debugger
        self._targets: dict[str, list[str]] = {}
        self._functions: list[tuple[str, str]] | None = None

    def new_prompt(self) -> None:
        """The program has gone on: what commands can be about is looked up again."""
        self._targets.clear()
        self._functions = None

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterator[Completion]:
        if document.line_count > 1:
            candidates = self._python(document.current_line_before_cursor)
        else:
            typed = document.text_before_cursor.rpartition(";;")[2]
            candidates = self._candidates(typed.lstrip())
        for word, start in islice(dict.fromkeys(candidates), _LIMIT):
            yield Completion(word, start_position=-start)

    def _candidates(self, text: str) -> Iterator[tuple[str, int]]:
        name, space, rest = text.partition(" ")
        if not space:
            yield from ((each, len(text)) for each in self._names(text))
            if not text.isidentifier():
                yield from self._python(text)
            return
        entry = COMMANDS.get(name)
        if entry is not None:
            yield from self._arguments(entry, rest)
            if not is_option(rest.rpartition(" ")[2]):
                yield from self._python(rest, for_command=True)
            return
        if name in ("b", "break", "tbreak") and rest.startswith("@") and "," not in rest:
            named = "break-tensor" if at_means_tensors(self._debugger) else "break-module"
            yield from self._arguments(COMMANDS[named], rest[1:])
            return
        if name in ("b", "break", "tbreak", "cl", "clear", "help", "h"):
            offered = list(self._pdb_arguments(name, rest))
            yield from offered
            if offered:
                return
        yield from self._python(text)

    def _names(self, text: str) -> Iterable[str]:
        """Commands first, then the frame's variables."""
        if not text:
            return []
        pdb = {
            each.removeprefix("do_")
            for each in dir(type(self._debugger))
            if each.startswith("do_") and each != "do_EOF"
        }
        commands = [each for each in sorted({*COMMANDS, *pdb}) if each.startswith(text)]
        names = [each for each in self._frame_names() if each.startswith(text)]
        return [*commands, *(each for each in names if each not in commands)]

    def _arguments(self, entry: Command, rest: str) -> Iterator[tuple[str, int]]:
        word = rest.rpartition(" ")[2]
        if word.startswith("-"):
            yield from ((each, len(word)) for each in entry.options if each.startswith(word))
        elif entry.file_after is not None and _last_word(rest, word) == entry.file_after:
            yield from ((each, len(word)) for each in paths(word))
        elif entry.completes is not None:
            if entry.name not in self._targets:  # a walk over the model, once and not at each key
                self._targets[entry.name] = list(entry.completes(self._debugger, word))
            for each in self._targets[entry.name]:
                if each.startswith(word):
                    yield each, len(word)

    def _pdb_arguments(self, name: str, rest: str) -> Iterator[tuple[str, int]]:
        if name in ("help", "h"):
            for each in self._names(rest):
                yield each, len(rest)
        elif "," not in rest:
            for each in self._places(rest):
                if each.startswith(rest):
                    yield each, len(rest)

    def _places(self, text: str) -> Iterator[str]:
        if self._functions is None:  # a tenth of a second with transformers loaded
            self._functions = function_names(self._debugger.locator.functions())
        frame = self._debugger.curframe
        module = None if frame is None else frame.f_globals.get("__name__")
        return places(text, self._functions, module)

    def _python(self, text: str, for_command: bool = False) -> Iterator[tuple[str, int]]:
        """Names and attributes; *for_command* no keywords, and of a module what it holds."""
        match = _CHAIN.search(text)
        if match is None:
            return
        holder, dot, last = match[0].rpartition(".")
        names = self._attributes(holder, held_only=for_command) if dot else self._frame_names()
        if not for_command and not dot:
            names += keyword.kwlist
        hidden = not last.startswith("_")
        for each in names:
            if each.startswith(last) and not (hidden and each.startswith("_")):
                yield each, len(last)

    def _frame_names(self) -> list[str]:
        frame = self._debugger.curframe
        if frame is None:
            return []
        return sorted({*map(str, self._debugger.curframe_locals), *map(str, frame.f_globals)})

    def _attributes(self, chain: str, held_only: bool = False) -> list[str]:
        """The attributes of ``a.b.c``, looked up without running a property.

        *held_only*: of a module only its modules, parameters and buffers.
        """
        first, *rest = chain.split(".")
        frame = self._debugger.curframe
        if frame is None:
            return []
        value = self._debugger.curframe_locals.get(first, frame.f_globals.get(first, _MISSING))
        for name in rest:
            value = static_attribute(value, name)
        if value is _MISSING:
            return []
        held = [name for table in _tables(value) for name in table if isinstance(name, str)]
        return held if held_only and held else sorted(static_names(value))


def _last_word(rest: str, word: str) -> str:
    """The word before the one that is being typed, "" where that is the first or an option."""
    before = rest.removesuffix(word).split()[-1:]
    return "" if not before or is_option(before[0]) else before[0]


def paths(word: str) -> Iterator[str]:
    """Files and folders that begin with *word*, a folder with the separator after it."""
    folder, separator, start = word.rpartition(os.sep)
    try:
        entries = sorted(os.scandir(os.path.expanduser(folder + separator or ".")), key=str)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(start) and entry.name.startswith(".") <= start.startswith("."):
            end = os.sep if entry.is_dir() else ""
            yield f"{word.removesuffix(start) if start else word}{entry.name}{end}"


def static_attribute(value: Any, name: str) -> Any:
    """``value.name`` where that is data; a marker where it would have to be computed."""
    for table in (*_tables(value), instance_dict(value)):
        if name in table:
            return table[name]
    found = class_attribute(type(value), name, _MISSING)
    if is_a(value, type) and found is _MISSING:
        found = class_attribute(value, name, _MISSING)
    if any(is_a(found, cls) for cls in (types.FunctionType, types.BuiltinFunctionType, type)):
        return found
    computed = class_attribute(type(found), "__get__", _MISSING) is not _MISSING
    return _MISSING if computed else found


def static_names(value: Any) -> set[str]:
    """What dir(value) would say, without asking the object's own __dir__."""
    names: set[str] = set()
    for cls in (*mro(type(value)), *(mro(value) if is_a(value, type) else ())):
        names.update(namespace(cls))
    for table in (instance_dict(value), *_tables(value)):
        names.update(table)
    return {name for name in names if type(name) is str and name.isidentifier()}


def _tables(value: Any) -> Iterator[dict[str, Any]]:
    """Where an nn.Module keeps what its __getattr__ gives back."""
    instance = instance_dict(value)
    for name in _MODULE_TABLES:
        table: Any = instance.get(name)
        if is_a(table, dict):
            yield table
