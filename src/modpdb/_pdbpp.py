"""pdbpp, imported with what its releases need to be importable at all."""

from __future__ import annotations

import sys
import types
from typing import Any


def _import() -> Any:
    if sys.version_info[:3] != (3, 13, 0) or "pdbpp" in sys.modules:
        import pdbpp

        return pdbpp

    # pdbpp 0.12.1 copies `itertools` out of its private copy of pdb, and exactly 3.13.0's pdb
    # does not have it. The copy is made with types.ModuleType: let that one have the name.
    import itertools

    import fancycompleter  # noqa: F401  pdbpp's own import, done before ModuleType is not itself

    class WithItertools(types.ModuleType):
        pass

    WithItertools.itertools = itertools  # type: ignore[attr-defined]
    original, types.ModuleType = types.ModuleType, WithItertools  # type: ignore[misc]
    try:
        import pdbpp
    finally:
        types.ModuleType = original  # type: ignore[misc]
    return pdbpp


pdbpp = _import()
