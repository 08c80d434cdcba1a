"""The instructions of a code object of Python 3.11, and on which ways between them a line event
fires.

Instructions are known by where they start, with their EXTENDED_ARG prefixes, in code units of two
bytes, as CPython counts them. Most of them matter to nobody, and are not looked at.
"""

from __future__ import annotations

import dis
import opcode
import re
import types
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

OP = opcode.opmap
CACHES: list[int] = getattr(opcode, "_inline_cache_entries", [])  # 3.11's own: one number an opcode
EXTENDED_ARG = OP["EXTENDED_ARG"]
BACKWARD = frozenset(op for name, op in OP.items() if "JUMP_BACKWARD" in name)
_CACHE = 0  # what inline caches look like in co_code
_RESUME = OP["RESUME"]
_SEND = OP["SEND"]
_NEVER_FALL_THROUGH = frozenset(
    op
    for name, op in OP.items()
    if name
    in (
        *("RETURN_VALUE", "RAISE_VARARGS", "RERAISE"),
        *("JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"),
    )
)


class NoFlow(Exception):
    """The code object is not what CPython's compiler writes; the message says in what."""


class Tried(NamedTuple):
    """An entry of the exception table: the code units it covers, and where the handler starts."""

    start: int
    end: int
    handler: int
    depth: int  # of the stack and whether to push where it was raised, as the table has it


class Flow:
    """The instructions of a code object, and the edges between them."""

    def __init__(self, code: types.CodeType) -> None:
        """Raises NoFlow, and LookupError and ValueError for what is odd in other ways."""
        self._ops = code.co_code[::2]
        self._args = code.co_code[1::2]
        self.entry = self._ops.find(_RESUME)
        if self.entry < 0:
            raise NoFlow("no RESUME instruction")
        self.lines: list[int | None] = []  # by code unit
        begins = []  # where another line does
        before = None
        for start, end, line in code.co_lines():
            if line != before:
                begins.append(start // 2)
                before = line
            self.lines += [line] * ((end - start) // 2)
        self.target = dict(self._targets())
        self._jumps_to: dict[int, list[int]] = defaultdict(list)
        for i, to in self.target.items():
            self._jumps_to[to].append(i)
        self.exception_table = list(_exception_table(code.co_exceptiontable))
        self._tried: dict[int, list[Tried]] = defaultdict(list)  # by the handler
        for entry in self.exception_table:
            self._tried[entry.handler].append(entry)
        self._may_fire = {*begins, *self._jumps_to, *self._tried, self.entry + 1}

    def all(self, op: str) -> Iterator[int]:
        """Every instruction *op*, which has no prefix."""
        return (found.start() for found in _any_of((OP[op],)).finditer(self._ops))

    def itself(self, i: int) -> int:
        """Where instruction *i* stands, behind its prefixes."""
        while self._ops[i] == EXTENDED_ARG:
            i += 1
        return i

    def op(self, i: int) -> int:
        return self._ops[self.itself(i)]

    def end(self, i: int) -> int:
        """Where instruction *i* ends, with its inline caches."""
        at = self.itself(i)
        return at + 1 + CACHES[self._ops[at]]

    def _targets(self) -> Iterator[tuple[int, int]]:
        for found in _JUMPS.finditer(self._ops):
            start = at = found.start()
            arg, shift = self._args[at], 8
            while self._ops[start - 1] == EXTENDED_ARG:
                start -= 1
                arg |= self._args[start] << shift
                shift += 8
            end = at + 1 + CACHES[self._ops[at]]
            yield start, end - arg if self._ops[at] in BACKWARD else end + arg

    def fires(self, p: int, i: int) -> bool:
        """Whether going from instruction *p* to *i* raises a line event."""
        if self.lines[i] is None or i <= self.entry or self._ops[i] == _RESUME:
            return False
        if p <= self.entry or self.lines[p] != self.lines[i]:
            return True
        return i < p and self.op(i) != _SEND  # CPython leaves that out

    def falling_fires(self, i: int) -> bool | None:
        """Whether an event fires when *i* is reached from above; None where it never is."""
        above = i - 1
        while above >= 0 and self._ops[above] == _CACHE:
            above -= 1
        if above < 0 or self._ops[above] in _NEVER_FALL_THROUGH:
            return None
        return self.fires(above, i)

    def raising_fires(self, tried: Tried) -> Iterator[tuple[int, int, bool]]:
        """The parts of what *tried* covers, and whether raising there raises a line event where
        the handler starts."""
        start, fires = tried.start, self.fires(tried.start, tried.handler)
        for i in range(tried.start + 1, tried.end):
            if self.fires(i, tried.handler) != fires:
                yield start, i, fires
                start, fires = i, not fires
        yield start, tried.end, fires

    def firing(self) -> Iterator[tuple[int, bool]]:
        """The instructions at which a line event may fire, in their order, and whether none does
        for those who come from above."""
        for i in sorted(self._may_fire):
            if i < len(self.lines) and self.lines[i] is not None:
                falling = self.falling_fires(i)
                if falling or self._arriving_fires(i):
                    yield i, falling is False

    def _arriving_fires(self, i: int) -> bool:
        """Whether an event may fire when *i* is jumped to, or is where a handler starts."""
        return any(self.fires(p, i) for p in self._jumps_to.get(i, ())) or any(
            fires for tried in self._tried.get(i, ()) for *_, fires in self.raising_fires(tried)
        )


def _any_of(ops: Iterable[int]) -> re.Pattern[bytes]:
    return re.compile(b"[%s]" % b"".join(re.escape(bytes((op,))) for op in ops), re.DOTALL)


_JUMPS = _any_of(dis.hasjrel)


def _exception_table(table: bytes) -> Iterator[Tried]:
    numbers = _varints(table)
    for start, length, handler, depth in zip(numbers, numbers, numbers, numbers, strict=True):
        yield Tried(start, start + length, handler, depth)


def _varints(table: bytes) -> Iterator[int]:
    """The numbers of an exception table: six bits a byte, the highest first
    (Objects/exception_handling_notes.txt)."""
    number = 0
    for byte in table:
        number = number << 6 | byte & 0x3F
        if not byte & 0x40:
            yield number
            number = 0
