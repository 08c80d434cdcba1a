"""The calls that a function's source makes: modules, functions, builtins, tensor operators.

Read from the syntax tree, in the order of evaluation; nothing is run. Which branch is taken and
how often a loop turns is not known, and what a local variable holds is followed only as far as
it takes to tell a tensor from a number.
"""

from __future__ import annotations

import ast
import types
from typing import Any

from modpdb.probes._static import class_name, instance_dict, is_a
from modpdb.probes._torch import torch_or_none
from modpdb.probes.builtins import is_operator, peeled, source_of
from modpdb.probes.module_state import is_module, named_modules
from modpdb.probes.source_calls import Called, Given, Kind, Reading
from modpdb.probes.source_names import (
    MISSING,
    Place,
    Scope,
    attribute,
    says_tensor,
    tree_of,
)
from modpdb.probes.source_operators import (
    ANSWERED,
    COMPARED,
    IN_PLACE,
    LEAVES_TENSORS,
    METHODS,
    OPERATORS,
    PLAIN,
    REFLECTED,
    UNARY,
    UPDATES,
)
from modpdb.probes.source_text import brief, loop_names, quoted
from modpdb.probes.source_values import (
    MAYBE,
    TENSOR,
    Chosen,
    Each,
    StandIn,
    element_of,
    is_object,
    is_tensor,
    parameters,
    parts_of,
    truth,
)

# torch functions that ask and compute no tensor begin so.
_QUERIES = ("is_", "get_", "has_", "_verify", "_none_or")


def read_calls(
    function: Any,
    owner: Any = MISSING,
    given: Given | None = None,
    depth: int = 1,
) -> Reading:
    """The calls in *function*'s source, those in the Python functions it calls *depth* levels in.

    owner: the module whose method it is. given: the arguments of the call in question, after the
    owner. What the owner's attributes and the arguments rule out as they stand is left out.
    """
    if is_a(function, types.MethodType):
        function, owner = function.__func__, function.__self__
    function, _ = peeled(function)
    if not is_a(function, types.FunctionType):
        return Reading(problem=f"a {class_name(type(function))} has no Python source")
    tree = tree_of(function)
    if tree is None:
        return Reading(problem=f"no source of {source_of(function).name} is found")
    place = Place(function, owner)
    try:
        reader = _Reader(Scope(place, parameters(tree, place, given)), depth)
        return Reading(tuple(reader.body_of(tree)), gives_tensor=reader.gives_tensor)
    except RecursionError:
        return Reading(problem=f"the source of {source_of(function).name} is nested too deeply")


class _Reader:
    """Walks one function. Every expression gives an object, what stands for one, or MISSING."""

    def __init__(self, scope: Scope, depth: int) -> None:
        self._scope = scope
        self._depth = depth
        self._under: tuple[str, ...] = ()
        self._found: list[Called] = []
        self._returned: list[Any] = []
        self._torch = torch_or_none()
        owner = scope.place.owner
        modules = list(named_modules(owner)) if is_module(owner) else []
        self._paths = {id(module): path for path, module in reversed(modules)}

    def body_of(self, tree: ast.FunctionDef | ast.AsyncFunctionDef) -> list[Called]:
        self._statements(tree.body)
        return self._found

    @property
    def gives_tensor(self) -> bool:
        returned = [is_tensor(each, self._torch) for each in self._returned]
        return bool(returned) and all(returned)

    # -- statements --------------------------------------------------------------------------

    def _statements(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self._scope.local[node.name] = MISSING  # defined here, and called elsewhere
            case ast.If():
                self._if(node)
            case ast.For() | ast.AsyncFor() | ast.While():
                self._loop(node)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    self._value(item.context_expr)
                self._statements(node.body)
            case ast.Assign():
                value = self._value(node.value)
                for target in node.targets:
                    self._assign(target, value)
            case ast.AnnAssign() if node.value is not None:
                value = self._value(node.value)
                self._assign(node.target, TENSOR if says_tensor(node.annotation) else value)
            case ast.AugAssign():
                left, right = self._value(node.target), self._value(node.value)
                name = OPERATORS[type(node.op)]
                self._operator(node, IN_PLACE.get(name, f"{name}_"), left, right)
            case ast.Try():
                for part in (node.body, node.orelse, node.finalbody):
                    self._statements(part)
            case ast.Raise() | ast.Assert():
                pass  # what only a failure would call
            case ast.Return() if node.value is not None:
                self._returned.append(self._value(node.value))
            case ast.Expr():
                self._value(node.value)

    def _if(self, node: ast.If) -> None:
        if _asks_for_override(node.test):
            return
        outcome = truth(node.test, self._scope)
        if outcome is not None:
            self._statements(node.body if outcome else node.orelse)
            return
        self._value(node.test)
        self._inside(f"if {quoted(node.test)}", node.body)
        self._inside(f"unless {quoted(node.test)}", node.orelse)

    def _loop(self, node: ast.For | ast.AsyncFor | ast.While) -> None:
        self._scope.loops += 1
        if isinstance(node, ast.While):
            self._value(node.test)
            header = f"while {quoted(node.test)}"
        else:
            self._assign_element(node.target, node.iter)
            header = f"for {loop_names(node.target)} in {quoted(node.iter)}"
        self._inside(header, node.body)
        self._scope.loops -= 1
        self._statements(node.orelse)

    def _inside(self, header: str, body: list[ast.stmt]) -> None:
        before = self._under
        self._under = (*before, header)
        self._statements(body)
        self._under = before

    def _assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            # Under a condition it may have kept what it was: nothing is decided by it.
            plain = is_object(value) and not is_module(value)
            unsure = bool(self._under) and plain and not is_tensor(value, self._torch)
            self._scope.local[target.id] = MISSING if unsure else value
        elif isinstance(target, ast.Tuple | ast.List):
            parts = parts_of(value, len(target.elts))
            for each, part in zip(target.elts, parts, strict=True):
                self._assign(each, part)
        elif isinstance(target, ast.Starred):
            self._assign(target.value, MISSING)
        else:
            self._value(target)

    def _assign_element(self, target: ast.expr, iterated: ast.expr) -> None:
        """Bind a loop's variable, also of `for i, layer in enumerate(self.layers[:n])`."""
        match target, iterated:
            case ast.Tuple(elts=[first, second]), ast.Call(
                func=ast.Name("enumerate"), args=[of, *_]
            ):
                self._assign(first, MISSING)
                target, iterated = second, of
        self._assign(target, element_of(self._sequence(iterated)))

    def _sequence(self, node: ast.expr) -> Any:
        while isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
            node = node.value  # self.layers[:n] are some of self.layers
        return self._value(node)

    # -- expressions -------------------------------------------------------------------------

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Call():
                return self._call(node)
            case ast.Name():
                return self._scope.name(node.id)
            case ast.Attribute():
                return self._attribute(node)
            case ast.Constant():
                return node.value
            case ast.BinOp():
                return self._binary(node)
            case ast.UnaryOp() if type(node.op) in UNARY:
                return self._operator(node, UNARY[type(node.op)], self._value(node.operand))
            case ast.Compare() if type(node.ops[0]) in COMPARED:
                values = [self._value(each) for each in (node.left, *node.comparators)]
                return self._operator(node, COMPARED[type(node.ops[0])], *values)
            case ast.IfExp():
                return self._either(node)
            case ast.Subscript():
                self._value(node.slice)
                held = self._value(node.value)
                return TENSOR if is_tensor(held, self._torch) else element_of(held)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return self._comprehension(node)
            case ast.NamedExpr():
                value = self._value(node.value)
                self._assign(node.target, value)
                return value
            case ast.Lambda():
                return MISSING
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._value(child)
        return MISSING

    def _attribute(self, node: ast.Attribute) -> Any:
        held = self._value(node.value)
        if type(held) is StandIn or is_tensor(held, self._torch):
            return held if node.attr in ("T", "mT", "H", "mH", "real", "imag", "data") else MISSING
        return attribute(held, node.attr)

    def _either(self, node: ast.IfExp) -> Any:
        outcome = truth(node.test, self._scope)
        if outcome is not None:
            return self._value(node.body if outcome else node.orelse)
        self._value(node.test)
        before = self._under
        self._under = (*before, f"if {quoted(node.test)}")
        first = self._value(node.body)
        self._under = (*before, f"unless {quoted(node.test)}")
        second = self._value(node.orelse)
        self._under = before
        tensors = [each for each in (first, second) if self._may_be_tensor(each)]
        return TENSOR if len(tensors) == 2 else MAYBE if tensors else MISSING

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> Any:
        before = self._under
        for part in node.generators:
            self._assign_element(part.target, part.iter)
            header = f"for {loop_names(part.target)} in {quoted(part.iter)}"
            self._under = (*self._under, header)
        elements = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for each in elements:
            self._value(each)
        self._under = before
        return MISSING

    def _binary(self, node: ast.BinOp) -> Any:
        left, right = self._value(node.left), self._value(node.right)
        name = OPERATORS[type(node.op)]
        reflected = self._may_be_tensor(right) and not self._may_be_tensor(left)
        return self._operator(node, REFLECTED.get(name, name) if reflected else name, left, right)

    def _operator(self, node: ast.stmt | ast.expr, name: str, *values: Any) -> Any:
        """An operator on *values*, if one of them may be a tensor."""
        tensors = [each for each in values if self._may_be_tensor(each)]
        if not tensors or any(each is None for each in values):
            return MISSING
        known = any(is_tensor(each, self._torch) for each in tensors)
        self._note(node, "operator", certainty="read" if known else "guessed", operator=name)
        return TENSOR if known else MAYBE

    def _may_be_tensor(self, value: Any) -> bool:
        return value is MAYBE or is_tensor(value, self._torch)

    # -- calls -------------------------------------------------------------------------------

    def _call(self, node: ast.Call) -> Any:
        """Note the call, after those within its function and arguments; the value it gives."""
        function = node.func
        if isinstance(function, ast.Attribute):
            held = self._value(function.value)
            target = MISSING if type(held) is StandIn else attribute(held, function.attr)
            if isinstance(function.value, ast.Call) and quoted(function.value) == "super()":
                target = self._scope.place.inherited(function.attr)
        else:
            held, target = MISSING, self._value(function)
        values = [self._value(each) for each in node.args]
        named = {each.arg or "**": self._value(each.value) for each in node.keywords}
        if isinstance(function, ast.Attribute) and self._is_method(held, function.attr):
            return self._method(node, function.attr, is_tensor(held, self._torch))
        if type(target) is Each:
            return self._modules(node, target.modules)
        if type(target) is Chosen:
            self._note(node, "run time", means=f"line {target.line}: {target.text}")
            return Chosen(node.lineno, brief(node))
        if is_module(target):
            return self._modules(node, ((self._paths.get(id(target), ""), target),))
        if is_a(target, types.BuiltinFunctionType):
            return self._builtin(node, target)
        if is_a(target, types.FunctionType) or is_a(target, types.MethodType):
            return self._function(node, target, (values, named))
        return self._unknown(node, target)

    def _is_method(self, held: Any, name: str) -> bool:
        """Whether `held.name(…)` is a tensor's method, as far as can be told."""
        if is_tensor(held, self._torch):
            return True
        unsure = held is MAYBE or type(held) is Chosen
        return unsure and name not in PLAIN and is_operator(f"aten::{METHODS.get(name, name)}")

    def _modules(self, node: ast.Call, modules: tuple[tuple[str, Any], ...]) -> Any:
        for name, module in modules:
            path = self._paths.get(id(module), name)
            self._note(node, "module", means=class_name(type(module)), path=path)
        return TENSOR

    def _method(self, node: ast.Call, name: str, known: bool) -> Any:
        aten = METHODS.get(name, name)
        if name in ANSWERED or not is_operator(f"aten::{aten}"):
            return MISSING
        self._note(node, "method", certainty="read" if known else "guessed", operator=aten)
        return MISSING if name in LEAVES_TENSORS else TENSOR if known else MAYBE

    def _builtin(self, node: ast.Call, target: Any) -> Any:
        """One of torch's own: Python's and the math module's say nothing of tensors."""
        name = target.__name__
        module = str(target.__module__ or "")
        bound = instance_dict(self._torch).get(name) is target or module.startswith("torch._C")
        if not bound or name.startswith(_QUERIES) or not is_operator(f"aten::{name}"):
            return MISSING
        self._note(node, "builtin", operator=name)
        return TENSOR

    def _function(self, node: ast.Call, target: Any, given: Given) -> Any:
        owner = MISSING
        if is_a(target, types.MethodType):
            target, owner = target.__func__, target.__self__
        target, _ = peeled(target)
        if not is_a(target, types.FunctionType):
            return MISSING
        own = str(target.__module__).startswith("torch.")
        if own and target.__name__.startswith(_QUERIES):
            return MISSING
        if owner is MISSING and self._is_called_on_owner(node.func):
            owner = self._scope.place.owner
        made: Any = TENSOR if own else Chosen(node.lineno, brief(node))
        reading = Reading()
        if self._depth > 0:
            starred = any(isinstance(each, ast.Starred) for each in node.args) or "**" in given[1]
            reading = read_calls(target, owner, None if starred else given, self._depth - 1)
            if not reading.calls and not reading.problem:
                return made  # it computes no tensor
            made = TENSOR if reading.gives_tensor else made
        elif not any(self._may_be_tensor(each) for each in (*given[0], *given[1].values())):
            return made
        operator = target.__name__ if own and is_operator(f"aten::{target.__name__}") else ""
        self._note(
            node,
            "function",
            certainty="read" if self._depth > 0 else "guessed",
            means=f"{target.__module__}.{target.__qualname__}",
            operator="" if reading.calls else operator,
            source=source_of(target),
            inner=reading.calls,
        )
        return made

    def _is_called_on_owner(self, function: ast.expr) -> bool:
        named = self._scope.place.owner_name
        if not isinstance(function, ast.Attribute) or not named:
            return False
        return quoted(function.value) in (named, "super()")

    def _unknown(self, node: ast.Call, target: Any) -> Any:
        """A call of what only running tells; noted where it is a variable's or the owner's."""
        if is_object(target):
            return MISSING if is_a(target, type) else Chosen(node.lineno, brief(node))
        root: ast.expr = node.func
        while isinstance(root, ast.Attribute | ast.Subscript | ast.Call):
            root = root.func if isinstance(root, ast.Call) else root.value
        own = (*self._scope.local, self._scope.place.owner_name)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if isinstance(root, ast.Name) and root.id in own and name not in PLAIN - UPDATES:
            self._note(node, "run time")
        return Chosen(node.lineno, brief(node))

    def _note(
        self, node: ast.stmt | ast.expr, kind: Kind, *, operator: str = "", **more: Any
    ) -> None:
        line = node.lineno
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            line = node.func.end_lineno or line  # in a chain over several lines, its own
        name = f"aten::{operator}" if operator else ""
        end = node.end_lineno or line
        self._found.append(Called(kind, brief(node), line, end, self._under, operator=name, **more))


def _asks_for_override(test: ast.expr) -> bool:
    """`if has_torch_function(…)`: only for tensors of other classes than torch's own."""
    return isinstance(test, ast.Call) and "has_torch_function" in quoted(test.func)
