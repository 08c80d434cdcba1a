"""Class statements as they stand in the source: what is known of a class before it exists."""

from __future__ import annotations

import ast
import functools
import os
import types
from collections.abc import Iterator


def base_names(body: types.CodeType) -> set[str]:
    """The names of the bases of the class whose body *body* is, where they are names.

    ``module.Base`` and ``Base[T]`` are Base; what was imported or assigned under another name
    is resolved to its own, so far as that stands in the same file. A base that is computed
    is left out, and everything where the source cannot be read.
    """
    tree = _tree(body.co_filename)
    if tree is None:
        return set()
    aliases = _aliases(tree)
    return {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and _is_at(node, body)
        for base in node.bases
        if (written := _name(base)) is not None
        for name in (written, *aliases.get(written, ()))
    }


def is_static(function: types.CodeType) -> bool:
    """Whether the function is decorated with `staticmethod`, as its source says."""
    tree = _tree(function.co_filename)
    return tree is not None and any(
        _name(decorator) == "staticmethod"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _is_at(node, function)
        for decorator in node.decorator_list
    )


def _tree(file: str) -> ast.Module | None:
    try:
        return _parsed(file, os.stat(file).st_mtime_ns)
    except (OSError, SyntaxError, ValueError):
        return None


@functools.lru_cache(maxsize=1)  # a tree of a large file takes 50 MB
def _parsed(file: str, mtime: int) -> ast.Module:
    with open(file, "rb") as stream:
        return ast.parse(stream.read())


def _is_at(
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, code: types.CodeType
) -> bool:
    first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    return node.name == code.co_name and first == code.co_firstlineno


def _aliases(tree: ast.Module) -> dict[str, set[str]]:
    """Names in the file that stand for another: one name may have been given to several."""
    found: dict[str, set[str]] = {}
    for alias, name in _renamings(tree):
        found.setdefault(alias, set()).add(name)
    return found


def _renamings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((each.asname, each.name) for each in node.names if each.asname)
        elif isinstance(node, ast.Assign) and (name := _name(node.value)):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, name


def _name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Subscript):
        node = node.value
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None
