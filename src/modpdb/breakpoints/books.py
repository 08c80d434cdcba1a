"""Breakpoints by name in bdb's own books: numbered, conditional, temporary like any other."""

from __future__ import annotations

import bdb
import traceback
import types
from collections.abc import Callable, Iterable

from modpdb.breakpoints.locations import Search, Spec


class NamedBreakpoint(bdb.Breakpoint):
    """A breakpoint on functions by name, which need not exist yet.

    bdb files a breakpoint under (file, line). This one has many places or none, so it is filed
    under a file that cannot be, ``<spec>``, line 0: numbers, `enable`, `condition`, `ignore`,
    `commands` and `clear` work on it as on any other, and no line event ever meets it.
    """

    kind = "breakpoint"
    does = "stop"

    def __init__(self, spec: Spec, temporary: bool, condition: str | None) -> None:
        super().__init__(f"<{spec}>", 0, temporary, condition)
        self.spec = spec
        # One for each debugger that is at work: `debug` starts a second.
        self.searches: list[Search] = []
        self.when_deleted: list[Callable[[], None]] = []

    def deleteMe(self) -> None:
        super().deleteMe()
        for stop_looking in self.when_deleted:
            stop_looking()

    @property
    def codes(self) -> list[types.CodeType]:
        return self.searches[0].codes if self.searches else []

    def lines(self, code: types.CodeType) -> Iterable[int | None]:
        """Where in *code*, which was found for it: None is the function's entry."""
        return (None,)

    def bpformat(self) -> str:
        """As pdb's listing has it, with the name and its places for file and line."""
        head = f"{self.number:<4}{self.kind:<13}{'del ' if self.temporary else 'keep'} "
        lines = [f"{head}{'yes' if self.enabled else 'no '}  {self.spec}  {self.where()}"]
        if self.cond:
            lines.append(f"\t{self.does} only if {self.cond}")
        if self.ignore:
            lines.append(f"\tignore next {self.ignore} hits")
        if self.hits:
            lines.append(f"\t{self.kind} already hit {self.hits} time{'s'[: self.hits != 1]}")
        return "\n".join(lines)

    def where(self) -> str:
        """Its places in a word: pending, at file:line, or how many."""
        if not self.codes:
            return "pending: not imported yet"
        first = self.codes[0]
        place = f"at {first.co_filename}:{first.co_firstlineno}"
        return place if len(self.codes) == 1 else f"{place} and {len(self.codes) - 1} more"

    def __str__(self) -> str:
        return f"{self.kind} {self.number} at {self.spec}"

    def reached(self, frame: types.FrameType, complain: Callable[[str], None]) -> bool:
        """Whether to stop in *frame*, which enters the function: bdb.effective's rules.

        A condition that raises stops, as in pdb, and *complain* is told why.
        """
        if not self.enabled:
            return False
        self.hits += 1
        if self.cond:
            try:
                if not eval(self.cond, frame.f_globals, frame.f_locals):
                    return False
            except BaseException as error:  # what leaves here would be raised in the script
                said = traceback.format_exception_only(error)[-1].strip()
                complain(f"condition of {self.kind} {self.number}: {said}")
                return True
        if self.ignore > 0:
            self.ignore -= 1
            return False
        return True


def named_breakpoints() -> list[NamedBreakpoint]:
    """Those in bdb's books, by number."""
    return [each for each in bdb.Breakpoint.bpbynumber if isinstance(each, NamedBreakpoint)]
