"""``Sub.method`` where Sub inherits the method: the base's code, for instances of Sub."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeGuard

from modpdb.breakpoints import class_statements
from modpdb.breakpoints.loaded import (
    class_name,
    definer,
    is_static,
    loaded_classes,
    method_code,
    module_of,
    mro,
    qualname,
)
from modpdb.breakpoints.locations import Spec, is_function
from modpdb.breakpoints.locator import Locator, Search

_MODULE_BODY = "<module>"


@dataclass(frozen=True)
class ClassBody:
    """The body of a class of which *method* names a method, to be found before it runs."""

    method: Spec
    of_functions: ClassVar[bool] = False

    @property
    def last(self) -> str | None:
        return self.method.name.split(".")[-2]

    def may_be_in_package(self, package: str) -> bool:
        return self.method.may_be_in_package(package)

    def matches(self, module: str, code: types.CodeType) -> bool:
        if is_function(code) or code.co_name == _MODULE_BODY:
            return False
        return self.method.names(module, f"{code.co_qualname}.{self.method.last}")

    def stops_in(self, code: types.CodeType) -> Iterator[tuple[types.CodeType, int | None]]:
        return iter(())

    def missing(self) -> str:
        return f"no class {self.last} was loaded"


def may_inherit(spec: object) -> TypeGuard[Spec]:
    """Whether *spec* names one method of one class, which may come from a base."""
    return isinstance(spec, Spec) and "." in spec.name and not spec.is_glob


def inherited(spec: Spec) -> types.CodeType | None:
    """The code behind the method that *spec* means, if a loaded class has it."""
    for cls in loaded_classes(spec.name.split(".")[-2]):
        if spec.names(module_of(cls), f"{qualname(cls)}.{spec.last}"):
            return method_code(cls, spec.name.split(".")[-1])
    return None


class Inheritance:
    """Finds the code that Sub may inherit a method from, as far up as it takes.

    Of loaded classes Python's own order of lookup is known. Of a class to come the bases are
    known by name once its module is loaded; each of them is then looked for in turn. What is
    found is more than what is meant: `concerns` says, at a call, whether it is.

    ``found`` is called with the code, and with whether it is a staticmethod, which is called
    with no instance to tell by. ``original`` gives the code that the engine may have replaced.
    """

    def __init__(
        self,
        spec: Spec,
        locator: Locator,
        found: Callable[[types.CodeType, bool], None],
        original: Callable[[types.CodeType], types.CodeType],
    ) -> None:
        self._spec = spec
        *_, self.heir, self._method = spec.name.split(".")
        self._locator = locator
        self._found = found
        self._original = original
        self._bases: set[str] = set()
        self._searches: list[Search] = []

    def start(self) -> None:
        for cls in loaded_classes(self.heir):
            # What the class defines itself, its name finds.
            if self._is_meant(cls) and definer(cls, self._method) is not cls:
                self._take(cls)
        self._search(self._spec, self._body)

    def stop(self) -> None:
        for search in self._searches:
            self._locator.forget(search)

    def concerns(self, frame: types.FrameType) -> bool:
        """Whether *frame* enters the method that an instance of Sub has, or Sub itself."""
        entered = self._original(frame.f_code)
        return any(
            self._is_meant(cls) and self._code(cls) is entered
            for cls in classes_of(first_argument(frame))
        )

    def _code(self, cls: type) -> types.CodeType | None:
        code = method_code(cls, self._method)
        return None if code is None else self._original(code)

    def whose(self, frame: types.FrameType) -> str:
        """For the stop in *frame*: what `self` is, and what the method really is."""
        owner = first_argument(frame)
        is_class = issubclass(type(owner), type)
        cls: type = owner if is_class else type(owner)  # type: ignore[assignment]
        name = frame.f_code.co_varnames[0]
        return (
            f"{name} is {'' if is_class else 'a '}{class_name(cls)}: "
            f"{self.heir}.{self._method} is {frame.f_code.co_qualname}"
        )

    def _is_meant(self, cls: type) -> bool:
        if class_name(cls) != self.heir:
            return False
        return self._spec.names(module_of(cls), f"{qualname(cls)}.{self._method}")

    def _take(self, cls: type) -> None:
        code = self._code(cls)
        if code is not None:
            self._found(code, is_static(cls, self._method))

    def _search(self, method: Spec, found: Callable[[types.CodeType], None]) -> None:
        self._searches.append(self._locator.search(ClassBody(method), found))

    def _body(self, body: types.CodeType) -> None:
        """Sub's body: where it defines the method, that is no matter of inheritance."""
        if not any(_defined(body, self._method)):
            self._look_in_bases(body)

    def _base_body(self, body: types.CodeType) -> None:
        own = list(_defined(body, self._method))
        for code in own:
            self._found(code, class_statements.is_static(code))
        if not own:
            self._look_in_bases(body)

    def _look_in_bases(self, body: types.CodeType) -> None:
        # By name alone: where a base was imported from is not where it was defined.
        for base in sorted(class_statements.base_names(body) - self._bases):
            self._bases.add(base)
            for cls in loaded_classes(base):
                self._take(cls)
            self._search(Spec(None, f"{base}.{self._method}"), self._base_body)


def classes_of(owner: object) -> Iterator[type]:
    """The classes that *owner* is an instance of, and those it derives from if it is one."""
    yield from mro(type(owner))
    if issubclass(type(owner), type):
        yield from mro(owner)  # type: ignore[arg-type]


def first_argument(frame: types.FrameType) -> object:
    """``self`` or ``cls`` of a method's frame at its entry, None where it takes nothing."""
    code = frame.f_code
    return frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None


def _defined(body: types.CodeType, name: str) -> Iterator[types.CodeType]:
    for const in body.co_consts:
        if isinstance(const, types.CodeType) and const.co_name == name:
            yield const
