"""The lines of code: where it can stop, and why not elsewhere."""

from __future__ import annotations

import ast
import os
import types
from collections.abc import Iterable, Iterator
from opcode import opmap
from typing import NamedTuple

_RESUME = opmap["RESUME"]
# Names of code that a reader takes for a part of the function around it.
INLINE = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "<lambda>")


def walk(code: types.CodeType) -> list[types.CodeType]:
    """*code* and all code nested in it. Asked of every module that is loaded."""
    found = inside = [code]
    while inside:
        inside = [
            const for each in inside for const in each.co_consts if type(const) is types.CodeType
        ]
        found = found + inside
    return found


def own_lines(code: types.CodeType) -> set[int]:
    """The lines at which *code* itself raises line events.

    What comes before the first RESUME and itself raises none: it lies on the line of the `def`.
    """
    behind = entry_offset(code) + 2
    return {line for _, end, line in code.co_lines() if line and end > behind}


def entry_offset(code: types.CodeType) -> int:
    """The offset of the RESUME at which a new call begins; one below the code's first where there
    is none.

    A generator that goes on does so at other RESUMEs.
    """
    raw = code.co_code
    return next((at for at in range(0, len(raw), 2) if raw[at] == _RESUME), -2)


def entry_line(code: types.CodeType) -> int | None:
    """The line of the instruction at which a call begins: of the `def`."""
    entry = entry_offset(code)
    return next((line for start, end, line in code.co_lines() if start <= entry < end), None)


def executable_lines(code: types.CodeType) -> set[int]:
    """The lines on which *code*, with all that is nested in it, can stop."""
    return {line for each in walk(code) for line in own_lines(each)}


def nearest(lines: Iterable[int], line: int) -> int | None:
    """The line of *lines* closest to *line*, the later of two."""
    return min(lines, key=lambda each: (abs(each - line), -each), default=None)


def with_inline(code: types.CodeType) -> Iterator[types.CodeType]:
    """*code* and the comprehensions and lambdas in it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType) and const.co_name in INLINE:
            yield from with_inline(const)


class SourceLines(NamedTuple):
    """A Python file: which of its lines can stop, and what is on the others."""

    file: str
    source: bytes
    code: types.CodeType

    @classmethod
    def read(cls, file: str) -> SourceLines:
        """Raises OSError, and ValueError with a sentence for what is not Python."""
        with open(file, "rb") as stream:
            source = stream.read()
        try:
            return cls(file, source, compile(source, file, "exec", dont_inherit=True))
        except SyntaxError as error:
            at = f" (line {error.lineno})" if error.lineno and "line" not in error.msg else ""
            raise ValueError(_not_python(file, error.msg + at)) from None
        except ValueError as error:  # up to 3.11, NUL bytes
            raise ValueError(_not_python(file, error)) from None

    def why_not(self, line: int) -> str | None:
        """Why nothing can stop at *line*, and the nearest line that can; None where it can."""
        lines = executable_lines(self.code)
        if line in lines:
            return None
        near = nearest(lines, line)
        hint = f"; the nearest line that can stop is {near}" if near else ""
        return f"{os.path.basename(self.file)}:{line} {self._what_is_at(line)}{hint}"

    def _what_is_at(self, line: int) -> str:
        text = self.source.splitlines()
        if not 0 < line <= len(text):
            return f"does not exist: the file has {len(text)} lines"
        if around := self._around(line):
            return around
        stripped = text[line - 1].strip()
        if not stripped:
            return "is blank"
        return "is a comment" if stripped.startswith(b"#") else "has no code that can stop"

    def _around(self, line: int) -> str:
        """What begins before *line* and still goes on there: a string, a statement."""
        statement = ""
        for node in ast.walk(ast.parse(self.source)):
            if isinstance(node, ast.expr | ast.stmt) and node.lineno < line <= (
                node.end_lineno or 0
            ):
                if isinstance(node, ast.JoinedStr) or _is_text(node):
                    return f"is inside the string that begins at line {node.lineno}"
                if isinstance(node, ast.stmt) and not hasattr(node, "body"):
                    statement = f"is inside the statement that begins at line {node.lineno}"
        return statement


def _not_python(file: str, problem: object) -> str:
    return f"{os.path.basename(file)} is not Python that compiles: {problem}"


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
