"""modpdb stops where pdb stops, and its variables are pdb's: the same sessions under both.

MODPDB_SESSIONS says how many sessions hypothesis makes up (300), each in a program of its own;
half as many more are made up for the programs of line_programs.py.
"""

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from line_programs import BESIDE, PROGRAMS, WITH_LIBRARY
from made_up import made_up_sessions, sessions
from transcripts import Session, stopping_lines, with_probes
from two_debuggers import TwoDebuggers

pytestmark = pytest.mark.differential
SESSIONS = int(os.environ.get("MODPDB_SESSIONS", "300"))
STEPPED = {name: text for name, text in PROGRAMS.items() if name not in WITH_LIBRARY}


@pytest.fixture(scope="session")
def two_debuggers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoDebuggers]:
    debuggers = TwoDebuggers(tmp_path_factory.mktemp("differential"), BESIDE)
    yield debuggers
    debuggers.close()


def made_up(count: int) -> Callable[..., Callable[..., None]]:
    """Settings for *count* sessions, the same in every run."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


# -- the corpus ----------------------------------------------------------------------------------


def on_every_line(program: str) -> list[list[str]]:
    """A breakpoint on every line, all at once; then on each alone."""
    lines = stopping_lines(program)
    return [
        [*(f"b {line}" for line in lines), *with_probes(["c"] * 60)],
        *([f"b {line}", *with_probes(["c"] * 7)] for line in lines),
    ]


def by_steps(program: str) -> list[list[str]]:
    """Step through all of it; and go on from a few breakpoints in each way there is."""
    lines = stopping_lines(program)
    sessions = [with_probes(["s"] * 100), with_probes(["n"] * 40), with_probes(["unt"] * 25)]
    for line in lines[1 :: max(1, len(lines) // 2)]:
        for going_on in (["n"] * 12, ["s", "r"] * 4, ["unt"] * 6, ["r"] * 4, ["s"] * 4 + ["c"] * 3):
            sessions.append((f"b {line}", *with_probes(["c", *going_on])))
        sessions.append((f"tbreak {line}", *with_probes(["c", "w", "u", "n", "n", "c"])))
    return [list(each) for each in sessions]


def beside(program: str) -> list[list[str]]:
    """Breakpoints in the files that the program brings in."""
    return [
        [f"b {name}:{line}", *with_probes(["c", "c", "n", "s", "u", "c", "c"])]
        for name, text in BESIDE.items()
        for line in stopping_lines(text)
    ]


@pytest.mark.parametrize("name", PROGRAMS)
def test_breakpoints_on_each_line(two_debuggers: TwoDebuggers, name: str) -> None:
    hit = 0
    for typed in on_every_line(PROGRAMS[name]):
        seen = two_debuggers.compare(Session(PROGRAMS[name], tuple(typed)))
        hit += len(seen) > 1
    assert hit > 1


@pytest.mark.parametrize("name", STEPPED)
def test_stepping_on(two_debuggers: TwoDebuggers, name: str) -> None:
    for typed in by_steps(PROGRAMS[name]):
        seen = two_debuggers.compare(Session(PROGRAMS[name], tuple(typed)))
        assert seen[0].startswith("> program.py:1 ")


@pytest.mark.parametrize("name", ["executed", "imported"])
def test_other_files(two_debuggers: TwoDebuggers, name: str) -> None:
    for typed in beside(PROGRAMS[name]):
        two_debuggers.compare(Session(PROGRAMS[name], tuple(typed)))


@made_up(SESSIONS // 2)
@given(session=st.sampled_from([*STEPPED.values()]).flatmap(sessions))
def test_made_up_sessions(two_debuggers: TwoDebuggers, session: Session) -> None:
    two_debuggers.compare(session)


# -- the command line ----------------------------------------------------------------------------

PLAIN = """\
def inner(number):
    result = number + 1
    return result

def outer(number):
    first = inner(number)
    second = inner(first)
    return first + second

def numbers(number):
    for each in range(number):
        yield each

def main():
    one = outer(1)
    two = outer(2)
    total = 0
    for each in numbers(3):
        total += each
    try:
        int("x")
    except ValueError:
        total = -1
    return one + two + total

print(main())
"""

TYPED = [
    "b 6; c; s; s; n; r; n; n",
    "b 2; c; r; n; n; r; n",
    "b 2; c; tbreak 7; c; c",
    "b 2; c; b 8; c; c; c",
    "b 7; c; s; u; n; n; n",
    "b 7; c; unt; unt; unt",
    "b 12; c; n; n; n; n; n; n",
    "b 12; c; c; c; n; s; s",
    "tbreak 2; c; c; n; n",
    "b 2; condition 1 number == 3; c; c",
    "b 2; ignore 1 2; c; n; r; s",
    "b 17; c; n; n; n; n; n; n; n; n; n; n; n",
    "b 21; c; s; s; s; n",
    "b 6; c; jump 8; n; n",
    "n; n; n; s; n; s; n; n; n; n",
    "s; s; s; s; s; s; s; s",
    "b 2; b 7; c; disable 1; c; enable 1; c; c",
    "b 15; c; unt 18; n; s",
]


WHOLE = [
    *(Session(PLAIN, with_probes(typed.split("; "))) for typed in TYPED),
    *(Session(text, tuple(on_every_line(text)[0])) for text in [*STEPPED.values()][::3]),
]


@pytest.mark.parametrize("session", WHOLE, ids=range(len(WHOLE)))
def test_the_command_line(two_debuggers: TwoDebuggers, session: Session) -> None:
    """What is run in forks elsewhere, in a process of its own as a user starts it."""
    seen = two_debuggers.compare(session, command_line=True)
    assert len(seen) > 3


# -- programs that are made up -------------------------------------------------------------------


@made_up(SESSIONS)
@given(session=made_up_sessions())
def test_made_up_programs(two_debuggers: TwoDebuggers, session: Session) -> None:
    two_debuggers.compare(session)
