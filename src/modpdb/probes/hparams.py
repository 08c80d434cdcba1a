"""The config as a converter sees it, and which of its keys the converter's code names.

What was read cannot be told afterwards: code asks by `hparams[…]`, `.get` and `find_hparam`. What
can be told is which words the converter's classes have: the constants of their functions' code.
"""

from __future__ import annotations

import dis
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from modpdb.probes._static import class_name, is_a, mro, namespace
from modpdb.probes.files import read_json

_DEEPEST = 8  # configs within configs
_ITEMS = 4_000  # of all of it


@dataclass(frozen=True, slots=True)
class HParam:
    """A key of the config: *path* as `text_config.rope_scaling.type`, *level* counts its dots.

    *value* is a number, bool, str, None or list as it stands; None for a nested config, which is
    then *nested*, its keys following. *named_in* is the function of the converter's classes, the
    nearest to the class at hand, whose code has the key as a word: a hint that it is read.
    """

    path: str
    key: str
    level: int
    value: Any
    nested: bool
    named_in: str = ""


@dataclass(frozen=True, slots=True)
class HParams:
    """All keys, a nested config's after it. *class_name* is the converter's, "" without one:
    then which keys are named is not known."""

    where: str
    class_name: str
    keys: tuple[HParam, ...]
    left_out: int = 0


def folder_hparams(path: Path) -> HParams:
    """The config.json of a folder, or the JSON file itself. CheckpointError if it is none."""
    file = path / "config.json" if path.is_dir() else path
    return hparams_tree(read_json(file, "the config"), str(file))


def hparams_tree(config: dict[Any, Any], where: str, cls: type | None = None) -> HParams:
    """The keys of *config*; with *cls*, a converter's class, which of them its code names."""
    words = words_of(cls) if cls is not None else {}
    keys: list[HParam] = []
    left = 0
    for found in _walk(config, "", 0):
        if len(keys) >= _ITEMS:
            left += 1
            continue
        path, key, level, value, nested = found
        keys.append(HParam(path, key, level, value, nested, words.get(key, "")))
    return HParams(where, class_name(cls) if cls is not None else "", tuple(keys), left)


def _walk(
    config: dict[Any, Any], above: str, level: int
) -> Iterator[tuple[str, str, int, Any, bool]]:
    for key, value in dict.items(config):
        if type(key) is int:  # id2label's
            key = str(key)
        if type(key) is not str:
            continue
        path = f"{above}.{key}" if above else key
        nested = is_a(value, dict) and bool(dict.__len__(value)) and level < _DEEPEST
        yield path, key, level, None if nested else value, nested
        if nested:
            yield from _walk(value, path, level + 1)


def words_of(cls: type) -> dict[str, str]:
    """Every string constant in the functions of *cls* and its bases, with the first of them that
    has it, the nearest class first: {"rms_norm_eps": "TextModel.set_gguf_parameters"}."""
    words: dict[str, str] = {}
    for base in mro(cls):
        if base is object:
            continue
        for name, value in list(namespace(base).items()):
            for code in _codes(value):
                for word in _strings(code):
                    words.setdefault(word, f"{class_name(base)}.{name}")
    return words


def _codes(value: object) -> Iterator[CodeType]:
    """The code of a method, static or class method, or property."""
    if type(value) in (staticmethod, classmethod):
        value = value.__func__  # type: ignore[attr-defined]
    if type(value) is property:
        value = value.fget
    while type(value) is FunctionType and hasattr(value, "__wrapped__"):
        value = value.__wrapped__
    if type(value) is FunctionType:
        yield value.__code__


def _strings(code: CodeType) -> Iterator[str]:
    """The words that *code* loads, in tuples too; not those that name a call's arguments."""
    instructions = list(dis.get_instructions(code))
    for at, each in enumerate(instructions):
        if each.opcode not in dis.hasconst or each.opname == "KW_NAMES":
            continue
        following = instructions[at + 1].opname if at + 1 < len(instructions) else ""
        if following == "CALL_KW":  # 3.13 and later
            continue
        if type(each.argval) is CodeType:
            yield from _strings(each.argval)
        else:
            yield from _words(each.argval)


def _words(constant: object) -> Iterable[str]:
    if type(constant) is str:
        return (constant,)
    if type(constant) in (tuple, frozenset):
        return (word for each in constant for word in _words(each))  # type: ignore[attr-defined]
    return ()
