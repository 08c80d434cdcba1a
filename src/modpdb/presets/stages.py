"""The stages of a run: which are passed, which stop."""

from __future__ import annotations

import types
import weakref
from dataclasses import dataclass, field
from typing import Any

from modpdb.breakpoints.engine import Engine
from modpdb.breakpoints.locations import Locator
from modpdb.presets import Preset, StageSpec
from modpdb.probes._static import class_attribute, instance_dict

_NOBODY = object()


@dataclass(eq=False)
class Stage:
    """A stage at work: asked by the engine at every entry into a function it may be."""

    spec: StageSpec
    stops: bool = False
    calls: int = 0  # outermost calls seen
    wanted: bool = False  # `stage NAME`: stop at the next one, even if passed before
    codes: set[int] = field(default_factory=set)  # ids of the code objects it is watched in
    _met: dict[int, Any] = field(default_factory=dict)  # id to weak reference: ids are reused

    @property
    def found(self) -> bool:
        return bool(self.codes)

    def reached(self, frame: types.FrameType) -> bool:
        """Note an entry. True where the user should see it: once for an object, at the outermost
        call, however many classes' methods call super()."""
        owner = first_argument(frame)
        if not all(_has(owner, name) for name in self.spec.on):
            return False
        if self._inside_another(frame, owner):
            return False
        self.calls += 1
        known = self._known(owner)
        stop = self.wanted or (self.stops and not known)
        self.wanted = False
        return stop

    def _known(self, owner: object) -> bool:
        """Whether *owner* was here before; notes it, without keeping it alive."""
        reference = self._met.get(id(owner))
        if reference is not None and reference() is owner:
            return True
        try:
            key = id(owner)
            self._met[key] = weakref.ref(owner, lambda _: self._met.pop(key, None))
        except TypeError:  # no weak references to it: better kept alive than met twice
            self._met[id(owner)] = lambda: owner
        return False

    def _inside_another(self, frame: types.FrameType, owner: object) -> bool:
        original = Engine.original
        caller = frame.f_back
        while caller is not None:
            if id(original(caller.f_code)) in self.codes and first_argument(caller) is owner:
                return True
            caller = caller.f_back
        return False


def first_argument(frame: types.FrameType) -> object:
    """``self`` of a method's frame; a marker where there is none."""
    code = frame.f_code
    if not code.co_argcount or code.co_varnames[0] not in ("self", "cls"):
        return _NOBODY
    return frame.f_locals.get(code.co_varnames[0], _NOBODY)


def _has(owner: object, name: str) -> bool:
    """hasattr that runs none of the owner's code (inspect.getattr_static asks metaclasses)."""
    missing = object()
    return (
        name in instance_dict(owner) or class_attribute(type(owner), name, missing) is not missing
    )


class Stages:
    """The stages of the preset that is on, and the one at which the program stands."""

    def __init__(self, preset: Preset, engine: Engine, locator: Locator) -> None:
        self.preset = preset
        self.stages = {spec.name: Stage(spec) for spec in preset.stages}
        self.at: Stage | None = None
        for stage in self.stages.values():
            self._arm(stage, engine, locator)

    def _arm(self, stage: Stage, engine: Engine, locator: Locator) -> None:
        def reached(frame: types.FrameType) -> bool:
            if not stage.reached(frame):
                return False
            self.at = stage
            return True

        def found(code: types.CodeType) -> None:
            stage.codes.add(id(code))  # the engine keeps it alive
            engine.watch(code, reached)

        for spec in stage.spec.at:
            locator.search(spec, found)

    def stop_only_at(self, names: tuple[str, ...] | list[str]) -> None:
        """Let these stages stop and no other. Raises KeyError for one that is not there."""
        for name in names:
            self.stages[name]
        for name, stage in self.stages.items():
            stage.stops = name in names

    def stopping(self) -> list[str]:
        return [name for name, stage in self.stages.items() if stage.stops]

    def never_found(self) -> list[Stage]:
        """Stages that match no function of all that was loaded."""
        return [stage for stage in self.stages.values() if not stage.found]
