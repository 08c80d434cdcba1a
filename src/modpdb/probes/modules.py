"""A whole nn.Module tree as plain data: `module_tree`.

Modules are read through their instance dictionaries. `getattr` on a module may run a property
(a parametrized weight computes), a subclass's `__getattr__`, or C++ behind TorchScript.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from modpdb.collector import collector_paused
from modpdb.probes._static import derives
from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.layers import Own, sizes
from modpdb.probes.module_state import (
    ModuleClass,
    describe_class,
    entries,
    flags,
    scripted_class,
    training,
)
from modpdb.probes.tensors import TensorReader, is_parameter
from modpdb.probes.tree import (
    ModuleFacts,
    ModuleNode,
    ModuleTree,
    Signatures,
    Sums,
    Tie,
    TiedTensor,
    joined,
    relative,
)

_NOTHING = ModuleFacts("", "", 0, 0, 0, 0, 0, (), (), (), False, -1)


def module_tree(root: Any, name: str = "") -> ModuleTree:
    """The tree of *root*, an nn.Module; *name* is the path that stands for it, "" for none.

    Nothing is run, read or changed: no forward, no property, no tensor data. A module that
    stands in several places is described at the first and named at the others; a cycle ends
    where it closes.
    """
    torch = torch_or_none()
    with undisturbed(torch), collector_paused():
        return _Scan(torch).tree(root, name)


@dataclass(slots=True)
class _Visit:
    """One module while it is looked at."""

    name: str
    path: str
    cls: ModuleClass
    state: dict[str, Any]
    own: list[Own]
    pending: list[tuple[str, Any]]
    children: list[tuple[str, _Visit]] = field(default_factory=list)
    shared: bool = False  # it, or a module above it, stands in several places
    sums: Sums | None = None  # both are there once all below it has been added up
    node: ModuleNode | None = None


class _Scan:
    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._reader = TensorReader(torch)
        self._classes: dict[int, ModuleClass | None] = {}  # by id: a metaclass may hash
        self._visits: dict[int, _Visit] = {}
        self._first: dict[int, tuple[str, str]] = {}  # of a tensor: where it was met first
        self._names: dict[int, list[str]] = {}  # of a tensor with several names: all of them
        self._signatures = Signatures()
        self._known: dict[int, tuple[ModuleFacts, Sums]] = {}
        self._training: bool | None = None

    def tree(self, root: Any, name: str) -> ModuleTree:
        order = self._walk(root, name)
        self._mark_shared()
        top = order[-1]
        self._training = training(top.state)
        for visit in order:
            visit.node = self._node(visit)
        assert top.node is not None
        return ModuleTree(
            top.node, len(order), self._training, _bytes_by_dtype(order), self._tied(order)
        )

    def elements(self, root: Any) -> int:
        every = {own.identity: own for visit in self._walk(root, "") for own in visit.own}
        return sum(own.facts.elements or 0 for own in every.values() if own.kind == "parameter")

    def _walk(self, root: Any, name: str) -> list[_Visit]:
        """Every module once, children before parents, without recursion: trees may be deep."""
        order: list[_Visit] = []
        stack = [self._enter(root, name, name)]
        while stack:
            visit = stack[-1]
            if not visit.pending:
                order.append(stack.pop())
                continue
            name, child = visit.pending.pop()
            known = self._visits.get(id(child))
            if known is None:
                known = self._enter(child, name, joined(visit.path, name))
                stack.append(known)
            else:
                known.shared = True
            visit.children.append((name, known))
        return order

    def _enter(self, module: Any, name: str, path: str) -> _Visit:
        cls = self._class_of(module)
        assert cls is not None, "not an nn.Module"
        state = cls.state_of(module)
        if cls.scripted:
            cls = scripted_class(cls, state)
        pending = [child for child in entries(state, "_modules") if self._class_of(child[1])]
        pending.reverse()
        visit = _Visit(name, path, cls, state, self._own(state, path), pending)
        self._visits[id(module)] = visit
        return visit

    def _class_of(self, value: object) -> ModuleClass | None:
        """The class of a module; None for what is no module, as one registered as None."""
        cls = type(value)
        if id(cls) not in self._classes:
            module = derives(cls, self._torch.nn.Module)
            self._classes[id(cls)] = describe_class(self._torch, cls) if module else None
        return self._classes[id(cls)]

    def _own(self, state: dict[str, Any], path: str) -> list[Own]:
        own = []
        for kind, registry in (("parameter", "_parameters"), ("buffer", "_buffers")):
            for name, tensor in entries(state, registry):
                if not self._reader.is_tensor(tensor):
                    continue  # registered as None, mostly
                plain = kind == "parameter" and not is_parameter(tensor, self._torch.nn.Parameter)
                own.append(Own(name, kind, self._reader.facts(tensor), id(tensor), plain))
                self._note_name(id(tensor), path, name)
        return own

    def _note_name(self, tensor: int, path: str, name: str) -> None:
        if tensor not in self._first:
            self._first[tensor] = (path, name)
        else:
            names = self._names.setdefault(tensor, [joined(*self._first[tensor])])
            names.append(joined(path, name))

    def _mark_shared(self) -> None:
        """Whatever lies below a module that stands in several places does so as well."""
        pending = [visit for visit in self._visits.values() if visit.shared]
        while pending:
            for _, child in pending.pop().children:
                if not child.shared:
                    child.shared = True
                    pending.append(child)

    def _node(self, visit: _Visit) -> ModuleNode:
        children = tuple([self._child(visit, name, child) for name, child in visit.children])
        ties = self._ties(visit) if self._names else ()
        facts, visit.sums = self._facts(visit, children, ties)
        return ModuleNode(visit.path, visit.name, facts, children, ties)

    def _child(self, parent: _Visit, name: str, child: _Visit) -> ModuleNode:
        path = joined(parent.path, name)
        if child.node is not None and child.path == path:
            return child.node
        # Met before, or (with no node yet) being looked at further up: a cycle closes here.
        facts = child.node.facts if child.node else replace(_NOTHING, class_name=child.cls.name)
        signature = self._signatures.of(("same as", relative(path, child.path)))
        return ModuleNode(path, name, replace(facts, signature=signature), (), same_as=child.path)

    def _facts(
        self, visit: _Visit, children: tuple[ModuleNode, ...], ties: tuple[Tie, ...]
    ) -> tuple[ModuleFacts, Sums]:
        """Facts and sums of *visit*; those of an identical module if there has been one."""
        notes = self._flags(visit)
        detail = sizes(visit.state, visit.own) if visit.own or visit.cls.special else ""
        # The reader gives one object for all tensors that are alike, so its id stands for them.
        own = tuple([(tensor.name, tensor.kind, id(tensor.facts)) for tensor in visit.own])
        ways = tuple(
            [(tie.name, relative(joined(visit.path, tie.name), tie.other)) for tie in ties]
        )
        below = tuple([(child.name, child.facts.signature) for child in children])
        signature = self._signatures.of((visit.cls.key, detail, notes, own, ways, below))
        known = self._known.get(signature)
        alone = not visit.shared and not any(
            child.sums is not None and child.sums.shared for _, child in visit.children
        )
        if known is not None and alone:
            return known
        sums = self._add_up(visit)
        if sums.frozen:
            notes += ("partly frozen" if sums.trainable else "frozen",)
        container = visit.cls.container and not visit.own
        facts = sums.facts(visit.cls.name, detail, notes, container, signature, visit.own)
        if not sums.shared:
            self._known[signature] = (facts, sums)
        return facts, sums

    def _flags(self, visit: _Visit) -> tuple[str, ...]:
        found = flags(visit.cls, visit.state, visit.own)
        mode = training(visit.state)
        if None in (mode, self._training) or mode is self._training:
            return found
        return (*found, "training" if mode else "eval")

    def _add_up(self, visit: _Visit) -> Sums:
        sums = Sums()
        for _, child in visit.children:
            if child.sums is not None:
                sums.add(child.sums)
        for own in visit.own:
            twice = visit.shared or own.identity in self._names
            sums.count(own, own.identity if twice else None)
        return sums

    def _ties(self, visit: _Visit) -> tuple[Tie, ...]:
        ties = []
        for own in visit.own:
            names = self._names.get(own.identity)
            if names:
                here = joined(visit.path, own.name)
                ties.append(Tie(own.name, names[1] if names[0] == here else names[0]))
        return tuple(ties)

    def _tied(self, order: list[_Visit]) -> tuple[TiedTensor, ...]:
        every = {own.identity: own.facts for visit in order for own in visit.own}
        return tuple(
            TiedTensor(tuple(names), every[identity].elements or 0, every[identity].nbytes or 0)
            for identity, names in self._names.items()
        )


def _bytes_by_dtype(order: list[_Visit]) -> tuple[tuple[str, int], ...]:
    """Bytes of the parameters by dtype, most first; of the buffers where there is no parameter."""
    every = {own.identity: own for visit in order for own in visit.own}.values()
    kind = "parameter" if any(own.kind == "parameter" for own in every) else "buffer"
    found: dict[str, int] = {}
    for own in every:
        if own.kind == kind:
            found[own.facts.dtype] = found.get(own.facts.dtype, 0) + (own.facts.nbytes or 0)
    return tuple(sorted(found.items(), key=lambda item: -item[1]))


def parameter_count(root: Any) -> int:
    """Elements of all parameters, a tied one counted once; uninitialised ones not at all."""
    torch = torch_or_none()
    with undisturbed(torch), collector_paused():
        return _Scan(torch).elements(root)
