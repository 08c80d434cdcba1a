"""Tracepoints look and never stop; nothing they evaluate reaches the script."""

import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest

from modpdb.breakpoints.lines import walk
from modpdb.breakpoints.locations import FileLine, Spec
from modpdb.breakpoints.tracepoints import (
    FAILED,
    Tracepoint,
    Values,
    expressions,
)


def entered(a: object, b: object) -> Any:
    return sys._getframe()


class Shown:
    """A tracepoint, what it showed and what it complained about."""

    def __init__(self, text: str, show: Callable[..., None] | None = None) -> None:
        self.values: list[Values] = []
        self.said: list[str] = []
        self.point = Tracepoint(
            Spec(None, "entered"), expressions(text), show or (lambda _, v: self.values.append(v))
        )

    def reach(self, frame: types.FrameType) -> bool:
        return self.point.reached(frame, self.said.append)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ["a"]),
        (" a , b ", ["a", "b"]),
        ("f(a, b), (a, b), [a, b][0], {a: b, b: a}", None),
        ("'x, y', f\"{a, b}\", '''z,'''", None),
        ("a[1, 2], lambda x, y: x, a,", ["a[1, 2]", "lambda x, y: x", "a"]),
        ("x for x in a", ["(x for x in a"]),
        ("a # said", ["a"]),
        ("über, b", ["über", "b"]),
    ],
)
def test_commas_inside_of_brackets_and_strings_part_nothing(
    text: str, parts: list[str] | None
) -> None:
    found = [each.text for each in expressions(text)]
    if parts is None:
        assert ", ".join(found) == text
    else:
        assert [each.rstrip("\n)") for each in found] == parts


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a b", "are no expressions: invalid syntax"),
        ("a) + (b", "are no expressions: a bracket is closed that is not open"),
        ("a)(b", "are no expressions: a bracket is closed that is not open"),
        ("(a", "are no expressions: "),
        ("a=1", "expected expressions, found `=` or `*` before one"),
        ("*a", "expected expressions, found `=` or `*` before one"),
        ("**a", "expected expressions, found `=` or `*` before one"),
        ("a\0b", "are no expressions: "),
        ("a,, b", "are no expressions: "),
    ],
)
def test_what_is_no_expression_is_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        expressions(text)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_comprehensions_and_lambdas_see_the_functions_variables() -> None:
    shown = Shown("[a + each for each in b if each != a], (lambda: a)()")
    assert shown.reach(entered(1, (1, 2))) is False
    assert [value for _, value in shown.values[0]] == [[3], 1] and shown.said == []


def test_it_shows_and_never_stops() -> None:
    shown = Shown("a, a + b")
    assert shown.reach(entered(1, 2)) is False
    assert shown.values == [[("a", 1), ("a + b", 3)]]
    assert (shown.point.hits, shown.said) == (1, [])


def test_what_fails_is_said_once_and_counted() -> None:
    shown = Shown("a, b.gone, exit()")
    for _ in range(3):
        assert shown.reach(entered(1, 2)) is False
    assert shown.values == [[("a", 1), ("b.gone", FAILED), ("exit()", FAILED)]] * 3
    assert len(shown.said) == 2
    assert shown.said[0].startswith(f"'b.gone' of tracepoint {shown.point.number} at entered: Attr")
    assert shown.point.failures == {"b.gone": 3, "exit()": 3}
    assert "b.gone failed 3 times" in shown.point.bpformat()


def test_a_failing_show_and_a_closed_output_stay_inside() -> None:
    def show(frame: types.FrameType, values: Values) -> None:
        raise OSError("disk full")

    def deaf(said: str) -> None:
        raise ValueError("I/O operation on closed file")

    shown = Shown("a", show)
    assert shown.point.reached(entered(1, 2), deaf) is False
    assert shown.point.failures == {"printing": 1}


def test_condition_ignore_and_disable() -> None:
    shown = Shown("a")
    shown.point.cond = "a > 1"
    shown.point.ignore = 1
    for a in range(5):
        shown.reach(entered(a, 0))
    assert shown.values == [[("a", 3)], [("a", 4)]]
    shown.point.disable()
    shown.reach(entered(9, 0))
    assert (len(shown.values), shown.point.hits) == (2, 5)


def test_a_condition_that_fails_is_said_once() -> None:
    shown = Shown("a")
    shown.point.cond = "gone"
    for _ in range(3):
        assert shown.reach(entered(1, 2)) is False
    assert len(shown.said) == 1 and "NameError" in shown.said[0]
    assert shown.point.failures == {"its condition": 3}


def test_ctrl_c_is_the_scripts() -> None:
    def interrupted(frame: types.FrameType, values: Values) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Shown("a", interrupted).reach(entered(1, 2))


def test_what_it_evaluates_may_come_by_again() -> None:
    shown = Shown("again()")
    frame = entered(1, lambda: shown.reach(frame))
    frame.f_globals["again"] = frame.f_locals["b"]
    try:
        assert shown.reach(frame) is False
        assert shown.values == [[("again()", False)]] and shown.point.hits == 1
        assert shown.reach(frame) is False and shown.point.hits == 2
    finally:
        del frame.f_globals["again"]


def test_threads_look_each_for_themselves() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def show(frame: types.FrameType, values: Values) -> None:
        seen.append(values)
        if threading.current_thread() is slow:
            inside.set()
            go_on.wait(10)

    seen: list[Values] = []
    shown = Shown("a", show)
    slow = threading.Thread(target=lambda: shown.reach(entered(1, 2)))
    slow.start()
    assert inside.wait(10)
    shown.reach(entered(2, 2))  # while the other is still looking
    go_on.set()
    slow.join()
    assert [dict(values)["a"] for values in seen] == [1, 2]


SOURCE = """\
x = 1
def outer(a):
    def inner(b):
        return b
    return [
        inner(each)
        for each in a]
one = lambda x: x
"""


@pytest.mark.parametrize(
    ("line", "names"),
    [
        (1, ["<module>"]),
        (2, ["<module>"]),
        (3, ["outer"]),
        (4, ["inner"]),
        (8, ["<lambda>", "<module>"]),
        (99, []),
    ],
)
def test_a_line_is_found_in_the_code_that_runs_it(line: int, names: list[str]) -> None:
    code = compile(SOURCE, "/some/where/mod.py", "exec")
    place = FileLine("/some/where/mod.py", line)
    found = [each.co_name for each in walk(code) if place.matches("mod", each)]
    assert sorted(found) == names
    other = FileLine("/else/where/mod.py", line)
    assert not any(other.matches("mod", each) for each in walk(code))
