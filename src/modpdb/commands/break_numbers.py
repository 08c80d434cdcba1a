"""pdb's commands that take a breakpoint's number, with ``$bpnum`` for the last one's."""

from __future__ import annotations

import bdb
import re
from typing import TYPE_CHECKING, Any

from modpdb.breakpoints.books import compiled

# Since 3.12 pdb has made an expression of it before a command sees it.
_BPNUM = re.compile(r"""\$bpnum\b|__pdb_convenience_variables\["bpnum"\]""")
_NUMBERS = re.compile(rf"(?:\s*(?:\d+|{_BPNUM.pattern}))*")


class BreakNumbers:
    """``$bpnum`` is the last breakpoint that was set, as in gdb: rc files cannot know its
    number. Mixed into ModPdb."""

    if TYPE_CHECKING:
        cmdqueue: list[str]

        def error(self, msg: Any) -> None: ...

    set_nothing = False
    """Whether the last `b` failed: what follows it was meant for no other breakpoint."""

    def do_enable(self, arg: str) -> None:
        """enable BPNUMBER ...

        Let these breakpoints stop again. $bpnum is the last one set.
        """
        if (numbers := self._with_bpnum(arg)) is not None:
            super().do_enable(numbers)  # type: ignore[misc]

    def do_disable(self, arg: str) -> None:
        """disable BPNUMBER ...

        Keep these breakpoints in the list, but let them stop no more. $bpnum is the last one set.
        """
        if (numbers := self._with_bpnum(arg)) is not None:
            super().do_disable(numbers)  # type: ignore[misc]

    def do_ignore(self, arg: str) -> None:
        """ignore BPNUMBER [COUNT]

        Do not stop the next COUNT times that the breakpoint is reached and its condition is
        true; without COUNT, stop again. $bpnum is the last one set.
        """
        if (numbers := self._with_bpnum(arg)) is not None:
            super().do_ignore(numbers)  # type: ignore[misc]

    def do_condition(self, arg: str) -> None:
        """condition BPNUMBER [CONDITION]

        Stop only where the expression CONDITION is true; without it, always. $bpnum is the last
        breakpoint set.
        """
        if (text := self._with_bpnum(arg)) is None:
            return
        if problem := why_no_condition(text.partition(" ")[2]):  # pdb checks since 3.13 only
            self.error(problem)
        else:
            super().do_condition(text)  # type: ignore[misc]

    def do_commands(self, arg: str) -> None:
        """commands [BPNUMBER]

        Take the lines up to `end` as commands to run whenever the breakpoint stops, without
        BPNUMBER the last one set ($bpnum). A line `silent` keeps the stop from being shown; one
        that lets the program run on (c, s, n, …) ends the list. No line: remove what was set.
        """
        if (number := self._with_bpnum(arg)) is not None:
            super().do_commands(number)  # type: ignore[misc]
        elif "end" in self.cmdqueue:  # an rc file's list, which must not be run now
            del self.cmdqueue[: self.cmdqueue.index("end") + 1]

    def _with_bpnum(self, arg: str) -> str | None:
        """*arg* with numbers only, None where there is none, which is said."""
        text = with_bpnum(arg)
        if text == arg or not self.set_nothing:
            return text
        self.error("$bpnum: the last `b` set no breakpoint")
        return None


def with_bpnum(arg: str) -> str:
    """*arg* with the last breakpoint's number for a ``$bpnum`` among its leading numbers."""
    numbers = _NUMBERS.match(arg)
    end = numbers.end() if numbers else 0
    last = str(len(bdb.Breakpoint.bpbynumber) - 1)
    return _BPNUM.sub(last, arg[:end]) + arg[end:]


def why_no_condition(condition: str) -> str | None:
    """Why *condition* is no expression, None where it is one or empty."""
    try:
        if condition.strip():
            compiled(condition)
    except (SyntaxError, ValueError) as error:
        return f"condition {condition.strip()!r}: {getattr(error, 'msg', error)}"
    return None
