"""bdb's own books: whether a breakpoint stops, by line or by name, and how it is listed."""

from __future__ import annotations

import bdb
import functools
import os
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass

from modpdb.breakpoints.locations import Place

Complain = Callable[[str], None]

_SHOWN = 3

# -- whether to stop ---------------------------------------------------------------------------


def reached_line(
    position: tuple[str, int], frame: types.FrameType, complain: Complain
) -> bdb.Breakpoint | None:
    """The breakpoint that stops in *frame*, which is about to run *position*, a file and a line:
    bdb.effective, with each condition compiled once.

    A condition that raises stops, as in pdb, and *complain* is told why. A temporary breakpoint
    that stops is over (`is_over`): it is for the caller to delete.
    """
    for each in tuple(bdb.Breakpoint.bplist.get(position, ())):  # another thread may clear
        if (
            each.enabled
            and (not each.funcname or bdb.checkfuncname(each, frame))
            and _stops(each, frame, complain)
        ):
            return each
    return None


def is_over(breakpoint: bdb.Breakpoint) -> bool:
    """Whether a temporary breakpoint has had its stop. One with a failing condition has not."""
    return breakpoint.temporary and not breakpoint.enabled


def _stops(breakpoint: bdb.Breakpoint, frame: types.FrameType, complain: Complain) -> bool:
    """Count a hit of *breakpoint*; whether its condition and its ignore count let it stop.

    Threads count side by side without a lock: under the GIL another one comes in at calls and
    backward jumps only, and there is none from the reading of a count to its writing. (A
    free-threaded Python would need one.)
    """
    breakpoint.hits += 1
    if breakpoint.cond:
        try:
            if not eval(compiled(breakpoint.cond), frame.f_globals, frame.f_locals):
                return False
        except BaseException as error:  # what leaves here would be raised in the script
            said = traceback.format_exception_only(error)[-1].strip()
            kind = getattr(breakpoint, "kind", "breakpoint")
            complain(f"condition of {kind} {breakpoint.number}: {said}")
            return True
    if breakpoint.ignore > 0:
        breakpoint.ignore -= 1
        return False
    if breakpoint.temporary:
        # One thread's stop: for the others it is disabled until it is deleted.
        first, breakpoint.enabled = breakpoint.enabled, False
        return first
    return True


@functools.cache  # what a person types
def compiled(condition: str) -> types.CodeType:
    """Raises SyntaxError. By the text, which pdb's `condition` and the script may change."""
    return compile(condition.lstrip(" \t"), "<condition>", "eval", dont_inherit=True)


# -- breakpoints by name -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Spot:
    """Code at which a breakpoint stops. ``line`` None: at its entry.

    ``heir``: the class whose instances are meant, where the code is a base's.
    """

    code: types.CodeType
    line: int | None = None
    heir: str | None = None

    @property
    def position(self) -> str:
        return f"{self.code.co_filename}:{self.line or self.code.co_firstlineno}"

    @property
    def name(self) -> str:
        return self.code.co_qualname.replace("<locals>.", "")

    @property
    def label(self) -> str:
        return self.name if self.heir is None else f"{self.name}, for a {self.heir}"

    def __str__(self) -> str:
        return self.position if self.heir is None else f"{self.position} ({self.label})"


class NamedBreakpoint(bdb.Breakpoint):
    """A breakpoint on functions by name, which need not exist yet.

    bdb files a breakpoint under (file, line). This one has many places or none, so it is filed
    under a file that cannot be, ``<spec>``, line 0: numbers, `enable`, `condition`, `ignore`,
    `commands` and `clear` work on it as on any other, and no line event ever meets it.
    """

    kind = "breakpoint"
    does = "stop"
    always_asked = False
    """Whether also where stepping stops anyway, and bdb would not ask."""

    def __init__(self, spec: Place, temporary: bool, condition: str | None) -> None:
        super().__init__(f"<{spec}>", 0, temporary, condition)
        self.spec = spec
        self.spots: list[Spot] = []
        self.when_deleted: list[Callable[[], None]] = []

    def deleteMe(self) -> None:
        super().deleteMe()
        for stop_looking in self.when_deleted:
            stop_looking()

    def add(self, spot: Spot) -> None:
        """Note where it stops; a second debugger, which `debug` starts, finds the same."""
        if not any(each.code is spot.code and each.line == spot.line for each in self.spots):
            self.spots.append(spot)

    def setting_line(self) -> str:
        """What sets it again, as it would be typed."""
        condition = f", {self.cond}" if self.cond else ""
        return f"{'tbreak' if self.temporary else 'b'} {self.spec}{condition}"

    def bpformat(self, width: int = 80) -> str:
        """As pdb's listing has it, with the name and its places for file and line."""
        disposition = "del " if self.temporary else "keep"
        enabled = "yes" if self.enabled else "no "
        head = f"{self.number:<4}{self.kind:<13}{disposition} {enabled}  {self.spec}"
        lines = self._listed(head, width)
        if self.cond:
            lines.append(f"\t{self.does} only if {self.cond}")
        if self.ignore:
            lines.append(f"\tignore next {self.ignore} hits")
        if self.hits:
            lines.append(f"\t{self.kind} already hit {self.hits} time{'s'[: self.hits != 1]}")
        return "\n".join(lines)

    def _listed(self, head: str, width: int) -> list[str]:
        """The first lines of its listing."""
        line = f"{head}  {self._places()}"
        if len(self.spots) < 2 and (not self.spots or len(line) <= width):
            return [line]
        line = head if len(self.spots) == 1 else f"{head}  at {len(self.spots)} places"
        return [line, *_spots_in_lines(self.spots, width)]

    def where(self) -> str:
        """What is said when it is set: that it is pending, or where it stops."""
        return self._places() if self.spots else f"pending: {self.spec} is not imported yet"

    def _places(self) -> str:
        if not self.spots:
            return "pending: not imported yet"
        if len(self.spots) == 1:
            return f"at {self.spots[0]}"
        return f"at {len(self.spots)} places, the first {self.spots[0]}"

    def __str__(self) -> str:
        return f"{self.kind} {self.number} at {self.spec}"

    def reached(self, frame: types.FrameType, complain: Complain) -> bool:
        """Whether to stop in *frame*, which enters the function: bdb.effective's rules.

        A condition that raises stops, as in pdb, and *complain* is told why.
        """
        return self.enabled and _stops(self, frame, complain)


def named_breakpoints() -> list[NamedBreakpoint]:
    """Those in bdb's books, by number."""
    return [each for each in bdb.Breakpoint.bpbynumber if isinstance(each, NamedBreakpoint)]


def _spots_in_lines(spots: list[Spot], width: int) -> list[str]:
    """The first few, a line each: the function's name, and as much of the path as fits."""
    shown = spots[:_SHOWN] if len(spots) > _SHOWN + 1 else spots
    labels = max(len(each.label) for each in shown)
    lines = []
    for each in shown:
        room = max(width - 8 - labels - 2 - 1, 20)
        lines.append(f"\t{each.label:<{labels}}  {_end_of(each.position, room)}")
    if len(shown) < len(spots):
        lines.append(f"\tand {len(spots) - len(shown)} more")
    return lines


def _end_of(path: str, room: int) -> str:
    """*path* relative to where the user stands if it is below, cut at the front to *room*."""
    here = os.getcwd() + os.sep
    path = path.removeprefix(here)
    if len(path) <= room:
        return path
    _, slash, rest = path[-(room - 1) :].partition(os.sep)
    return f"…{slash}{rest}" if rest else "…" + path[-(room - 1) :]
