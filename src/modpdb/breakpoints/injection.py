"""Puts hook calls into a code object of Python 3.11, where its line events fire.

A line event belongs to an edge p → i of the bytecode: it fires before instruction i when i lies on
another line than p, or when i is jumped back to. So a hook stands on exactly those edges; where an
instruction is reached by edges that fire and others that do not, only the former are led through
it. The hooks have no source location: tracers, tracebacks and coverage see the lines they would
see without.
"""

from __future__ import annotations

import dis
import functools
import itertools
import types
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bytecode import ConcreteBytecode, ConcreteInstr
from bytecode.concrete import ExceptionTableEntry
from bytecode.instr import InstrLocation

_NOWHERE = InstrLocation(None, None, None, None)
_NEVER_FALL_THROUGH = {
    *("RETURN_VALUE", "RAISE_VARARGS", "RERAISE"),
    *("JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"),
}
_STACK = 3  # what a hook needs on top of what is there

_Position = tuple[int | None, int | None, int | None, int | None]


class CannotInject(Exception):
    """The code object cannot be given hooks; the message says why."""


@dataclass(frozen=True)
class Hooks:
    """Names of builtins to call: None, or a function without arguments, looked up anew each time.

    ``entry`` is called once per call, before the first line; ``lines`` before the line events of
    these lines. ``made`` is called with every function that the code makes, as soon as it is made.
    """

    entry: str | None = None
    lines: Mapping[int, str] = field(default_factory=dict)
    made: str | None = None


def inject(code: types.CodeType, hooks: Hooks) -> types.CodeType:
    """A copy of *code* with *hooks*. Raises CannotInject."""
    try:
        concrete = ConcreteBytecode.from_code(code)
        flow = _Flow(concrete)
        return _Writer(flow, hooks, concrete).written(code)
    except CannotInject:
        raise
    except Exception as error:  # of the library, for a code object it does not understand
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


class _Flow:
    """The instructions of a code object, by index, and the edges between them.

    ``instructions`` holds the inline caches too, as the library has them.
    """

    def __init__(self, concrete: ConcreteBytecode) -> None:
        self.instructions: list[ConcreteInstr] = list(concrete)
        self.names = [each.name for each in self.instructions]
        self.lines = [each.location.lineno for each in self.instructions]
        if "RESUME" not in self.names:
            raise CannotInject("no RESUME instruction")
        self.entry = self.names.index("RESUME")
        self.index_at: list[int] = []  # by offset in code units
        for i, each in enumerate(self.instructions):
            self.index_at += [i] * (each.size // 2)
        self.target: dict[int, int] = {}  # of each jump
        self._falls: dict[int, int] = {}
        self._jumps: dict[int, list[int]] = defaultdict(list)
        self._find_edges()
        self._tried: dict[int, list[range]] = defaultdict(list)  # by the handler
        for entry in concrete.exception_table:
            self._tried[self.index_at[entry.target]].append(self.tried(entry))

    def _find_edges(self) -> None:
        previous: int | None = None
        offset = 0
        for i, each in enumerate(self.instructions):
            if self.names[i] != "CACHE":
                if previous is not None:
                    self._falls[i] = previous
                to = each.get_jump_target(offset)
                if to is not None:
                    self.target[i] = self.index_at[to]
                    self._jumps[self.index_at[to]].append(i)
                previous = None if self.names[i] in _NEVER_FALL_THROUGH else i
            offset += each.size // 2

    def fires(self, p: int, i: int) -> bool:
        """Whether going from instruction *p* to *i* raises a line event."""
        if self.lines[i] is None or self.names[i] == "RESUME" or i <= self.entry:
            return False
        if p <= self.entry or self.lines[p] != self.lines[i]:
            return True
        return i < p and self.names[i] != "SEND"  # CPython leaves that out

    def falling_fires(self, i: int) -> bool | None:
        """Whether an event fires when *i* is reached from above; None where it never is."""
        return self.fires(self._falls[i], i) if i in self._falls else None

    def tried(self, entry: ExceptionTableEntry) -> range:
        """The instructions that *entry* of the exception table covers."""
        return range(self.index_at[entry.start_offset], self.index_at[entry.stop_offset] + 1)

    def may_fire(self, i: int) -> bool:
        return bool(
            self.falling_fires(i)
            or any(self.fires(p, i) for p in self._jumps.get(i, ()))
            or any(self.fires(p, i) for tried in self._tried.get(i, ()) for p in tried)
        )


class _Writer:
    """Writes the instructions of a flow anew, with hooks between them."""

    def __init__(self, flow: _Flow, hooks: Hooks, concrete: ConcreteBytecode) -> None:
        self._flow = flow
        self._hooks = hooks
        self._concrete = concrete
        self._names = list(concrete.names)
        self._out: list[ConcreteInstr] = []
        self._jumps: list[tuple[int, int, bool]] = []  # index in _out, target, through its hook
        # Of each instruction, as indices in _out: where it begins with all that was put before
        # it, its hook if it has one, itself, and where what was put behind it ends.
        self._start: list[int] = []
        self._hook: dict[int, int] = {}
        self._self: list[int] = []
        self._end: list[int] = []
        for i, each in enumerate(flow.instructions):
            self._start.append(len(self._out))
            if flow.names[i] == "CACHE":
                self._self.append(len(self._out))
                self._out.append(each)
            else:
                self._write(i, each)
            self._end.append(len(self._out))

    def _write(self, i: int, each: ConcreteInstr) -> None:
        flow, out = self._flow, self._out
        name, line = flow.names[i], flow.lines[i]
        hook = None if line is None else self._hooks.lines.get(line)
        if hook is not None and flow.may_fire(i):
            if flow.falling_fires(i) is False:
                self._jump("JUMP_FORWARD", i, False, each.location)
            self._hook[i] = len(out)
            out += self._call_if_set(hook)
        self._self.append(len(out))
        to = flow.target.get(i)
        if to is not None:
            self._jump(name, to, flow.fires(i, to), each.location)
        else:
            out.append(each)
        if i == flow.entry and self._hooks.entry is not None:
            out += self._call_if_set(self._hooks.entry)
        elif name == "MAKE_FUNCTION" and self._hooks.made is not None:
            out += self._call_with_top(self._hooks.made, each.location)

    def _jump(self, name: str, to: int, through_hook: bool, location: InstrLocation) -> None:
        self._jumps.append((len(self._out), to, through_hook))
        self._out.append(ConcreteInstr(name, 0, location=location))

    def _landing(self, i: int, through_hook: bool) -> int:
        return self._hook.get(i, self._self[i]) if through_hook else self._self[i]

    def _name(self, name: str) -> int:
        if name not in self._names:
            self._names.append(name)
        return self._names.index(name)

    def _call_if_set(self, name: str) -> list[ConcreteInstr]:
        """Call the builtin *name* unless it is None, in which case this takes 5 ns.

        The value is loaded once: another thread may set it to None at any time.
        """
        load = _with_caches([("LOAD_GLOBAL", self._name(name) << 1)], _NOWHERE)
        return [*load, *_CALL_IF_SET]

    def _call_with_top(self, name: str, location: InstrLocation) -> list[ConcreteInstr]:
        """Call the builtin *name*, unless it is None, with the function on top of the stack, and
        leave that there. No other thread can come in between the two looks at it.

        This stands in the middle of a line, so it lies on it: else the rest would be a new line.
        """
        number = self._name(name) << 1
        call = _with_caches([("LOAD_GLOBAL", number | 1), ("COPY", 3), ("PRECALL", 1)], location)
        call += _with_caches([("CALL", 1), ("POP_TOP",)], location)
        distance = sum(each.size for each in call) // 2
        look = [("LOAD_GLOBAL", number), ("POP_JUMP_FORWARD_IF_NONE", distance)]
        return _with_caches(look, location) + call

    def written(self, original: types.CodeType) -> types.CodeType:
        offsets = self._settle_jumps()
        positions: list[_Position] = []
        for where, group in itertools.groupby(self._out, key=lambda each: each.location):
            position = (where.lineno, where.end_lineno, where.col_offset, where.end_col_offset)
            positions += [position] * (sum(each.size for each in group) // 2)
        code = original.replace(
            co_code=b"".join(each.assemble() for each in self._out),
            co_names=tuple(self._names),
            co_stacksize=original.co_stacksize + _STACK,
            co_linetable=bytes(_line_table(positions, original.co_firstlineno)),
            co_exceptiontable=bytes(self._exception_table(offsets)),
        )
        if list(code.co_positions()) != positions:
            raise CannotInject("its line table does not come out as it was")
        return code

    def _settle_jumps(self) -> list[int]:
        """Give every jump its distance, until none needs to grow for it; the offset of each
        instruction, in code units."""
        while True:
            offsets = list(itertools.accumulate((each.size // 2 for each in self._out), initial=0))
            grown = False
            for i, target, through_hook in self._jumps:
                jump = self._out[i]
                landing = offsets[self._landing(target, through_hook)]
                distance = landing - offsets[i + 1] - jump.use_cache_opcodes()
                if jump.is_backward_rel_jump():
                    distance = -distance
                prefixes = max(jump.size // 2 - 1, (max(distance, 1).bit_length() - 1) // 8)
                grown |= prefixes > jump.size // 2 - 1
                self._out[i] = ConcreteInstr(
                    jump.name, distance, location=jump.location, extended_args=prefixes
                )
            if not grown:
                return offsets

    def _exception_table(self, offsets: list[int]) -> Iterator[int]:
        """The original's, with entries split where raising on one line leads into the handler's
        hook and raising on another past it."""
        flow = self._flow
        for entry in self._concrete.exception_table:
            target = flow.index_at[entry.target]
            depth = entry.stack_depth << 1 | entry.push_lasti
            fires_from = functools.partial(flow.fires, i=target)
            for fires, part in itertools.groupby(flow.tried(entry), fires_from):
                first, *rest = part
                start = offsets[self._start[first]]
                length = offsets[self._end[rest[-1] if rest else first]] - start
                handler = offsets[self._landing(target, fires)]
                yield from _table_entry(start, length, handler, depth)


def _with_caches(
    parts: Sequence[tuple[str] | tuple[str, int]], location: InstrLocation
) -> list[ConcreteInstr]:
    """Instructions with the inline caches that each of them must have."""
    instructions: list[ConcreteInstr] = []
    for part in parts:
        each = ConcreteInstr(*part, location=location)
        cache = ConcreteInstr("CACHE", 0, location=location)
        instructions += [each, *[cache] * each.use_cache_opcodes()]
    return instructions


_CALL = _with_caches([("PUSH_NULL",), ("SWAP", 2), ("PRECALL", 0), ("CALL", 0)], _NOWHERE)
_CALL_IF_SET = [
    *_with_caches([("COPY", 1), ("POP_JUMP_FORWARD_IF_NONE", len(_CALL))], _NOWHERE),
    *_CALL,
    *_with_caches([("POP_TOP",)], _NOWHERE),
]


# -- CPython's tables ------------------------------------------------------------------------------


def _line_table(positions: Sequence[_Position], line: int) -> Iterator[int]:
    """Encode one position per code unit, as CPython's Objects/locations.md has it.

    bytecode 0.19 writes columns from 128 to 255 in the one-line form, which is for columns below
    128 on 3.11: all that follows is off. This knows the long form only.
    """
    for position, group in itertools.groupby(positions):
        units = len(list(group))
        first, last, start, end = position
        long = last is not None and start is not None and end is not None
        form = 15 if first is None else 14 if long else 13
        while units > 0:
            yield 0x80 | form << 3 | min(units, 8) - 1
            units -= 8
            if first is None:
                continue
            yield from _signed(first - line)
            line = first
            if last is not None and start is not None and end is not None:
                for number in (last - first, start + 1, end + 1):
                    yield from _varint(number)


def _signed(number: int) -> Iterator[int]:
    return _varint(-number << 1 | 1 if number < 0 else number << 1)


def _varint(number: int) -> Iterator[int]:
    """Six bits a byte, the lowest first."""
    while number >= 64:
        yield 0x40 | number & 63
        number >>= 6
    yield number


def _table_entry(*numbers: int) -> Iterator[int]:
    """An entry of the exception table, as Objects/exception_handling_notes.txt has it: six bits a
    byte, the highest first, and a mark on the first byte of all."""
    mark = 0x80
    for number in numbers:
        for shift in range((max(number, 1).bit_length() - 1) // 6 * 6, -1, -6):
            yield mark | (0x40 if shift else 0) | number >> shift & 63
            mark = 0
