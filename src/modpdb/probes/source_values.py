"""What is known of a value while a function's source is read: an object, or what stands for one."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modpdb.probes._static import instance_dict, is_a
from modpdb.probes.module_state import entries, is_module
from modpdb.probes.source_names import MISSING, Place, Scope, says_tensor

_PLAIN_TYPES = (bool, int, float, str, type(None))
_COMPARISONS: dict[type, Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


@dataclass(frozen=True, slots=True, eq=False)
class StandIn:
    """For a value that only running gives; *known* says that it is a tensor."""

    known: bool


TENSOR, MAYBE = StandIn(True), StandIn(False)


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """For what a call of the program's own gives: the line and the text of that call."""

    line: int
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Each:
    """For one of these modules, and it is not known which: a loop's variable."""

    modules: tuple[tuple[str, Any], ...]


def is_object(value: Any) -> bool:
    """Whether it is an object of the program, and nothing that stands for one."""
    return value is not MISSING and type(value) not in (StandIn, Chosen, Each)


def element_of(held: Any) -> Any:
    """What indexing or looping over *held* gives: of a container of modules, each of them."""
    if type(held) in (StandIn, Each):
        return held
    if is_object(held) and is_module(held):
        children = entries(instance_dict(held), "_modules")
        return Each(tuple((name, child) for name, child in children if is_module(child)))
    return MISSING


def parts_of(value: Any, number: int) -> list[Any]:
    """What each of *number* names gets where *value* is unpacked."""
    if type(value) in (tuple, list) and len(value) == number:
        return list(value)
    if type(value) is StandIn:
        return [MAYBE] * number
    return [value if type(value) is Chosen else MISSING] * number


def parameters(
    tree: ast.FunctionDef | ast.AsyncFunctionDef,
    place: Place,
    given: tuple[Sequence[Any], Mapping[str, Any]] | None,
) -> dict[str, Any]:
    """The variables with which a function begins.

    *given*: the arguments of one call, after the owner; the others then have their defaults.
    None where no call is at hand: the annotations say what is a tensor.
    """
    every = [*tree.args.posonlyargs, *tree.args.args]
    own = every[1:] if place.owner_name else every
    found: dict[str, Any] = {}
    for each in (*own, *tree.args.kwonlyargs):
        found[each.arg] = _annotated(each.annotation)
    for rest in (tree.args.vararg, tree.args.kwarg):
        if rest is not None:
            found[rest.arg] = MISSING
    if given is None:
        return found
    values, named = given
    function = place.function
    defaults = function.__defaults__ or ()
    bound = dict(zip([each.arg for each in every[-len(defaults) :]], defaults, strict=False))
    bound |= function.__kwdefaults__ or {}
    bound |= dict(zip([each.arg for each in own], values, strict=False))
    bound |= {name: value for name, value in named.items() if name in found}
    for name, value in bound.items():
        if name in found and (value is not MISSING or found[name] is MAYBE):
            found[name] = value
    return found


def _annotated(annotation: ast.expr | None) -> Any:
    if annotation is None:
        return MAYBE
    return TENSOR if says_tensor(annotation) else MISSING


def truth(node: ast.expr, scope: Scope) -> bool | None:
    """How the test *node* comes out as things stand; None where only running tells.

    Decided are constants, attributes and arguments that are plain numbers, strings or None,
    comparisons of these, and what `not`, `and` and `or` make of them.
    """
    match node:
        case ast.UnaryOp(op=ast.Not()):
            inner = truth(node.operand, scope)
            return None if inner is None else not inner
        case ast.BoolOp():
            parts = [truth(each, scope) for each in node.values]
            decides = isinstance(node.op, ast.Or)
            if decides in parts:
                return decides
            return None if None in parts else not decides
        case ast.Compare(ops=[op], comparators=[right]):
            return _compared(op, scope.settled(node.left), scope.settled(right))
        case ast.Name() | ast.Attribute() | ast.Constant():
            value = scope.settled(node)
            return bool(value) if type(value) in _PLAIN_TYPES else None
    return None


def _compared(op: ast.cmpop, left: Any, right: Any) -> bool | None:
    if not (is_object(left) and is_object(right)):
        return None
    if isinstance(op, ast.Is | ast.IsNot):
        return (left is right) == isinstance(op, ast.Is)
    compare = _COMPARISONS.get(type(op))
    if compare is None or type(left) not in _PLAIN_TYPES or type(right) not in _PLAIN_TYPES:
        return None
    try:
        return compare(left, right)
    except TypeError:
        return None


def is_tensor(value: Any, torch: Any) -> bool:
    return value is TENSOR or (is_object(value) and is_a(value, torch.Tensor))
