"""pdbpp, imported with what its releases need to be importable at all, and quickly."""

from __future__ import annotations

import builtins
import contextlib
import importlib.machinery
import os
import sys
import types
from collections.abc import Iterator
from typing import Any


def _import() -> Any:
    if "pdbpp" not in sys.modules:
        with _compiled_before(), _itertools_in_pdb():
            import pdbpp
    import pdbpp

    return pdbpp


@contextlib.contextmanager
def _compiled_before() -> Iterator[None]:
    """pdbpp 0.12.1 compiles a copy of pdb.py whenever it is imported, in 10 ms: a tenth of the way
    to the first prompt. Python has compiled that file already."""
    compile_anew = builtins.compile

    def compile(source: Any, filename: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(filename, str) and os.path.basename(filename) == "pdb.py":
            return importlib.machinery.SourceFileLoader("pdb", filename).get_code("pdb")
        return compile_anew(source, filename, *args, **kwargs)

    builtins.compile = compile
    try:
        yield
    finally:
        builtins.compile = compile_anew


@contextlib.contextmanager
def _itertools_in_pdb() -> Iterator[None]:
    """pdbpp 0.12.1 copies `itertools` out of its private copy of pdb, and exactly 3.13.0's pdb does
    not have it. The copy is made with types.ModuleType: let that one have the name."""
    if sys.version_info[:3] != (3, 13, 0):
        yield
        return
    import itertools

    import fancycompleter  # noqa: F401  pdbpp's own import, done before ModuleType is not itself

    class WithItertools(types.ModuleType):
        pass

    WithItertools.itertools = itertools  # type: ignore[attr-defined]
    original, types.ModuleType = types.ModuleType, WithItertools  # type: ignore[misc]
    try:
        yield
    finally:
        types.ModuleType = original  # type: ignore[misc]


pdbpp = _import()
