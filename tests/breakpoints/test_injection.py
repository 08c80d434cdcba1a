"""Hooks in code objects of Python 3.11: called where line events fire, and else as if not there."""

import ast
import asyncio
import builtins
import contextlib
import dataclasses
import dis
import functools
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modpdb.breakpoints.lines import own_lines, walk

if sys.version_info >= (3, 12):
    pytest.skip("code is patched on 3.11 only", allow_module_level=True)

from modpdb.breakpoints.injection import Hooks, inject


@pytest.fixture
def told() -> Iterator[list[tuple[Any, ...]]]:
    """What the hooks of this test's functions have been told; their builtins are taken away."""
    before = set(vars(builtins))
    yield []
    for name in set(vars(builtins)) - before:
        delattr(builtins, name)


def hooked(function: types.FunctionType, told: list[tuple[Any, ...]]) -> types.FunctionType:
    """A copy of *function* with all hooks, which note in *told*."""

    def hook(*what: Any) -> str:
        name = f"__test_{'_'.join(map(str, what))}__"
        setattr(builtins, name, lambda *values: told.append((*what, *values)))
        return name

    lines = {line: hook("line", line) for line in own_lines(function.__code__)}
    code = inject(function.__code__, Hooks(hook("entry"), lines, hook("returned")))
    return types.FunctionType(code, function.__globals__, closure=function.__closure__)


def line_events(function: Callable[[Any], Any], argument: Any) -> list[int]:
    """The lines of *function* of which a tracer is told."""
    events: list[int] = []
    code = function.__code__  # type: ignore[attr-defined]

    def trace(frame: types.FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            events.append(frame.f_lineno)
        return trace if frame.f_code is code else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(argument)
    finally:
        sys.settrace(before)
    return events


def long_function(blocks: int, names: int = 0) -> types.FunctionType:
    """One whose jumps go over so many blocks of a hundred bytes, with so many global names."""
    block = textwrap.dedent("""\
        for step in range(2):
            if step % 2: total += step
            else:
                try:
                    total -= 1 // (total - step)
                except ZeroDivisionError:
                    total += 5
        """)
    body = "while rounds:\n    rounds -= 1\n" + textwrap.indent(block * blocks, "    ")
    body += "".join(f"if rounds: name{n}\n" for n in range(names)) + "return total\n"
    made: dict[str, Any] = {}
    exec("def long(rounds):\n    total = 0\n" + textwrap.indent(body, "    "), made)
    return made["long"]


@pytest.mark.parametrize(("blocks", "names"), [(1, 0), (10, 0), (60, 300), (400, 0)])
def test_hooks_are_called_where_line_events_fire(
    told: list[tuple[Any, ...]], blocks: int, names: int
) -> None:
    """Also where jumps are so far that they need one EXTENDED_ARG more, or two."""
    function = long_function(blocks, names)
    copy = hooked(function, told)
    assert copy(2) == function(2)
    events = [("line", line) for line in line_events(function, 2)]
    assert told == [("entry",), *events, ("returned", function(2))]
    assert line_events(copy, 2) == line_events(function, 2)


def test_every_return_is_told(told: list[tuple[Any, ...]]) -> None:
    def several(number: int) -> Any:
        try:
            if number == 1:
                return "one"
            with open(__file__) as file:
                if number == 2:
                    return (
                        file.name,
                        "two",
                    )
        finally:
            number += 1
        return None if number == 4 else [number]

    copy = hooked(several, told)
    for number in range(1, 5):
        told.clear()
        assert copy(number) == several(number)
        assert told[-1] == ("returned", several(number))
        assert [what for what in told if what[0] == "returned"] == told[-1:]
        events = line_events(several, number)
        assert [what[1] for what in told if what[0] == "line"] == events
        assert line_events(copy, number) == events


def test_what_raises_returns_nothing(told: list[tuple[Any, ...]]) -> None:
    def raises(number: int) -> int:
        return 1 // number

    copy = hooked(raises, told)
    with pytest.raises(ZeroDivisionError) as caught:
        copy(0)
    assert [what[0] for what in told] == ["entry", "line"]
    assert caught.traceback[-1].lineno == raises.__code__.co_firstlineno


STATEMENTS = st.recursive(
    st.sampled_from(["a += 1", "a = a or 1; a += 0", "if a > 3: break", "if a > 6: return a"]),
    lambda inner: st.builds(
        lambda head, body: f"{head}\n" + textwrap.indent("\n".join(body), "  "),
        st.sampled_from(
            ["for _ in range(2):", "if a % 2:", "with nothing:", "while a < 4 and (a := a + 2):"]
        ),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=12,
)


@given(STATEMENTS, st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_made_up_functions(body: str, number: int) -> None:
    source = "def made_up(a):\n  for _ in range(2):\n" + textwrap.indent(body, "    ")
    made: dict[str, Any] = {"nothing": contextlib.nullcontext()}
    exec(source + "\n  return a\n", made)
    function, told = made["made_up"], list[tuple[Any, ...]]()
    copy = hooked(function, told)
    events = line_events(function, number)
    assert copy(number) == function(number)
    assert told == [("entry",), *(("line", line) for line in events), told[-1]]
    assert told[-1] == ("returned", function(number))
    assert line_events(copy, number) == events


@pytest.mark.parametrize("module", [ast, asyncio.base_events, dataclasses, functools, textwrap])
def test_no_code_of_the_standard_library_is_refused(module: types.ModuleType) -> None:
    source = Path(module.__file__ or "").read_text()
    for code in walk(compile(source, "file", "exec")):
        lines = {line: f"__test_{line}__" for line in own_lines(code)}
        copy = inject(code, Hooks("__entry__", lines, "__returned__", "__made__"))
        assert len(copy.co_code) > len(code.co_code)
        assert own_lines(copy) == own_lines(code)


@pytest.mark.parametrize("module", [ast, asyncio.base_events, dataclasses, functools, textwrap])
def test_what_was_there_keeps_its_places_in_the_source(module: types.ModuleType) -> None:
    """Columns too, of which tracebacks tell: what is put in stands between."""
    source = Path(module.__file__ or "").read_text()
    for code in walk(compile(source, "file", "exec")):
        lines = {line: f"__test_{line}__" for line in own_lines(code)}
        copy = inject(code, Hooks("__entry__", lines, "__returned__", "__made__"))
        there = iter(_placed(copy))
        for each in _placed(code):
            assert each in there, (code.co_qualname, each)


def _placed(code: types.CodeType) -> list[tuple[str, Any]]:
    return [(each.opname, each.positions) for each in dis.get_instructions(code)]
