"""Notices by hook calls put into code objects (3.11, which has no sys.monitoring).

A function in which somebody waits is given a copy of its code with a hook before every line, so
that breakpoints can be added to it while it runs; a hook nobody waits at costs 5 ns. A module that
is not loaded yet runs a copy of its code; functions that exist are given theirs; the code around
nested functions is copied too, for those made later. What runs already cannot be exchanged: it is
traced until it returns.
"""

from __future__ import annotations

import atexit
import builtins
import gc
import itertools
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator

from modpdb.breakpoints import live
from modpdb.breakpoints.engine import WatchedCode, Wiring, wake
from modpdb.breakpoints.injection import CannotInject, Hooks, inject, lines_in_loops
from modpdb.breakpoints.lines import walk
from modpdb.breakpoints.locations import is_function
from modpdb.breakpoints.settrace import Traced
from modpdb.breakpoints.uncompiled import keep_uncompiled
from modpdb.breakpoints.unhooked import Unhooked, still_made
from modpdb.collector import collector_paused

_numbers = itertools.count()


def _site() -> str:
    """The name of a builtin that hooks call: None while nobody waits for what it stands for.

    A builtin and not a constant of the code: torch.compile refuses code with a function among its
    constants.
    """
    name = f"__modpdb_{next(_numbers)}__"
    setattr(builtins, name, None)
    return name


class _Sites:
    """The sites of one code object, by name; a hook is made when somebody first waits there."""

    def __init__(self, place: WatchedCode, lines: set[int]) -> None:
        self._place = place
        self._entry = _site()
        self._exit = _site()
        self._lines = {line: _site() for line in sorted(lines)}
        self._made: dict[str, Callable[..., None]] = {}

    def arm(self) -> None:
        wanted = dict(self._wanted())
        for name in self._made.keys() - wanted.keys():
            setattr(builtins, name, None)
        for name, hook in wanted.items():
            if name not in self._made:
                self._made[name] = hook
                hook._torchdynamo_disable = True  # type: ignore[attr-defined]
                keep_uncompiled(hook)
            setattr(builtins, name, self._made[name])

    def _wanted(self) -> Iterator[tuple[str, Callable[..., None]]]:
        place = self._place
        if place.entry:
            yield self._entry, lambda: wake(place.entry, sys._getframe(1))
        if place.exit:
            yield self._exit, lambda value: place.will_return(sys._getframe(1), value)
        for line in place.lines:
            if line in self._lines:
                yield self._lines[line], self._line_hook(line)

    def _line_hook(self, line: int) -> Callable[[], None]:
        place = self._place
        return lambda: wake(place.lines.get(line, ()), sys._getframe(1))

    def hooks(self, made: str | None = None) -> Hooks:
        return Hooks(self._entry, self._lines, self._exit, made)

    def cover(self) -> bool:
        """Whether there is a site for every line at which somebody waits."""
        return self._place.lines.keys() <= self._lines.keys()


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
        setattr(builtins, self._made, None)
        self._dirty: dict[int, WatchedCode] = {}
        self._lock = threading.RLock()  # modules are loaded and executed in any thread
        self._unhooked = Unhooked(self.tracer, self._uncovered)
        self.tracer.on_return = self._returned
        atexit.register(self.restore)

    def original(self, code: types.CodeType) -> types.CodeType:
        known = self._originals.get(id(code))
        return code if known is None else known[1]

    def changed(self, place: WatchedCode) -> None:
        sites = self._sites.get(id(place.code))
        if sites is not None:
            sites.arm()
        with self._lock:
            self._dirty[id(place.code)] = place
        if self._main is not None and place.code.co_filename == self._main.co_filename:
            setattr(builtins, self._made, self._function_made)

    def instrument(self, code: types.CodeType, main: bool = False) -> types.CodeType:
        with self._lock:
            if main:
                self._main = code
            if not main and not self._is_watched(code):
                return super().instrument(code)
            for each in walk(code):
                self._dirty.pop(id(each), None)
            return super().instrument(self._current(code))

    def _is_watched(self, code: types.CodeType) -> bool:
        return code.co_filename in self._files and any(
            id(each) in self._places for each in walk(code)
        )

    def _function_made(self, function: types.FunctionType) -> None:
        """The script's own code has made a function, perhaps from code of before a breakpoint."""
        with self._lock:
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
        fits = copy is not None and (id(copy) in self._hooked) == wanted
        if copy is not None and fits and all(map(_same, consts, copy.co_consts)):
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
                with collector_paused():
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
        return sites.hooks(self._made if original is self._main else None)

    # -- what is there already ---------------------------------------------------------------------

    def settle(self) -> list[str]:
        with self._lock:
            self._unhooked.returned(None)
            if not self._dirty:
                return super().settle()
            dirty, self._dirty = self._dirty, {}
            files = {place.code.co_filename for place in dirty.values()}
            codes = [place.code for place in dirty.values()]
            functions = [f for f in live.functions() if f.__code__.co_filename in files]
            for function in functions:
                codes.append(function.__code__)
                self._exchange(function)
            return [*super().settle(), *self._unhooked.look_around(files, codes)]

    def _exchange(self, function: types.FunctionType) -> None:
        code = self._current(self.original(function.__code__))
        # With builtins of its own it would not find the sites: it stays as it is, and is traced.
        if code is not function.__code__ and function.__builtins__ is builtins.__dict__:  # type: ignore[attr-defined,unused-ignore]
            function.__code__ = code

    def restore(self) -> None:
        """Give every function its own code back: at the end of the process builtins go, and with
        them what hooks call, before the last functions have run."""
        copies = [copy for copy, _ in self._originals.values()]
        files = {copy.co_filename for copy in copies}
        for function in live.functions_of(files) if files else ():
            function.__code__ = self.original(function.__code__)
        # To look through all objects takes a fiftieth of a short conversion.
        hidden = self._held_elsewhere(copies)
        for each in gc.get_referrers(*hidden) if hidden else ():
            if type(each) is types.FunctionType:
                each.__code__ = self.original(each.__code__)

    def _held_elsewhere(self, copies: list[types.CodeType]) -> list[types.CodeType]:
        """Those of *copies*, functions', to which there are references besides those known here."""
        known = Counter(id(copy) for copy in self._copies.values())
        for copy in copies:
            known.update(id(const) for const in copy.co_consts if type(const) is types.CodeType)
        # Besides: `copies`, `self._originals`, `copy` itself and getrefcount's argument.
        return [
            copy
            for copy in copies
            if is_function(copy) and sys.getrefcount(copy) > known[id(copy)] + 4
        ]

    def _uncovered(self, code: types.CodeType, offset: int) -> Traced:
        original = self.original(code)
        place = self._places.get(id(original))
        hooked = id(code) in self._hooked
        found: Traced = {}
        wanted = place is not None and (place.lines or (place.entry and offset < 0))
        if wanted and not (hooked and self._sites[id(original)].cover()):
            found[id(code)] = code, place
        if hooked and original is self._main:
            return found  # what it makes is looked at as it is made
        for each in still_made(code, offset):
            found |= self._uncovered(each, -1)
        return found

    def _executing(self, code: types.CodeType) -> None:
        with self._lock:
            if self._is_watched(code) and self._unhooked.add(code, code):
                self.tracer.start()

    def _returned(self, frame: types.FrameType) -> None:
        with self._lock:
            if self._unhooked.returned(frame):  # a module's code: its functions can be hooked now
                for function in live.functions_in(frame.f_locals):
                    self._exchange(function)

    def after_fork(self) -> None:
        self._lock = threading.RLock()  # another thread may have held it
        super().after_fork()


def _same(one: object, other: object) -> bool:
    return one is other
