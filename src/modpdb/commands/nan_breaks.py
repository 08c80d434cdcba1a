"""`break-nan`: stop where a module puts out the first NaN or Inf, or a gradient has it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modpdb.breakpoints.books import NamedBreakpoint
from modpdb.breakpoints.locations import ByNoName
from modpdb.commands.module_breaks import complete_model_paths
from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import matches, models_in_reach
from modpdb.views.text import plural

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb


@command("break-nan", options={"--grad": ""}, needs_frame=False, completes=complete_model_paths)
def break_nan(dbg: ModPdb, arguments: Arguments) -> None:
    """break-nan [--grad] [GLOB]

    Stop where a module whose path is meant by GLOB makes the first NaN or Inf.

    It stops at the return of that module's forward, in its frame, and says which output, how
    many, where, and what came in. A module that was given NaN, or of which a part that GLOB
    means has made it, is passed by. --grad looks at gradients too, and stops behind the line
    that runs the backward pass. No hook is put on a module; with --grad there are some on tensors.
    """
    glob = arguments.target or "*"
    if " " in glob:
        raise UsageError(f"break-nan takes one path or glob of modules, not {glob!r}")
    for name, root in models_in_reach(dbg):
        dbg.module_calls.learn(root, name)
    breakpoint = NanBreakpoint(glob, bool(arguments.options.get("--grad")))
    dbg.add_breakpoint(breakpoint)
    dbg.settle()
    dbg.message(f"Breakpoint {breakpoint.number} at {breakpoint.spec}: {breakpoint.where()}")


@dataclass(frozen=True)
class BadValuesAt(ByNoName):
    """NaN and Inf out of the modules whose paths are meant by a glob."""

    glob: str
    grad: bool

    def __str__(self) -> str:
        what = "NaN or Inf, gradients too" if self.grad else "NaN or Inf"
        return what if self.glob == "*" else f"{what} of {self.glob}"

    def wants(self, path: str) -> bool:
        return self.glob == "*" or matches(path, self.glob)

    def missing(self) -> str:
        return "no module was called"


class NanBreakpoint(NamedBreakpoint):
    """Stops where NaN or Inf is made. So many ``modules`` are looked at, in ``calls`` so far, some
    of which have ``passed_on`` what others have made."""

    def __init__(self, glob: str, grad: bool) -> None:
        self.spec: BadValuesAt
        super().__init__(BadValuesAt(glob, grad), False, None)
        self.modules = 0
        self._known: dict[int, weakref.ref[Any]] = {}  # modules, by their ids
        self.calls = 0
        self.passed_on = 0
        self.problems: dict[str, str] = {}  # by path: why nothing is seen of it

    def setting_line(self) -> str:
        glob = "" if self.spec.glob == "*" else f" {self.spec.glob}"
        return f"break-nan{' --grad' * self.spec.grad}{glob}"

    def learned(self, modules: Iterable[Any], problems: Iterable[tuple[str, str]]) -> list[str]:
        """Note what a model has, known already or not; sentences for what cannot be looked at."""
        for module in modules:
            known = self._known.get(id(module))
            if known is None or known() is not module:
                self._known[id(module)] = weakref.ref(module)
                self.modules += 1
        said = []
        for path, problem in problems:
            if path not in self.problems:
                self.problems[path] = problem
                said.append(f"{self}: {path or 'the model'} {problem}")
        return said

    def where(self) -> str:
        if self.modules:
            return plural(self.modules, "module")
        return self._not_seen() or "pending: no model is there yet"

    def _not_seen(self) -> str:
        """Of what nothing is seen, and why; "" where all is."""
        if not self.problems:
            return ""
        path, problem = next(iter(self.problems.items()))
        others = f", and {plural(len(self.problems) - 1, 'other')}" * (len(self.problems) > 1)
        return f"not looked at: {path or 'the model'} {problem}{others}"

    def _listed(self, head: str, width: int) -> Sequence[str]:  # type: ignore[override]
        return [f"{head}  {self.where()}"]

    @property
    def found(self) -> bool:
        return True  # missed() tells of it

    def missed(self) -> str | None:
        if self.hits:
            return None
        not_seen = self._not_seen()
        if not self.calls:
            return f"{self} was never reached: {not_seen or 'no module was called'}"
        said = f"{self}: none was made in {plural(self.calls, 'call')} of "
        said += plural(self.modules, "module")
        if self.passed_on:
            said += f"; {plural(self.passed_on, 'call')} passed on what others had made"
        return f"{said}; {not_seen}" if not_seen else said
