"""What the user typed: which code is meant, and where in it. locator.py finds it."""

from __future__ import annotations

import fnmatch
import functools
import inspect
import os
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

from modpdb.breakpoints.lines import nearest, own_lines, with_inline

_LOCALS = "<locals>."
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

    def may_be_in_package(self, package: str) -> bool:
        """Whether code of a module of that top-level *package* can match at all."""

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
    not_in: frozenset[str] = frozenset()
    """Top-level packages in which it is not looked for."""
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
        if self.not_in and module.partition(".")[0] in self.not_in:
            return False
        return self.module is None or fnmatch.fnmatchcase(module, self.module)

    def may_be_in_package(self, package: str) -> bool:
        if package in self.not_in:
            return False
        meant = (self.module or "*").partition(".")[0]
        return bool(_GLOB.search(meant)) or meant == package

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

    def may_be_in_package(self, package: str) -> bool:
        return True

    @functools.cached_property
    def _tail(self) -> str:
        return os.sep + os.path.normpath(self.file)

    def stops_in(self, code: types.CodeType) -> Iterator[tuple[types.CodeType, int | None]]:
        yield code, self.line

    def missing(self) -> str:
        return f"no code at line {self.line} of a file {self.file} was loaded"


class ByNoName:
    """A Place of which names say nothing: which code it is depends on objects. Looking for it
    finds none."""

    of_functions: ClassVar[bool] = False
    last: ClassVar[None] = None

    def may_be_in_package(self, package: str) -> bool:
        return False

    def matches(self, module: str, code: types.CodeType) -> bool:
        return False

    def stops_in(self, code: types.CodeType) -> Iterator[tuple[types.CodeType, int | None]]:
        return iter(())


def is_function(code: types.CodeType) -> bool:
    """A function's code, not a module's or a class body's."""
    return bool(code.co_flags & inspect.CO_OPTIMIZED)
