"""Tracepoints: look on the way by, without stopping. VS Code's users know them as logpoints."""

from __future__ import annotations

import ast
import threading
import traceback
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modpdb.breakpoints.books import NamedBreakpoint
from modpdb.breakpoints.locations import Place

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
    always_asked = True

    def __init__(self, spec: Place, shown: Sequence[Expression], show: Show) -> None:
        super().__init__(spec, False, None)
        self.expressions = tuple(shown)
        self.failures: dict[str, int] = {}
        self._show = show

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

    def setting_line(self) -> str:
        shown = "".join(f", {each.text}" for each in self.expressions)
        return f"trace-point {self.spec}{shown}"

    def bpformat(self, width: int = 80) -> str:
        lines = [super().bpformat(width)]
        if self.expressions:
            lines.append(f"\tprints {', '.join(each.text for each in self.expressions)}")
        for what, times in self.failures.items():
            lines.append(f"\t{what} failed {times:,} time{'s'[: times != 1]}")
        return "\n".join(lines)


def _words(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()
