"""Programs and sessions that hypothesis makes up.

A program is a few functions of awkward statements, each calling only those before it, and calls
of them all. Every loop is bounded, so that each program ends, whatever is assigned or jumped to
at the prompt.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import strategies as st
from transcripts import PROBE, Session, stopping_lines

PRELUDE = """\
import contextlib

COUNT = 0

def same(function): return function

def drive(coroutine):
    try:
        while True: coroutine.send(None)
    except StopIteration as stop:
        return stop.value

class Context:
    def __enter__(self): return 1
    def __exit__(self, *details): return False
    async def __aenter__(self): return 1
    async def __aexit__(self, *details): return False

"""

SIMPLE = (
    "tot += num",
    "tot += SMALL; num -= 1",
    "tot = tot + max(\n    num,\n    SMALL,\n)",
    "tot = (\n    num\n    if num > SMALL\n    else tot\n)",
    "tot = num and \\\n    tot or \\\n    SMALL",
    "tot = SMALL < num < 9 and (\n    num == 3 or\n    tot\n)",
    "tot += sum(item for item in range(num % 4))",
    "tot += sum([\n    item\n    for item in range(num % 4)\n    if item\n])",
    "tot = len({item: tot for item in range(num % 4)})",
    "for item in range(num % 4): tot += item",
    "num, *rest = (\n    tot,\n    SMALL,\n    3,\n)",
    "assert num < 99, \\\n    tot",
    "tot = (lambda value:\n       value + SMALL)(num)",
    "twice = lambda value: value + value; tot = twice(num % 5)",
    "text = f'''{num}\n{tot +\n SMALL}'''",
    "tot = 9 // (num % 3)",
    "del tot; tot = SMALL",
    "COUNT = num; COUNT -= 1",
    "class Box:\n    size = num\n    def grow(self): return self.size + 1\ntot += Box().grow()",
    "@same\n@same\ndef inner(first,\n          second=SMALL):\n    return (first +\n            second)\n"
    "tot += inner(num)",
    "def add(value):\n    nonlocal tot\n    tot += value\nadd(1); add(num)",
)

# BODY stands for statements, indented by another four, COUNTER for a name that nothing else assigns.
COMPOUND = (
    "if num > SMALL:\nBODY\nelse:\nBODY",
    "if tot: tot -= 1\nelif (num ==\n      SMALL):\nBODY",
    "try:\nBODY\nexcept ZeroDivisionError: tot = 0\nfinally:\nBODY",
    "try:\nBODY\nexcept (ValueError,\n        ArithmeticError) as error:\nBODY\nelse:\nBODY",
    "try:\nBODY\nfinally:\n    tot += 1",
    "try:\nBODY\nexcept* ZeroDivisionError:\n    tot = 1",
    "with Context() as one, \\\n     contextlib.suppress(ValueError):\nBODY",
    "with (\n    Context(),\n    contextlib.suppress(ZeroDivisionError),\n):\nBODY",
    "match num % 4:\n    case 0:\n        tot = 0\n    case 1 | 2 if tot > SMALL:\n    BODY\n    case _: tot += 1",
)
LOOPS = (
    "for item in range(SMALL):\nBODY",
    "for item in range(num % 4):\nBODY\nelse:\nBODY",
    "COUNTER = SMALL\nwhile COUNTER > 0:\n    COUNTER -= 1\nBODY",
    "COUNTER = SMALL\nwhile COUNTER > 0: COUNTER -= 1\nelse:\nBODY",
    "COUNTER = SMALL\nwhile True:\n    COUNTER -= 1\n    if COUNTER < 0: break\nBODY",
)
IN_LOOP = ("if tot > SMALL: break", "if num == SMALL:\n    continue", "continue", "break")
LEAVING = (
    "if num > SMALL: return tot",
    "return (tot +\n        num)",
    "raise ValueError(\n    num)",
)

PLAIN, GENERATOR, COROUTINE, ASYNC_GENERATOR = "plain", "generator", "coroutine", "async generator"
ASYNC = (COROUTINE, ASYNC_GENERATOR)
YIELDING = ("tot += (yield num) or 0", "yield tot; yield num", "yield (\n    tot\n)")
# How a function of the one kind uses one of the other.
CALLS = {
    (PLAIN, PLAIN): ("tot += CALLEE(num - 1)", "tot = CALLEE(\n    SMALL,\n    CALLEE(1),\n)"),
    (PLAIN, GENERATOR): (
        "for item in CALLEE(num): tot += item",
        "tot += sum(CALLEE(SMALL))",
        "for item in CALLEE(num):\nBODY",
        "made = CALLEE(num); tot += next(made, 0); del made",
    ),
    (PLAIN, COROUTINE): ("tot += drive(CALLEE(num))",),
    (PLAIN, ASYNC_GENERATOR): (
        "async def gather():\n    return sum([item async for item in CALLEE(num)])\n"
        "tot += drive(gather())",
    ),
    (GENERATOR, GENERATOR): ("yield from CALLEE(num)", "got = yield from \\\n    CALLEE(SMALL)"),
    (COROUTINE, COROUTINE): ("tot += await CALLEE(num)", "tot += await CALLEE(\n    SMALL,\n)"),
    (COROUTINE, ASYNC_GENERATOR): (
        "async for item in CALLEE(num): tot += item",
        "async for item in CALLEE(SMALL):\nBODY",
        "tot = sum([item async for item in CALLEE(num)\n           if item])",
    ),
}
ASYNC_ONLY = ("async with Context() as one:\nBODY",)


@dataclass(frozen=True)
class Scope:
    """Where a statement stands: in a function of which kind, how deep, what can be called."""

    kind: str
    callees: tuple[tuple[str, str], ...] = ()
    depth: int = 0
    in_loop: bool = False

    @property
    def is_async(self) -> bool:
        return self.kind in ASYNC

    def choices(self) -> list[str]:
        """The statements that may stand here, the simplest first."""
        found = [*SIMPLE]
        if self.kind != ASYNC_GENERATOR:  # it returns no value
            found += LEAVING
        if self.kind in (GENERATOR, ASYNC_GENERATOR):
            found += 4 * YIELDING
        if self.in_loop:
            found += 2 * IN_LOOP
        found += 2 * COMPOUND + 3 * LOOPS + (4 * ASYNC_ONLY if self.is_async else ())
        for name, kind in self.callees:
            own = COROUTINE if self.is_async else self.kind
            for user in dict.fromkeys((own, PLAIN)):
                calls = CALLS.get((user, kind), ())
                found += [call.replace("CALLEE", name) for call in 3 * calls]
        return [each for each in found if self.depth < 2 or "BODY" not in each]


SMALL = st.integers(0, 4).map(str)
LOOP = re.compile(r"^(async )?(for|while)\b", re.MULTILINE)


@st.composite
def statement(draw: st.DrawFn, scope: Scope) -> str:
    """A statement for *scope*, in one or several lines."""
    shape = draw(st.sampled_from(scope.choices()))
    shape = shape.replace("SMALL", draw(SMALL)).replace("COUNTER", f"left{scope.depth}")
    in_loop = scope.in_loop or LOOP.search(shape) is not None
    lines: list[str] = []
    for line in shape.splitlines():
        if line == "else:":  # a loop's is not in the loop
            in_loop = scope.in_loop
        if line.lstrip() == "BODY":
            body = draw(block(replace(scope, depth=scope.depth + 1, in_loop=in_loop)))
            line = textwrap.indent(body, line.removesuffix("BODY") + "    ")
        lines.append(line)
    return "\n".join(lines)


@st.composite
def block(draw: st.DrawFn, scope: Scope) -> str:
    return "\n".join(draw(st.lists(statement(scope), min_size=1, max_size=4 - scope.depth)))


@st.composite
def programs(draw: st.DrawFn) -> str:
    """Source of a module with some functions, and of the calls of them all."""
    parts = [PRELUDE]
    callees: tuple[tuple[str, str], ...] = ()
    kinds = st.sampled_from((PLAIN, GENERATOR, COROUTINE, ASYNC_GENERATOR))
    for number, kind in enumerate(draw(st.lists(kinds, min_size=1, max_size=3)), 1):
        name = f"work{number}"
        parts.append(draw(function(name, Scope(kind, callees))))
        callees = (*callees, (name, kind))
    uses = [CALLS[PLAIN, kind][0].replace("CALLEE", name) for name, kind in callees]
    parts.append(definition("main", PLAIN, "\n".join(uses)))
    return "\n".join((*parts, CALLING, *draw(st.sampled_from(([], ["main(2)"]))), ""))


CALLING = """\
for num in range(4):
    try: main(num)
    except Exception: pass
"""


@st.composite
def function(draw: st.DrawFn, name: str, scope: Scope) -> str:
    return definition(name, scope.kind, draw(block(scope)))


def definition(name: str, kind: str, body: str) -> str:
    """A function; a generator yields at its end, and every other kind returns a number."""
    last = "yield tot" if kind in (GENERATOR, ASYNC_GENERATOR) else "return tot"
    head = f"{'async ' if kind in ASYNC else ''}def {name}(num, tot=0):"
    return "\n".join((head, textwrap.indent(f"global COUNT\n{body}\n{last}", "    "), ""))


# -- sessions ------------------------------------------------------------------------------------

CONDITIONS = st.sampled_from(
    ("num > 1", "tot % 2 == 0", "num == 2 or tot", "False", "True", "item", "1 // tot")
)
COUNTS = st.integers(0, 4)
MOVES = ("c", "c", "n", "s", "r", "unt")
VALUES = (PROBE, "p ('seen:', num)", "p ('seen:', tot, num + 1)", "p ('seen:', COUNT)")


@st.composite
def breakpoint_set(draw: st.DrawFn, lines: Sequence[int]) -> str:
    command = draw(st.sampled_from(("b", "b", "b", "tbreak")))
    condition = draw(st.none() | st.none() | CONDITIONS)
    place = draw(st.sampled_from(lines))
    return f"{command} {place}" + (f", {condition}" if condition else "")


@st.composite
def breakpoint_changed(draw: st.DrawFn) -> str:
    """A command on a breakpoint that may or may not be there."""
    number = draw(st.integers(1, 3))
    return draw(
        st.sampled_from(
            (
                f"clear {number}",
                f"ignore {number} {draw(COUNTS)}",
                f"condition {number} {draw(CONDITIONS)}",
                f"condition {number}",
                f"disable {number}",
                f"enable {number}",
            )
        )
    )


@st.composite
def breakpoint_commands(draw: st.DrawFn, numbers: int) -> list[str]:
    """A `commands` list for one of the first *numbers* breakpoints."""
    silent = draw(st.sampled_from(([], ["silent"])))
    # A command that resumes ends the list.
    last = draw(st.sampled_from(("end", "c", "s", "n")))
    return [f"commands {draw(st.integers(1, numbers))}", *silent, PROBE, last]


@st.composite
def moves(draw: st.DrawFn, lines: Sequence[int]) -> str:
    some_line = draw(st.sampled_from(lines))
    return draw(st.sampled_from(MOVES * 3 + (f"unt {some_line}", f"j {some_line}")))


@st.composite
def looks(draw: st.DrawFn) -> str:
    change = f"!{draw(st.sampled_from(('num', 'tot', 'left0')))} = {draw(COUNTS)}"
    return draw(st.sampled_from((*VALUES, "u", "d", "w", change)))


@st.composite
def sessions(draw: st.DrawFn, program: str, first_line: int = 1) -> Session:
    """Some breakpoints, then whatever may be typed; *first_line*: none is set before that."""
    lines = [line for line in stopping_lines(program) if line >= first_line]
    with_commands, probing = draw(st.tuples(st.booleans(), st.booleans()))
    typed = draw(st.lists(breakpoint_set(lines), min_size=1, max_size=4))
    if with_commands:
        typed += draw(breakpoint_commands(len(typed)))
    typed += draw(st.lists(breakpoint_changed(), max_size=2))
    move = moves(lines)
    step = st.one_of(move, move, move, looks(), breakpoint_set(lines), breakpoint_changed())
    for command in ["c", *draw(st.lists(step, min_size=6, max_size=16))]:
        typed.append(command)
        if probing:
            typed.append(PROBE)
    return Session(program, tuple(typed))


@st.composite
def made_up_sessions(draw: st.DrawFn) -> Session:
    """A session in a program of its own."""
    program = draw(programs())
    return draw(sessions(program, first_line=PRELUDE.count("\n") + 1))
