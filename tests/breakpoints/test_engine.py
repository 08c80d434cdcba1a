"""The engine: told when code is entered or a line of it is reached, and at no other time."""

import builtins
import sys
import threading
import types
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from modpdb.breakpoints import engine as engines
from modpdb.breakpoints.engine import Engine, wiring


class Sleeper:
    """A debugger that notes when it is woken."""

    def __init__(self) -> None:
        self.woken: list[tuple[str, int]] = []

    def wake(self, frame: FrameType) -> None:
        self.woken.append((frame.f_code.co_name, 0))

    def stop_now(self, frame: FrameType) -> None:
        self.woken.append((frame.f_code.co_name, frame.f_lineno))

    def wake_at_return(self, frame: FrameType) -> None:
        self.woken.append((f"{frame.f_code.co_name} returns", 0))

    def stop_at_return(self, frame: FrameType, value: object) -> None:
        self.woken.append((f"{frame.f_code.co_name} returns", 0))


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(Sleeper())
    engine.begin()
    yield engine
    engine.end()


def never(frame: FrameType) -> bool:
    return False


class Seen:
    """Asked by the engine; notes what each frame holds, stops nowhere."""

    def __init__(self, name: str = "n") -> None:
        self.name = name
        self.values: list[Any] = []

    def __call__(self, frame: FrameType) -> bool:
        self.values.append(frame.f_locals.get(self.name))
        return False


def arm(engine: Engine, function: Any, reached: Any, line: int | None = None) -> types.CodeType:
    """Watch *function*, or the line so many below its first."""
    code = engine.original(function.__code__)
    engine.watch(code, reached, None if line is None else code.co_firstlineno + line)
    wiring().settle()
    return code


def clear(engine: Engine, reached: Any) -> None:
    engine.unwatch(reached)
    wiring().settle()


# -- entries and lines ---------------------------------------------------------------------------


def loop(n: int) -> int:
    total = 0
    for each in range(n):
        total += each
    return total


def numbers(n: int) -> Iterator[int]:
    for each in range(n):  # noqa: UP028  the line below is waited for
        yield each


async def later(n: int) -> int:
    return n


def recursive(n: int) -> int:
    return n if n == 0 else recursive(n - 1)


def test_entered_once_per_call(engine: Engine) -> None:
    seen = Seen()
    for function in (loop, numbers, recursive, later):
        arm(engine, function, seen)
    loop(3), list(numbers(2)), recursive(2)
    coroutine = later(7)
    with pytest.raises(StopIteration):
        coroutine.send(None)
    assert seen.values == [3, 2, 2, 1, 0, 7]
    clear(engine, seen)
    loop(9)
    assert seen.values[-1] == 7


def test_a_line_each_time_it_comes(engine: Engine) -> None:
    seen = Seen("total")
    arm(engine, loop, seen, 3)
    assert loop(4) == 6
    assert seen.values == [0, 0, 1, 3]
    clear(engine, seen)


def maybe(n: int) -> int:
    try:
        if n == 0:
            raise ValueError
        return n * 2
    finally:
        n += 1


def test_what_a_call_returns(engine: Engine) -> None:
    """Not what a generator yields, nor a call that raises."""
    returned: list[Any] = []

    def stops(frame: FrameType, value: object) -> bool:
        returned.append((frame.f_code.co_name, frame.f_locals["n"], value))
        return value == 4

    for function in (maybe, numbers, recursive):
        engine.watch_return(engine.original(function.__code__), stops)
    wiring().settle()
    maybe(1)
    with pytest.raises(ValueError):
        maybe(0)
    list(numbers(2)), recursive(1)
    assert returned == [
        ("maybe", 2, 2),
        ("numbers", 2, None),
        ("recursive", 0, 0),
        ("recursive", 1, 0),
    ]
    assert engine.debugger.woken == []  # type: ignore[attr-defined]
    maybe(2)
    assert engine.debugger.woken == [("maybe returns", 0)]  # type: ignore[attr-defined]
    engine.unwatch(stops)
    wiring().settle()
    maybe(2)
    assert len(returned) == 5


def test_lambdas_comprehensions_and_nested_functions(engine: Engine) -> None:
    def outer(n: int) -> list[int]:
        def inner(n: int) -> int:
            return n * 2

        return [inner(each) for each in range(n)]

    seen = Seen()
    double = lambda n: n * 2  # noqa: E731
    arm(engine, double, seen)
    inner = next(
        each for each in engine.original(outer.__code__).co_consts
        if isinstance(each, types.CodeType) and each.co_name == "inner"
    )  # fmt: skip
    engine.watch(inner, seen)
    wiring().settle()
    double(5)
    assert outer(3) == [0, 2, 4]
    assert seen.values == [5, 0, 1, 2]
    clear(engine, seen)


def test_what_stops_is_woken_once_and_everybody_is_asked(engine: Engine) -> None:
    seen = Seen()
    arm(engine, loop, lambda frame: True)
    arm(engine, loop, seen)
    arm(engine, loop, lambda frame: True)
    loop(1)
    assert engine.debugger.woken == [("loop", 0)] and seen.values == [1]  # type: ignore[attr-defined]
    for place in wiring().places():
        for watch in place.entry:
            engine.unwatch(watch.reached)


def test_nothing_rings_at_rest_or_when_another_is_at_work(engine: Engine) -> None:
    seen = Seen()
    arm(engine, loop, seen)
    with engine.resting():
        loop(1)
    other = Engine(Sleeper())
    other.begin()
    loop(2)
    other.end()
    loop(3)
    assert seen.values == [3]
    clear(engine, seen)


def test_a_condition_rings_nothing(engine: Engine) -> None:
    seen = Seen()

    def reached(frame: FrameType) -> bool:
        loop(0)
        return seen(frame)

    arm(engine, loop, reached)
    loop(5)
    assert seen.values == [5]
    clear(engine, reached)


def test_no_hit_is_lost_or_counted_twice_among_threads(engine: Engine) -> None:
    seen = Seen()
    arm(engine, loop, seen, 1)
    threads = [threading.Thread(target=lambda: [loop(0) for _ in range(1250)]) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(seen.values) == 10_000
    clear(engine, seen)


def test_another_tracer_stays(engine: Engine) -> None:
    seen, lines = Seen(), []

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_name == "loop" and event == "line":
            lines.append(frame.f_lineno - frame.f_code.co_firstlineno)
        return trace

    arm(engine, loop, seen, 3)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        loop(2)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
    assert lines == [1, 2, 3, 2, 3, 2, 4] and len(seen.values) == 2
    clear(engine, seen)


def test_a_function_looks_as_before(engine: Engine) -> None:
    before = loop.__code__
    what = before.co_filename, before.co_firstlineno, before.co_varnames, list(before.co_lines())
    seen = Seen()
    arm(engine, loop, seen, 3)
    code = loop.__code__
    assert (code.co_filename, code.co_firstlineno, code.co_varnames) == what[:3]
    assert {line for *_, line in code.co_lines() if line} == {line for *_, line in what[3] if line}
    clear(engine, seen)
    assert loop.__code__ is before


# -- by version ----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="sys.monitoring is there")
class TestPatching:
    def test_hooks_of_an_earlier_breakpoint_serve_a_frame_that_runs(self, engine: Engine) -> None:
        first, second = Seen(), Seen("total")
        line = loop.__code__.co_firstlineno + 3

        def reached(frame: FrameType) -> bool:
            if not second.values:
                engine.watch(engine.original(frame.f_code), second, line)
                assert wiring().settle() == []
            return first(frame)

        arm(engine, loop, reached)
        loop(2)
        assert second.values == [0, 0]
        clear(engine, reached), clear(engine, second)

    def test_a_generator_that_sleeps_is_traced_and_said(self, engine: Engine) -> None:
        running = numbers(3)
        next(running)
        seen = Seen("each")
        code = engine.original(numbers.__code__)
        engine.watch(code, seen, code.co_firstlineno + 2)
        assert ["numbers runs already" in each for each in wiring().settle()] == [True]
        before = sys.gettrace()
        sys.settrace(wiring().tracer.function)
        try:
            next(running)
        finally:
            sys.settrace(before)
        assert seen.values == [1]
        clear(engine, seen)

    def test_code_with_builtins_of_its_own_is_left_alone(self, engine: Engine) -> None:
        names: dict[str, Any] = {"__builtins__": {"range": range}}
        exec(compile("def f(n):\n    return n\n", __file__, "exec"), names)
        code = names["f"].__code__
        arm(engine, names["f"], never)
        assert names["f"].__code__ is code and names["f"](3) == 3
        clear(engine, never)

    def test_the_docstring_is_not_taken_for_another_constant(self, engine: Engine) -> None:
        source = "def f():\n    return 'no docstring'\n"
        names: dict[str, Any] = {}
        module = compile(source, "generated.py", "exec")
        engine.watch(module.co_consts[0], never)
        exec(wiring().instrument(module), names)
        assert names["f"].__doc__ is None and names["f"]() == "no docstring"
        clear(engine, never)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no sys.monitoring")
class TestMonitoring:
    def test_without_a_free_tool_id_it_is_said_and_traced(self) -> None:
        monitoring = sys.monitoring  # type: ignore[attr-defined]
        taken = [each for each in (3, 4) if monitoring.get_tool(each) is None]
        for each in taken:
            monitoring.use_tool_id(each, "somebody")
        try:
            chosen = engines._best_wiring()
            assert "tool ids 3 and 4 are taken" in chosen.problem and "somebody" in chosen.problem
        finally:
            for each in taken:
                monitoring.free_tool_id(each)

    def test_code_that_ran_before_is_met(self, engine: Engine) -> None:
        wiring().watch_new_code(print_nothing)
        try:
            loop(1)
            seen = Seen()
            arm(engine, loop, seen)
            loop(2)
            assert seen.values == [2]
            clear(engine, seen)
        finally:
            wiring().forget_new_code(print_nothing)


def print_nothing(code: types.CodeType, module: str | None) -> None: ...


def armed_hooks() -> set[str]:
    return {
        name for name, value in vars(builtins).items() if name.startswith("__modpdb_") and value
    }


def test_builtins_hold_no_hook_that_nobody_waits_for(engine: Engine) -> None:
    before = armed_hooks()  # of earlier tests' debuggers
    seen = Seen()
    arm(engine, loop, seen, 3)
    clear(engine, seen)
    assert armed_hooks() == before
