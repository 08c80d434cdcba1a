"""`break-module`, `b @GLOB` and `into`: stop where a module's forward begins."""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from modpdb.breakpoints.books import NamedBreakpoint, Spot
from modpdb.breakpoints.locations import ByNoName
from modpdb.breakpoints.near_misses import nearest_names
from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import matches, models_in_reach
from modpdb.commands.tensor_breaks import at_means_tensors, break_at_tensor
from modpdb.probes._static import class_name
from modpdb.views.text import plural

# What knows torch is imported where it is used: module_calls, and the views.

if TYPE_CHECKING:
    from modpdb.commands.module_calls import Met
    from modpdb.debugger import ModPdb
    from modpdb.views.module_breaks import StopRow

_COMPLETED = 20_000  # paths that Tab offers, or that are looked through for what comes near


def complete_model_paths(dbg: ModPdb, text: str) -> Iterator[str]:
    from modpdb.probes.module_state import named_modules

    seen: set[str] = set()
    known = list(dbg.module_calls.known_paths()) if dbg.knows_modules else []
    reach = (path for _, root in models_in_reach(dbg) for path, _ in named_modules(root))
    for path in islice((*known, *reach), _COMPLETED):
        if path and path not in seen:
            seen.add(path)
            yield path


@command(
    "break-module", options={"--temporary": ""}, needs_frame=False, completes=complete_model_paths
)
def break_module(dbg: ModPdb, arguments: Arguments) -> None:
    """break-module [--temporary] GLOB[, CONDITION]    (b @GLOB, tbreak @GLOB)

    Stop at the first line of the forward of every module whose path is meant by GLOB.

    The path is that in its model (model.layers.3.self_attn); GLOB may be the end of one
    (self_attn, layers.3.mlp), and * crosses dots. CONDITION sees the forward's arguments and
    self. A model that does not exist yet is found when it is called; below decorators it is the
    model's own forward that stops. No hook is put on a module. Scripted and compiled modules run
    no Python to stop in; that is said. Under a converter's preset `b @` means tensors.
    """
    if not arguments.target:
        raise UsageError("break-module needs a path or glob: break-module GLOB[, CONDITION]")
    temporary = bool(arguments.options.get("--temporary"))
    dbg.set_breakpoint(arguments.target, temporary, partial(break_at_module, dbg))


@command("into", resumes=True)
def into(dbg: ModPdb, arguments: Arguments) -> bool:
    """into

    Run on to the first line of the next module's forward, in this thread.

    Whatever lies between is passed through: hooks, decorators, what is computed before. Where no
    module is called any more it is `c`: breakpoints stop.
    """
    if arguments.target:
        raise UsageError(f"into takes nothing; `b @{arguments.target}` stops at that module")
    if dbg.ended:
        raise UsageError("the program has ended: no module is called any more")
    dbg.module_calls.go_into(dbg.stack[-1][0])
    return bool(dbg.do_continue(""))


def break_at_name(dbg: ModPdb, glob: str, temporary: bool, condition: str | None) -> None:
    """`b @GLOB`: a tensor under a converter's preset, else a module."""
    tensors = at_means_tensors(dbg)
    if not glob:
        what = "name or glob of tensors" if tensors else "path or glob of modules"
        dbg.error(f"@ needs a {what} after it: b @GLOB[, CONDITION]")
    elif tensors:
        break_at_tensor(dbg, glob, temporary, condition)
    else:
        break_at_module(dbg, glob, temporary, condition)


def break_at_module(dbg: ModPdb, glob: str, temporary: bool, condition: str | None) -> None:
    """Set the breakpoint, and say which modules it stops at where there are any."""
    for name, root in models_in_reach(dbg):
        dbg.module_calls.learn(root, name)
    breakpoint = ModuleBreakpoint(glob, temporary, condition)
    dbg.add_breakpoint(breakpoint)
    if not breakpoint.models:
        dbg.message(f"Breakpoint {breakpoint.number} pending: no model is there yet")
    elif not breakpoint.rows:
        breakpoint.say(dbg, (), breakpoint.near())


@dataclass(frozen=True)
class ModulesAt(ByNoName):
    """The modules whose paths are meant by a glob."""

    glob: str

    def __str__(self) -> str:
        return f"@{self.glob}"

    def missing(self) -> str:
        return "no module of that path came"


class ModuleBreakpoint(NamedBreakpoint):
    """Stops where the forward of a module begins whose path is meant.

    ``models`` counts the models that were looked through.
    """

    def __init__(self, glob: str, temporary: bool, condition: str | None) -> None:
        super().__init__(ModulesAt(glob), temporary, condition)
        self.glob = glob
        self.models = 0
        self._rows: dict[int, tuple[weakref.ref[Any], StopRow]] = {}  # by the id of the module
        self._said: set[StopRow] = set()
        self._others: list[str] = []  # paths to choose from, while none is meant

    @property
    def rows(self) -> list[StopRow]:
        """The modules found."""
        return [row for _, row in self._rows.values()]

    def setting_line(self) -> str:
        condition = f", {self.cond}" if self.cond else ""
        return f"break-module {'--temporary ' * self.temporary}{self.glob}{condition}"

    def learn(self, met: Sequence[Met], paths: Iterable[str]) -> list[StopRow]:
        """Note the modules that it means in one more model, out of *paths*; all of them where any
        is news."""
        from modpdb.views.module_breaks import StopRow

        self.models += 1
        rows: list[StopRow] = []
        news = False
        for each in met:
            path, *also = each.paths
            row = StopRow(path, class_name(type(each.module)), tuple(also), each.problem)
            rows.append(row)
            known = self._rows.get(id(each.module))
            again = known is not None and known[0]() is each.module
            if each.code is not None:
                self.add(Spot(each.code))
            if not (again and row.problem):  # it may be called beside the compiled one
                self._rows[id(each.module)] = weakref.ref(each.module), row
            news |= row not in self._said and (not again or bool(row.problem))
        self._said.update(rows)
        self._others = [] if self._rows else list(islice(paths, _COMPLETED))
        return rows if news else []

    def say(self, dbg: ModPdb, rows: Sequence[StopRow], near: Sequence[str] = ()) -> None:
        from modpdb.views.module_breaks import modules_met

        dbg.show(modules_met(f"Breakpoint {self.number} at {self.spec}", rows, near))

    def _listed(self, head: str, width: int) -> list[str]:
        return [f"{head}  {self.where()}"]

    def where(self) -> str:
        from modpdb.views.module_breaks import in_words

        return in_words(self.rows) if self.models else "pending: no model is there yet"

    @property
    def found(self) -> bool:
        return True  # or missed() tells of it

    def near(self) -> list[str]:
        """Paths like the one that nothing has."""
        return nearest_names(self.glob, self._others)

    def missed(self) -> str | None:
        if self.hits:
            return None
        rows = self.rows
        stops = [row.path or "the model" for row in rows if not row.problem]
        if not self.models:
            why = "no module was called"
        elif not rows:
            near = self.near()
            why = "no module of that path came" + f"; near: {', '.join(near)}" * bool(near)
        elif not stops:
            why = f"{rows[0].path or 'the model'} {rows[0].problem}"
        elif len(stops) == 1:
            why = f"{stops[0]} was not called"
        else:
            why = f"none of its {plural(len(stops), 'module')} was called"
        return f"{self} was never reached: {why}"


@dataclass(frozen=True, eq=False)
class ModuleWaiter:
    """What makes a ModuleBreakpoint wait for the modules of one debugger's program."""

    dbg: ModPdb
    breakpoint: ModuleBreakpoint
    stops: Callable[[NamedBreakpoint, types.FrameType, str | None], bool]

    def wants(self, path: str) -> bool:
        return matches(path, self.breakpoint.glob)

    def learned(self, met: Sequence[Met], paths: Iterable[str]) -> None:
        if rows := self.breakpoint.learn(met, paths):
            self.breakpoint.say(self.dbg, rows)

    def entered(self, frame: types.FrameType) -> bool:
        return self.stops(self.breakpoint, frame, None)
