"""Breakpoints as lines that set them again: by qualname and offset, so that edits do not shift
them."""

from __future__ import annotations

import bdb
import os
import sys
import types
from collections.abc import Iterator

from modpdb.breakpoints.books import NamedBreakpoint, compiled
from modpdb.breakpoints.lines import INLINE, SourceLines, own_lines, walk, with_inline
from modpdb.breakpoints.loaded import module_files
from modpdb.breakpoints.locations import is_function
from modpdb.breakpoints.tracepoints import Tracepoint


class CannotBeWritten(Exception):
    """Why a breakpoint has no line that would set it again, in a few words."""


def setting_line(breakpoint: bdb.Breakpoint, folder: str, main_file: str) -> str:
    """The line that sets *breakpoint* again.

    *folder* is where the line will be read: a path below it is written from there.
    *main_file* is the script, whose module is ``__main__``. Raises CannotBeWritten.
    """
    if isinstance(breakpoint, NamedBreakpoint):
        line = breakpoint.setting_line()
    else:
        place = place_of(breakpoint, folder, main_file)
        line = f"{'tbreak' if breakpoint.temporary else 'b'} {place}"
        line += f", {breakpoint.cond}" if breakpoint.cond else ""
    if breakpoint.cond:
        _check(breakpoint.cond)
    return line


def _check(condition: str) -> None:
    if "\n" in condition or ";;" in condition:
        raise CannotBeWritten(f"its condition {condition!r} does not fit on one line")
    try:
        compiled(condition)
    except (SyntaxError, ValueError):
        raise CannotBeWritten(f"its condition {condition!r} is no expression") from None


def settings(breakpoint: bdb.Breakpoint) -> Iterator[str]:
    """The lines, after the one that sets it, that bring back what was changed since."""
    if breakpoint.cond and isinstance(breakpoint, Tracepoint):
        yield f"condition $bpnum {breakpoint.cond}"
    if breakpoint.ignore:
        yield f"ignore $bpnum {breakpoint.ignore}"
    if not breakpoint.enabled:
        yield "disable $bpnum"


def place_of(breakpoint: bdb.Breakpoint, folder: str, main_file: str) -> str:
    """A line breakpoint's place: ``module:function+N``; ``FILE:LINE`` where that would not be
    the same, as at the top level of a module."""
    file, line = breakpoint.file, breakpoint.line
    module = "__main__" if file == main_file else module_name(file)
    try:
        function = _function_at(SourceLines.read(file).code, line)
    except (OSError, ValueError):  # made by exec, or gone
        function = None
    if function is not None and module is not None:
        place = f"{module}:{function.co_qualname.replace('<locals>.', '')}"
        # One that pdb itself has set by the function's name stops at its first line.
        return place if breakpoint.funcname else f"{place}+{line - function.co_firstlineno}"
    if file.startswith(folder + os.sep):
        file = os.path.relpath(file, folder)
    if "," in file:
        raise CannotBeWritten(f"the comma in {file} would end its place")
    return f"{file}:{line}"


def _function_at(module: types.CodeType, line: int) -> types.CodeType | None:
    """The only function whose own line this is, or the outermost; None where code outside of
    functions has it too, or another function has the same name."""
    codes = list(walk(module))
    if any(line in own_lines(each) for each in codes if not is_function(each)):
        return None
    functions = [each for each in codes if is_function(each) and each.co_name not in INLINE]
    for function in functions:
        if any(line in own_lines(part) for part in with_inline(function)):
            names = [each.co_qualname for each in functions]
            return function if names.count(function.co_qualname) == 1 else None
    return None


def module_name(file: str) -> str | None:
    """The name under which *file* is loaded, or would be along sys.path; None if neither."""
    for name, loaded in module_files():
        if loaded == file:
            return name
    for folder in sorted(map(os.path.abspath, sys.path), key=len, reverse=True):
        if file.startswith(folder + os.sep):
            stem, _ = os.path.splitext(os.path.relpath(file, folder))
            parts = stem.removesuffix(os.sep + "__init__").split(os.sep)
            if all(part.isidentifier() for part in parts):
                return ".".join(parts)
    return None
