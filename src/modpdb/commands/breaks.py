"""`break` and its kin: by line as in pdb, and by name, loaded yet or not."""

from __future__ import annotations

import bdb
import dataclasses
import os
import re
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

from modpdb.breakpoints.books import NamedBreakpoint, is_over, named_breakpoints
from modpdb.breakpoints.inheritance import inherited, may_inherit
from modpdb.breakpoints.loaded import (
    definer,
    function_code,
    method_code,
    module_files,
    module_of,
    namespace,
    qualname,
)
from modpdb.breakpoints.locations import FileLine, Place, Spec
from modpdb.breakpoints.near_misses import near_misses
from modpdb.breakpoints.placement import Placement
from modpdb.commands.break_files import LINE, FilePlaces, loaded_files, may_come, similar_files
from modpdb.commands.break_numbers import BreakNumbers, why_no_condition
from modpdb.views.text import printable

if TYPE_CHECKING:
    from modpdb.breakpoints.engine import Engine
    from modpdb.breakpoints.locator import Locator

SetAt = Callable[[str, bool, str | None], None]
"""Sets a breakpoint at a place as typed, temporary or not, with a condition."""

_NAMES = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class BreakCommands(FilePlaces, BreakNumbers):
    """pdb's breakpoint commands with modpdb's places. Mixed into ModPdb."""

    if TYPE_CHECKING:
        engine: Engine
        locator: Locator
        curframe_locals: Any
        currentbp: int
        stopping_for: Any
        breaks: dict[str, list[int]]
        notes: list[str]
        commands_silent: dict[int, bool]

        def canonic(self, filename: str) -> str: ...
        def message(self, msg: str, end: str = "\n") -> None: ...
        def settle(self) -> None: ...
        def stops_anyway(self, frame: types.FrameType, line: int = ...) -> bool: ...
        def _add_to_breaks(self, filename: str, lineno: int) -> None: ...

    def do_break(self, arg: str, temporary: bool = False) -> None:
        """b(reak) [PLACE [, CONDITION]]

        PLACE is LINE, FILE:LINE, a function, Class.method, module:qualname,
        package.module.Class.method, a glob of names (*.modify_tensors), or a function and how
        many lines below its first (Class.method+3). What is not loaded yet is pending, and
        found when its module is imported. A function's breakpoint stops once per call, at its
        first line; that of a method which the class inherits only for instances of that class.
        @GLOB stops at modules by path, as break-module does; in the conversion of a script that a
        preset knows at tensors by name, as break-tensor does.
        Without PLACE: list the breakpoints.
        """
        if arg:
            self.set_breakpoint(arg, temporary, self._break_at)
        else:
            self._list_breaks()

    do_b = do_break

    def set_breakpoint(self, arg: str, temporary: bool, set_at: SetAt) -> None:
        """Set one at `PLACE[, CONDITION]`, by *set_at*, which says what came of it."""
        place, _, condition = (part.strip() for part in arg.partition(","))
        known = len(bdb.Breakpoint.bpbynumber)
        if problem := why_no_condition(condition):
            self.error(problem)
        else:
            set_at(place, temporary, condition or None)
        self.settle()
        self.set_nothing = len(bdb.Breakpoint.bpbynumber) == known

    def _break_at(self, place: str, temporary: bool, condition: str | None) -> None:
        if place.startswith("@"):
            from modpdb.commands.module_breaks import break_at_name

            # Mixed into ModPdb, which it is then.
            break_at_name(self, place[1:].strip(), temporary, condition)  # type: ignore[arg-type]
        elif match := LINE.fullmatch(place):
            self._break_line(match["file"], int(match["line"]), temporary, condition)
        else:
            self._break_function(place, temporary, condition)

    def do_tbreak(self, arg: str) -> None:
        """tbreak [PLACE [, CONDITION]]

        As `break`, but the breakpoint is gone after its first stop.
        """
        self.do_break(arg, True)

    def do_clear(self, arg: str) -> None:
        """cl(ear) [BPNUMBER ... | PLACE]

        Clear those breakpoints, or those set at PLACE, which is written as for `break`; without
        argument all, after asking.
        """
        if (numbers := self._with_bpnum(arg.strip())) is None:
            return
        arg = numbers
        if not arg or re.fullmatch(r"[\d\s]+", arg):
            super().do_clear(arg)  # type: ignore[misc]
            return
        try:
            found = self._numbers_at(arg)
        except ValueError as error:
            self.error(error)
            return
        if found:
            super().do_clear(" ".join(map(str, found)))  # type: ignore[misc]
        else:
            self.error(f"no breakpoint at {arg}; `b` lists them")

    do_cl = do_clear

    def _list_breaks(self) -> None:
        if not self.breaks:
            return
        import shutil  # with all it imports it would take 3 ms at every start

        self.message("Num Type         Disp Enb   Where")
        for each in bdb.Breakpoint.bpbynumber:
            if isinstance(each, NamedBreakpoint):
                lines = each.bpformat(shutil.get_terminal_size().columns).split("\n")
                for line in lines:
                    self.message("\t" * line.startswith("\t") + printable(line.lstrip("\t")))
            elif each is not None:
                self.message(each.bpformat())

    # -- setting -------------------------------------------------------------------------------

    def _break_line(self, file: str | None, line: int, temporary: bool, cond: str | None) -> None:
        place = str(line)
        if file is not None:
            file = file.strip()
            found = self.lookupmodule(file)
            if found is None:
                try:
                    self._set(self.line_to_come(file, line), temporary, cond)
                except ValueError as error:
                    self.error(error)
                return
            place = f"{found}:{line}"
        super().do_break(f"{place}, {cond}" if cond else place, temporary)  # type: ignore[misc]

    def line_to_come(self, file: str, line: int) -> FileLine:
        """A line of a file that is not there, which may come. Raises ValueError, with a sentence,
        where it cannot."""
        if several := loaded_files(file):
            raise ValueError(f"{file!r} may be {' or '.join(several)}: give more of the path")
        if not may_come(file):
            raise ValueError(f"{file!r} not found: looked in sys.path and in {os.getcwd()}")
        return FileLine(file, line)

    def _break_function(self, place: str, temporary: bool, condition: str | None) -> None:
        try:
            self._set(self.spec_of(place), temporary, condition)
        except ValueError as error:
            self.error(error)

    def _set(self, place: Place, temporary: bool, condition: str | None) -> None:
        breakpoint = NamedBreakpoint(place, temporary, condition)
        known = len(self.notes)
        self.add_breakpoint(breakpoint)
        self.message(printable(f"Breakpoint {breakpoint.number} {self.where(breakpoint)}"))
        for note in self.notes[known:]:
            self.message(note)
        del self.notes[known:]

    def add_breakpoint(self, breakpoint: NamedBreakpoint) -> None:
        """Note it in bdb's books, and look for its places from now on."""
        self._add_to_breaks(breakpoint.file, breakpoint.line)
        self._search_for(breakpoint)
        self.set_nothing = False

    def where(self, breakpoint: NamedBreakpoint) -> str:
        """Its places; that it is pending, with what may have been meant."""
        spec = breakpoint.spec
        # A glob is mostly meant for what is imported later: what it resembles now tells nothing.
        is_glob = isinstance(spec, Spec) and spec.is_glob
        near = "" if breakpoint.spots or is_glob else self._did_you_mean(spec)
        return f"{breakpoint.where()}{near}"

    def _search_for(self, breakpoint: NamedBreakpoint) -> None:
        placement = Placement(breakpoint, self.engine, self.locator, self._reached, self._note)
        breakpoint.when_deleted.append(placement.remove)

    def take_over_breakpoints(self) -> None:
        """Look for what other debuggers have noted in bdb's books, as bdb does for lines."""
        for each in named_breakpoints():
            self._search_for(each)

    # -- what a place means --------------------------------------------------------------------

    def spec_of(self, place: str) -> Spec:
        """What *place* names in the current frame, as in pdb, or wherever it is found.

        Raises ValueError for what is no place, or has no Python code.
        """
        spec = self._in_main(Spec.parse(place))
        if self.curframe is None or spec.module is not None or not _NAMES.fullmatch(spec.name):
            return spec
        in_frame = self._spec_in_frame(spec.name)
        return spec if in_frame is None else dataclasses.replace(in_frame, offset=spec.offset)

    def _in_main(self, spec: Spec) -> Spec:
        """The script that runs bears its file's name for its user, ``__main__`` for Python."""
        script = os.path.splitext(os.path.basename(self.mainpyfile))[0]
        if script and spec.module == script and script not in sys.modules:
            return dataclasses.replace(spec, module="__main__")
        return spec

    def _spec_in_frame(self, name: str) -> Spec | None:
        holder, _, last = name.rpartition(".")
        try:
            owner = self._evaluate(holder) if holder else None
            value = None if _is_class(owner) else self._evaluate(name)
        except Exception:
            return self._spec_in_file(name)
        if _is_class(owner):
            return _method(owner, last)
        return _spec_of(function_code(value), name, value)

    def _evaluate(self, expression: str) -> Any:
        return eval(expression, self.curframe.f_globals, self.curframe_locals)

    def _spec_in_file(self, name: str) -> Spec | None:
        """A function of the module at hand that has not been defined yet."""
        module = self.curframe.f_globals.get("__name__")
        here = Spec(module, name) if isinstance(module, str) else None
        return here if here and self.locator.exists(here) else None

    def _numbers_at(self, place: str) -> list[int]:
        """The breakpoints that were set at *place*."""
        if place.startswith("@"):
            known, written = [], {place}
        elif match := LINE.fullmatch(place):
            file = self.canonic(self.lookupmodule(match["file"].strip()) or match["file"])
            known = bdb.Breakpoint.bplist.get((file, int(match["line"])), [])
            written = {place}
        else:
            known = []
            written = {str(Spec.parse(place)), str(self.spec_of(place))}
        named = [each for each in named_breakpoints() if str(each.spec) in written]
        return [each.number for each in (*known, *named)]

    # -- reaching ------------------------------------------------------------------------------

    def _reached(
        self, breakpoint: NamedBreakpoint, frame: types.FrameType, note: str | None
    ) -> bool:
        if not breakpoint.always_asked and self.stops_anyway(frame):
            return False
        if not breakpoint.reached(frame, self.complain):
            return False
        if note is not None and not self.commands_silent.get(breakpoint.number):
            for line in note.split("\n"):
                self._note(line)
        self.stopped_by(breakpoint)
        return True

    def stopped_by(self, breakpoint: bdb.Breakpoint) -> None:
        self.currentbp = breakpoint.number
        self.stopping_for = breakpoint
        if is_over(breakpoint):
            self.do_clear(str(breakpoint.number))

    def complain(self, problem: str) -> None:
        self._note(f"*** {problem}")

    def _note(self, text: str) -> None:
        """Say *text* at the next stop, once however often it comes up before."""
        text = printable(text)
        if text not in self.notes:
            self.notes.append(text)

    # -- what was not found --------------------------------------------------------------------

    def never_found(self) -> list[str]:
        """A sentence for each breakpoint whose place was never loaded."""
        return [
            f"{each.kind} {each.number} was never reached: {self._why_missing(each.spec)}"
            for each in named_breakpoints()
            if not each.found
        ]

    def _why_missing(self, place: Place) -> str:
        if may_inherit(place) and (code := inherited(place)):
            return f"{place} is {code.co_qualname}, which its class statement does not show"
        return place.missing() + self._did_you_mean(place)

    def _did_you_mean(self, place: Place) -> str:
        near: list[str] = []
        if isinstance(place, FileLine):
            near = similar_files(place.file)
        elif isinstance(place, Spec):
            near = near_misses(place, self.locator.functions())
        return f"; did you mean {' or '.join(map(printable, near))}?" if near else ""


def _is_class(value: object) -> TypeGuard[type]:
    return issubclass(type(value), type)


def _method(cls: type, name: str) -> Spec | None:
    """The method *name* of *cls*: its own code, or the class's where it inherits."""
    owner = definer(cls, name)
    if owner is None:
        return None
    code = method_code(cls, name)
    spec = _spec_of(code, f"{qualname(cls)}.{name}", namespace(owner)[name])
    return spec if owner is cls else Spec(module_of(cls), f"{qualname(cls)}.{name}")


def _spec_of(code: types.CodeType | None, name: str, value: object) -> Spec:
    if code is None:
        raise ValueError(f"{name} is a {type(value).__name__} without Python code to stop in")
    module = next((each for each, file in module_files() if file == code.co_filename), None)
    return Spec(module, code.co_qualname.replace("<locals>.", ""))
