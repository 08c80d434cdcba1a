"""A preset's provenance, at work: looks at functions' entries, and stops nowhere."""

from __future__ import annotations

import functools
import traceback
import types
from collections.abc import Iterable
from typing import TYPE_CHECKING

from modpdb.breakpoints.engine import Engine, Reached
from modpdb.breakpoints.locations import Locator
from modpdb.presets import ProvenanceSpec, SourcesSpec
from modpdb.presets.owners import CodeKey, code_key
from modpdb.presets.tensors import names_given

if TYPE_CHECKING:
    from modpdb.probes.provenance import Provenance


class Collector:
    """Has what *spec* names watched from now on. ``problem`` says what went wrong first, ""
    for nothing: no error reaches the script."""

    def __init__(self, spec: ProvenanceSpec, engine: Engine, locator: Locator) -> None:
        self.problem = ""
        self._sources: dict[CodeKey, SourcesSpec] = {}
        looks = {kind: self._looks(kind) for kind in ("begins", "modifies", "adds")}
        locator.search_all(
            [
                (at, functools.partial(engine.watch, reached=reached, looks=True))
                for kind, reached in looks.items()
                for at in getattr(spec, kind)
            ]
            + [
                (at, functools.partial(self._noted, sources=sources))
                for sources in spec.sources
                for at in sources.at
            ]
        )

    @functools.cached_property
    def provenance(self) -> Provenance:
        """What has been collected. (The probe is imported when something is seen: it takes a
        moment that a first prompt need not wait for.)"""
        from modpdb.probes.provenance import Provenance

        return Provenance(self._says)

    def seen_of(self, model: object) -> Provenance | None:
        """What has been collected if that is all of the conversion of *model*; else None."""
        whole = not self.problem and self.provenance.is_of(model)
        return self.provenance if whole else None

    def _looks(self, kind: str) -> Reached:
        def reached(frame: types.FrameType) -> bool:
            try:
                getattr(self.provenance, kind)(frame)
            except KeyboardInterrupt:
                raise  # Ctrl-C came just now: it is meant for the script
            except BaseException as error:
                said = traceback.format_exception_only(error)[-1].strip()
                self.problem = self.problem or f"{kind} {frame.f_code.co_qualname}: {said}"
            return False

        return reached

    def _noted(self, code: types.CodeType, sources: SourcesSpec) -> None:
        self._sources.setdefault(code_key(code), sources)

    def _says(self, frames: Iterable[types.FrameType], written: str) -> tuple[str, ...]:
        """The names that the innermost of *frames* gives that the preset knows, and that has
        any."""
        for frame in frames:
            sources = self._sources.get(code_key(frame.f_code))
            if sources is not None:
                names = names_given(sources.names, {**frame.f_locals, "written": written})
                if names:
                    return names
        return ()
