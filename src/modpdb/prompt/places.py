"""What can follow `b`: functions, methods, their own and inherited, and files."""

from __future__ import annotations

import os
import types
from collections.abc import Iterable, Iterator

from modpdb.breakpoints.loaded import loaded_classes, method_code, mro, namespace


def function_names(functions: Iterable[tuple[str, types.CodeType]]) -> list[tuple[str, str]]:
    """Module and qualname, as `b` takes it, of each of *functions*."""
    return sorted(
        {
            (module, code.co_qualname.replace("<locals>.", ""))
            for module, code in functions
            if "<" not in code.co_name
        }
    )


def places(text: str, functions: Iterable[tuple[str, str]], module: str | None) -> Iterator[str]:
    """The places that begin with *text*; where it is empty, the functions of *module*."""
    wanted, colon, _ = text.partition(":")
    for where, name in functions:
        if not text and where == module:
            yield name
        elif colon and where == wanted:
            yield f"{where}:{name}"
        elif text and not colon and name.startswith(text):
            yield name
    if text and not colon:
        yield from _methods(text)
        yield from _files(text)


def _methods(text: str) -> Iterator[str]:
    """``Class.method`` for all methods that a loaded class has, inherited ones too."""
    holder, dot, begin = text.rpartition(".")
    if not dot:
        return
    for cls in loaded_classes(holder.rpartition(".")[2]):
        names = {name for base in mro(cls) for name in namespace(base) if name.startswith(begin)}
        for name in sorted(names):
            if method_code(cls, name) is not None:
                yield f"{holder}.{name}"


def _files(text: str) -> Iterator[str]:
    """Python files and folders, from where the user stands."""
    folder, begin = os.path.split(text)
    try:
        entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(begin) and (begin or not entry.name.startswith(".")):
            path = os.path.join(folder, entry.name)
            if entry.name.endswith(".py"):
                yield path + ":"
            elif entry.is_dir():
                yield path + os.sep
