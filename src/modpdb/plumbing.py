"""Functions that stand between a line of a model and what it calls: stepping goes through."""

from __future__ import annotations

import types
import weakref
from pathlib import Path

from modpdb import presets
from modpdb.breakpoints.locations import Spec
from modpdb.presets import Preset, read_preset


class Plumbing:
    """What presets say of it, asked of frames."""

    def __init__(self, preset: Preset) -> None:
        self._plumbing = preset.plumbing
        self._dispatchers = preset.dispatchers
        # By id, which is the code's for as long as that lives.
        self._known: dict[int, tuple[weakref.ref[types.CodeType], bool]] = {}

    @classmethod
    def generic(cls) -> Plumbing:
        """That of any script: modpdb's own, whatever the user's presets are like."""
        return cls(read_preset(Path(presets.__file__).with_name(f"{presets.GENERIC}.toml")))

    def __contains__(self, frame: types.FrameType) -> bool:
        """Whether *frame* runs plumbing: asked at every call while somebody steps."""
        code = frame.f_code
        known = self._known.get(id(code))
        if known is None or known[0]() is not code:
            found = _among(self._plumbing, frame.f_globals.get("__name__"), code)
            known = self._known[id(code)] = weakref.ref(code), found
        return known[1]

    def dispatches(self, function: types.FunctionType) -> bool:
        """Whether *function* wraps a forward and may call another one in its place."""
        module = function.__globals__.get("__name__")
        return _among(self._dispatchers, module, function.__code__)


def _among(specs: tuple[Spec, ...], module: object, code: types.CodeType) -> bool:
    return isinstance(module, str) and any(spec.names(module, code.co_qualname) for spec in specs)
