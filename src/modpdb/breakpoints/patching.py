"""Notices by hook calls put into code objects (3.11, which has no sys.monitoring).

A function in which somebody waits is given a copy of its code with a hook before every line, so
that breakpoints can be added to it while it runs; a hook nobody waits at costs 3 ns. A module that
is not loaded yet runs a copy of its code; functions that exist are given theirs; the code around
nested functions is copied too, for those made later. What runs already cannot be exchanged: it is
traced until it returns.
"""

from __future__ import annotations

import builtins
import dis
import itertools
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from modpdb.breakpoints import live
from modpdb.breakpoints.engine import Place, Wiring, who_stops
from modpdb.breakpoints.injection import CannotInject, Hooks, inject, lines_in_loops
from modpdb.breakpoints.lines import walk

_numbers = itertools.count()
_Runs = types.FrameType | live.Suspended | types.CodeType


class _Thread(threading.local):
    ringing = False


_thread = _Thread()


class _Site:
    """A builtin that hooks call: None while nobody waits for what it stands for.

    A builtin and not a constant of the code: torch.compile refuses code with a function among its
    constants.
    """

    def __init__(self, place: Place, line: int | None) -> None:
        self.name = f"__modpdb_{next(_numbers)}__"
        self._place = place
        self._line = line
        setattr(builtins, self.name, None)

    def arm(self, wanted: bool) -> None:
        setattr(builtins, self.name, self._hook() if wanted else None)

    def _hook(self) -> Callable[[], None]:
        place, line = self._place, self._line

        def hook() -> None:
            if _thread.ringing:  # what a condition calls comes by breakpoints, too
                return
            _thread.ringing = True
            try:
                frame = sys._getframe(1)
                watches = place.entry if line is None else place.lines.get(line, ())
                for engine in who_stops(watches, frame):
                    engine.debugger.wake(frame)
            finally:
                _thread.ringing = False

        hook._torchdynamo_disable = True  # type: ignore[attr-defined]
        return hook


class _Sites:
    """The sites of one code object."""

    def __init__(self, place: Place, lines: set[int]) -> None:
        self._place = place
        self._entry = _Site(place, None)
        self._lines = {line: _Site(place, line) for line in sorted(lines)}

    def arm(self) -> None:
        self._entry.arm(bool(self._place.entry))
        for line, site in self._lines.items():
            site.arm(line in self._place.lines)

    def hooks(self) -> Hooks:
        return Hooks(self._entry.name, {line: site.name for line, site in self._lines.items()})

    def cover(self) -> bool:
        """Whether there is a site for every line at which somebody waits."""
        return self._place.lines.keys() <= self._lines.keys()


@dataclass(eq=False)
class _Stray:
    """Something that runs code without hooks: a frame on a stack, a generator that sleeps, or a
    module's code about to run; and the code objects in which somebody waits in vain."""

    what: _Runs
    codes: dict[int, tuple[types.CodeType, Place]]

    def ended(self, returning: types.FrameType | None) -> bool:
        if isinstance(self.what, types.FrameType):
            return self.what is returning
        if isinstance(self.what, types.CodeType):
            return returning is not None and returning.f_code is self.what
        return live.frame_of(self.what) is None


class Patching(Wiring):
    """Exchanges code objects for copies with hooks."""

    def __init__(self) -> None:
        super().__init__()
        self._sites: dict[int, _Sites] = {}  # by the id of the original
        self._copies: dict[int, types.CodeType] = {}  # the one in use, by the id of the original
        self._originals: dict[int, tuple[types.CodeType, types.CodeType]] = {}  # copy, original
        self._hooked: set[int] = set()  # ids of copies with hooks
        self._main: types.CodeType | None = None
        self._made = f"__modpdb_{next(_numbers)}__"
        setattr(builtins, self._made, self._function_made)
        self._dirty: dict[int, Place] = {}
        self._strays: list[_Stray] = []
        self.tracer.on_return = self._returned

    def original(self, code: types.CodeType) -> types.CodeType:
        known = self._originals.get(id(code))
        return code if known is None else known[1]

    def changed(self, place: Place) -> None:
        sites = self._sites.get(id(place.code))
        if sites is not None:
            sites.arm()
        self._dirty[id(place.code)] = place

    def instrument(self, code: types.CodeType, main: bool = False) -> types.CodeType:
        if main:
            self._main = code
        self._imported = code
        if main or (self._dirty and self._is_watched(code)):
            for each in walk(code):
                self._dirty.pop(id(each), None)
            self._imported = self._current(code)
        return self._imported

    def _is_watched(self, code: types.CodeType) -> bool:
        return any(id(each) in self._places for each in walk(code))

    def _function_made(self, function: types.FunctionType) -> None:
        """The script's own code has made a function, perhaps from code of before a breakpoint."""
        self._exchange(function)

    # -- copies ------------------------------------------------------------------------------------

    def _current(self, original: types.CodeType) -> types.CodeType:
        """What should run in the place of *original*: a copy if somebody waits in it or in what
        is nested in it."""
        consts = tuple(
            self._current(self.original(each)) if isinstance(each, types.CodeType) else each
            for each in original.co_consts
        )
        wanted = self._wanted(original)
        if not wanted and all(map(_same, consts, original.co_consts)):
            self._copies.pop(id(original), None)
            return original
        copy = self._copies.get(id(original))
        if copy is not None and (id(copy) in self._hooked) == wanted:
            if all(map(_same, consts, copy.co_consts)):
                return copy
        return self._copy(original, consts, wanted)

    def _wanted(self, original: types.CodeType) -> bool:
        """Whether *original* should have hooks."""
        place = self._places.get(id(original))
        return original is self._main or (place is not None and place.is_watched())

    def _copy(
        self, original: types.CodeType, consts: tuple[object, ...], wanted: bool
    ) -> types.CodeType:
        copy = original.replace(co_consts=consts)
        if wanted:
            try:
                copy = inject(copy, self._hooks_for(original))
                self._hooked.add(id(copy))
            except CannotInject:
                self.tracer.trace({id(copy): (copy, self.place(original))})
        self._copies[id(original)] = copy
        self._originals[id(copy)] = copy, original
        return copy

    def _hooks_for(self, original: types.CodeType) -> Hooks:
        sites = self._sites.get(id(original))
        if sites is None:
            place = self.place(original)
            lines = {line for _, _, line in original.co_lines() if line}
            if original is self._main and not place.lines:
                # It runs once, whatever will be set in it: its loops must not pay for that.
                lines -= lines_in_loops(original)
            sites = self._sites[id(original)] = _Sites(place, lines)
            sites.arm()
        hooks = sites.hooks()
        if original is self._main:
            return Hooks(hooks.entry, hooks.lines, self._made)
        return hooks

    # -- what is there already ---------------------------------------------------------------------

    def settle(self) -> list[str]:
        self._returned(None)
        if not self._dirty:
            return []
        dirty, self._dirty = self._dirty, {}
        files = {place.code.co_filename for place in dirty.values()}
        for function in live.functions():
            if function.__code__.co_filename in files:
                self._exchange(function)
        return list(self._trace_strays(files))

    def _exchange(self, function: types.FunctionType) -> None:
        code = self._current(self.original(function.__code__))
        # With builtins of its own it would not find the sites: it stays as it is, and is traced.
        if code is not function.__code__ and function.__builtins__ is builtins.__dict__:  # type: ignore[attr-defined]
            function.__code__ = code

    def _trace_strays(self, files: set[str]) -> Iterator[str]:
        known = [stray.what for stray in self._strays]
        for thread, frame in live.stacks():
            if frame.f_code.co_filename in files and not any(frame is each for each in known):
                if self._add_stray(frame, frame.f_code, frame.f_lasti):
                    yield _said_of(frame, thread)
        for each in live.suspended():
            asleep = live.frame_of(each)
            if asleep is None or asleep.f_code.co_filename not in files:
                continue
            if any(each is other for other in known):
                continue
            if self._add_stray(each, asleep.f_code, asleep.f_lasti):
                yield _said_of(asleep, None)

    def _uncovered(
        self, code: types.CodeType, offset: int = -1
    ) -> Iterator[tuple[int, tuple[types.CodeType, Place]]]:
        """The code objects that run or are made from where *code* runs, in which somebody waits
        and no hook tells. *offset*: how far it has come."""
        original = self.original(code)
        place = self._places.get(id(original))
        hooked = id(code) in self._hooked
        if place is not None and (place.lines or (place.entry and offset < 0)):
            if not hooked or not self._sites[id(original)].cover():
                yield id(code), (code, place)
        if hooked and original is self._main:
            return  # what it makes is looked at as it is made
        for each in _still_made(code, offset):
            yield from self._uncovered(each)

    def _executing(self, code: types.CodeType) -> None:
        if self._is_watched(code) and self._add_stray(code, code):
            self.tracer.start()

    def _add_stray(self, what: _Runs, code: types.CodeType, offset: int = -1) -> bool:
        """Trace *what*, which has come to *offset* in *code*, if somebody waits in vain there."""
        codes = dict(self._uncovered(code, offset))
        if all(map(self.tracer.traces, codes)):
            return False
        codes.setdefault(id(code), (code, self.place(code)))  # to see it return
        self._strays.append(_Stray(what, codes))
        self.tracer.trace(codes)
        return True

    def _returned(self, frame: types.FrameType | None) -> None:
        """*frame* returns: trace no longer what ran there only."""
        ended = [stray for stray in self._strays if stray.ended(frame)]
        if not ended:
            return
        self._strays = [stray for stray in self._strays if stray not in ended]
        codes = {}
        for stray in self._strays:
            codes.update(stray.codes)
        self.tracer.trace_only(codes)
        if any(isinstance(stray.what, types.CodeType) for stray in ended):
            self._dirty.update({id(place.code): place for _, place in ended[0].codes.values()})
            self.settle()


def _still_made(code: types.CodeType, offset: int) -> Iterator[types.CodeType]:
    """The code objects of functions that *code* can make once it has come to *offset*."""
    instructions = list(dis.get_instructions(code))
    back_to = min(
        (
            each.argval
            for each in instructions
            if "JUMP_BACKWARD" in each.opname and each.argval <= offset <= each.offset
        ),
        default=offset,
    )
    for each in instructions:
        if isinstance(each.argval, types.CodeType) and each.offset >= back_to:
            yield each.argval


def _same(one: object, other: object) -> bool:
    return one is other


def _said_of(frame: types.FrameType, thread: int | None) -> str:
    name = frame.f_code.co_qualname
    if thread not in (None, threading.get_ident()):
        return f"{name} runs in another thread already: it stops there from its next call on"
    return (
        f"{name} runs already: until it returns, every call in the script is traced, which takes "
        "about 1.4 times as long"
    )
