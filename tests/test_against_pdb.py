"""Stepping stops where pdb stops: the same sessions under both."""

import re
from pathlib import Path

import pytest

# No variable is called like a command: pdbpp shows the variable then.
PROGRAM = """\
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

SESSIONS = [
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


def stops(printed: str) -> list[str]:
    """Line and function of every stop."""
    printed = printed.partition("The program finished and will be restarted")[0]
    return re.findall(r"> \S*program\.py\((\d+\)[\w<>]+\(\))", printed)


@pytest.mark.parametrize("session", SESSIONS)
def test_stops_where_pdb_stops(plain_run, modpdb_run, tmp_path: Path, session: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    typed = session.replace("; ", "\n") + "\n" + "q\n"
    # pdb itself, not what pdbpp's .pth file makes of it; not `-m pdb`, which 3.13.0 broke.
    start = "import pdb, sys; sys.argv = ['pdb', 'program.py']; pdb.main()"
    env = {"PDBPP_HIJACK_PDB": "0"}
    pdb = plain_run(["-c", start], typed, cwd=tmp_path, env=env)
    under = modpdb_run(["--no-rc", program], typed, cwd=tmp_path)
    assert len(stops(pdb.stdout)) >= 2
    assert stops(under.stdout) == stops(pdb.stdout)
