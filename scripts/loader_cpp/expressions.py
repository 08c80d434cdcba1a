"""C++ expressions as trees, and Python ones as text, made simple.

A value is the text of a Python expression; UNKNOWN of what cannot be followed.
"""

import ast
import operator
import re
from typing import Any, NamedTuple

UNKNOWN = "unknown"

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>0x[0-9a-fA-F]+|\d+\.\d*(?:e[-+]?\d+)?|\.\d+|\d+(?:e[-+]?\d+)?)[uUlLfF]*
    |(?P<string>"(?:\\.|[^"\\])*")
    |(?P<name>[A-Za-z_]\w*(?:::[A-Za-z_]\w*)*)
    |(?P<op><<|>>|<=|>=|==|!=|&&|\|\||->|\+\+|--|[-+*/%|&]=|[-+*/%<>=!&|^~?:.,()\[\]{}]))""",
    re.VERBOSE,
)
_CASTS = re.compile(
    r"\((?:const )?(?:int|uint32_t|int32_t|int64_t|uint64_t|size_t|float|double|bool|long long"
    r"|llama_\w+)\s*\)(?=\s*[\w(.])|static_cast<[^<>]*>"
)
_PRECEDENCE = {
    "||": 1, "&&": 2, "|": 3, "^": 4, "&": 5, "==": 6, "!=": 6, "<": 7, ">": 7, "<=": 7, ">=": 7,
    "<<": 8, ">>": 8, "+": 9, "-": 9, "*": 10, "/": 10, "%": 10,
}  # fmt: skip


class Node(NamedTuple):
    """*kind* is number, string, name, call, index, list, unary, binary or choice."""

    kind: str
    value: str
    parts: tuple["Node", ...] = ()


class NotUnderstood(Exception):
    """C++ that this parser does not know."""


def parse(text: str) -> Node:
    """The tree of a C++ expression; NotUnderstood where it is none that we know."""
    text = _CASTS.sub("", text.strip())
    tokens = []
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            raise NotUnderstood(text)
        kind = match.lastgroup or ""
        tokens.append((kind, match[kind]))
        at = match.end()
    parser = _Parser(tokens)
    node = parser.choice()
    if parser.at < len(tokens):
        raise NotUnderstood(text)
    return node


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> tuple[str, str]:
        if self.at >= len(self.tokens) or expected not in ("", self.peek()):
            raise NotUnderstood(f"{expected!r} at {self.peek()!r}")
        self.at += 1
        return self.tokens[self.at - 1]

    def choice(self) -> Node:
        test = self.binary(1)
        if self.peek() != "?":
            return test
        self.take()
        first = self.choice()
        self.take(":")
        return Node("choice", "", (test, first, self.choice()))

    def binary(self, least: int) -> Node:
        left = self.unary()
        while (rank := _PRECEDENCE.get(self.peek(), 0)) >= least:
            symbol = self.take()[1]
            left = Node("binary", symbol, (left, self.binary(rank + 1)))
        return left

    def unary(self) -> Node:
        if self.peek() in ("!", "-", "+", "&", "*", "~"):
            return Node("unary", self.take()[1], (self.unary(),))
        return self.postfix(self.primary())

    def primary(self) -> Node:
        kind, text = self.take()
        if text == "(":
            inner = self.choice()
            self.take(")")
            return inner
        if text == "{":
            return Node("list", "", self.arguments("}"))
        if kind == "op":
            raise NotUnderstood(text)
        return Node(kind, text)

    def postfix(self, node: Node) -> Node:
        while True:
            if self.peek() == "(":
                self.take()
                node = Node("call", node.value, (*self.arguments(")"), *_owner(node)))
            elif self.peek() == "[":
                self.take()
                index = self.choice()
                self.take("]")
                node = Node("index", node.value, (index,))
            elif self.peek() in (".", "->"):
                self.take()
                node = Node("name", f"{node.value}.{self.take()[1]}", node.parts)
            else:
                return node

    def arguments(self, end: str) -> tuple[Node, ...]:
        found = []
        while self.peek() != end:
            found.append(self.choice())
            if self.peek() == ",":
                self.take()
        self.take(end)
        return tuple(found)


def _owner(node: Node) -> tuple[Node, ...]:
    """What a call was made of before it, as in `tn(…).str()`."""
    return node.parts if node.kind == "name" else ()


# -- Python expressions ------------------------------------------------------------------------

_FOLDED: dict[type[ast.AST], Any] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_, ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt,
    ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip


def simple(text: str) -> str:
    """*text* with its constants worked out, without what cannot matter and without brackets."""
    return ast.unparse(_Simpler().visit(ast.parse(text, mode="eval")))


def names_in(text: str) -> set[str]:
    tree = ast.parse(text, mode="eval")
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


class _Simpler(ast.NodeTransformer):
    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        pair = (node.left, node.right)
        if _unknown(node.left) or _unknown(node.right):
            return ast.Name(UNKNOWN)
        if all(isinstance(side, ast.Constant) for side in pair) and type(node.op) in _FOLDED:
            return ast.Constant(_FOLDED[type(node.op)](node.left.value, node.right.value))  # type: ignore[attr-defined]
        if isinstance(node.left, ast.IfExp) and isinstance(node.right, ast.Constant):
            values = (node.left.body, node.left.orelse)
            arms = [ast.BinOp(value, node.op, node.right) for value in values]
            if all(isinstance(arm.left, ast.Constant) for arm in arms):
                return self.visit(ast.IfExp(node.left.test, arms[0], arms[1]))  # type: ignore[no-any-return]
        if isinstance(node.op, ast.BitOr):
            for one, other in (pair, pair[::-1]):
                if isinstance(one, ast.Constant) and one.value == 0:
                    return other
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        left, right, compare = node.left, node.comparators[0], node.ops[0]
        if _unknown(left) or _unknown(right):
            return ast.Name(UNKNOWN)
        if isinstance(left, ast.Constant) and isinstance(right, ast.Constant):
            return ast.Constant(_FOLDED[type(compare)](left.value, right.value))
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if _unknown(node.operand):
            return ast.Name(UNKNOWN)
        if isinstance(node.operand, ast.Constant):
            value: Any = node.operand.value
            return ast.Constant(not value if isinstance(node.op, ast.Not) else -value)
        if isinstance(node.op, ast.Not) and isinstance(node.operand, ast.UnaryOp):
            return node.operand.operand
        if isinstance(node.op, ast.Not) and isinstance(node.operand, ast.Compare):
            return _turned(node.operand)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        ends = isinstance(node.op, ast.Or)  # True decides an `or`, False an `and`
        kept: list[ast.expr] = []
        for value in node.values:
            if isinstance(value, ast.Constant):
                if bool(value.value) is ends:
                    return ast.Constant(ends)
                continue
            if not any(ast.dump(value) == ast.dump(other) for other in kept):
                kept.append(value)
        if not kept:
            return ast.Constant(not ends)
        return kept[0] if len(kept) == 1 else ast.BoolOp(node.op, kept)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node.body if ast.dump(node.body) == ast.dump(node.orelse) else node


def _unknown(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == UNKNOWN


_OPPOSITES: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
}  # fmt: skip


def _turned(node: ast.Compare) -> ast.Compare:
    return ast.Compare(node.left, [_OPPOSITES[type(node.ops[0])]()], node.comparators)
