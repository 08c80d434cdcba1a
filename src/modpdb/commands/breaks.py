"""`break` and its kin: by line as in pdb, and by name, loaded yet or not."""

from __future__ import annotations

import os
import re
import sys
import types
from typing import TYPE_CHECKING, Any

from modpdb.breakpoints.books import NamedBreakpoint, named_breakpoints
from modpdb.breakpoints.locations import Spec, executable_lines, function_code, nearest

if TYPE_CHECKING:
    from modpdb.breakpoints.engine import TraceEngine
    from modpdb.breakpoints.locations import Locator

_LINE = re.compile(r"(?:(?P<file>.+):)?\s*(?P<line>\d+)")
_NAMES = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class BreakCommands:
    """pdb's breakpoint commands with modpdb's places. Mixed into ModPdb."""

    if TYPE_CHECKING:
        engine: TraceEngine
        locator: Locator
        curframe: Any
        curframe_locals: Any
        currentbp: int
        mainpyfile: str
        breaks: dict[str, list[int]]

        def message(self, msg: str, end: str = "\n") -> None: ...
        def error(self, msg: Any) -> None: ...
        def _add_to_breaks(self, filename: str, lineno: int) -> None: ...

    def do_break(self, arg: str, temporary: bool = False) -> None:
        """b(reak) [PLACE [, CONDITION]]

        PLACE is LINE, FILE:LINE, a function, Class.method, module:qualname,
        package.module.Class.method, or a glob of names (*.modify_tensors). What is not loaded
        yet is pending, and found when its module is imported. A function's breakpoint stops
        once per call, at its first line. @GLOB stops at tensors by name: see break-tensor.
        Without PLACE: list the breakpoints.
        """
        if not arg:
            self._list_breaks()
            return
        place, _, condition = (part.strip() for part in arg.partition(","))
        try:
            if condition:
                compile(condition, "<condition>", "eval")
        except SyntaxError as error:
            self.error(f"condition {condition!r}: {error.msg}")
            return
        if place.startswith("@"):
            from modpdb.commands.tensor_breaks import break_at_tensor

            # Mixed into ModPdb, which it is then.
            break_at_tensor(self, place[1:].strip(), temporary, condition or None)  # type: ignore[arg-type]
        elif match := _LINE.fullmatch(place):
            self._break_line(match["file"], int(match["line"]), temporary, condition or None)
        else:
            self._break_function(place, temporary, condition or None)

    do_b = do_break

    def do_tbreak(self, arg: str) -> None:
        """tbreak [PLACE [, CONDITION]]

        As `break`, but the breakpoint is gone after its first stop.
        """
        self.do_break(arg, True)

    def _list_breaks(self) -> None:
        if self.breaks:
            super().do_break("")  # type: ignore[misc]

    # -- by line -------------------------------------------------------------------------------

    def _break_line(self, file: str | None, line: int, temporary: bool, cond: str | None) -> None:
        place = str(line)
        if file is not None:
            found = self.lookupmodule(file.strip())
            if found is None:
                self.error(f"{file!r} not found: looked in sys.path and in {os.getcwd()}")
                return
            place = f"{found}:{line}"
        super().do_break(f"{place}, {cond}" if cond else place, temporary)  # type: ignore[misc]

    def lookupmodule(self, filename: str) -> str | None:
        """pdb looks along sys.path only, whose first entry is the script's folder (all
        versions): look from where the user stands, too."""
        found: str | None = super().lookupmodule(filename)  # type: ignore[misc]
        if found is not None and os.path.exists(found):
            return found
        for name in (filename, filename + ".py"):
            if os.path.isfile(name):
                return os.path.abspath(name)
        return None

    def checkline(self, filename: str, lineno: int) -> int:
        """pdb rejects some lines that cannot stop; say where the nearest is that can."""
        lines = _stopping_lines(filename)
        if lines is None:
            return int(super().checkline(filename, lineno))  # type: ignore[misc]
        if lineno in lines:
            return lineno
        near = nearest(lines, lineno)
        hint = f"; the nearest that can is {near}" if near else ""
        self.error(f"{os.path.basename(filename)}:{lineno}: no code there that can stop{hint}")
        return 0

    def defaultFile(self) -> str:
        """pdb needs a frame (all versions); an rc line has none yet."""
        if self.curframe is None:
            return self.mainpyfile
        return str(super().defaultFile())  # type: ignore[misc]

    # -- by name -------------------------------------------------------------------------------

    def _break_function(self, place: str, temporary: bool, condition: str | None) -> None:
        try:
            spec = self.spec_of(place)
        except ValueError as error:
            self.error(error)
            return
        breakpoint = NamedBreakpoint(spec, temporary, condition)
        self.add_breakpoint(breakpoint)
        if not breakpoint.codes:
            self.message(f"Breakpoint {breakpoint.number} pending: {spec} is not imported yet")
        else:
            self.message(f"Breakpoint {breakpoint.number} {breakpoint.where()}")

    def spec_of(self, place: str) -> Spec:
        """The function, or glob of functions, that *place* names, seen from the current frame.

        Raises ValueError, with a sentence, where it can be none.
        """
        return self._spec_in_frame(place) or Spec.parse(place)

    def add_breakpoint(self, breakpoint: NamedBreakpoint) -> None:
        """Note it in bdb's books, and look for its places from now on."""
        self._add_to_breaks(breakpoint.file, breakpoint.line)
        self._search_for(breakpoint)

    def _spec_in_frame(self, place: str) -> Spec | None:
        """The function that *place* names in the current frame, as in pdb, or one of its file.

        Raises ValueError where it names something that has no Python code.
        """
        if self.curframe is None or not _NAMES.fullmatch(place):
            return None
        module = self.curframe.f_globals.get("__name__")
        try:
            value = eval(place, self.curframe.f_globals, self.curframe_locals)
        except Exception:
            here = Spec(module, place) if isinstance(module, str) else None
            return here if here and self.locator.exists(here) else None
        code = function_code(value)
        if code is None:
            raise ValueError(f"{place} is a {type(value).__name__} without Python code to stop in")
        return Spec(_module_of(code), code.co_qualname.replace("<locals>.", ""))

    def _search_for(self, breakpoint: NamedBreakpoint) -> None:
        def reached(frame: types.FrameType) -> bool:
            if not breakpoint.reached(frame, self.error):
                return False
            self.currentbp = breakpoint.number
            if breakpoint.temporary:
                self.do_clear(str(breakpoint.number))
            return True

        def found(code: types.CodeType) -> None:
            for line in breakpoint.lines(code):
                self.engine.watch(code, reached, line=line)

        search = self.locator.search(breakpoint.spec, found)

        def stop_looking() -> None:
            self.engine.unwatch(reached)
            self.locator.forget(search)

        breakpoint.searches.append(search)
        breakpoint.when_deleted.append(stop_looking)

    def take_over_breakpoints(self) -> None:
        """Look for what other debuggers have noted in bdb's books, as bdb does for lines."""
        for each in named_breakpoints():
            self._search_for(each)

    if TYPE_CHECKING:

        def do_clear(self, arg: str) -> None: ...

    def never_found(self) -> list[str]:
        """A sentence for each breakpoint whose function was never loaded."""
        return [
            f"{each.kind} {each.number} was never reached: no {each.spec} was loaded"
            for each in named_breakpoints()
            if not each.codes
        ]


def _module_of(code: types.CodeType) -> str | None:
    """The name of the loaded module that *code* comes from."""
    for name, module in list(sys.modules.items()):
        # Not getattr: a module's own __getattr__ may do anything.
        if getattr(module, "__dict__", {}).get("__file__") == code.co_filename:
            return name
    return None


def _stopping_lines(filename: str) -> set[int] | None:
    """The lines of a Python file that can stop, None where that cannot be known."""
    try:
        with open(filename, "rb") as file:
            return executable_lines(compile(file.read(), filename, "exec", dont_inherit=True))
    except (OSError, SyntaxError, ValueError):
        return None
