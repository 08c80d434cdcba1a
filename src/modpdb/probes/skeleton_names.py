"""Which checkpoint tensors become which parameters when transformers loads them.

transformers renames while loading, and since 5.0 merges and splits: experts are one parameter,
stacked. The answers are its own (`transformers.conversion_mapping`, `core_model_loading`), worked
out with tensors on the meta device, in the steps of `convert_and_load_state_dict_in_model`
(5.23). Run in a process that may be disturbed: modpdb.probes.skeleton's.
"""

from __future__ import annotations

import copy
import importlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from modpdb.probes.checkpoints import TensorEntry
from modpdb.probes.registered import TensorRow
from modpdb.probes.renames import Shape, edits_between
from modpdb.probes.state import state_of
from modpdb.probes.state_against import Meant, Rule, rules_of


@dataclass(frozen=True, slots=True)
class Loads:
    """A parameter or buffer and the tensors that it is made of; *by* names the operations, none
    where one tensor is taken as it is. *shape* is the parameter's, *made* what comes of the
    tensors; None is not known."""

    name: str
    sources: tuple[str, ...]
    by: tuple[str, ...]
    shape: Shape
    made: Shape

    @property
    def renamed(self) -> bool:
        """Whether it is one tensor as it is, by another name."""
        return len(self.sources) == 1 and not self.by and self.sources[0] != self.name

    @property
    def other_shape(self) -> bool:
        return None not in (self.shape, self.made) and self.shape != self.made


@dataclass(frozen=True, slots=True)
class Alone:
    """A parameter without a tensor, or a tensor without a parameter. *why* it is no error: tied
    with what, or transformers ignores it by its own list; "" otherwise."""

    name: str
    shape: Shape
    dtype: str | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Names:
    """*rules*: what the names of tensors differ in that are a parameter as they are.
    *problems*: what could not be worked out, and why."""

    loads: tuple[Loads, ...]
    rules: tuple[Rule, ...]
    parameters: tuple[Alone, ...]
    tensors: tuple[Alone, ...]
    problems: tuple[str, ...]


def loading_names(model: Any, tensors: Iterable[TensorEntry]) -> Names:
    """Where *tensors* go in *model*, a PreTrainedModel on the meta device."""
    entries = {entry.name: entry for entry in tensors}
    rows = {row.name: row for row in state_of(model).rows}
    loads, stray, problems = _loads(model, rows, entries)
    made = {each.name for each in loads}
    lacking = [row for name, row in rows.items() if name not in made]
    ignored = _ignored(model, {row.name for row in lacking}, stray)
    parameters = [
        Alone(row.name, _shape(row), row.facts.dtype if row.facts else None, why)
        for row in lacking
        for why in (_tied(row, made) or ignored.get(row.name, ""),)
    ]
    unused = [
        Alone(name, entries[name].shape, entries[name].dtype, ignored.get(target, ""))
        for name, target in stray.items()
    ]
    return Names(tuple(loads), _rules(loads), tuple(parameters), tuple(unused), tuple(problems))


def _rules(loads: Iterable[Loads]) -> tuple[Rule, ...]:
    return rules_of(
        (
            Meant(each.name, each.sources[0], each.shape, each.made, None, None),
            edits_between(each.sources[0], each.name),
        )
        for each in loads
        if each.renamed
    )


def _shape(row: TensorRow) -> Shape:
    return None if row.facts is None else row.facts.shape


def _tied(row: TensorRow, made: set[str]) -> str:
    other = next((name for name in row.tied if name in made), "")
    return f"tied with {other}" if other else ""


def _loads(
    model: Any, rows: Mapping[str, TensorRow], entries: Mapping[str, TensorEntry]
) -> tuple[list[Loads], dict[str, str], list[str]]:
    """What is loaded; the tensors that are not, by the name that they would have; problems."""
    target_of, problem = _renaming(model, rows)
    problems = [problem] if problem else []
    plain: dict[str, list[str]] = {}
    gathered: dict[str, tuple[Any, list[tuple[str, str]]]] = {}
    stray: dict[str, str] = {}
    for name in sorted(entries, key=_natural):
        target, pattern, converter = target_of(name)
        if target not in rows:
            stray[name] = target
        elif converter is None:
            plain.setdefault(target, []).append(name)
        else:
            gathered.setdefault(target, (converter, []))[1].append((name, pattern))
    loads = [
        Loads(target, tuple(names), (), _shape(rows[target]), entries[names[0]].shape)
        for target, names in plain.items()
    ]
    for target, (converter, sources) in gathered.items():
        names = tuple(name for name, _ in sources)
        by = tuple(type(operation).__name__ for operation in converter.operations)
        try:
            results = _converted(model, target, converter, sources, entries)
        except Exception as error:  # of transformers' operations, which raise all kinds
            said = str(error).partition("\n")[0]
            problems.append(f"{target}: {', '.join(by)}: {type(error).__name__}: {said}")
            results = {target: None}
        loads += [
            Loads(made, names, by, _shape(rows[made]), shape)
            for made, shape in results.items()
            if made in rows
        ]
    order = {name: at for at, name in enumerate(rows)}
    return sorted(loads, key=lambda each: order[each.name]), stray, problems


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers by their size, as transformers orders tensors before it stacks them."""
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in name.split(".")]


Renaming = Callable[[str], tuple[str, str, Any]]


def _renaming(model: Any, rows: Mapping[str, Any]) -> tuple[Renaming, str]:
    """What gives a tensor's parameter, with the pattern and the converter if one takes it."""
    if int(sys.modules["transformers"].__version__.partition(".")[0]) < 5:
        return _before_5(model, rows), ""
    try:
        loading = importlib.import_module("transformers.core_model_loading")
        mapping = importlib.import_module("transformers.conversion_mapping")
        transforms = mapping.get_model_conversion_mapping(model)
        renamings = [t for t in transforms if isinstance(t, loading.WeightRenaming)]
        converters = [t for t in transforms if isinstance(t, loading.WeightConverter)]
        by_pattern = {p: each for each in converters for p in each.source_patterns}
        rename, prefix = loading.rename_source_key, model.base_model_prefix
    except Exception as error:  # another version's, which does it in another way
        said = f"how transformers renames is not known: {type(error).__name__}: {error}"
        return (lambda name: (name, "", None)), said

    def target_of(name: str) -> tuple[str, str, Any]:
        target, pattern = rename(name, renamings, converters, prefix, rows)
        if target not in rows and name in rows:
            target, pattern = rename(name, [], [], prefix, rows)
        return target, pattern or "", None if pattern is None else by_pattern[pattern]

    return target_of, ""


def _before_5(model: Any, rows: Mapping[str, Any]) -> Renaming:
    """transformers 4: the model's own table of patterns, and the base model's prefix."""
    table: dict[str, str] = getattr(model, "_checkpoint_conversion_mapping", None) or {}
    prefix = f"{model.base_model_prefix}."

    def target_of(name: str) -> tuple[str, str, Any]:
        for pattern, replacement in table.items():
            name, times = re.subn(pattern, replacement, name)
            if times:
                break
        if name not in rows:
            near = name.removeprefix(prefix) if name.startswith(prefix) else prefix + name
            name = near if near in rows else name
        return name, "", None

    return target_of


def _converted(
    model: Any,
    target: str,
    converter: Any,
    sources: Iterable[tuple[str, str]],
    entries: Mapping[str, TensorEntry],
) -> dict[str, Shape]:
    """The shapes that the converter makes of its tensors, by parameter."""
    torch = sys.modules["torch"]
    own = copy.deepcopy(converter)
    for name, pattern in sources:
        shape = entries[name].shape
        if shape is None:
            return {target: None}
        own.add_tensor(target, name, pattern, torch.empty(shape, device="meta"))
    made = own.convert(target, model=model, config=model.config)
    single = ((name, t[0] if isinstance(t, list) else t) for name, t in made.items())
    return {name: tuple(tensor.shape) for name, tensor in single}


def _ignored(model: Any, missing: set[str], stray: Mapping[str, str]) -> dict[str, str]:
    """The names of either kind that transformers drops from its report."""
    info = SimpleNamespace(missing_keys=set(missing), unexpected_keys=set(stray.values()))
    try:
        model._adjust_missing_and_unexpected_keys(info)
    except (AttributeError, TypeError):  # not there in transformers 4, or with other arguments
        return {}
    dropped = (missing - info.missing_keys) | (set(stray.values()) - info.unexpected_keys)
    return dict.fromkeys(dropped, "transformers ignores it")
