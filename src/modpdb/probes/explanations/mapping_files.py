"""Where the name map stands in gguf's sources: which line is to be changed. Read, never run."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any


def file_of(module: str) -> str:
    found: Any = vars(sys.modules[module]).get("__file__") if module in sys.modules else None
    return found if type(found) is str else ""


def mapping_lines() -> dict[str, int]:
    """The line of each MODEL_TENSOR's key in tensor_mapping.py: the block's where it has two."""
    found: dict[str, int] = {}
    for node in ast.walk(_tree("gguf.tensor_mapping")):
        for key in node.keys if isinstance(node, ast.Dict) else ():
            if isinstance(key, ast.Attribute) and ast.unparse(key.value) == "MODEL_TENSOR":
                found.setdefault(key.attr, key.lineno)
    return found


def constants_line(arch: str) -> tuple[str, int]:
    """Where MODEL_TENSORS[MODEL_ARCH.arch] begins in constants.py: `MODEL_ARCH.X: [`."""
    for node in ast.walk(_tree("gguf.constants")):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if (
                    isinstance(key, ast.Attribute)
                    and key.attr == arch
                    and isinstance(value, ast.List)
                ):
                    return file_of("gguf.constants"), value.lineno + 1
    return file_of("gguf.constants"), 0


def _tree(module: str) -> ast.AST:
    try:
        return ast.parse(Path(file_of(module)).read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ast.Module([], [])
