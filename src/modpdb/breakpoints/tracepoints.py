"""Tracepoints: look on the way by, without stopping. VS Code's users know them as logpoints."""

from __future__ import annotations

import ast
import os
import threading
import traceback
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from modpdb.breakpoints.books import NamedBreakpoint
from modpdb.breakpoints.locations import Spec, is_function

Values = Sequence[tuple[str, object]]
"""Each expression as typed, and what it gave: FAILED where it raised."""
Show = Callable[[types.FrameType, Values], None]

FAILED = object()


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression as typed, compiled once; *nests*: it has a comprehension or lambda in it."""

    text: str
    code: types.CodeType
    nests: bool

    def value(self, frame: types.FrameType) -> object:
        if self.nests:  # which see globals only: eval has no enclosing function to offer
            return eval(self.code, {**frame.f_globals, **frame.f_locals})
        return eval(self.code, frame.f_globals, frame.f_locals)


def expressions(text: str) -> tuple[Expression, ...]:
    """The expressions of *text*, parted by commas as the arguments of a call are.

    Raises ValueError, with a sentence, for what are none.
    """
    source = f"f({text}\n)"
    try:
        call = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{text!r} are no expressions: {getattr(error, 'msg', error)}") from None
    # `a) + (b` makes another thing of it than a call of f.
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ValueError(f"{text!r} are no expressions: a bracket is closed that is not open")
    for each in (*call.keywords, *call.args):
        if isinstance(each, ast.keyword | ast.Starred):
            raise ValueError(f"{text!r}: expected expressions, found `=` or `*` before one")
    return tuple(_compiled(source, each) for each in call.args)


def _compiled(source: str, node: ast.expr) -> Expression:
    text = ast.get_source_segment(source, node) or ast.unparse(node)
    code = compile(ast.Expression(node), "<expression>", "eval")
    return Expression(text, code, any(isinstance(each, types.CodeType) for each in code.co_consts))


@dataclass(frozen=True)
class LinePlace(Spec):
    """A line of a file, whose code may not be loaded yet.

    *file* is absolute. To be looked for among all code: the name of the function is not known.
    """

    file: str = ""
    line: int = 0
    last: str | None = field(default=None, init=False)

    def __str__(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line}"

    def matches(self, module: str, code: types.CodeType) -> bool:
        if not code.co_filename.endswith(os.path.basename(self.file)):
            return False  # most code there is, told without a path to compute
        return os.path.abspath(code.co_filename) == self.file and self.line in _own_lines(code)


def _own_lines(code: types.CodeType) -> set[int]:
    """The lines of *code* itself: not of what is nested, nor the `def` that begins a function."""
    lines = {line for _, _, line in code.co_lines() if line}
    return (lines - {code.co_firstlineno} or lines) if is_function(code) else lines


class _Looking(threading.local):
    now = False


_looking = _Looking()


class Tracepoint(NamedBreakpoint):
    """Shows expressions wherever a function is entered, or a line comes, and never stops.

    It lies in bdb's books as breakpoints do: `disable`, `condition`, `ignore`, `clear` work on
    it. Nothing that it evaluates raises into the script: what fails is said once, and counted
    in ``failures`` by what it was.
    """

    kind = "tracepoint"
    does = "print"

    def __init__(self, spec: Spec, shown: Sequence[Expression], show: Show) -> None:
        super().__init__(spec, False, None)
        self.expressions = tuple(shown)
        self.failures: dict[str, int] = {}
        self._show = show

    def lines(self, code: types.CodeType) -> Iterable[int | None]:
        return (self.spec.line,) if isinstance(self.spec, LinePlace) else super().lines(code)

    def reached(self, frame: types.FrameType, complain: Callable[[str], None]) -> bool:
        """Look. What is evaluated for that may come by here itself, and is not looked at."""
        if _looking.now:
            return False
        _looking.now = True
        try:
            if super().reached(frame, lambda said: self._failed("its condition", said, complain)):
                values = [(e.text, self._value(e, frame, complain)) for e in self.expressions]
                self._show(frame, values)
        except KeyboardInterrupt:
            raise  # Ctrl-C came just now: it is meant for the script
        except BaseException as error:
            self._failed("printing", f"printing at {self}: {_words(error)}", complain)
        finally:
            _looking.now = False
        return False

    def _value(
        self, expression: Expression, frame: types.FrameType, complain: Callable[[str], None]
    ) -> object:
        try:
            return expression.value(frame)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # `exit()` too
            said = f"{expression.text!r} of {self}: {_words(error)}"
            self._failed(expression.text, said, complain)
            return FAILED

    def _failed(self, what: str, said: str, complain: Callable[[str], None]) -> None:
        self.failures[what] = self.failures.get(what, 0) + 1
        if self.failures[what] > 1:
            return
        try:
            complain(f"{said} (said once)")
        except Exception:
            pass  # the output is closed: nobody to tell

    def where(self) -> str:
        if self.codes and isinstance(self.spec, LinePlace):
            return f"at {self.spec.file}:{self.spec.line}"
        return super().where()

    def bpformat(self) -> str:
        lines = [super().bpformat()]
        if self.expressions:
            lines.append(f"\tprints {', '.join(each.text for each in self.expressions)}")
        for what, times in self.failures.items():
            lines.append(f"\t{what} failed {times:,} time{'s'[: times != 1]}")
        return "\n".join(lines)


def _words(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()
