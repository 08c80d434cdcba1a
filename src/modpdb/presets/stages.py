"""The stages of a run: which are passed and when, which stop."""

from __future__ import annotations

import time
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from modpdb.breakpoints.engine import Engine
from modpdb.breakpoints.locator import Locator
from modpdb.presets import Preset, StageSpec
from modpdb.presets.owners import CodeKey, code_key, first_argument, has, inside_another


class Stopwatch:
    """Seconds that the script has run: the time it stands at a prompt is not counted."""

    def __init__(self) -> None:
        self._before = 0.0
        self._since: float | None = time.monotonic()

    def stand(self) -> None:
        self._before, self._since = self.read(), None

    def run(self) -> None:
        self._before, self._since = self.read(), time.monotonic()

    def read(self) -> float:
        return self._before + (0.0 if self._since is None else time.monotonic() - self._since)


@dataclass(eq=False)
class Stage:
    """A stage at work: asked by the engine at every entry into a function it may be.

    ``first`` and ``last`` are seconds on ``clock`` at which outermost calls were seen; whoever is
    in ``passed`` is called with the frame of each, and must not raise.
    """

    spec: StageSpec
    stops: bool = False
    clock: Stopwatch = field(default_factory=Stopwatch)
    calls: int = 0  # outermost calls seen
    first: float = 0.0
    last: float = 0.0
    wanted: bool = False  # `stage NAME`: stop at the next one, even if passed before
    codes: set[CodeKey] = field(default_factory=set)  # what it is watched in
    passed: list[Callable[[types.FrameType], None]] = field(default_factory=list)
    _met: dict[int, Any] = field(default_factory=dict)  # id to weak reference: ids are reused

    @property
    def found(self) -> bool:
        return bool(self.codes)

    def reached(self, frame: types.FrameType) -> bool:
        """Note an entry. True where the user should see it: once for an object, at the outermost
        call, however many classes' methods call super()."""
        owner = first_argument(frame)
        if not all(has(owner, name) for name in self.spec.on):
            return False
        if inside_another(frame, owner, self.codes):
            return False
        self.last = self.clock.read()
        if not self.calls:
            self.first = self.last
        self.calls += 1
        for tell in list(self.passed):
            tell(frame)
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


class Stages:
    """The stages of the preset that is on, and where the program stands: ``at`` a stage, before
    tensors are handled, of which ``said`` has a line each."""

    def __init__(self, preset: Preset, engine: Engine, locator: Locator) -> None:
        self.preset = preset
        self.clock = Stopwatch()
        self.stages = {spec.name: Stage(spec, clock=self.clock) for spec in preset.stages}
        self.at: Stage | None = None
        self.said: list[str] = []
        locator.search_all(
            (at, found)
            for stage in self.stages.values()
            for found in [self._found(stage, engine)]
            for at in stage.spec.at
        )

    def _found(self, stage: Stage, engine: Engine) -> Callable[[types.CodeType], None]:
        def reached(frame: types.FrameType) -> bool:
            if not stage.reached(frame):
                return False
            self.at = stage
            return True

        def found(code: types.CodeType) -> None:
            stage.codes.add(code_key(code))
            engine.watch(code, reached)

        return found

    def go_on(self) -> None:
        """The program runs on from where it stood."""
        self.at = None
        self.said.clear()
        self.clock.run()

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
