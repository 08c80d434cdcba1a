"""Finds the code that places mean: in functions that exist, and in modules as they load."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from modpdb.breakpoints import live
from modpdb.breakpoints.imports import watch_imports
from modpdb.breakpoints.lines import walk
from modpdb.breakpoints.locations import FileLine, Place, is_function

# modpdb, and what makes its stops.
_NOT_TO_STOP_IN = (__name__.partition(".")[0], "bdb", "pdb", "pdbpp")


@dataclass(eq=False)
class Search:
    """A Place being looked for, and every code object found for it so far."""

    spec: Place
    found: Callable[[types.CodeType], None]
    codes: dict[int, types.CodeType] = field(default_factory=dict)  # by id

    def offer(self, module: str, code: types.CodeType) -> None:
        if module.partition(".")[0] in _NOT_TO_STOP_IN:
            return
        if id(code) not in self.codes and self.spec.matches(module, code):
            self.codes[id(code)] = code
            self.found(code)


@dataclass(eq=False)
class LineSearch:
    """A line of a file being looked for: it may lie in several code objects."""

    file: str
    line: int
    found: Callable[[types.CodeType], None]
    codes: dict[int, types.CodeType] = field(default_factory=dict)  # by id

    def offer(self, code: types.CodeType) -> None:
        """*code* has the line."""
        if id(code) not in self.codes:
            self.codes[id(code)] = code
            self.found(code)


_ByLast = dict[str | None, list[Search]]
"""Searches by the name that their code bears; under None those of which that is not known."""


def _for_package(searches: Iterable[Search], package: str) -> _ByLast:
    """Those of *searches* that may find something in *package*."""
    found: _ByLast = {}
    for search in searches:
        if search.spec.may_be_in_package(package):
            found.setdefault(search.spec.last, []).append(search)
    return found


def _offer_to(by_last: _ByLast, module: str, code: types.CodeType) -> None:
    globs = by_last.get(None)
    if globs or code.co_name in by_last:
        for search in (*by_last.get(code.co_name, ()), *(globs or ())):
            search.offer(module, code)


class Wiring(Protocol):
    """What the locator must know of hooks in code objects (see engine.py)."""

    def original(self, code: types.CodeType) -> types.CodeType: ...

    def instrument(self, code: types.CodeType, main: bool = False) -> types.CodeType: ...

    def fault(self, error: Exception) -> None: ...

    sees_copies: bool
    odd_files: set[str]

    def watch_new_code(self, begins: Callable[[types.CodeType, str | None], None]) -> None: ...

    def forget_new_code(self, begins: Callable[[types.CodeType, str | None], None]) -> None: ...


class Locator:
    """Finds the code that Specs name: in functions that exist, and in modules as they load.

    Imports are watched from the first search to the last one's end.
    """

    def __init__(self, wiring: Wiring, canonic: Callable[[str], str]) -> None:
        self._wiring = wiring
        self._canonic = functools.lru_cache(maxsize=None)(canonic)
        self._stop_watching: Callable[[], None] | None = None
        self._searches: list[Search] = []
        self._in_package: dict[str, _ByLast] = {}  # kept until there is another search
        self._by_file: dict[str, list[LineSearch]] = {}
        self._main: tuple[str, types.CodeType] | None = None
        self._loading: list[tuple[str, types.CodeType]] = []

    def search(self, spec: Place, found: Callable[[types.CodeType], None]) -> Search:
        """Look for *spec* from now on; *found* is called for each code object, at once for those
        that exist."""
        [search] = self.search_all([(spec, found)])
        if isinstance(spec, FileLine) and spec.file.startswith("<"):
            self._wiring.odd_files.add(spec.file)
        self._watch_new_code(search)
        return search

    def search_all(
        self, wanted: Iterable[tuple[Place, Callable[[types.CodeType], None]]]
    ) -> list[Search]:
        """The same for many, going through what exists once. Code that only exec() brings is not
        looked for."""
        self._watch_imports()
        searches = [Search(spec, found) for spec, found in wanted]
        self._searches += searches
        self._in_package.clear()
        in_package: dict[str, _ByLast] = {}
        of_functions = [each.spec for each in searches if each.spec.of_functions]
        for module, code in self._known({spec.last for spec in of_functions}):
            package = module.partition(".")[0]
            by_last = in_package.get(package)
            if by_last is None:
                by_last = in_package[package] = _for_package(searches, package)
            if by_last:
                _offer_to(by_last, module, code)
        return searches

    def search_line(
        self, file: str, line: int, found: Callable[[types.CodeType], None]
    ) -> LineSearch:
        """The same for *line* of *file*, a canonic name."""
        search = LineSearch(file, line, found)
        self._by_file.setdefault(file, []).append(search)
        self._watch_imports()
        for code in self._known_of(file):
            if any(each == line for _, _, each in code.co_lines()):
                search.offer(code)
        self._watch_new_code(search)
        return search

    def _watch_imports(self) -> None:
        if self._stop_watching is None:
            self._stop_watching = watch_imports(self.loaded)

    def _watch_new_code(self, search: Search | LineSearch) -> None:
        if self._wiring.sees_copies or not search.codes:
            self._wiring.watch_new_code(self._begins)

    def exists(self, spec: Place) -> bool:
        """Whether *spec* names a function that is there already."""
        return any(
            spec.matches(module, code)
            for module, code in self._known({spec.last})
            if spec.last in (None, code.co_name)
        )

    def _known(self, names: set[str | None]) -> Iterator[tuple[str, types.CodeType]]:
        """Code of the main script, run yet or not, of a module that is about to run, and of
        the functions of these names, all of them where None is among those."""
        for module, body in ([self._main] if self._main else []) + self._loading:
            for code in walk(body):
                yield module, code
        if names:
            yield from self._live(names)
            yield from self._running()

    def _live(self, names: set[str | None]) -> Iterator[tuple[str, types.CodeType]]:
        """Module name and code of the functions of these names; None: of all."""
        functions = live.functions()
        if None not in names:  # 70,000 are usual
            functions = [each for each in functions if each.__code__.co_name in names]
        for function in functions:
            module = function.__globals__.get("__name__")
            code = self._wiring.original(function.__code__)
            yield (module if isinstance(module, str) else "?"), code

    def _running(self) -> Iterator[tuple[str, types.CodeType]]:
        """Code that runs and is no function's: of modules and classes."""
        for _, frame in live.stacks():
            if not is_function(frame.f_code):
                module = frame.f_globals.get("__name__")
                for code in walk(frame.f_code):
                    yield (module if isinstance(module, str) else "?"), self._wiring.original(code)

    def functions(self) -> Iterator[tuple[str, types.CodeType]]:
        """Module and code of all functions that are loaded, and of the main script's."""
        if self._main is not None:
            module, body = self._main
            yield from ((module, code) for code in walk(body) if is_function(code))
        yield from self._live({None})

    def _known_of(self, file: str) -> Iterator[types.CodeType]:
        """Code of *file*: of the main script, of functions, of what runs, and all that is nested
        in it."""
        roots = [] if self._main is None else [self._main[1]]
        roots += [function.__code__ for function in live.functions()]
        roots += [frame.f_code for _, frame in live.stacks()]
        roots = [root for root in roots if self._canonic(root.co_filename) == file]
        for root in {id(root): root for root in roots}.values():
            for code in walk(root):
                yield self._wiring.original(code)

    def forget(self, search: Search | LineSearch) -> None:
        if isinstance(search, LineSearch):
            searches = self._by_file.get(search.file, [])
            if search in searches:
                searches.remove(search)
        elif search in self._searches:
            self._searches.remove(search)
            self._in_package.clear()
        if not self._searches and not any(self._by_file.values()):
            self.close()

    def close(self) -> None:
        """Look for nothing any more."""
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None
        self._wiring.forget_new_code(self._begins)

    def loaded(self, module: str, code: types.CodeType) -> types.CodeType:
        """A module's code is about to run: offer what is in it to every search. Returns what to
        run in its place."""
        main = module == "__main__"
        if main:
            self._main = (module, code)
        self._loading.append((module, code))  # what is found may start a search of its own
        try:
            self._offer(module, code)
        except Exception as error:  # it would be raised by the script's import
            self._wiring.fault(error)
        finally:
            self._loading.remove((module, code))
        return self._wiring.instrument(code, main)

    def _offer(self, module: str, code: types.CodeType) -> None:
        by_last = self._wanted_in(module)
        lines: dict[int | None, list[LineSearch]] = {}
        if self._by_file:
            for line_search in self._by_file.get(self._canonic(code.co_filename), ()):
                lines.setdefault(line_search.line, []).append(line_search)
        if not lines and not by_last:
            return
        codes = walk(code)
        if not lines and None not in by_last:  # 70,000 are usual
            codes = [each for each in codes if each.co_name in by_last]
        for each in codes:
            _offer_to(by_last, module, each)
            if lines:
                for line in lines.keys() & {line for _, _, line in each.co_lines()}:
                    for line_search in lines[line]:
                        line_search.offer(each)

    def _wanted_in(self, module: str) -> _ByLast:
        """What is looked for in *module*."""
        package = module.partition(".")[0]
        by_last = self._in_package.get(package)
        if by_last is None:
            by_last = self._in_package[package] = _for_package(self._searches, package)
        return by_last

    def _begins(self, code: types.CodeType, module: str | None) -> None:
        """Code is about to run that no import has brought, or not as it is."""
        by_last = self._wanted_in(module or "?")
        if (
            code.co_name in by_last
            or None in by_last
            or (self._by_file and self._canonic(code.co_filename) in self._by_file)
            or code.co_name == "<module>"
        ):
            self._offer(module or "?", code)
