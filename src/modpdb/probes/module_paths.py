"""Where a module stands: the model that it is part of, and its path in that."""

from __future__ import annotations

import types
import weakref
from typing import Any

from modpdb.probes._static import instance_dict
from modpdb.probes.module_state import entries, is_module, named_modules

_FRAMES = 60  # callers that are looked at for the model that a module is part of


class ModulePaths:
    """Paths of modules by identity, from the models that were shown to it. Keeps none alive."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[weakref.ref[Any], str, weakref.ref[Any]]] = {}
        self._swept = 1_000  # so many are kept before those that are gone are looked for

    def learn(self, root: Any) -> None:
        """Note the path of every module in the model *root*; a shared one's is its first."""
        model = weakref.ref(root)
        seen: set[int] = set()
        for path, module in named_modules(root):
            if id(module) not in seen:
                seen.add(id(module))
                self._found[id(module)] = weakref.ref(module), path, model
        if len(self._found) > self._swept:
            found = list(self._found.items())
            self._found = {key: each for key, each in found if each[0]() is not None}
            self._swept = 2 * len(self._found)

    def knows(self, module: Any) -> bool:
        """Whether *module* is in a model that was learned: asked at every call of a module."""
        found = self._found.get(id(module))
        return found is not None and found[0]() is module

    def still_stands(self, module: Any) -> bool:
        """Whether *module* is where its path says: it may have been moved since."""
        found = self._known(module)
        at = None if found is None else found[2]()
        if found is None or at is None:
            return False
        for name in found[1].split(".") if found[1] else ():
            at = dict(entries(instance_dict(at), "_modules")).get(name)
        return at is module

    def path(self, module: Any) -> str | None:
        """The path, "" of a model itself; None of a module in no model that was learned."""
        found = self._known(module)
        return None if found is None else found[1]

    def model(self, module: Any) -> Any:
        """The model in which *module* has its path, None where that is not known or gone."""
        found = self._known(module)
        return None if found is None else found[2]()

    def _known(self, module: Any) -> tuple[weakref.ref[Any], str, weakref.ref[Any]] | None:
        found = self._found.get(id(module))
        if found is None:
            return None
        if found[0]() is not module:  # gone, and its id belongs to another object
            del self._found[id(module)]
            return None
        return found


def model_of(module: Any, frame: types.FrameType | None) -> tuple[Any, str]:
    """The outermost model that holds *module* among the variables of *frame* and its callers, and
    the variable's name there, "" of `self` or where none holds it; *module* where there is none.

    A model whose parts are called one by one is never called itself.
    """
    model, name = module, ""
    passed: set[int] = set()
    for _ in range(_FRAMES):
        if frame is None:
            break
        for variables in (frame.f_locals, frame.f_globals):
            for variable, value in list(variables.items()):
                if not is_module(value) or type(variable) is not str:
                    continue
                if value is model:
                    name = name or ("" if variable == "self" else variable)
                elif id(value) not in passed and _holds(value, model):
                    model, name = value, "" if variable == "self" else variable
                passed.add(id(value))
        frame = frame.f_back
    return model, name


def _holds(outer: Any, inner: Any) -> bool:
    return any(module is inner for _, module in named_modules(outer))
