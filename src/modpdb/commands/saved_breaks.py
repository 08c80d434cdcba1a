"""`save-breaks`: the breakpoints, kept in an rc file."""

from __future__ import annotations

import bdb
import os
from pathlib import Path
from typing import TYPE_CHECKING

from modpdb.breakpoints.saving import CannotBeWritten, setting_line, settings
from modpdb.commands.break_files import LINE
from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.rcfile import NAME, replace_block, why_untrusted
from modpdb.views.text import plural, printable

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb


@command("save-breaks", needs_frame=False)
def save_breaks(dbg: ModPdb, arguments: Arguments) -> None:
    """save-breaks [FILE]

    Write the breakpoints to FILE (./.modpdbrc), by the names of their functions, so that edits
    do not shift them; with conditions, ignore counts and commands. One outside of functions has
    only its line; that is said. What an earlier save-breaks wrote there is replaced, other lines
    are kept.
    """
    file = Path(os.path.abspath(os.path.expanduser(arguments.target or NAME)))
    lines, told, left_out = [], [], []
    for each in filter(None, bdb.Breakpoint.bpbynumber):
        try:
            line = setting_line(each, str(file.parent), dbg.mainpyfile)
        except CannotBeWritten as reason:
            left_out.append(f"breakpoint {each.number} is left out: {reason}")
            continue
        told.append(line)
        lines += [line, *settings(each), *_commands(dbg, each.number)]
    try:
        replace_block(file, lines)
        problem = why_untrusted(file) if lines else None
    except (OSError, ValueError) as error:
        # An OSError's full text names the file beside it that is written first.
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"save-breaks: {file} is as it was: {why}") from None
    dbg.message(printable(f"{plural(len(told), 'breakpoint')} in {file}{':' * bool(told)}"))
    for line in told:
        shifts = "  (by its line: edits above it will shift it)" * _is_by_line(line)
        dbg.message(f"  {printable(line)}{shifts}")
    for line in left_out:
        dbg.message(printable(line))
    if problem:
        dbg.message(f"it will not be run as it is: {problem}")


def _is_by_line(line: str) -> bool:
    """Whether what *line* sets is at FILE:LINE, not by a name."""
    name, _, rest = line.partition(" ")
    place = rest.partition(",")[0]
    by_name = name.startswith("break-") or place.startswith("@")
    return not by_name and LINE.fullmatch(place) is not None


def _commands(dbg: ModPdb, number: int) -> list[str]:
    body = dbg.commands.get(number, [])
    silent = ["silent"] if dbg.commands_silent.get(number) else []
    return ["commands $bpnum", *silent, *body, "end"] if body or silent else []
