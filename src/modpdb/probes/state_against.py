"""A state dict beside a checkpoint's tensors, as `load_state_dict` would compare them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from modpdb.collector import collector_paused
from modpdb.probes.checkpoints import TensorEntry
from modpdb.probes.registered import TensorRow
from modpdb.probes.renames import Edit, Rename, Shape, likely_renames


@dataclass(frozen=True, slots=True)
class Meant:
    """One tensor on both sides; *stored* is its name in the checkpoint. *shape* and *dtype* are
    the module's, *in_file* and *file_dtype* the checkpoint's; None is not known."""

    name: str
    stored: str
    shape: Shape
    in_file: Shape
    dtype: str | None
    file_dtype: str | None

    @property
    def other_shape(self) -> bool:
        return None not in (self.shape, self.in_file) and self.shape != self.in_file

    @property
    def other_dtype(self) -> bool:
        return None not in (self.dtype, self.file_dtype) and self.dtype != self.file_dtype

    @property
    def transposed(self) -> bool:
        """Whether the last two dimensions are the other way round."""
        here, there = self.shape, self.in_file
        if here is None or there is None or len(here) < 2 or not self.other_shape:
            return False
        return there == (*here[:-2], here[-1], here[-2])


@dataclass(frozen=True, slots=True)
class Rule:
    """An edit of names, checkpoint to module, and the renamed tensors that it is part of."""

    edit: Edit
    tensors: tuple[Meant, ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """A key of the state dict that the checkpoint lacks; *tied* names what holds it there."""

    name: str
    shape: Shape
    dtype: str | None
    tied: str = ""


@dataclass(frozen=True, slots=True)
class Against:
    """What a strict `load_state_dict` finds, and what is guessed besides.

    *same*: how many keys are equal in name, shape and dtype, as far as both are known;
    *other_shape* and *other_dtype* differ in that. *missing* and *unexpected* are all of them,
    those in *renames*, which is a guess, too. *tied* keys are missing, but another name of the
    same parameter is there. *left_out*: unexpected names that are buffers of the module, but
    not persistent. *unsized*: how many tensors' shapes the checkpoint does not tell.
    """

    keys: int
    tensors: int
    same: int
    other_shape: tuple[Meant, ...]
    other_dtype: tuple[Meant, ...]
    missing: tuple[Missing, ...]
    unexpected: tuple[TensorEntry, ...]
    tied: tuple[Missing, ...]
    left_out: frozenset[str]
    rules: tuple[Rule, ...]
    renamed: tuple[Meant, ...]
    unsized: int


@dataclass(slots=True)
class _Sides:
    """Both sides while they are compared."""

    module: Mapping[str, TensorRow]
    checkpoint: Mapping[str, TensorEntry]
    meant: list[Meant] = field(default_factory=list)

    def pair(self, name: str, stored: str) -> Meant:
        row, entry = self.module[name], self.checkpoint[stored]
        return Meant(name, stored, _shape(row), entry.shape, _dtype(row), entry.dtype)


def state_against(
    rows: Iterable[TensorRow], tensors: Iterable[TensorEntry], left_out: Iterable[str] = ()
) -> Against:
    """Compare state dict *rows* with a checkpoint's *tensors*, by name and by likely renames.

    *left_out* are the names of buffers that are not persistent. A row without facts is a key of
    which only the name is known.
    """
    sides = _Sides({row.name: row for row in rows}, {t.name: t for t in tensors})
    both = [sides.pair(name, name) for name in sides.module if name in sides.checkpoint]
    lacking = [row for name, row in sides.module.items() if name not in sides.checkpoint]
    tied, missing = _parted(lacking, sides.checkpoint)
    unexpected = [t for name, t in sides.checkpoint.items() if name not in sides.module]
    transient = frozenset(left_out).intersection(entry.name for entry in unexpected)
    with collector_paused():
        renames = likely_renames(
            {entry.name: entry.shape for entry in unexpected if entry.name not in transient},
            {each.name: each.shape for each in missing},
        )
    tied, missing = _tied_by_renames(sides, tied, missing, renames)
    renamed = [(sides.pair(rename.new, rename.old), rename.edits) for rename in renames]
    other_shape = tuple(each for each in both if each.other_shape)
    other_dtype = tuple(each for each in both if each.other_dtype and not each.other_shape)
    return Against(
        keys=len(sides.module),
        tensors=len(sides.checkpoint),
        same=len(both) - len(other_shape) - len(other_dtype),
        other_shape=other_shape,
        other_dtype=other_dtype,
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        tied=tuple(tied),
        left_out=transient,
        rules=rules_of(renamed),
        renamed=tuple(meant for meant, _ in renamed),
        unsized=sum(entry.shape is None for entry in sides.checkpoint.values()),
    )


def _parted(
    lacking: Iterable[TensorRow], stored: Mapping[str, object]
) -> tuple[list[Missing], list[Missing]]:
    """Keys of which the checkpoint has another name, and keys that it lacks."""
    tied: list[Missing] = []
    missing: list[Missing] = []
    for row in lacking:
        other = next((name for name in row.tied if name in stored), "")
        found = Missing(row.name, _shape(row), _dtype(row), other)
        (tied if other else missing).append(found)
    return tied, missing


def _tied_by_renames(
    sides: _Sides, tied: list[Missing], missing: list[Missing], renames: Iterable[Rename]
) -> tuple[list[Missing], list[Missing]]:
    """The same once it is known under which other names the checkpoint has keys."""
    renamed = {rename.new: rename.old for rename in renames}
    rows = (sides.module[each.name] for each in missing if each.name not in renamed)
    more, _ = _parted(rows, renamed)
    if not more:
        return tied, missing
    now = {each.name for each in more}
    return tied + more, [each for each in missing if each.name not in now]


def rules_of(renamed: Iterable[tuple[Meant, Iterable[Edit]]]) -> tuple[Rule, ...]:
    """The edits, those that change most names first; `layer_0` → `layers.0`, … are one."""
    by_edit: dict[Edit, list[Meant]] = {}
    for meant, edits in renamed:
        for edit in edits:
            by_edit.setdefault(edit, []).append(meant)
    general: dict[Edit, dict[Edit, list[Meant]]] = {}
    for edit, found in by_edit.items():
        general.setdefault(_without_numbers(edit), {})[edit] = found
    rules = []
    for numberless, alike in general.items():
        edit = numberless if len(alike) > 1 else next(iter(alike))
        rules.append(Rule(edit, tuple(each for found in alike.values() for each in found)))
    return tuple(sorted(rules, key=lambda rule: -len(rule.tensors)))


def _without_numbers(edit: Edit) -> Edit:
    return Edit(re.sub(r"\d+", "#", edit.old), re.sub(r"\d+", "#", edit.new), edit.prefix)


def _shape(row: TensorRow) -> Shape:
    return None if row.facts is None else row.facts.shape


def _dtype(row: TensorRow) -> str | None:
    return None if row.facts is None else row.facts.dtype
