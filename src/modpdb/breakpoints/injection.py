"""Puts hook calls into a code object of Python 3.11, where its line events fire.

A line event belongs to an edge p → i of the bytecode: it fires before instruction i when i lies on
another line than p, or when i is jumped back to. So a hook stands on exactly those edges; where an
instruction is reached by edges that fire and others that do not, only the former are led through
it. The hooks have no source location: tracers, tracebacks and coverage see the lines they would
see without.

What is neither a jump nor a hook is copied byte for byte, out of the code and out of its tables.
Objects of all instructions, as the bytecode library makes them, take six times as long.
"""

from __future__ import annotations

import bisect
import dis
import functools
import itertools
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from modpdb.breakpoints.flow import BACKWARD, CACHES, EXTENDED_ARG, OP, Flow, NoFlow

_STACK = 3  # what a hook needs on top of what is there


class CannotInject(Exception):
    """The code object cannot be given hooks; the message says why."""


class Hooks(NamedTuple):
    """Names of builtins to call: None, or a function, looked up anew each time.

    ``entry`` is called once per call, before the first line; ``lines`` before the line events of
    these lines. ``returned`` is called with what is returned, ``made`` with every function that the
    code makes, as soon as it is made.
    """

    entry: str | None = None
    lines: Mapping[int, str] = types.MappingProxyType({})
    returned: str | None = None
    made: str | None = None


def inject(code: types.CodeType, hooks: Hooks) -> types.CodeType:
    """A copy of *code* with *hooks*. Raises CannotInject."""
    try:
        return _Writer(code, hooks).written()
    except NoFlow as error:
        raise CannotInject(str(error)) from None
    except (LookupError, ValueError) as error:  # other compilers' code, in whatever way it is odd
        raise CannotInject(f"{type(error).__name__}: {error}") from error


def lines_in_loops(code: types.CodeType) -> set[int]:
    """The lines of *code* that may run again and again."""
    found: set[int] = set()
    lines = [line for line, _, _, _ in code.co_positions()]
    for instruction in dis.get_instructions(code):
        if "JUMP_BACKWARD" in instruction.opname:
            body = lines[instruction.argval // 2 : instruction.offset // 2 + 1]
            found.update(line for line in body if line)
    return found


# -- what is put in --------------------------------------------------------------------------------


def _assembled(op: str | int, arg: int = 0, prefixes: int = 0) -> bytes:
    """An instruction with its inline caches, and at least so many EXTENDED_ARGs."""
    number = OP[op] if isinstance(op, str) else op
    itself = bytes((number, arg & 0xFF)) + bytes(2 * CACHES[number])
    prefixes = max(prefixes, _prefixes(arg))
    if not prefixes:
        return itself
    extended = [bytes((EXTENDED_ARG, arg >> 8 * k & 0xFF)) for k in range(prefixes, 0, -1)]
    return b"".join((*extended, itself))


def _prefixes(arg: int) -> int:
    """How many EXTENDED_ARGs *arg* needs."""
    return (max(arg, 1).bit_length() - 1) // 8


@functools.cache
def _call_if_set() -> bytes:
    """Call the function on top of the stack, unless it is None: then this takes 5 ns."""
    call = _assembled("PUSH_NULL") + _assembled("SWAP", 2)
    call += _assembled("PRECALL", 0) + _assembled("CALL", 0)
    look = _assembled("COPY", 1) + _assembled("POP_JUMP_FORWARD_IF_NONE", len(call) // 2)
    return look + call + _assembled("POP_TOP")


def _call_with_top(name: int) -> bytes:
    """Call the builtin number *name*, unless it is None, with what is on top of the stack, and
    leave that there. No other thread can come in between the two looks at the builtin."""
    call = _assembled("LOAD_GLOBAL", name << 1 | 1) + _assembled("COPY", 3)
    call += _assembled("PRECALL", 1) + _assembled("CALL", 1) + _assembled("POP_TOP")
    look = _assembled("POP_JUMP_FORWARD_IF_NONE", len(call) // 2)
    return _assembled("LOAD_GLOBAL", name << 1) + look + call


class _Around:
    """What is put around one instruction, in this order, and where all that comes to stand."""

    __slots__ = (
        *("start", "end", "jump", "skip", "hook", "told", "behind", "skip_prefixes", "prefixes"),
        *("begins", "hooked", "itself"),
    )

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.jump = False
        self.skip = False  # a jump over the hook, for those who come from above
        self.hook = b""  # for its line event
        self.told = b""  # of what it will return
        self.behind = b""
        self.skip_prefixes = 0
        self.prefixes = 0  # EXTENDED_ARGs that it did not have, being a jump
        self.begins = self.hooked = self.itself = start

    def ends(self) -> int:
        """Behind the instruction; what is put there comes after."""
        return self.itself + len(self.told) // 2 + self.prefixes + self.end - self.start


class _Writer:
    """Writes a code object anew, with hooks around its instructions."""

    def __init__(self, code: types.CodeType, hooks: Hooks) -> None:
        self._code = code
        self._flow = Flow(code)
        self._entries = _entries(code.co_linetable)
        self._names = {name: number for number, name in enumerate(code.co_names)}
        self._around: dict[int, _Around] = {}
        self._plan(hooks)
        self._around = dict(sorted(self._around.items()))
        self._starts = list(self._around)
        self._moved = [0]  # by how much, behind each of these
        self._positions = code.co_positions()
        self._passed = 0  # of these
        self._raw = bytearray()
        self._table = bytearray()
        self._kept = bytearray()  # by code unit: 1 for what is from the original

    def _plan(self, hooks: Hooks) -> None:
        flow = self._flow
        for i in flow.target:
            self._at(i).jump = True
        for i, silent_above in flow.firing() if hooks.lines else ():
            name = hooks.lines.get(flow.lines[i] or 0)
            if name is not None:
                at = self._at(i)
                at.hook = _assembled("LOAD_GLOBAL", self._name(name) << 1) + _call_if_set()
                at.skip = silent_above
        if hooks.entry is not None:
            load = _assembled("LOAD_GLOBAL", self._name(hooks.entry) << 1)
            self._at(flow.entry).behind = load + _call_if_set()
        if hooks.returned is not None:
            for i in flow.all("RETURN_VALUE"):
                self._at(i).told = _call_with_top(self._name(hooks.returned))
        if hooks.made is not None:
            for i in flow.all("MAKE_FUNCTION"):
                self._at(i).behind = _call_with_top(self._name(hooks.made))

    def _at(self, i: int) -> _Around:
        found = self._around.get(i)
        if found is None:
            found = self._around[i] = _Around(i, self._flow.end(i))
        return found

    def _name(self, name: str) -> int:
        return self._names.setdefault(name, len(self._names))

    def written(self) -> types.CodeType:
        while self._lay_out():
            pass
        self._write()
        original = self._code
        code = original.replace(
            co_code=bytes(self._raw),
            co_names=tuple(self._names),
            co_stacksize=original.co_stacksize + _STACK,
            co_linetable=bytes(self._table),
            co_exceptiontable=bytes(self._exception_table()),
        )
        lines: list[int | None] = []
        for start, end, line in code.co_lines():
            lines += [line] * ((end - start) // 2)
        if list(itertools.compress(lines, self._kept)) != self._flow.lines:
            raise CannotInject("its line table does not come out as it was")
        return code

    # -- where all comes to stand ------------------------------------------------------------------

    def _lay_out(self) -> bool:
        """Give every instruction its place; whether a jump had to grow, and moves what follows."""
        moved = 0
        self._moved = [moved]
        for start, around in self._around.items():
            around.begins = start + moved
            around.hooked = around.begins + around.skip + around.skip_prefixes
            around.itself = around.hooked + len(around.hook) // 2
            moved = around.ends() + len(around.behind) // 2 - around.end
            self._moved.append(moved)
        grown = False
        for around in self._around.values():
            if around.skip and _prefixes(around.itself - around.hooked) > around.skip_prefixes:
                around.skip_prefixes += 1
                grown = True
            if around.jump:
                has = self._flow.itself(around.start) - around.start + around.prefixes
                if _prefixes(self._distance(around)) > has:
                    around.prefixes += 1
                    grown = True
        return grown

    def _begins(self, i: int) -> int:
        """Where instruction *i* begins with all that is put before it."""
        return i + self._moved[bisect.bisect_left(self._starts, i)]

    def _landing(self, i: int, fires: bool) -> int:
        """Where to go for instruction *i*: to its hook, if its event fires then."""
        around = self._around.get(i)
        if around is None:
            return self._begins(i)
        return around.hooked if fires else around.itself

    def _distance(self, jump: _Around) -> int:
        """How far *jump* goes."""
        target = self._flow.target[jump.start]
        distance = self._landing(target, self._flow.fires(jump.start, target)) - jump.ends()
        return -distance if self._flow.op(jump.start) in BACKWARD else distance

    # -- writing -----------------------------------------------------------------------------------

    def _write(self) -> None:
        copied = 0
        for start, around in self._around.items():
            self._copy(copied, start)
            copied = start
            if around.skip:
                distance = around.itself - around.hooked
                self._put(_assembled("JUMP_FORWARD", distance, around.skip_prefixes), _HERE)
            if around.hook:
                self._put(around.hook, _NOWHERE)
            if around.told:
                self._tell(around)
                copied = around.end
            elif around.jump:
                self._jump(around)
                copied = around.end
            if around.behind:
                self._copy(copied, around.end)
                copied = around.end
                # Behind the entry a line begins; in the middle of one the rest would be a new one.
                self._put(around.behind, _NOWHERE if start == self._flow.entry else _HERE)
        self._copy(copied, len(self._flow.lines))

    def _copy(self, start: int, end: int) -> None:
        self._raw += self._code.co_code[2 * start : 2 * end]
        self._table += self._code.co_linetable[self._entries[start] : self._entries[end]]
        self._kept += b"\1" * (end - start)

    def _put(self, raw: bytes, form: int) -> None:
        units = len(raw) // 2
        self._raw += raw
        self._table += _location(form, units)
        self._kept += bytes(units)

    def _jump(self, jump: _Around) -> None:
        """The instruction *jump*, on its way to where its target stands now."""
        had = self._flow.itself(jump.start) - jump.start
        op = self._flow.op(jump.start)
        self._raw += _assembled(op, self._distance(jump), had + jump.prefixes)
        entry = self._code.co_linetable[self._entries[jump.start] : self._entries[jump.end]]
        if jump.prefixes + (entry[0] & 7) > 7:
            raise CannotInject("a jump does not have its entry of the line table for itself")
        self._table += bytes((entry[0] + jump.prefixes,)) + entry[1:]
        self._kept += bytes(jump.prefixes) + b"\1" * (jump.end - jump.start)

    def _tell(self, around: _Around) -> None:
        """Put what tells of a return in, as a part of its line, and the instruction behind it."""
        start, end, told = around.start, around.end, around.told
        here = _NOWHERE if self._flow.lines[start] is None else _HERE
        # The entry moves the line table on to the line: it must come first.
        self._table += self._code.co_linetable[self._entries[start] : self._entries[end]]
        self._table += _location(here, len(told) // 2 - (end - start))
        position = next(itertools.islice(self._positions, start - self._passed, None))
        self._passed = start + 1
        self._table += _again(position, end - start)
        self._raw += told + self._code.co_code[2 * start : 2 * end]
        self._kept += bytes(len(told) // 2) + b"\1" * (end - start)

    def _exception_table(self) -> Iterator[int]:
        """The original's, with entries split where raising on one line leads into the handler's
        hook and raising on another past it."""
        for tried in self._flow.exception_table:
            parts: Iterable[tuple[int, int, bool]] = ((tried.start, tried.end, False),)
            if tried.handler in self._around:
                parts = self._flow.raising_fires(tried)
            for first, behind, fires in parts:
                start, end = self._begins(first), self._begins(behind)
                landing = self._landing(tried.handler, fires)
                yield from _table_entry(start, end - start, landing, tried.depth)


# -- CPython's tables ------------------------------------------------------------------------------

# Forms of a line table's entries (Objects/locations.md). A new line is told by its distance from
# that of the last entry that had one, so what is put in between must not move that.
_NOWHERE = 15
_LINE = 13
_LONG = 14
_HERE = _LINE  # with a distance of 0: on the line of what comes before


def _entries(table: bytes) -> dict[int, int]:
    """Where the entry for each code unit begins in a line table, for those that begin an entry,
    and its end for the unit behind the last."""
    starts = [at for at, byte in enumerate(table) if byte & 0x80]
    units = itertools.accumulate(((table[at] & 7) + 1 for at in starts), initial=0)
    return dict(zip(units, [*starts, len(table)], strict=True))


def _location(form: int, units: int) -> bytes:
    """Entries of *form*, nowhere or here, for so many code units."""
    end = b"\0" if form == _HERE else b""
    full, rest = divmod(units, 8)
    entries = (bytes((0x80 | form << 3 | 7,)) + end) * full
    return entries + (bytes((0x80 | form << 3 | rest - 1,)) + end if rest else b"")


def _again(position: tuple[int | None, int | None, int | None, int | None], units: int) -> bytes:
    """An entry for *position*, on whose line the entry before lies."""
    line, last, start, end = position
    if line is None:
        return _location(_NOWHERE, units)
    if last is None or start is None or end is None:
        return _location(_HERE, units)
    numbers = bytes(itertools.chain(*map(_varint, (last - line, start + 1, end + 1))))
    return bytes((0x80 | _LONG << 3 | units - 1, 0)) + numbers


def _varint(number: int) -> Iterator[int]:
    """Six bits a byte, the lowest first."""
    while number >= 64:
        yield 0x40 | number & 63
        number >>= 6
    yield number


def _table_entry(*numbers: int) -> Iterator[int]:
    """An entry of the exception table (Objects/exception_handling_notes.txt): six bits a byte, the
    highest first, and a mark on the first byte of all."""
    mark = 0x80
    for number in numbers:
        for shift in range((max(number, 1).bit_length() - 1) // 6 * 6, -1, -6):
            yield mark | (0x40 if shift else 0) | number >> shift & 63
            mark = 0
