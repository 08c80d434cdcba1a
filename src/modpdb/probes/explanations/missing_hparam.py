"""`KeyError: could not find any of: [...]`, and a key of the config that is not there."""

from __future__ import annotations

import difflib
import linecache
from collections.abc import Iterator, Mapping
from typing import Any

from modpdb.probes._static import is_a
from modpdb.probes.explanations.explanation import (
    Caught,
    Cause,
    Explanation,
    Frame,
    Row,
    Step,
    Table,
    arguments,
    held,
    quoted,
    raised,
)
from modpdb.probes.explanations.sizes import SYNONYMS, shown_number, tensors_of
from modpdb.probes.files import CheckpointError
from modpdb.probes.hparams import HParam, folder_hparams, hparams_tree

_ASKING = ("find_hparam", "find_vparam", "find_aparam", "_find_param", "<genexpr>")
_NEAR = 4  # keys of nearly the name


def missing_hparam(caught: Caught) -> Explanation | None:
    """Which key the config lacks, who asks for it, and where its number may be found."""
    if not raised(caught, KeyError) or caught.conversion is None:
        return None
    asked = _asked(caught)
    if asked is None:
        return None
    keys, config, asking = asked
    found = hparams_tree(config, "") if config else None
    leaves = [each for each in (found.keys if found else ()) if not each.nested]
    same = sorted((each for each in leaves if each.key in keys), key=_of_another_part)
    tensors = tensors_of(caught.conversion)
    shown = shown_number(keys, tensors, config)
    near = _near(keys, leaves)
    causes, tables = _where_it_is(caught, keys, same, near)
    usual = _usual(keys, same)
    if shown is not None:
        row = Row(usual, (str(shown.value), shown.how))
        tables.append(Table("what the checkpoint's shapes show", (row,), brief=True))
    steps = []
    value = _value(same, near, shown.value if shown is not None else None)
    if value is not None:
        guess = "" if shown is not None else ", a guess"
        steps.append(Step(f"in config.json{guess}", (f'  "{usual}": {value},',)))
    other = next((each for each in (*same, *near) if "." not in each.path), None)
    if other is not None and asking is not None and asking is not caught.frames[0]:
        words = "or in the list of names that is asked for"
        steps.append(Step(words, (quoted(other.key),), asking.file, asking.line))
    steps.append(Step("see the config", ("hparams",)))
    names = " or ".join(keys) if len(keys) <= 4 else f"{', '.join(keys[:4])}, …"
    where = asking.place if asking is not None else ""
    says = f"the config has no {names}, which {where or 'the converter'} asks for"
    return Explanation("missing hparam", says, tuple(causes), tuple(tables), tuple(steps), where)


def _where_it_is(
    caught: Caught, keys: list[str], same: list[HParam], near: list[HParam]
) -> tuple[list[Cause], list[Table]]:
    """What the config has in the place of *keys*: *same* are of the name, *near* alike."""
    causes, tables = [], []
    if same:
        words = f"{same[0].key} stands in a nested config, where this code does not look"
        causes.append(Cause(f"{words}: {same[0].path}"))
        tables.append(Table("the keys of that name", tuple(map(_row, same)), brief=True))
    elif near:
        causes.append(Cause(f"the config has {keys[0]} as {near[0].path}", guess=True))
        rows = tuple(map(_row, near))
        tables.append(Table("keys of nearly that meaning or name", rows, brief=True))
    causes += _in_file(caught, keys)
    if not causes:
        words = f"config.json lacks {keys[0]}: not whole, or another model's"
        causes.append(Cause(words, guess=True))
    return causes, tables


def _usual(keys: list[str], same: list[HParam]) -> str:
    """Of names that mean one number that which the config has elsewhere, or most configs have."""
    if same:
        return same[0].key
    common = (name for group in SYNONYMS for name in group if name in keys)
    return next(common, keys[0])


def _asked(caught: Caught) -> tuple[list[str], dict[Any, Any], Frame | None] | None:
    """The keys that were asked for, the dict without them, and who asked."""
    asking = next((each for each in caught.frames if each.function not in _ASKING), None)
    inner = caught.frame("find_hparam", "_find_param")
    if inner is not None and caught.message.startswith("could not find any of"):
        keys: Any = inner.variables.get("keys")
        config = inner.variables.get("obj", held(inner.variables.get("self"), "hparams"))
        names = (
            [each for each in keys if type(each) is str]
            if is_a(keys, list) or is_a(keys, tuple)
            else []
        )
        if names and is_a(config, dict):
            return names, config, asking
        return None
    first = arguments(caught.error)[:1]
    config = caught.config
    if asking is None or asking is not caught.frames[0] or config is None:
        return None
    if not first or type(first[0]) is not str or dict.__contains__(config, first[0]):
        return None
    line = linecache.getline(asking.file, asking.line)
    if "hparams" not in line or first[0] not in line:
        return None  # of some other dict
    return [first[0]], config, asking


def _near(keys: list[str], leaves: list[HParam]) -> list[HParam]:
    """Keys that mean the same elsewhere, then those of nearly the name."""
    meant = {name for group in SYNONYMS if set(group) & set(keys) for name in group}
    found = [each for each in leaves if each.key in meant]
    names = [each.key for each in leaves]
    for key in keys:
        for near in difflib.get_close_matches(key, names, n=2, cutoff=0.75):
            found += [each for each in leaves if each.key == near]
    by_path = {each.path: each for each in found}
    return sorted(by_path.values(), key=_of_another_part)[:_NEAR]


def _of_another_part(each: HParam) -> bool:
    """Whether it is of an encoder: its numbers are likely not those of the text model."""
    return each.path.startswith(("vision", "audio", "whisper", "speech"))


def _row(each: HParam) -> Row:
    return Row(each.path, (_plain(each.value),))


def _plain(value: object) -> str:
    if value is None or type(value) is bool:
        return {None: "null", True: "true", False: "false"}[value]
    if type(value) in (int, float):
        return repr(value)
    if type(value) is str:
        return f'"{value}"' if len(value) <= 60 else f'"{value[:60]}…"'
    return "…"


def _value(same: list[HParam], near: list[HParam], shown: int | None) -> str | None:
    """What to write, from the surest source."""
    if shown is not None:
        return str(shown)
    for each in (*same, *near):
        if type(each.value) in (int, float, bool):
            return _plain(each.value)
    return None


def _in_file(caught: Caught, keys: list[str]) -> Iterator[Cause]:
    """Whether config.json itself has the key, which transformers then left out."""
    folder = caught.conversion.dir_model if caught.conversion is not None else None
    if folder is None:
        return
    try:
        there = [each for each in folder_hparams(folder).keys if each.key in keys]
    except CheckpointError as error:
        yield Cause(f"config.json cannot be read: {error}")
        return
    if there and not _in(caught.config, there[0].key):
        yield Cause(
            f"config.json has {there[0].path} = {_plain(there[0].value)}, and the converter's copy "
            "has not: transformers' class of this model left it out"
        )


def _in(config: Mapping[Any, Any] | None, key: str) -> bool:
    return config is not None and any(
        each.key == key for each in hparams_tree(dict(config), "").keys
    )
