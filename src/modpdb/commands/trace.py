"""`trace-point`: print on the way by, without stopping."""

from __future__ import annotations

import os
import types
from typing import TYPE_CHECKING

from modpdb.breakpoints.locations import FileLine, Place
from modpdb.breakpoints.tracepoints import FAILED, Tracepoint, Values, expressions
from modpdb.commands.break_files import LINE
from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.views.text import printable

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb


@command("trace-point", "tp", needs_frame=False)
def trace_point(dbg: ModPdb, arguments: Arguments) -> None:
    """trace-point PLACE[, EXPR…]

    Print the expressions whenever PLACE is reached, without stopping.

    PLACE is as for `break`: a function, Class.method, module:qualname, a glob of names, LINE or
    FILE:LINE, loaded yet or not. The expressions are evaluated in its frame, at the function's
    entry or before the line; tensors are shown by shape, never by data. One that fails is said
    once, shown as ?, and counted. `b` lists tracepoints; `disable`, `enable`, `condition`,
    `ignore` and `clear` work on them by number.
    """
    place, _, rest = (part.strip() for part in arguments.target.partition(","))
    if not place:
        raise UsageError("trace-point needs a place: trace-point PLACE[, EXPR…]")
    try:
        shown = expressions(rest) if rest else ()
        spec = _spec(dbg, place)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if spec is None:  # the line cannot stop, as was said
        return

    def show(frame: types.FrameType, values: Values) -> None:
        # One write: lines of several threads do not mix.
        dbg.stdout.write(f"{_place(frame, spec)}{_values(dbg, values)}\n")

    tracepoint = Tracepoint(spec, shown, show)
    dbg.add_breakpoint(tracepoint)
    dbg.message(printable(f"Tracepoint {tracepoint.number} {dbg.where(tracepoint)}"))
    dbg.settle()


def _spec(dbg: ModPdb, place: str) -> Place | None:
    """Raises ValueError for what is no place."""
    match = LINE.fullmatch(place)
    if match is None:
        return dbg.spec_of(place)
    file = dbg.lookupmodule(match["file"].strip()) if match["file"] else dbg.defaultFile()
    if file is None:
        return dbg.line_to_come(match["file"].strip(), int(match["line"]))
    line = dbg.checkline(file, int(match["line"]))
    return FileLine(dbg.canonic(file), line) if line else None


def _place(frame: types.FrameType, spec: Place) -> str:
    """The function, without what it is nested in; the file for a module's code."""
    code = frame.f_code
    name = code.co_qualname.rpartition("<locals>.")[2]
    if name == "<module>":
        name = os.path.basename(code.co_filename)
    return f"{name}:{spec.line}" if isinstance(spec, FileLine) else name


def _values(dbg: ModPdb, values: Values) -> str:
    shown = (
        f"{text} = {'?' if value is FAILED else dbg.one_line(value)}" for text, value in values
    )
    return f"  {' · '.join(shown)}" if values else ""
