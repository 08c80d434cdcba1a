"""Where a module stands: its path in the model that it is part of."""

from __future__ import annotations

import weakref
from typing import Any

from modpdb.probes.module_state import named_modules


class ModulePaths:
    """Paths of modules by identity, from the models that were shown to it. Keeps none alive."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[weakref.ref[Any], str, weakref.ref[Any]]] = {}

    def learn(self, root: Any) -> None:
        """Note the path of every module in the model *root*; a shared one's is its first."""
        model = weakref.ref(root)
        seen: set[int] = set()
        for path, module in named_modules(root):
            if id(module) not in seen:
                seen.add(id(module))
                self._found[id(module)] = weakref.ref(module), path, model

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
