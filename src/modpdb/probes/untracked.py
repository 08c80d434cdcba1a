"""Tensors and modules that a model holds without registering them: `untracked`.

`parameters()`, `state_dict()` and `.to()` go by `_parameters`, `_buffers` and `_modules` only, so
they miss what stands in a plain attribute, a list, a dict, a tuple or a dataclass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal

from modpdb.collector import collector_paused
from modpdb.probes._static import (
    class_attribute,
    class_name,
    instance_dict,
    is_a,
    mro,
    namespace,
    qualified_name,
)
from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.brief import briefly
from modpdb.probes.hooks import own_hooks
from modpdb.probes.internals import ATTRIBUTES
from modpdb.probes.module_state import entries, is_module, named_modules
from modpdb.probes.tensors import TensorReader, is_parameter
from modpdb.probes.tree import joined

MOST = 20_000  # values looked at in one module's containers
_DEEPEST = 6  # containers within containers

What = Literal["parameter", "trained tensor", "computed tensor", "tensor", "module"]
Container = Literal["", "list", "dict", "mapping", "other"]

_SEQUENCES: tuple[Any, ...] = (list, tuple, deque, set, frozenset)


@dataclass(frozen=True, slots=True)
class Untracked:
    """One of them, as `MODULE.ATTRIBUTE` and, within a container, what follows: `[0]`, `['a']`.

    *container* is what the attribute holds where that is no tensor or module itself: a "list"
    (or tuple), a "dict" by strings or a "mapping" by other keys that holds *length* values, it
    among them; "other" for anything deeper or of other types.
    *also*: the registered name of the same tensor, or of one that shares its memory (*view*).
    *hides*: the registry that has the same name, which reads no longer give. *of_class*: the
    class that holds it, where the instance does not.
    """

    module: str
    attribute: str
    inside: tuple[str, ...]
    what: What
    words: str  # "[4, 4] f32", "Linear 20 parameters"
    nbytes: int | None
    container: Container = ""
    length: int = 0
    also: str = ""
    view: bool = False
    hides: str = ""
    of_class: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found in *modules*; *cut* are the paths where there was too much to look at."""

    found: tuple[Untracked, ...]
    modules: int
    cut: tuple[str, ...]


def untracked(
    roots: Sequence[tuple[str, Any]], within: Iterable[tuple[str, Any]] | None = None
) -> Findings:
    """What the modules *within* (path, module), by default all of *roots* and below, hold so.

    Left out is what loses nothing by it: a parameter or module that is registered somewhere in
    *roots* as well. A buffer that is, is listed: `.to()` puts a new tensor in its place there.
    Nothing is run or read; objects of other classes than containers and dataclasses are not
    looked into.
    """
    torch = torch_or_none()
    with undisturbed(torch), collector_paused():
        return _Search(torch, roots).findings(within)


class _Search:
    def __init__(self, torch: Any, roots: Sequence[tuple[str, Any]]) -> None:
        self._torch = torch
        self._reader = TensorReader(torch)
        self._modules: dict[int, tuple[str, Any]] = {}
        self._tensors: dict[int, tuple[str, str]] = {}  # by id: registry and path
        self._memory: dict[int, str] = {}  # by storage: the path of a tensor on it
        self._classes: set[int] = set()
        self._barren: set[int] = set()  # values in which there is nothing: a shared config
        for prefix, root in roots:
            for path, module in named_modules(root, prefix):
                self._modules.setdefault(id(module), (path, module))
        for path, module in self._modules.values():
            self._note_registered(path, instance_dict(module))

    def _note_registered(self, path: str, state: dict[str, Any]) -> None:
        for registry in ("_parameters", "_buffers"):
            for name, tensor in entries(state, registry):
                if self._reader.is_tensor(tensor):
                    full = joined(path, name)
                    self._tensors.setdefault(id(tensor), (registry, full))
                    storage = self._storage(tensor)
                    if storage is not None:
                        self._memory.setdefault(storage, full)

    def _storage(self, tensor: Any) -> int | None:
        """What identifies the memory of a tensor; None where it has none of its own to speak of."""
        if type(tensor) not in (self._torch.Tensor, self._torch.nn.Parameter):
            return None
        try:
            return tensor.untyped_storage()._cdata  # data_ptr() would copy a copy-on-write one
        except (RuntimeError, NotImplementedError):  # sparse, mkldnn
            return None

    def findings(self, within: Iterable[tuple[str, Any]] | None) -> Findings:
        every = self._modules.values() if within is None else within
        searched = list({id(each[1]): each for each in every}.values())
        found: list[Untracked] = []
        cut = []
        for path, module in searched:
            here, whole = self._in_module(path, module)
            found += here
            found += self._in_class(path, module)
            if not whole:
                cut.append(path)
        return Findings(tuple(found), len(searched), tuple(cut))

    def _in_module(self, path: str, module: Any) -> tuple[list[Untracked], bool]:
        found: list[Untracked] = []
        budget = _Budget(MOST)
        for name, value in list(instance_dict(module).items()):
            if type(name) is not str or name in ATTRIBUTES or id(value) in self._barren:
                continue
            leaves = list(self._leaves(value, budget))
            if not leaves:
                self._barren.add(id(value))
            for inside, container, leaf in leaves:
                each = self._leaf(path, name, inside, container, leaf, module)
                if each is not None:
                    found.append(each)
        return found, not budget.spent

    def _in_class(self, path: str, module: Any) -> list[Untracked]:
        """What the module's class and its bases hold themselves, for the first of its instances."""
        found = []
        for base in mro(type(module)):
            if id(base) in self._classes or qualified_name(base).startswith("torch."):
                continue
            self._classes.add(id(base))
            for name, value in list(namespace(base).items()):
                if self._reader.is_tensor(value) or is_module(value):
                    each = self._leaf(path, name, (), ("", 0), value, module)
                    if each is not None:
                        found.append(replace(each, of_class=class_name(base)))
        return found

    def _leaves(
        self, value: Any, budget: _Budget
    ) -> Iterator[tuple[tuple[str, ...], tuple[Container, int], Any]]:
        """(way, container, tensor or module) of all that *value* holds, each container once."""
        stack: list[tuple[tuple[str, ...], tuple[Container, int], Any]] = [((), ("", 0), value)]
        seen: set[int] = set()
        while stack:
            way, container, each = stack.pop()
            if self._reader.is_tensor(each) or is_module(each):
                yield way, container, each
                continue
            if len(way) >= _DEEPEST or id(each) in seen or not _holds(each):
                continue
            seen.add(id(each))
            kind = _container(each) if not way else ("other", 0)
            below = [
                ((*way, step), kind, item) for step, item in _items(each) if budget.takes_one()
            ]
            stack += reversed(below)

    def _leaf(
        self,
        path: str,
        name: str,
        inside: tuple[str, ...],
        container: tuple[Container, int],
        leaf: Any,
        module: Any,
    ) -> Untracked | None:
        if is_module(leaf):
            if id(leaf) in self._modules:
                return None
            return Untracked(path, name, inside, "module", briefly(leaf), None, *container)
        hides = "" if inside else _hidden_registry(module, name)
        registry, also = self._tensors.get(id(leaf), ("", ""))
        if registry == "_parameters" and not hides:
            return None
        view = False
        if not also:
            storage = self._storage(leaf)
            also = self._memory.get(storage, "") if storage is not None else ""
            view = bool(also)
        what = self._what(leaf)
        words = briefly(leaf).removeprefix(f"{class_name(type(leaf))} ")
        nbytes = self._reader.facts(leaf).nbytes
        notes = _computed_by(module, name) if what == "computed tensor" and not inside else ()
        return Untracked(
            *(path, name, inside, what, words, nbytes, *container),
            also=also,
            view=view,
            hides=hides,
            notes=notes,
        )

    def _what(self, tensor: Any) -> What:
        base = self._torch._C.TensorBase
        if is_parameter(tensor, self._torch.nn.Parameter):
            return "parameter"
        if not base.requires_grad.__get__(tensor):
            return "tensor"
        return "trained tensor" if base.is_leaf.__get__(tensor) else "computed tensor"


@dataclass(slots=True)
class _Budget:
    """How many values may still be looked at."""

    left: int
    spent: bool = False

    def takes_one(self) -> bool:
        self.left -= 1
        self.spent |= self.left < 0
        return self.left >= 0


def _hidden_registry(module: Any, name: str) -> str:
    """The registry that has *name* as well, though the instance's dict is what is read."""
    state = instance_dict(module)
    for registry in ("_parameters", "_buffers", "_modules"):
        if any(key == name for key, _ in entries(state, registry)):
            return registry
    return ""


def _computed_by(module: Any, name: str) -> tuple[str, ...]:
    """The old weight_norm, spectral_norm and pruning: a forward pre-hook sets it at each call."""
    registered = {key for key, _ in entries(instance_dict(module), "_parameters")}
    if not {f"{name}_g", f"{name}_orig"} & registered:
        return ()
    hooks = [hook.function.name for hook in own_hooks(module) if "pre-hook" in hook.kind]
    return (f"set before each forward by {hooks[0]}",) if hooks else ()


# -- containers ----------------------------------------------------------------------------------


def _container(value: Any) -> tuple[Container, int]:
    for kind in (list, tuple):
        if is_a(value, kind):
            return "list", kind.__len__(value)
    if not is_a(value, dict):
        return "other", 0
    named = all(type(key) is str and "." not in key for key in dict.__iter__(value))
    return "dict" if named else "mapping", dict.__len__(value)


def _holds(value: Any) -> bool:
    """Whether it is looked into."""
    if any(is_a(value, kind) for kind in (dict, SimpleNamespace, *_SEQUENCES)):
        return True
    return type(class_attribute(type(value), "__dataclass_fields__")) is dict


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """(`[0]`, `['key']` or `.field`, value) of what a container holds, as its base class has it."""
    if is_a(value, dict):
        for key, item in list(dict.items(value)):
            yield f"[{briefly(key)}]", item
        return
    for kind in _SEQUENCES:
        if is_a(value, kind):
            for index, item in enumerate(list(kind.__iter__(value))):
                yield f"[{index}]", item
            return
    for name, item in list(instance_dict(value).items()):
        if type(name) is str:
            yield f".{name}", item
