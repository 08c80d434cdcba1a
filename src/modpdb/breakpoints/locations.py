"""What the user typed, into code objects: now, or when a module is imported."""

from __future__ import annotations

import fnmatch
import functools
import importlib.machinery
import inspect
import os
import re
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from modpdb.breakpoints import live
from modpdb.breakpoints.lines import nearest, own_lines, walk, with_inline

_LOCALS = "<locals>."
# modpdb, and what makes its stops.
_NOT_TO_STOP_IN = (__name__.partition(".")[0], "bdb", "pdb", "pdbpp")
_SPEC = re.compile(
    r"(?:(?P<module>[\w.*?\[\]]+):)?(?P<name>[\w.*?\[\]<>]+)(?:\s*\+\s*(?P<offset>\d+))?"
)
_GLOB = re.compile(r"[*?\[]")


class Place(Protocol):
    """What code a breakpoint is meant for, and where in it."""

    of_functions: ClassVar[bool]
    """Whether functions that exist can match."""

    @property
    def last(self) -> str | None:
        """The name that its code bears, None where that is not known."""

    def matches(self, module: str, code: types.CodeType) -> bool:
        """Whether *code*, of *module*, is meant."""

    def stops_in(self, code: types.CodeType) -> Iterator[tuple[types.CodeType, int | None]]:
        """Where to stop in *code*, which matches: at these lines, None for its entry."""

    def missing(self) -> str:
        """That nothing matches, in a few words: `no f was loaded`."""


@dataclass(frozen=True)
class Spec:
    """A place by name: ``module:qualname``, ``package.module.Class.method``, ``Class.method``,
    a bare function, or globs of these (``*.modify_tensors``, ``conversion.*:*Model.set_vocab``).

    Without a module any will do. ``offset``: so many lines below the function's first, its
    ``def`` or decorator; None is its entry.
    """

    module: str | None
    name: str
    offset: int | None = None
    of_functions: ClassVar[bool] = True

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Raises ValueError, with a sentence, for what cannot be a place."""
        match = _SPEC.fullmatch(text.strip())
        if match is None or not re.search(r"\w|\*", match["name"]):
            raise ValueError(
                f"{text!r} is no place: expected FILE:LINE, LINE, a function, Class.method, "
                "module:qualname, a glob of names, or a function + lines below its first"
            )
        offset = None if match["offset"] is None else int(match["offset"])
        return cls(match["module"], match["name"], offset)

    def __str__(self) -> str:
        name = self.name if self.module is None else f"{self.module}:{self.name}"
        return name if self.offset is None else f"{name}+{self.offset}"

    @functools.cached_property
    def last(self) -> str | None:
        """The function's own name, None where it is a glob."""
        last = self.name.rpartition(".")[2]
        return None if _GLOB.search(last) else last

    @functools.cached_property
    def is_glob(self) -> bool:
        return bool(_GLOB.search(self.name) or _GLOB.search(self.module or ""))

    def may_be_in(self, module: str) -> bool:
        """Whether code of *module* can match at all."""
        return self.module is None or fnmatch.fnmatchcase(module, self.module)

    def matches(self, module: str, code: types.CodeType) -> bool:
        """Whether *code*, of *module*, is the function that is meant."""
        return is_function(code) and self.names(module, code.co_qualname)

    def names(self, module: str, qualname: str) -> bool:
        """Whether *qualname*, of *module*, is a name that is meant."""
        if not self.may_be_in(module):
            return False
        if "." not in self.name:  # a function, nested in another or not, but no method
            qualname = qualname.rpartition(_LOCALS)[2]
        qualname = qualname.replace(_LOCALS, "")
        if self.module is not None or "." not in self.name:
            return bool(self._pattern.fullmatch(qualname))
        return bool(self._anywhere.fullmatch(f"{module}.{qualname}"))

    def stops_in(self, code: types.CodeType) -> Iterator[tuple[types.CodeType, int | None]]:
        """Its entry; with an offset the line that many below, or the nearest that can stop."""
        if self.offset is None:
            yield code, None
            return
        parts = [(each, own_lines(each)) for each in with_inline(code)]
        lines = {line for _, each in parts for line in each}
        line = nearest(lines, code.co_firstlineno + self.offset)
        yield from ((part, line) for part, lines in parts if line in lines)

    def missing(self) -> str:
        return f"no {Spec(self.module, self.name)} was loaded"

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(fnmatch.translate(self.name))

    @functools.cached_property
    def _anywhere(self) -> re.Pattern[str]:
        return re.compile(rf"(?:.*\.)?{fnmatch.translate(self.name)}")


@dataclass(frozen=True)
class FileLine:
    """A line of a file, which may not be there yet: generated, downloaded or exec-ed later.

    ``file`` is a path, or the end of one.
    """

    file: str
    line: int
    last: ClassVar[None] = None
    of_functions: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    def matches(self, module: str, code: types.CodeType) -> bool:
        file = code.co_filename
        if file != self.file and not file.endswith(self._tail):
            return False
        return self.line in own_lines(code)

    @functools.cached_property
    def _tail(self) -> str:
        return os.sep + os.path.normpath(self.file)

    def stops_in(self, code: types.CodeType) -> Iterator[tuple[types.CodeType, int | None]]:
        yield code, self.line

    def missing(self) -> str:
        return f"no code at line {self.line} of a file {self.file} was loaded"


def is_function(code: types.CodeType) -> bool:
    """A function's code, not a module's or a class body's."""
    return bool(code.co_flags & inspect.CO_OPTIMIZED)


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
        self._by_last: dict[str | None, list[Search]] = {}
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
        by_last: dict[str | None, list[Search]] = {}
        for search in searches:
            self._searches.append(search)
            for table in (self._by_last, by_last):
                table.setdefault(search.spec.last, []).append(search)
        globs = by_last.get(None, [])
        functions = any(search.spec.of_functions for search in searches)
        for module, code in self._known(functions):
            for search in (*by_last.get(code.co_name, ()), *globs):
                search.offer(module, code)
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
            for module, code in self._known(functions=True)
            if spec.last in (None, code.co_name)
        )

    def _known(self, functions: bool) -> Iterator[tuple[str, types.CodeType]]:
        """Code of the main script, run yet or not, of a module that is about to run, and of
        every function there is."""
        for module, body in ([self._main] if self._main else []) + self._loading:
            for code in walk(body):
                yield module, code
        if functions:
            yield from self._live()
            yield from self._running()

    def _live(self) -> Iterator[tuple[str, types.CodeType]]:
        """Module name and code of every function there is."""
        for function in live.functions():
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
        yield from self._live()

    def _known_of(self, file: str) -> Iterator[types.CodeType]:
        """Code of *file*: of the main script, of functions, of what runs, and all that is nested
        in it."""
        roots = [] if self._main is None else [self._main[1]]
        roots += [function.__code__ for function in live.functions()]
        roots += [frame.f_code for _, frame in live.stacks()]
        for root in {id(root): root for root in roots}.values():
            if self._canonic(root.co_filename) == file:
                for code in walk(root):
                    yield self._wiring.original(code)

    def forget(self, search: Search | LineSearch) -> None:
        if isinstance(search, LineSearch):
            searches = self._by_file.get(search.file, [])
            if search in searches:
                searches.remove(search)
        elif search in self._searches:
            self._searches.remove(search)
            self._by_last[search.spec.last].remove(search)
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
        globs = list(self._by_last.get(None, ()))
        lines: dict[int | None, list[LineSearch]] = {}
        if self._by_file:
            for line_search in self._by_file.get(self._canonic(code.co_filename), ()):
                lines.setdefault(line_search.line, []).append(line_search)
        for each in walk(code):
            if globs or each.co_name in self._by_last:
                for search in (*self._by_last.get(each.co_name, ()), *globs):
                    search.offer(module, each)
            if lines:
                for line in lines.keys() & {line for _, _, line in each.co_lines()}:
                    for line_search in lines[line]:
                        line_search.offer(each)

    def _begins(self, code: types.CodeType, module: str | None) -> None:
        """Code is about to run that no import has brought, or not as it is."""
        if (
            code.co_name in self._by_last
            or None in self._by_last
            or (self._by_file and self._canonic(code.co_filename) in self._by_file)
            or code.co_name == "<module>"
        ):
            self._offer(module or "?", code)


# -- modules as they load ----------------------------------------------------------------------


Loaded = Callable[[str, types.CodeType], types.CodeType]
"""Told a module's name and code before that runs; returns what to run in its place."""

_listeners: list[Loaded] = []


def watch_imports(loaded: Loaded) -> Callable[[], None]:
    """Call *loaded* with name and code of every module read from a file, before it runs.

    Wraps SourceFileLoader.get_code while anybody listens. That also serves
    spec_from_file_location, and leaves ``__spec__`` and sys.meta_path as they were. Returns what
    undoes it.
    """
    if not _listeners:
        # The method is inherited: deleting the attribute brings it back.
        importlib.machinery.SourceFileLoader.get_code = _get_code  # type: ignore
    _listeners.append(loaded)

    def undo() -> None:
        _listeners.remove(loaded)
        if not _listeners:
            del importlib.machinery.SourceFileLoader.get_code

    return undo


def _get_code(self: importlib.machinery.SourceFileLoader, fullname: str) -> types.CodeType | None:
    code = super(importlib.machinery.SourceFileLoader, self).get_code(fullname)
    if code is not None:
        for listener in list(_listeners):
            code = listener(fullname, code)
    return code


# Python leaves the frames of this file out of the traceback of a failed import: be one of them.
_get_code.__code__ = _get_code.__code__.replace(
    co_filename="<frozen importlib._bootstrap_external>"
)
