"""Which operator of the dispatcher a piece of Python's syntax or a tensor's method comes to."""

from __future__ import annotations

import ast

# Tensor methods whose operator has another name: the binding parses them by itself.
METHODS = {
    **dict.fromkeys(
        ("float", "double", "half", "bfloat16", "int", "long", "short", "bool", "cpu", "cuda"),
        "to",
    ),
    "type": "to",
}
OPERATORS = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.FloorDiv: "floor_divide",
    ast.Mod: "remainder",
    ast.Pow: "pow",
    ast.MatMult: "matmul",
    ast.BitAnd: "__and__",
    ast.BitOr: "__or__",
    ast.BitXor: "__xor__",
    ast.LShift: "__lshift__",
    ast.RShift: "__rshift__",
}
COMPARED = {
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.GtE: "ge",
    ast.Eq: "eq",
    ast.NotEq: "ne",
}
UNARY = {ast.USub: "neg", ast.Invert: "bitwise_not"}
# A number on the left: Tensor's reflected method calls another operator.
REFLECTED = {"sub": "rsub", "div": "reciprocal"}
IN_PLACE = {"matmul": "matmul", "__and__": "__iand__", "__or__": "__ior__", "__xor__": "__ixor__"}
# What Python's own containers have as well says nothing of a tensor.
PLAIN = frozenset(name for cls in (dict, list, set, str, tuple, int) for name in dir(cls))
UPDATES = frozenset({"update"})  # a cache's, though a dict's as well
ANSWERED = frozenset({"size", "dim", "numel", "stride", "is_floating_point", "is_contiguous"})
LEAVES_TENSORS = frozenset({"item", "tolist"})
