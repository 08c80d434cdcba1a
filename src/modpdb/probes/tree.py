"""The tree of a model as plain data, whether modules or a checkpoint's names imply it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field

from modpdb.probes.layers import Own


@dataclass(frozen=True, slots=True)
class Tie:
    """An own tensor of a module that has another name as well: `weight`, `lm_head.weight`."""

    name: str
    other: str


@dataclass(frozen=True, slots=True)
class TiedTensor:
    """One tensor with several names; *elements* and *nbytes* are in the totals once."""

    names: tuple[str, ...]
    elements: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class ModuleFacts:
    """What a module and all below it amount to: one object for modules that are identical.

    Counts are elements, sizes bytes; those that do not begin with *own* take in the whole
    subtree and count a tensor once however many names it has there. *signature* is equal for
    nodes of one tree that are identical in structure, shapes, dtypes, devices and flags.
    """

    class_name: str  # "" where only a checkpoint is known
    detail: str  # sizes of a leaf layer: "640 → 1,024 + bias"
    parameters: int
    parameter_bytes: int
    buffer_bytes: int
    own_parameters: int
    own_bytes: int
    dtypes: tuple[str, ...]
    devices: tuple[str, ...]
    flags: tuple[str, ...]
    container: bool  # only holds its children: a ModuleList, a ModuleDict
    signature: int


@dataclass(frozen=True, slots=True)
class ModuleNode:
    """A module where it stands."""

    path: str
    name: str
    facts: ModuleFacts
    children: tuple[ModuleNode, ...]
    ties: tuple[Tie, ...] = ()
    same_as: str | None = None  # this very module stands there already, with its children


@dataclass(frozen=True, slots=True)
class Source:
    """Where a tree without modules comes from."""

    folder: str
    files: tuple[str, ...]
    tensors: int
    from_model_tensors: bool  # the converter's own list of tensors, else the files' headers
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModuleTree:
    """A root and what holds for all of it; *dtypes* has the bytes of each, most first."""

    root: ModuleNode
    modules: int
    training: bool | None
    dtypes: tuple[tuple[str, int], ...]
    tied: tuple[TiedTensor, ...] = ()
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Fold:
    """Identical siblings that differ in their number only, or one node alone."""

    members: tuple[ModuleNode, ...]

    @property
    def node(self) -> ModuleNode:
        return self.members[0]

    @property
    def numbers(self) -> tuple[int, ...]:
        """The siblings' numbers; empty for a node that stands alone."""
        return tuple(int(node.name) for node in self.members) if len(self.members) > 1 else ()


def folds(children: Iterable[ModuleNode]) -> list[Fold]:
    """*children* in order, numbered ones of equal signature joined at the first one's place."""
    groups: dict[Hashable, list[ModuleNode]] = {}
    for node in children:
        key = node.facts.signature if is_number(node.name) else node.name
        groups.setdefault(key, []).append(node)
    return [Fold(tuple(members)) for members in groups.values()]


def is_number(name: str) -> bool:
    return name.isdecimal() and name.isascii() and len(name) < 10 and str(int(name)) == name


def walk(root: ModuleNode) -> Iterator[ModuleNode]:
    """Every node, parents before children, in order."""
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(node.children))


class Signatures:
    """Small integers for equal keys, so that a subtree is compared by one number."""

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}

    def of(self, key: Hashable) -> int:
        return self._known.setdefault(key, len(self._known))


@dataclass(slots=True)
class Sums:
    """Totals of a subtree while it is added up.

    Tensors that may be met again further up are kept in *shared* by identity, so that each
    level counts them once.
    """

    parameters: int = 0
    parameter_bytes: int = 0
    buffer_bytes: int = 0
    dtypes: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()
    trainable: bool = False
    frozen: bool = False
    shared: dict[int, Own] = field(default_factory=dict)

    def count(self, own: Own, identity: int | None) -> None:
        """Add a tensor; *identity* is given if it may be met again."""
        facts = own.facts
        if own.kind == "parameter" and not own.plain:
            self.trainable |= facts.requires_grad
            self.frozen |= not facts.requires_grad
        self.dtypes |= {facts.dtype}
        self.devices |= {facts.device}
        if identity is not None:
            self.shared[identity] = own
        elif own.kind == "parameter":
            self.parameters += facts.elements or 0
            self.parameter_bytes += facts.nbytes or 0
        else:
            self.buffer_bytes += facts.nbytes or 0

    def add(self, other: Sums) -> None:
        self.parameters += other.parameters
        self.parameter_bytes += other.parameter_bytes
        self.buffer_bytes += other.buffer_bytes
        self.dtypes |= other.dtypes
        self.devices |= other.devices
        self.trainable |= other.trainable
        self.frozen |= other.frozen
        self.shared.update(other.shared)

    def facts(
        self,
        class_name: str,
        detail: str,
        flags: tuple[str, ...],
        container: bool,
        signature: int,
        own: Iterable[Own],
    ) -> ModuleFacts:
        """The totals with what else is known of the module; *own* are its own tensors."""
        total = Sums(self.parameters, self.parameter_bytes, self.buffer_bytes)
        for tensor in self.shared.values():
            total.count(tensor, None)
        here = Sums()
        for tensor in {tensor.identity: tensor for tensor in own}.values():
            here.count(tensor, None)
        return ModuleFacts(
            class_name=class_name,
            detail=detail,
            parameters=total.parameters,
            parameter_bytes=total.parameter_bytes,
            buffer_bytes=total.buffer_bytes,
            own_parameters=here.parameters,
            own_bytes=here.parameter_bytes,
            dtypes=tuple(sorted(self.dtypes)),
            devices=tuple(sorted(self.devices)),
            flags=flags,
            container=container,
            signature=signature,
        )


def joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def relative(here: str, there: str) -> tuple[int, str]:
    """Levels up and names down from one path to another, equal for blocks that refer alike."""
    mine, other = here.split("."), there.split(".")
    common = 0
    while common < min(len(mine), len(other)) and mine[common] == other[common]:
        common += 1
    return len(mine) - common, ".".join(other[common:])
