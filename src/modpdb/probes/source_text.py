"""Source as it is quoted: short, on one line."""

from __future__ import annotations

import ast

_TEXT = 120  # characters kept of a condition or a choice
_BRIEF = 34  # and of a call


def loop_names(target: ast.expr) -> str:
    """A loop's variables, without the brackets that ast.unparse puts round a tuple."""
    return ", ".join(map(quoted, target.elts)) if isinstance(target, ast.Tuple) else quoted(target)


def brief(node: ast.AST) -> str:
    """The source of a call without that of the calls within it: `x * torch.rsqrt(…)`."""
    match node:
        case ast.Call():
            written = ", ".join(quoted(each) for each in (*node.args, *node.keywords))
            name = _operand(node.func)
            if isinstance(node.func, ast.Attribute):
                name = f"{_operand(node.func.value)}.{node.func.attr}"
            whole = f"{name}({written})"
            return whole if len(whole) <= _BRIEF and "(" not in written else f"{name}(…)"
        case ast.BinOp():
            return f"{_operand(node.left)} {_sign(node.op)} {_operand(node.right)}"
        case ast.AugAssign():
            return f"{_operand(node.target)} {_sign(node.op)}= {_operand(node.value)}"
    return quoted(node)


def _sign(op: ast.operator) -> str:
    return ast.unparse(ast.BinOp(ast.Name("a"), op, ast.Name("b")))[2:-2]


def _operand(node: ast.expr) -> str:
    """A name or the like as it is written, … for what has calls or operators in it."""
    written = quoted(node)
    plain = isinstance(node, ast.Name | ast.Attribute | ast.Constant | ast.Subscript)
    return written if plain and "(" not in written and len(written) <= _BRIEF else "…"


def quoted(node: ast.AST) -> str:
    return ast.unparse(node)[:_TEXT]
