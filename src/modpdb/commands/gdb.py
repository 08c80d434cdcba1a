"""What gdb's hands expect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modpdb.commands.registry import Arguments, UsageError, command

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modpdb.debugger import ModPdb

_INFO = {
    "locals": lambda dbg: dbg.onecmd("locals"),
    "args": lambda dbg: dbg.do_args(""),
    "breakpoints": lambda dbg: dbg.do_break("") if dbg.breaks else dbg.message("No breakpoints."),
    "stack": lambda dbg: dbg.do_where(""),
    "stages": lambda dbg: dbg.onecmd("stages"),
}
_FRAMELESS = ("breakpoints", "stages")


def _topics(dbg: ModPdb, text: str) -> Iterable[str]:
    return _INFO


@command("info", completes=_topics, needs_frame=False)
def info(dbg: ModPdb, arguments: Arguments) -> None:
    """info locals | args | breakpoints | stack | stages

    What gdb shows by these names, or their first letters.
    """
    wanted = arguments.target
    topics = [topic for topic in _INFO if wanted and topic.startswith(wanted)]
    if not topics:
        raise UsageError(f"info {wanted or 'what'}? There are {', '.join(_INFO)}")
    if dbg.curframe is None and topics[0] not in _FRAMELESS:
        raise UsageError(f"info {topics[0]} needs a stopped program")
    _INFO[topics[0]](dbg)


@command("finish", "fin", resumes=True)
def finish(dbg: ModPdb, arguments: Arguments) -> bool:
    """finish

    Run on until the current function returns: pdb's `return`.
    """
    return bool(dbg.do_return(""))


@command("delete", needs_frame=False)
def delete(dbg: ModPdb, arguments: Arguments) -> None:
    """delete [BPNUMBER ...]

    Delete breakpoints, without numbers all, after asking: pdb's `clear`.
    """
    dbg.do_clear(arguments.target)
