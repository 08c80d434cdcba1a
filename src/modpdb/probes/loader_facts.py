"""What llama.cpp's loader needs of each architecture, as scripts/loader_facts.py found it.

loader_facts.json has rows of names and Python expressions: the shape of a tensor, the condition
under which it is asked for, the keys that a hyperparameter is read from. An expression may have
the value UNKNOWN, where the C++ could not be followed or the metadata does not tell.
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from modpdb.probes.gguf_contents import Array

_FILE = Path(__file__).with_name("loader_facts.json")
_DEEPEST = 40  # definitions within definitions
_BRACES = re.compile(r"\{([^{}]+)\}")

_READ = ("key", "key_at", "length")
NOT_REQUIRED, ANY_SHAPE = 1, 16  # flags of llama_model_loader that are looked at


class _Unknown:
    """The value of what cannot be told."""

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN = _Unknown()


@dataclass(frozen=True, slots=True)
class TensorRow:
    """A tensor that the loader asks for, or many: *name* has expressions in braces.

    *shape* (ggml's ne), *flags*, *condition* and *count* are expressions. With a *count*, blocks
    are asked for as often, their number being `i`.
    """

    name: str
    shape: tuple[str, ...]
    flags: str
    condition: str = "True"
    count: str = ""


@dataclass(frozen=True, slots=True)
class ArchitectureFacts:
    """*keys*: the required ones, each with its condition; *refused*: conditions under which the
    loader stops; *instead*: what it takes where a tensor is not there."""

    source: str
    definitions: Mapping[str, str]
    keys: tuple[tuple[str, str], ...]
    refused: tuple[str, ...]
    instead: Mapping[str, str]
    sidecars: tuple[str, ...]
    tensors: tuple[TensorRow, ...]


def architecture_facts(arch: str) -> ArchitectureFacts | None:
    """What is known of *arch*, by its name in `general.architecture`; None for nothing."""
    whole = _whole()
    found = whole["architectures"].get(arch)
    if found is None:
        return None
    return ArchitectureFacts(
        whole["source"],
        whole["definitions"] | found["definitions"],
        tuple((key, condition) for key, condition in whole["keys"] + found["keys"]),
        tuple(whole["refused"] + found["refused"]),
        found["instead"],
        tuple(whole["sidecars"]),
        tuple(_row(*row) for row in found["tensors"]),
    )


def known_architectures() -> frozenset[str]:
    return frozenset(_whole()["architectures"])


def facts_source() -> str:
    """Which loader the facts are of, in a few words."""
    source: str = _whole()["source"]
    return source


@cache
def _whole() -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return whole


def _row(
    name: str, shape: list[str], flags: str | int, condition: str = "", count: str = ""
) -> TensorRow:
    return TensorRow(name, tuple(shape), str(flags), condition or "True", count)


_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_, ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt,
    ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.In: lambda one, many: one in many, ast.NotIn: lambda one, many: one not in many,
}  # fmt: skip


class Expressions:
    """The values of expressions for one file: its metadata, and the tensors that it has."""

    def __init__(
        self,
        arch: str,
        definitions: Mapping[str, str],
        metadata: Mapping[str, object],
        names: Collection[str],
    ) -> None:
        self._arch = arch
        self._definitions = definitions
        self._metadata = metadata
        self._names = names
        self._depth = 0

    def value(self, text: str, block: int | None = None) -> Any:
        """A number, bool, str or UNKNOWN."""
        return self._of(_parsed(text), block)

    def filled(self, name: str, block: int | None = None) -> str | None:
        """A tensor's *name* with its expressions worked out; None where one is not known."""
        parts = _BRACES.split(name)
        for place in range(1, len(parts), 2):
            number = self.value(parts[place], block)
            if type(number) is not int:
                return None
            parts[place] = str(number)
        return "".join(parts)

    def mentioned(self, text: str, block: int | None = None) -> list[str]:
        """The metadata keys that *text* is worked out from here, in full."""
        found: dict[str, None] = {}
        self._mention(_parsed(text), block, found)
        return list(found)

    def _mention(self, node: ast.AST, block: int | None, found: dict[str, None]) -> None:
        if isinstance(node, ast.Name) and node.id in self._definitions and self._depth < _DEEPEST:
            self._depth += 1
            self._mention(_parsed(self._definitions[node.id]), block, found)
            self._depth -= 1
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in _READ:
            key = self.full_key(ast.literal_eval(node.args[0]))
            if key in self._metadata:
                found[key] = None
            else:
                self._mention_each(node.args[1:], block, found)
        elif isinstance(node, ast.IfExp):
            test = self._of(node.test, block)
            both = [node.body, node.orelse]
            self._mention_each(both if test is UNKNOWN else [both[not test]], block, found)
        else:
            self._mention_each(ast.iter_child_nodes(node), block, found)

    def _mention_each(
        self, nodes: Iterable[ast.AST], block: int | None, found: dict[str, None]
    ) -> None:
        for node in nodes:
            self._mention(node, block, found)

    def said(self, key: str) -> str:
        """`embedding_length is 4096`, `tokenizer.ggml.tokens has 384`."""
        held, short = self._metadata.get(key), key.removeprefix(f"{self._arch}.")
        return f"{short} has {held.length}" if type(held) is Array else f"{short} is {held}"

    def full_key(self, key: str) -> str:
        """`gemma3.block_count` of `block_count`; some keys belong to no architecture."""
        general = key.partition(".")[0] in _whole()["general"] and "." in key
        return key if general else f"{self._arch}.{key}"

    def _of(self, node: ast.expr, block: int | None) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self._named(node.id, block)
        if isinstance(node, ast.BoolOp):
            return self._either(node, block)
        if isinstance(node, ast.IfExp):
            return self._chosen(node, block)
        if isinstance(node, ast.Call):
            return self._called(node, block)
        if isinstance(node, ast.Subscript):
            index = self._of(node.slice, block)
            known = type(index) is int and isinstance(node.value, ast.Name)
            return self._named(node.value.id, index) if known else UNKNOWN  # type: ignore[attr-defined]
        if isinstance(node, ast.UnaryOp):
            value = self._of(node.operand, block)
            if value is UNKNOWN:
                return UNKNOWN
            return not value if isinstance(node.op, ast.Not) else -value
        if isinstance(node, ast.Tuple):
            return tuple(self._of(each, block) for each in node.elts)
        if isinstance(node, ast.Compare):
            return self._worked_out(node.ops[0], node.left, node.comparators[0], block)
        if isinstance(node, ast.BinOp):
            return self._worked_out(node.op, node.left, node.right, block)
        raise TypeError(f"loader_facts.json has {ast.unparse(node)}")

    def _named(self, name: str, block: int | None) -> Any:
        if name == "i":
            return UNKNOWN if block is None else block
        text = self._definitions.get(name)
        if text is None or self._depth > _DEEPEST:
            return UNKNOWN
        self._depth += 1
        try:
            return self.value(text, block)
        finally:
            self._depth -= 1

    def _either(self, node: ast.BoolOp, block: int | None) -> Any:
        """`or` and `and` of C, whose values are bools; one side may decide alone."""
        decides = isinstance(node.op, ast.Or)
        values = [self._of(each, block) for each in node.values]
        if any(value is not UNKNOWN and bool(value) is decides for value in values):
            return decides
        return UNKNOWN if any(value is UNKNOWN for value in values) else not decides

    def _chosen(self, node: ast.IfExp, block: int | None) -> Any:
        test = self._of(node.test, block)
        if test is not UNKNOWN:
            return self._of(node.body if test else node.orelse, block)
        one, other = self._of(node.body, block), self._of(node.orelse, block)
        return one if one is not UNKNOWN and other is not UNKNOWN and one == other else UNKNOWN

    def _worked_out(self, does: ast.AST, left: ast.expr, right: ast.expr, block: int | None) -> Any:
        one, other = self._of(left, block), self._of(right, block)
        if one is UNKNOWN or other is UNKNOWN:
            return UNKNOWN
        if (type(one) is str) != (type(other) is str) and type(other) is not tuple:
            return UNKNOWN  # metadata of a type that the loader would refuse
        if type(one) is str and not isinstance(does, ast.cmpop):
            return UNKNOWN
        try:
            return _OPERATORS[type(does)](one, other)
        except (ArithmeticError, TypeError):
            return UNKNOWN

    def _called(self, node: ast.Call, block: int | None) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in ("min", "max"):
            values = [self._of(each, block) for each in node.args]
            known = all(type(value) in (int, float) for value in values)
            return {"min": min, "max": max}[name](values) if known else UNKNOWN
        text = ast.literal_eval(node.args[0])
        if name == "has":
            filled = self.filled(text, block)
            return UNKNOWN if filled is None else filled in self._names
        held = self._metadata.get(self.full_key(text))
        if name == "has_key":
            return held is not None
        if name == "is_array":
            return type(held) is Array
        if name == "length":
            return held.length if type(held) is Array else UNKNOWN
        return self._key(name, node, held, block)

    def _key(self, name: str, node: ast.Call, held: object, block: int | None) -> Any:
        """`key(NAME, default)`, or `key_at(NAME, index, default)` of one for all blocks or each."""
        defaults = node.args[2:] if name == "key_at" else node.args[1:]
        if held is None:
            return self._of(defaults[0], block) if defaults else UNKNOWN
        if type(held) is not Array:
            return held if type(held) in (int, float, bool, str) else UNKNOWN
        if name != "key_at":
            return UNKNOWN
        index = self._of(node.args[1], block)
        if type(index) is not int or not 0 <= index < len(held.first):
            return UNKNOWN
        item = held.first[index]
        return item if type(item) in (int, float, bool, str) else UNKNOWN


@lru_cache(maxsize=4096)
def _parsed(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body
