"""What the user typed, into code objects: now, or when a module is imported."""

from __future__ import annotations

import fnmatch
import functools
import gc
import importlib.machinery
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from modpdb.breakpoints.lines import nearest, own_lines, walk, with_inline

_LOCALS = "<locals>."
_OURSELVES = __name__.partition(".")[0]
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
    """A line of a file that is not there yet: generated, downloaded or exec-ed later.

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
    codes: list[types.CodeType] = field(default_factory=list)

    def offer(self, module: str, code: types.CodeType) -> None:
        if module.partition(".")[0] == _OURSELVES:
            return
        if self.spec.matches(module, code) and not any(code is each for each in self.codes):
            self.codes.append(code)
            self.found(code)


class Locator:
    """Finds the code that Specs name: in functions that exist, and in modules as they load.

    Imports are watched from the first search to the last one's end.
    """

    def __init__(self) -> None:
        self._stop_watching: Callable[[], None] | None = None
        self._searches: list[Search] = []
        self._by_last: dict[str | None, list[Search]] = {}
        self._main: tuple[str, types.CodeType] | None = None
        self._loading: list[tuple[str, types.CodeType]] = []

    def search(self, spec: Place, found: Callable[[types.CodeType], None]) -> Search:
        """Look for *spec* from now on; *found* is called for each code object, at once for those
        that exist."""
        if self._stop_watching is None:
            self._stop_watching = watch_imports(self.loaded)
        search = Search(spec, found)
        self._searches.append(search)
        self._by_last.setdefault(spec.last, []).append(search)
        for module, code in self._known(spec):
            search.offer(module, code)
        return search

    def exists(self, spec: Spec) -> bool:
        """Whether *spec* names a function that is there already."""
        return any(spec.matches(module, code) for module, code in self._known(spec))

    def _known(self, spec: Place) -> Iterator[tuple[str, types.CodeType]]:
        """Code of the main script, run yet or not, of a module that is about to run, and of
        every function there is."""
        for module, body in ([self._main] if self._main else []) + self._loading:
            for code in walk(body):
                yield module, code
        for module, code in live_functions() if spec.of_functions else ():
            if spec.last in (None, code.co_name):
                yield module, code

    def functions(self) -> Iterator[tuple[str, types.CodeType]]:
        """Module and code of all functions that are loaded, and of the main script's."""
        if self._main is not None:
            module, body = self._main
            yield from ((module, code) for code in walk(body) if is_function(code))
        yield from live_functions()

    def forget(self, search: Search) -> None:
        if search in self._searches:
            self._searches.remove(search)
            self._by_last[search.spec.last].remove(search)
        if not self._searches:
            self.close()

    def close(self) -> None:
        """Look for nothing any more."""
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None

    def loaded(self, module: str, code: types.CodeType) -> None:
        """A module's code is about to run: offer what is in it to every search."""
        if module == "__main__":
            self._main = (module, code)
        self._loading.append((module, code))  # what is found may start a search of its own
        try:
            globs = list(self._by_last.get(None, ()))
            for each in walk(code):
                for search in (*self._by_last.get(each.co_name, ()), *globs):
                    search.offer(module, each)
        finally:
            self._loading.remove((module, code))


def live_functions() -> Iterator[tuple[str, types.CodeType]]:
    """Module name and code of every Python function there is.

    After gc.freeze() the collector does not show those frozen: then, what modules and their
    classes hold.
    """
    candidates: Iterable[object] = gc.get_objects()
    if gc.get_freeze_count():
        candidates = [*candidates, *_held_by_modules()]
    for each in candidates:
        if type(each) is types.FunctionType:
            module = each.__globals__.get("__name__")
            yield (module if isinstance(module, str) else "?"), each.__code__


def _held_by_modules() -> Iterator[object]:
    for module in list(sys.modules.values()):
        for value in list(getattr(module, "__dict__", {}).values()):
            yield value
            if issubclass(type(value), type):  # never asks for a foreign __class__
                for member in value.__dict__.values():
                    yield getattr(member, "__func__", member)


# -- modules as they load ----------------------------------------------------------------------


_listeners: list[Callable[[str, types.CodeType], None]] = []


def watch_imports(loaded: Callable[[str, types.CodeType], None]) -> Callable[[], None]:
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
            listener(fullname, code)
    return code


# Python leaves the frames of this file out of the traceback of a failed import: be one of them.
_get_code.__code__ = _get_code.__code__.replace(
    co_filename="<frozen importlib._bootstrap_external>"
)
