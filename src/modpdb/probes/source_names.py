"""What a name in a function's source stands for, looked up and never computed."""

from __future__ import annotations

import ast
import builtins
import linecache
import re
import types
from dataclasses import dataclass
from typing import Any

from modpdb.probes._static import (
    class_attribute,
    instance_dict,
    is_a,
    mro,
    namespace,
    qualified_name,
)
from modpdb.probes._torch import torch_or_none
from modpdb.probes.module_state import entries, is_module

MISSING: Any = object()
_REGISTRIES = ("_parameters", "_buffers", "_modules")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class Place:
    """A function as its names are looked up: its code, its globals, what it closes over, and
    the object that its first parameter stands for (MISSING where it is no method)."""

    function: types.FunctionType
    owner: Any = MISSING

    @property
    def owner_name(self) -> str:
        """ "self", or what the method calls it; "" in a plain function."""
        code = self.function.__code__
        return code.co_varnames[0] if self.owner is not MISSING and code.co_argcount else ""

    def inherited(self, name: str) -> Any:
        """What `super().name` is here: the next class's after that in which this was written."""
        own = _cell(self.function, "__class__")
        bases = () if self.owner is MISSING else mro(type(self.owner))
        if not any(own is base for base in bases):
            return MISSING
        after = bases[[id(base) for base in bases].index(id(own)) + 1 :]
        found = next((namespace(base)[name] for base in after if name in namespace(base)), MISSING)
        return found if type(found) is types.FunctionType else MISSING


def tree_of(function: types.FunctionType) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The syntax tree of *function* with the file's line numbers; None where no source is found,
    as for what was typed at a prompt, for a lambda, and where the file has changed meanwhile."""
    code = function.__code__
    lines = linecache.getlines(code.co_filename)
    found = _block(lines, code.co_firstlineno)
    if found is None or found.name != code.co_name:
        return None
    return found


def _block(lines: list[str], first: int) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The function whose first line, a decorator's or its own, is *first* (from 1 on)."""
    import inspect

    if not 0 < first <= len(lines):
        return None
    indented = lines[first - 1][:1].isspace()
    try:
        text = "".join(inspect.getblock(lines[first - 1 :]))
        tree = ast.parse(f"if 1:\n{text}" if indented else f"\n{text}")
    except (SyntaxError, ValueError, RecursionError):
        return None
    ast.increment_lineno(tree, first - 2)
    body = tree.body[0].body if indented and isinstance(tree.body[0], ast.If) else tree.body
    return body[0] if body and isinstance(body[0], _FUNCTIONS) else None


class Scope:
    """The names that a function's source may use: its variables, as far as they are known, what
    it closes over, its module's globals and Python's own."""

    def __init__(self, place: Place, local: dict[str, Any]) -> None:
        self.place = place
        self.local = local
        self.loops = 0  # in a loop a variable may have been assigned further down

    def settled(self, node: ast.expr) -> Any:
        """What a name, a chain of attributes or a constant is each time it is come to, else
        MISSING."""
        if isinstance(node, ast.Name):
            return MISSING if self.loops and node.id in self.local else self.name(node.id)
        if isinstance(node, ast.Attribute):
            return attribute(self.settled(node.value), node.attr)
        return node.value if isinstance(node, ast.Constant) else MISSING

    def name(self, name: str) -> Any:
        if name in self.local:
            return self.local[name]
        if name == self.place.owner_name:
            return self.place.owner
        function = self.place.function
        closed = _cell(function, name)
        if closed is not MISSING:
            return closed
        if name in function.__globals__:
            return function.__globals__[name]
        return vars(builtins).get(name, MISSING)


def _cell(function: types.FunctionType, name: str) -> Any:
    """What *function* closes over under *name*; MISSING if nothing, or not bound yet."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    try:
        return cells[name].cell_contents if name in cells else MISSING
    except ValueError:
        return MISSING


def attribute(owner: Any, name: str) -> Any:
    """`owner.name` as Python would find it, with no property and no `__getattr__` run."""
    if owner is MISSING:
        return MISSING
    if is_a(owner, type):
        found = class_attribute(owner, name, MISSING)
        return found.__func__ if type(found) in (staticmethod, classmethod) else found
    found = class_attribute(type(owner), name, MISSING)
    if is_a(found, property):  # it would compute
        return MISSING
    state = instance_dict(owner)
    if qualified_name(type(owner)) == "torch._VF.VFModule":  # its __getattr__ goes to torch
        return instance_dict(torch_or_none()).get(name, MISSING)
    if name in state:
        return state[name]
    if is_module(owner):
        for registry in _REGISTRIES:
            for key, value in entries(state, registry):
                if key == name:
                    return value
    if type(found) is staticmethod:
        return found.__func__
    plain = found is not MISSING and class_attribute(type(found), "__get__") is None
    return found if plain or type(found) is types.FunctionType else MISSING


def says_tensor(annotation: ast.expr | None) -> bool:
    """Whether an annotation is a tensor's, None allowed: `torch.Tensor | None`."""
    if annotation is None:
        return False
    text = ast.unparse(annotation).strip("'\"")
    text = re.sub(r"^(?:typing\.)?Optional\[(.*)\]$", r"\1", text)
    names = [part.strip() for part in text.split("|")]
    kinds = [part for part in names if part != "None"]
    return bool(kinds) and all(re.fullmatch(r"(?:\w+\.)*\w*Tensor", part) for part in kinds)
