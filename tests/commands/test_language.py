"""What is a command, what is Python: DESIGN's rule, line by line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modpdb.commands.language import PYTHON, Typed, recognise, recognise_pdbs

COMMANDS = {"linear-path", "lp", "params", "modules"}


def bound(name: str) -> bool:
    return name in ("params", "lp")


@pytest.mark.parametrize(
    ("line", "name", "argument"),
    [
        ("linear-path model.q", "linear-path", "model.q"),
        ("  params  ", "params", ""),
        ("params layers.*.q_proj", "params", "layers.*.q_proj"),
        ("params --stats", "params", "--stats"),
        ("params -d 2", "params", "-d 2"),
        ("params self", "params", "self"),
        ("modules *.q_proj", "modules", "*.q_proj"),  # not a variable here
        ("!!params + 1", "params", "+ 1"),
        ("lp x, y", "lp", "x, y"),
    ],
)
def test_commands(line: str, name: str, argument: str) -> None:
    assert recognise(line, COMMANDS, bound) == Typed(name, argument)


@pytest.mark.parametrize(
    "line",
    ["params[0]", "params.x", "params = 1", "params=1", "params(…)", "params + 1", "params == 3"]
    + ["params [0]", "params .x", "params - 1", "params, 2", "params if x else y", "params in z"]
    + ["modules = 3", "linear-path.x", "lp *2", "10linear-pth x"],
)
def test_python(line: str) -> None:
    assert recognise(line, COMMANDS, bound) is PYTHON


@pytest.mark.parametrize("line", ["", "n", "!params", "params?", "p params", "10pp x", "linear x"])
def test_left_to_pdb(line: str) -> None:
    assert recognise(line, COMMANDS, bound) is None


def test_a_count_goes_with_its_command() -> None:
    assert recognise("10linear-path x", COMMANDS, bound) == Typed("linear-path", "x", 10)


@pytest.mark.parametrize(
    ("line", "typed"),
    [
        *((line, Typed("n")) for line in ("n", " n ")),
        *(
            (line, PYTHON)
            for line in ("n + 1", "n == 1", "n @ b", "n  in x", "n not in x", "n ** 2")
        ),
        *((line, None) for line in ("n *.f", "n @blk.*", "n -x", "n 3", "n not x", "n-1", "2n")),
        *((line, None) for line in ("!n", "n?", "", "s", "s + 1", "total", "n in_x")),
    ],
)
def test_commands_of_pdb(line: str, typed: Typed | None) -> None:
    """`s` is bound to nothing, `total` is no command."""
    assert recognise_pdbs(line, {"n", "s"}.__contains__, {"n", "total"}.__contains__) == typed


@given(st.text(max_size=40))
def test_never_raises(line: str) -> None:
    typed = recognise(line, COMMANDS, bound)
    assert typed is None or typed.name is None or typed.name in COMMANDS
