"""The instructions of a code object of Python 3.11, and on which ways between them a line event
fires.

Offsets are in code units of two bytes, as CPython counts them.
"""

from __future__ import annotations

import dis
import opcode
import types
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

OP = opcode.opmap
CACHES: list[int] = getattr(opcode, "_inline_cache_entries", [])  # 3.11's own: one number an opcode
EXTENDED_ARG = OP["EXTENDED_ARG"]
BACKWARD = frozenset(op for name, op in OP.items() if "JUMP_BACKWARD" in name)
_JUMPS = frozenset(dis.hasjrel)
_RESUME = OP["RESUME"]
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


class Instruction(NamedTuple):
    start: int  # with its EXTENDED_ARG prefixes
    end: int  # with its inline caches
    op: int
    arg: int


class Tried(NamedTuple):
    """An entry of the exception table: the instructions it covers, by index, and the handler's."""

    tried: range
    handler: int
    depth: int  # of the stack and whether to push where it was raised, as the table has it


class Flow:
    """The instructions of a code object, by index, and the edges between them."""

    def __init__(self, code: types.CodeType) -> None:
        """Raises NoFlow."""
        self.instructions = list(_instructions(code.co_code))
        ops = [each.op for each in self.instructions]
        if _RESUME not in ops:
            raise NoFlow("no RESUME instruction")
        self.entry = ops.index(_RESUME)
        lines: list[int | None] = []
        for start, end, line in code.co_lines():
            lines += [line] * ((end - start) // 2)
        self.lines = [lines[each.end - 1] for each in self.instructions]
        self._index_at: list[int] = []  # by offset
        for i, each in enumerate(self.instructions):
            self._index_at += [i] * (each.end - each.start)
        self.target = dict(self._targets())
        self._jumps_to: dict[int, list[int]] = defaultdict(list)
        for i, to in self.target.items():
            self._jumps_to[to].append(i)
        self.exception_table = list(self._exception_table(code.co_exceptiontable))
        self._tried: dict[int, list[range]] = defaultdict(list)  # by the handler
        for entry in self.exception_table:
            self._tried[entry.handler].append(entry.tried)

    def _targets(self) -> Iterator[tuple[int, int]]:
        for i, (_, end, op, arg) in enumerate(self.instructions):
            if op in _JUMPS:
                yield i, self._index_at[end - arg if op in BACKWARD else end + arg]

    def _exception_table(self, table: bytes) -> Iterator[Tried]:
        numbers = _varints(table)
        for start, length, handler, depth in zip(numbers, numbers, numbers, numbers, strict=True):
            covered = range(self._index_at[start], self._index_at[start + length - 1] + 1)
            yield Tried(covered, self._index_at[handler], depth)

    def fires(self, p: int, i: int) -> bool:
        """Whether going from instruction *p* to *i* raises a line event."""
        if self.lines[i] is None or self.instructions[i].op == _RESUME or i <= self.entry:
            return False
        if p <= self.entry or self.lines[p] != self.lines[i]:
            return True
        return i < p and self.instructions[i].op != OP["SEND"]  # CPython leaves that out

    def falling_fires(self, i: int) -> bool | None:
        """Whether an event fires when *i* is reached from above; None where it never is."""
        if i == 0 or self.instructions[i - 1].op in _NEVER_FALL_THROUGH:
            return None
        return self.fires(i - 1, i)

    def may_fire(self, i: int) -> bool:
        return bool(
            self.falling_fires(i)
            or any(self.fires(p, i) for p in self._jumps_to.get(i, ()))
            or any(self.fires(p, i) for tried in self._tried.get(i, ()) for p in tried)
        )


def _instructions(raw: bytes) -> Iterator[Instruction]:
    start = at = arg = 0
    while at < len(raw):
        op, arg = raw[at], arg << 8 | raw[at + 1]
        at += 2 + 2 * CACHES[op]
        if op != EXTENDED_ARG:
            yield Instruction(start, at // 2, op, arg)
            start, arg = at // 2, 0


def _varints(table: bytes) -> Iterator[int]:
    """The numbers of an exception table: six bits a byte, the highest first
    (Objects/exception_handling_notes.txt)."""
    number = 0
    for byte in table:
        number = number << 6 | byte & 0x3F
        if not byte & 0x40:
            yield number
            number = 0
