"""Code run from a prompt under a second debugger: what stops in it, and what is left afterwards."""

import io
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modpdb import ModPdb
from modpdb.breakpoints.engine import wiring
from modpdb.commands.registry import COMMANDS, UsageError, command
from modpdb.nested import InnerPdb, Left, run_from_prompt

SEEN: list[Any] = []


def double(x: int) -> int:
    twice = x * 2
    return twice  # noqa: RET504  a line to stop at


def other(x: int) -> int:
    return x + 1


def failing(x: int) -> int:
    raise ValueError(f"no {x}")


@pytest.fixture(autouse=True)
def call_command() -> Iterator[None]:
    """`call-it EXPRESSION`: calls a lambda of this file with breakpoints at work."""

    @command("call-it")
    def call_it(dbg: ModPdb, arguments: Any) -> None:
        """call-it EXPRESSION"""

        def function(inner: InnerPdb) -> Any:
            if arguments.target == "misuse":
                raise UsageError("one sentence")
            result = eval(arguments.target, globals())
            return result, inner.stopped

        try:
            dbg.message(f"result {run_from_prompt(dbg, function)}")
        except Left:
            dbg.message("left")

    SEEN.clear()
    yield
    del COMMANDS["call-it"]


def debug(function: Callable[[], object], *commands: str) -> str:
    dbg = ModPdb(
        stdin=io.StringIO("".join(f"{line}\n" for line in commands)),
        stdout=io.StringIO(),
        nosigint=True,
        readrc=False,
    )
    dbg.runcall(function)
    return dbg.stdout.getvalue()


def sample() -> int:
    x = 1
    y = double(x)
    SEEN.append(y)
    return y


def test_breakpoints_stop_inside_and_the_stop_outside_is_still_there() -> None:
    said = debug(sample, "n", "b double", "call-it double(5)", "p x", "n", "p twice", "w", "c",
                 "p ('out', x)", "c", "p ('in', x)", "c")  # fmt: skip
    assert "((ModPdb)) 5\n" in said and "((ModPdb)) 10\n" in said
    where = said[said.index("((ModPdb)) 10\n") : said.index("result (")]
    assert "double()" in where and "sample()" not in where  # the stack is that of the code
    assert "((ModPdb)) result (10, True)" in said
    assert "(ModPdb) ('out', 1)" in said and "(ModPdb) ('in', 1)" in said
    assert SEEN == [2]


def test_nothing_stops_where_no_breakpoint_is() -> None:
    assert "(ModPdb) result (10, False)" in debug(sample, "n", "call-it double(5)", "c")


def test_a_condition_and_commands_hold_inside() -> None:
    said = debug(sample, "b double, x > 5", "commands 1", "p ('at', x)", "end",
                 "call-it double(5)", "call-it double(6)", "c", "c")  # fmt: skip
    assert "result (10, False)" in said
    assert "('at', 6)\n" in said and "result (12, True)" in said


def test_q_gives_the_code_up_and_the_script_goes_on() -> None:
    said = debug(sample, "b double", "n", "call-it SEEN.append(double(5))", "q", "p x", "c", "c")
    assert "((ModPdb)) left\n(ModPdb) 1\n" in said
    assert SEEN == [2]


def test_q_is_not_swallowed_by_the_code() -> None:
    def swallowing() -> None:
        try:
            double(1)
        except BaseException:
            SEEN.append("swallowed")

    globals()["swallowing"] = swallowing
    said = debug(sample, "b double", "call-it swallowing()", "q", "p 'on'", "clear 1", "c")
    assert "((ModPdb)) left\n(ModPdb) 'on'" in said


def test_end_of_input_inside_leads_out_of_both() -> None:
    said = debug(sample, "b double", "call-it double(5)")
    assert "left\n" in said and SEEN == []


def test_what_is_set_and_cleared_inside_holds_outside() -> None:
    line = double.__code__.co_firstlineno + 2
    said = debug(sample, "b double", "n", "call-it other(double(5))", "tbreak other",
                 f"b {__file__}:{line}", "clear 1", "c", "p ('at the line', twice)", "c",
                 "p ('in other', x)", "c", "b", "c", "p ('outside', twice)", "c")  # fmt: skip
    assert "((ModPdb)) ('at the line', 10)" in said
    assert "((ModPdb)) ('in other', 10)" in said
    listed = said[said.index("Num Type") :]
    assert "double\n" not in listed.split("(ModPdb)")[0] and f":{line}" in listed
    assert "\n(ModPdb) ('outside', 2)" in said
    assert SEEN == [2]


def test_what_is_set_inside_by_name_holds_outside() -> None:
    said = debug(sample, "b other", "n", "call-it other(1)", "b double", "c", "c", "p ('in', x)",
                 "c")  # fmt: skip
    assert "(ModPdb) ('in', 1)" in said


def test_an_exception_is_looked_at_where_it_was_raised() -> None:
    said = debug(sample, "n", "call-it failing(3)", "p ('there', x)", "q", "p ('here', x)", "c")
    assert "*** ValueError: no 3\n" in said
    assert "((ModPdb)) ('there', 3)" in said and "(ModPdb) ('here', 1)" in said
    assert SEEN == [2]


def test_a_commands_own_sentence_passes() -> None:
    said = debug(sample, "call-it misuse", "c")
    assert "(ModPdb) *** one sentence\n(ModPdb)" in said


def test_tracing_goes_on_as_before() -> None:
    said = debug(sample, "call-it double(5)", "n", "n", "p ('stepped', y)", "c")
    assert "('stepped', 2)" in said


def test_it_nests() -> None:
    said = debug(sample, "b double", "call-it double(5)", "call-it double(7)", "p x", "c", "p x",
                 "c", "clear 1", "c")  # fmt: skip
    assert "(((ModPdb))) 7\n" in said and "((ModPdb)) 5\n" in said
    assert "result (14, True)" in said and "result (10, True)" in said


def test_nobody_traces_the_code_where_nothing_stops() -> None:
    globals()["tracer"] = sys.gettrace
    said = debug(sample, "n", "call-it tracer()", "c")
    # What an earlier test has left running may be watched by the engine's own tracer.
    assert re.search(r"result \((None|<bound method Tracer\.function .*>), False\)", said)


def test_no_watch_is_left_of_the_second_debugger() -> None:
    line = double.__code__.co_firstlineno + 2
    debug(sample, "b double", f"b {line}", "call-it double(5)", "c", "c", "c", "c")
    watches = [
        watch
        for place in wiring().places()
        for watch in (*place.entry, *(each for line in place.lines.values() for each in line))
    ]
    assert watches
    assert not any(isinstance(watch.engine.debugger, InnerPdb) for watch in watches)


def test_debug_hands_its_breakpoints_back() -> None:
    said = debug(sample, "n", "debug other(1)", "b double", "q", "c", "p ('in', x)", "c")
    assert "((ModPdb)) LEAVING" in said or "LEAVING RECURSIVE DEBUGGER" in said
    assert "(ModPdb) ('in', 1)\n" in said


def test_breakpoint_in_the_code_opens_the_second_debugger(modpdb_run, tmp_path) -> None:
    (tmp_path / "s.py").write_text(
        "def f(x):\n    breakpoint()\n    return x\n\ndef g():\n    return 1\n\ng()\ng()\n"
    )
    done = modpdb_run(
        ["s.py"], "b g\nc\ndebug f(5)\nc\np ('in', x)\nw\nc\np 'out'\nc\nq\n", cwd=tmp_path
    )
    said = done.stdout
    assert "((ModPdb)) ('in', 5)\n" in said and "nested.py" not in said
    assert "(ModPdb) 'out'\n" in said and said.count("-> return 1") == 2
