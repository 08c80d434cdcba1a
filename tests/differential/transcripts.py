"""Scripted sessions, what a debugger prints in one, and what of that is compared."""

from __future__ import annotations

import difflib
import itertools
import os
import re
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MARK = "seen:"
PROBE = (
    f"p ({MARK!r}, {{name: value for name, value in list(locals().items())"
    " if type(value) in (int, bool, str, list, tuple) and ' at 0x' not in repr(value)"
    " and (name[:2] != '__' or name == '__return__')})"
)
"""A command that prints the frame's simple variables, in a line that can be found again."""

LEAVING = f"    ({MARK!r}, 'leaving')"
LEAVE = (f"p{LEAVING[3:]}", "q")
"""How a session quits: so that it can be told what came after."""
LEFT = "> below the script"
FINISHED = "the program finished"

_PROMPTS = re.compile(r"(\((Mod)?Pdb\) |\(com\) |\.\.\. +)+")
# pdb's `> file(line)function()`; pdbpp numbers the frames, before the mark or after it.
_FRAME = re.compile(
    r"(?:\[ *\d+\] )?(?P<mark>[> ]) (?:\[ *\d+\] )?"
    r"(?P<file>\S.*)\((?P<line>\d+)\)(?P<name>[^()\s]+)\(\)"
)
_EVENT = re.compile(r"--(Call|Return)--|(?:Internal )?([A-Z]\w+(?:Error|Exit|Iteration|Group))\b")
_BY_ACCIDENT = re.compile(r"^> .* (StopIteration|GeneratorExit)$")
_LIBRARY = os.path.dirname(os.__file__)
# Where pdb says that the script has come to its end, for the first time: then it runs it again.
_ENDED = re.compile(
    r"^.*(The program finished and will be restarted|The program exited via sys\.exit\(\)"
    r"|Post mortem debugger finished)",
    re.MULTILINE,
)
_UNCAUGHT = "Uncaught exception. Entering post mortem debugging"
# What lies below the script on the stack: each debugger's own, and what runs it here.
_BELOW = {"bdb.py", "pdb.py", "<string>", "session_worker.py", "runpy.py", "<frozen runpy>"}


@dataclass(frozen=True)
class Session:
    """A program and what is typed at the debugger's prompts while it runs."""

    program: str
    typed: tuple[str, ...]

    @property
    def input(self) -> str:
        """What the debugger reads."""
        return "\n".join((*self.typed, *LEAVE, ""))


@dataclass(frozen=True)
class Transcript:
    """What a debugger printed in a session; *ending*: of the program's end, if it came."""

    printed: str
    ending: str

    @property
    def seen(self) -> list[str]:
        """The frames that were shown, the values that were printed, and the end."""
        return [*seen_in(self.printed), *([self.ending] if self.ending else [])]


def seen_in(printed: str) -> Iterator[str]:
    """Frames and marked values of a debugger's output, a line for each.

    Values are left out where they were printed in a frame of the standard library, whose
    variables differ in every process; and on 3.12 in the frames of modules and classes, where pdb
    shows stale variables of comprehensions, and writes them back.
    """
    event, left_out = "", False
    for line in printed.splitlines():
        text = _PROMPTS.sub("", line)
        if match := _EVENT.match(text):
            event = f" {match[1] or match[2]}"
        elif match := _FRAME.match(text):
            file = os.path.basename(match["file"])
            if file not in _BELOW:
                yield f"{match['mark']} {file}:{match['line']} {match['name']}{event}"
            elif match["mark"] == ">":
                yield LEFT
            if match["mark"] == ">":
                left_out = match["file"].startswith((_LIBRARY, "<"))
                if sys.version_info[:2] == (3, 12):
                    left_out |= match["name"] == "<module>" or match["name"][0].isupper()
            event = ""
        elif text.startswith(f"({MARK!r}, ") and not left_out:
            yield f"    {text}"


def compared(pdb: list[str], modpdb: list[str]) -> tuple[list[str], list[str]]:
    """What of the two must be equal.

    pdb's `q` does not always quit, since scripts can catch it: modpdb must, and nothing that pdb
    shows after it counts. The rest is as far as the two can be compared, where they differ:

    pdb's `up` goes on from the script to the frames that run it; modpdb's does not.

    After `n`, `unt` or `r` in a generator or coroutine bdb stops where StopIteration or
    GeneratorExit comes up in any function that it traces, which under pdb is each one of a file
    with a breakpoint, whatever it has to do with that generator. modpdb does not trace those.
    """
    if LEAVING in pdb:
        pdb = pdb[: pdb.index(LEAVING) + 1]
    differing = (at for at, pair in enumerate(zip(pdb, modpdb, strict=False)) if pair[0] != pair[1])
    first = next(differing, min(len(pdb), len(modpdb)))
    if first < len(pdb) and (pdb[first] == LEFT or _BY_ACCIDENT.search(pdb[first])):
        return pdb[:first], modpdb[:first]
    return pdb, modpdb


def pdb_transcript(printed: str, status: int) -> Transcript:
    """pdb's, up to where it would run the script again."""
    ended = _ENDED.search(printed)
    if ended is None:
        return Transcript(printed, died(status))
    shown = printed[: ended.end()]
    return Transcript(shown, "" if _UNCAUGHT in shown else FINISHED)


def modpdb_transcript(printed: str, status: int) -> Transcript:
    return Transcript(printed, FINISHED if status == 0 else died(status))


def died(status: int) -> str:
    """How a debugger failed; 1 is a session that was quit, or an uncaught exception."""
    if status < 0:
        return f"killed by signal {-status}"
    return "" if status in (0, 1) else f"the debugger failed with status {status}"


def report(session: Session, pdb: Transcript, modpdb: Transcript) -> str:
    """A difference for a person: the program, the session, where the two part, and all of both."""
    numbered = [
        f"{number:4}  {line}" for number, line in enumerate(session.program.splitlines(), 1)
    ]
    differing = difflib.unified_diff(pdb.seen, modpdb.seen, "pdb", "modpdb", lineterm="", n=4)
    parts: Sequence[tuple[str, Sequence[str]]] = (
        ("the program", numbered),
        ("typed", [f"    {line.replace(PROBE, 'p LOCALS')}" for line in session.typed]),
        ("where they part: - pdb, + modpdb", list(differing)),
        ("under pdb", pdb.printed.splitlines()),
        ("under modpdb", modpdb.printed.splitlines()),
    )
    version = sys.version.split()[0]
    lines = [f"pdb and modpdb differ on Python {version}"]
    for title, body in parts:
        lines += ["", f"-- {title} --", *body]
    return "\n".join(lines)


def stopping_lines(program: str) -> list[int]:
    """The lines of a program on which a breakpoint can be set."""
    pending = [compile(program, "program.py", "exec", dont_inherit=True)]
    lines: set[int] = set()
    while pending:
        code = pending.pop()
        lines.update(line for _, _, line in code.co_lines() if line)
        pending += [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return sorted(lines)


def with_probes(commands: Sequence[str]) -> tuple[str, ...]:
    """Each command followed by PROBE."""
    return tuple(itertools.chain.from_iterable((command, PROBE) for command in commands))
