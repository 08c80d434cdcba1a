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

import dis
import functools
import itertools
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from modpdb.breakpoints.flow import BACKWARD, CACHES, EXTENDED_ARG, OP, Flow, NoFlow

_STACK = 3  # what a hook needs on top of what is there


class CannotInject(Exception):
    """The code object cannot be given hooks; the message says why."""


@dataclass(frozen=True)
class Hooks:
    """Names of builtins to call: None, or a function, looked up anew each time.

    ``entry`` is called once per call, before the first line; ``lines`` before the line events of
    these lines. ``returned`` is called with what is returned, ``made`` with every function that the
    code makes, as soon as it is made.
    """

    entry: str | None = None
    lines: Mapping[int, str] = field(default_factory=dict)
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
    prefixes = max(prefixes, _prefixes(arg))
    extended = [bytes((EXTENDED_ARG, arg >> 8 * k & 0xFF)) for k in range(prefixes, 0, -1)]
    return b"".join(extended) + bytes((number, arg & 0xFF)) + bytes(2 * CACHES[number])


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


@dataclass(slots=True)
class _Around:
    """What is put around one instruction, in this order."""

    skip: bool = False  # a jump over the hook, for those who come from above
    hook: bytes = b""  # for its line event
    told: bytes = b""  # of what it will return
    behind: bytes = b""
    skip_prefixes: int = 0
    prefixes: int = 0  # EXTENDED_ARGs that it did not have, being a jump


_NOTHING = _Around()


class _Writer:
    """Writes a code object anew, with hooks around its instructions."""

    def __init__(self, code: types.CodeType, hooks: Hooks) -> None:
        self._code = code
        self._flow = Flow(code)
        self._entries = _entries(code.co_linetable)
        self._names = {name: number for number, name in enumerate(code.co_names)}
        self._around: dict[int, _Around] = {i: _Around() for i in self._flow.target}
        self._plan(hooks)
        self._around = dict(sorted(self._around.items()))
        # Of each instruction: where it begins with all that is put before it, its hook if it has
        # one, itself, and where it ends with all that is put behind it.
        self._begins: list[int] = []
        self._hooked: list[int] = []
        self._itself: list[int] = []
        self._ends: list[int] = []
        self._raw = bytearray()
        self._table = bytearray()
        self._kept = bytearray()  # by code unit: 1 for what is from the original

    def _plan(self, hooks: Hooks) -> None:
        flow = self._flow
        for i, line in enumerate(flow.lines):
            name = None if line is None else hooks.lines.get(line)
            if name is not None and flow.may_fire(i):
                at = self._at(i)
                at.hook = _assembled("LOAD_GLOBAL", self._name(name) << 1) + _call_if_set()
                at.skip = flow.falling_fires(i) is False
        if hooks.entry is not None:
            load = _assembled("LOAD_GLOBAL", self._name(hooks.entry) << 1)
            self._at(flow.entry).behind = load + _call_if_set()
        for i, (_, _, op, _) in enumerate(flow.instructions):
            if op == OP["RETURN_VALUE"] and hooks.returned is not None:
                self._at(i).told = _call_with_top(self._name(hooks.returned))
            elif op == OP["MAKE_FUNCTION"] and hooks.made is not None:
                self._at(i).behind = _call_with_top(self._name(hooks.made))

    def _at(self, i: int) -> _Around:
        return self._around.setdefault(i, _Around())

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
        kept = itertools.compress(code.co_positions(), self._kept)
        if list(kept) != list(original.co_positions()):
            raise CannotInject("its line table does not come out as it was")
        return code

    # -- where all comes to stand ------------------------------------------------------------------

    def _lay_out(self) -> bool:
        """Give every instruction its place; whether a jump had to grow, and moves what follows."""
        begins, hooked, itself, ends = self._begins, self._hooked, self._itself, self._ends
        for places in (begins, hooked, itself, ends):
            places.clear()
        at = 0
        for i, each in enumerate(self._flow.instructions):
            around = self._around.get(i, _NOTHING)
            begins.append(at)
            at += around.skip + around.skip_prefixes
            hooked.append(at)
            at += len(around.hook) // 2
            itself.append(at)
            at += len(around.told) // 2 + around.prefixes + each.end - each.start
            ends.append(at + len(around.behind) // 2)
            at = ends[-1]
        grown = False
        for i, around in self._around.items():
            if around.skip and _prefixes(self._skip_distance(i)) > around.skip_prefixes:
                around.skip_prefixes += 1
                grown = True
            if i in self._flow.target:
                start, end, _, _ = self._flow.instructions[i]
                if _prefixes(self._distance(i)) > end - start - 1 + around.prefixes:
                    around.prefixes += 1
                    grown = True
        return grown

    def _skip_distance(self, i: int) -> int:
        return self._itself[i] - self._hooked[i]

    def _distance(self, i: int) -> int:
        """How far the jump *i* goes: to the hook before its target, where its event fires."""
        landing = self._landing(self._flow.target[i], self._flow.fires(i, self._flow.target[i]))
        end = self._ends[i] - len(self._around[i].behind) // 2
        distance = landing - end
        return -distance if self._flow.instructions[i].op in BACKWARD else distance

    def _landing(self, i: int, fires: bool) -> int:
        return self._hooked[i] if fires else self._itself[i]

    # -- writing -----------------------------------------------------------------------------------

    def _write(self) -> None:
        copied = 0
        for i, around in self._around.items():
            start, end, _, _ = self._flow.instructions[i]
            self._copy(copied, start)
            copied = start
            if around.skip:
                jump = _assembled("JUMP_FORWARD", self._skip_distance(i), around.skip_prefixes)
                self._put(jump, _HERE)
            if around.hook:
                self._put(around.hook, _NOWHERE)
            if around.told:
                self._tell(i, around.told)
                copied = end
            elif i in self._flow.target:
                self._jump(i, around)
                copied = end
            if around.behind:
                self._copy(copied, end)
                copied = end
                # Behind the entry a line begins; in the middle of one the rest would be a new one.
                self._put(around.behind, _NOWHERE if i == self._flow.entry else _HERE)
        self._copy(copied, len(self._code.co_code) // 2)

    def _copy(self, start: int, end: int) -> None:
        self._raw += self._code.co_code[2 * start : 2 * end]
        self._table += self._code.co_linetable[self._entries[start] : self._entries[end]]
        self._kept += b"\1" * (end - start)

    def _put(self, raw: bytes, form: int) -> None:
        units = len(raw) // 2
        self._raw += raw
        self._table += _location(form, units)
        self._kept += bytes(units)

    def _jump(self, i: int, around: _Around) -> None:
        """The jump *i*, on its way to where its target stands now."""
        start, end, op, _ = self._flow.instructions[i]
        self._raw += _assembled(op, self._distance(i), end - start - 1 + around.prefixes)
        entry = self._code.co_linetable[self._entries[start] : self._entries[end]]
        if around.prefixes + (entry[0] & 7) > 7:
            raise CannotInject("a jump does not have its entry of the line table for itself")
        self._table += bytes((entry[0] + around.prefixes,)) + entry[1:]
        self._kept += bytes(around.prefixes) + b"\1" * (end - start)

    def _tell(self, i: int, told: bytes) -> None:
        """Put *told* in, as a part of the line that returns, and the instruction *i* behind it."""
        start, end, _, _ = self._flow.instructions[i]
        here = _NOWHERE if self._flow.lines[i] is None else _HERE
        # The entry moves the line table on to the line: it must come first.
        self._table += self._code.co_linetable[self._entries[start] : self._entries[end]]
        self._table += _location(here, len(told) // 2 - (end - start))
        position = next(itertools.islice(self._code.co_positions(), start, None))
        self._table += _again(position, end - start)
        self._raw += told + self._code.co_code[2 * start : 2 * end]
        self._kept += bytes(len(told) // 2) + b"\1" * (end - start)

    def _exception_table(self) -> Iterator[int]:
        """The original's, with entries split where raising on one line leads into the handler's
        hook and raising on another past it."""
        for tried, handler, depth in self._flow.exception_table:
            fires_from = functools.partial(self._flow.fires, i=handler)
            for fires, part in itertools.groupby(tried, fires_from):
                first, *rest = part
                start = self._begins[first]
                length = self._ends[rest[-1] if rest else first] - start
                yield from _table_entry(start, length, self._landing(handler, fires), depth)


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
