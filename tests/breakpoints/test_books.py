"""Whether a breakpoint stops: as bdb decides it, but compiled once and for many threads."""

import bdb
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from modpdb.breakpoints.books import NamedBreakpoint, Spot, is_over, reached_line
from modpdb.breakpoints.locations import Spec

FILE, LINE = "/of/a/program.py", 7

breakpoints = st.fixed_dictionaries(
    {
        "cond": st.sampled_from([None, "", "n > 2", "n % 2", " n == 3", "missing", "n >", "1 / n"]),
        "temporary": st.booleans(),
        "ignore": st.integers(0, 3),
        "enabled": st.booleans(),
        # As pdb sets one by a function's name: at the line of its `def`.
        "funcname": st.sampled_from([None, None, "function", "other"]),
    }
)


def frame_at(n: int, line: int, name: str = "function") -> Any:
    code = SimpleNamespace(co_name=name)
    return SimpleNamespace(f_lineno=line, f_code=code, f_globals={}, f_locals={"n": n})


def by_bdb(frame: Any) -> bdb.Breakpoint | None:
    """bdb.break_here, after it has found that the line has breakpoints."""
    if (FILE, LINE) not in bdb.Breakpoint.bplist:
        return None
    found, may_delete = bdb.effective(FILE, LINE, frame)
    if found and may_delete and found.temporary:
        found.deleteMe()
    return found


def by_us(frame: Any) -> bdb.Breakpoint | None:
    found = reached_line((FILE, LINE), frame, lambda problem: None)
    if found and is_over(found):
        found.deleteMe()
    return found


def story(
    settings: list[dict[str, Any]], frames: list[Any], decide: Callable[[Any], Any]
) -> list[Any]:
    """All that the books say, after each of *frames*."""
    bdb.Breakpoint.clearBreakpoints()
    made = []
    for each in settings:
        made.append(bdb.Breakpoint(FILE, LINE, each["temporary"], each["cond"], each["funcname"]))
        made[-1].ignore, made[-1].enabled = each["ignore"], each["enabled"]
    told = []
    for frame in frames:
        stopped = decide(frame)
        left = [each for each in bdb.Breakpoint.bpbynumber if each]
        books = [(each.number, each.hits, each.ignore, each.enabled) for each in left]
        told.append((stopped and stopped.number, books))
    return told


@given(
    st.lists(breakpoints, min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 5), st.just(LINE)), max_size=12),
    st.sampled_from(["function", "other"]),
)
def test_as_bdb_decides(
    settings: list[dict[str, Any]], hits: list[tuple[int, int]], name: str
) -> None:
    frames = [frame_at(n, line, name) for n, line in hits]
    try:
        assert story(settings, frames, by_us) == story(settings, frames, by_bdb)
    finally:
        bdb.Breakpoint.clearBreakpoints()


def test_a_line_without_breakpoints() -> None:
    assert reached_line((FILE, 99), frame_at(1, 99), print) is None


def test_a_failing_condition_stops_and_says_why() -> None:
    breakpoint = bdb.Breakpoint(FILE, LINE, temporary=True, cond="n.nothing")
    said: list[str] = []
    assert reached_line((FILE, LINE), frame_at(1, LINE), said.append) is breakpoint
    assert said == [
        "condition of breakpoint 1: AttributeError: 'int' object has no attribute 'nothing'"
    ]
    assert not is_over(breakpoint)  # pdb keeps it, as a hint


def test_a_changed_condition_counts_at_once() -> None:
    breakpoint = bdb.Breakpoint(FILE, LINE, cond="n == 1")
    frame = frame_at(1, LINE)
    assert reached_line((FILE, LINE), frame, print)
    breakpoint.cond = "n == 2"  # as pdb's `condition` does
    assert not reached_line((FILE, LINE), frame, print)


def run_in_threads(work: Callable[[], object], threads: int = 8) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        started = [threading.Thread(target=work) for _ in range(threads)]
        for each in started:
            each.start()
        for each in started:
            each.join()
    finally:
        sys.setswitchinterval(before)


def test_threads_lose_no_hit() -> None:
    breakpoint = bdb.Breakpoint(FILE, LINE, cond="n > 1")
    breakpoint.ignore = 500
    stops: list[object] = []

    def work() -> None:
        for n in (1, 2) * 500:
            if found := reached_line((FILE, LINE), frame_at(n, LINE), print):
                stops.append(found)

    run_in_threads(work)
    assert breakpoint.hits == 8 * 1000
    assert len(stops) == 8 * 500 - 500


def test_a_temporary_breakpoint_stops_one_thread() -> None:
    def slow() -> bool:
        time.sleep(0.01)  # the others come this far before the first has decided
        return True

    breakpoint = bdb.Breakpoint(FILE, LINE, temporary=True, cond="slow()")
    stops: list[object] = []

    def work() -> None:
        frame = frame_at(1, LINE)
        frame.f_locals["slow"] = slow
        if found := reached_line((FILE, LINE), frame, print):
            stops.append(found)

    run_in_threads(work)
    assert stops == [breakpoint] and is_over(breakpoint)


def test_a_false_condition_costs_little() -> None:
    bdb.Breakpoint(FILE, LINE, cond="n < 0")
    frame = frame_at(1, LINE)

    def cost(decide: Callable[[], object]) -> float:
        best = 1.0
        for _ in range(5):
            begin = time.perf_counter()
            for _ in range(2000):
                decide()
            best = min(best, (time.perf_counter() - begin) / 2000)
        return best

    ours = cost(lambda: reached_line((FILE, LINE), frame, print))
    theirs = cost(lambda: bdb.effective(FILE, LINE, frame))
    assert ours < theirs / 2, (ours, theirs)


# -- how they are listed -------------------------------------------------------------------------


def code_of(name: str, file: str) -> CodeType:
    return sample.__code__.replace(co_filename=file, co_qualname=name, co_firstlineno=12)


def sample() -> FrameType | None: ...


def test_a_breakpoint_with_many_places_fits_the_screen(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    breakpoint = NamedBreakpoint(Spec.parse("*.modify_tensors"), False, "bid == 0")
    assert breakpoint.bpformat().splitlines() == [
        "1   breakpoint   keep yes  *.modify_tensors  pending: not imported yet",
        "\tstop only if bid == 0",
    ]
    long = "/usr/lib/python3/site-packages/transformers/models/gemma3/modeling_gemma3.py"
    for name, file in (("A", f"{tmp_path}/conversion/a.py"), ("Gemma3Model", long)):
        for _ in range(3):
            breakpoint.add(Spot(code_of(f"{name}.modify_tensors", file)))
    lines = breakpoint.bpformat().splitlines()
    assert lines[0] == "1   breakpoint   keep yes  *.modify_tensors  at 6 places"
    assert lines[1:5] == ["\tA.modify_tensors  conversion/a.py:12"] * 3 + ["\tand 3 more"]
    breakpoint.spots = breakpoint.spots[3:]
    lines = breakpoint.bpformat(80).expandtabs().splitlines()
    assert lines[1].endswith("  …/models/gemma3/modeling_gemma3.py:12")
    assert max(map(len, lines)) < 80
    assert long in breakpoint.bpformat(160)
