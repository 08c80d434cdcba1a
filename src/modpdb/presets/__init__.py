"""What is known of a script: its stages, and where it handles a tensor, by name.

One TOML file per script: modpdb's own beside this file, a user's in
``$XDG_CONFIG_HOME/modpdb/presets/``, another package's by the entry point ``modpdb.presets``
(the path of a file). A user's wins over a package's, a package's over ours.
"""

from __future__ import annotations

import fnmatch
import os
import tomllib
import types
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from modpdb.breakpoints.locations import Spec
from modpdb.plugins import entry_points

GENERIC = "generic"
_KEYS = (
    *("name", "extends", "scripts", "default", "stages", "tensors", "tensors_known_at"),
    *("plumbing", "dispatchers", "not_in", "provenance"),
)


class PresetError(Exception):
    """A preset that cannot be used: the file, the key, what was found and what was expected."""


class StageSpec(NamedTuple):
    """A stage as its preset describes it: any of ``at``, on an object that has all of ``on``."""

    name: str
    at: tuple[Spec, ...]
    on: tuple[str, ...]
    says: str


class TensorSpec(NamedTuple):
    """A place where the script handles a tensor: any of ``at``, on an object that has all of
    ``on``; at the function's entry, or at its lines that call one of ``calling``.

    ``tensor`` is a Python expression over the function's variables that gives the tensor's name,
    or several; ``also`` one that gives further names that count where the checkpoint has them.
    A tensor is met once for each ``side``.
    """

    name: str
    at: tuple[Spec, ...]
    on: tuple[str, ...]
    calling: tuple[str, ...]
    tensor: types.CodeType
    also: types.CodeType | None
    side: str
    says: str


class SourcesSpec(NamedTuple):
    """What a tensor that any of ``at`` writes is made of: ``names`` is a Python expression over the
    function's variables, and ``written``, the tensor's name, that gives checkpoint names."""

    name: str
    at: tuple[Spec, ...]
    names: types.CodeType


class ProvenanceSpec(NamedTuple):
    """Where to look for the way of tensors: at the entry of functions that begin to convert, that
    take a checkpoint's tensor, and that take one to be written. ``sources``: what writes tensors
    that have not come that way."""

    begins: tuple[Spec, ...]
    modifies: tuple[Spec, ...]
    adds: tuple[Spec, ...]
    sources: tuple[SourcesSpec, ...]


class Preset(NamedTuple):
    """What a preset file says; ``default`` names the stages that stop, ``known_at`` the stage at
    which the names of all tensors are known, "" where none is.

    ``plumbing`` names functions that stepping goes through without a stop, and whose frames are
    hidden; ``dispatchers`` those wrappers of a module's ``forward`` that may call another function
    in its place, so that a breakpoint on the module stops in them. ``not_in``: large packages that
    hold no stage, which are not looked through.
    """

    name: str
    scripts: tuple[str, ...]
    default: tuple[str, ...]
    stages: tuple[StageSpec, ...]
    file: Path
    tensors: tuple[TensorSpec, ...] = ()
    known_at: str = ""
    not_in: tuple[str, ...] = ()
    plumbing: tuple[Spec, ...] = ()
    dispatchers: tuple[Spec, ...] = ()
    provenance: ProvenanceSpec | None = None


def all_presets() -> dict[str, Preset]:
    """Every preset there is, by name. Raises PresetError for the first broken file."""
    presets: dict[str, Preset] = {}
    for file in _files():
        preset = read_preset(file, presets)
        presets[preset.name] = preset
    return presets


def preset_for(script: str) -> Preset:
    """The preset whose ``scripts`` has the file name of *script*, a specific one first."""
    name = os.path.basename(script)
    presets = all_presets()
    for preset in reversed(presets.values()):
        if preset.name != GENERIC and any(fnmatch.fnmatch(name, each) for each in preset.scripts):
            return preset
    return presets[GENERIC]


def preset_named(name: str) -> Preset:
    presets = all_presets()
    if name not in presets:
        raise PresetError(f"there is no preset {name!r}; there are {', '.join(sorted(presets))}")
    return presets[name]


def _files() -> Iterator[Path]:
    """Ours, then packages', then the user's; a file comes after the one it may extend, and the
    generic one, to which all add, first."""
    ours = Path(__file__).parent.glob("*.toml")
    yield from sorted(ours, key=lambda file: (file.stem != GENERIC, len(file.name)))
    for entry in entry_points("modpdb.presets"):
        try:
            yield Path(entry.load())
        except Exception as error:
            raise PresetError(
                f"preset {entry.value} of another package not loaded: {error}"
            ) from None
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    yield from sorted(Path(config, "modpdb", "presets").glob("*.toml"))


def read_preset(file: Path, known: dict[str, Preset] | None = None) -> Preset:
    """Read one preset file, which may extend one of *known*. Raises PresetError.

    The generic preset's plumbing and dispatchers are everyone's: others add to them.
    """
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PresetError(f"{file}: not readable as TOML: {error}") from None
    reader = _Reader(file, data)
    reader.allow(*_KEYS)
    known = known or {}
    base = _base(reader, known)
    not_in = reader.strings("not_in", base.not_in if base else ())
    beneath = base or known.get(GENERIC)
    stages = {stage.name: stage for stage in (base.stages if base else ())}
    for name, table in reader.table("stages").items():
        stages[name] = _stage(_Reader(file, table, f"stages.{name}.", not_in), name)
    tensors = {tensor.name: tensor for tensor in (base.tensors if base else ())}
    for name, table in reader.table("tensors").items():
        tensors[name] = _tensor(_Reader(file, table, f"tensors.{name}.", not_in), name)
    default = reader.strings("default", base.default if base else None)
    for each in default:
        reader.expect("default", each, stages)
    known_at = base.known_at if base else ""
    if "tensors_known_at" in data:
        known_at = reader.string("tensors_known_at")
        reader.expect("tensors_known_at", known_at, stages)
    return Preset(
        reader.string("name"),
        reader.strings("scripts"),
        default,
        tuple(stages.values()),
        file,
        tuple(tensors.values()),
        known_at,
        not_in,
        (*(beneath.plumbing if beneath else ()), *reader.specs("plumbing", ())),
        (*(beneath.dispatchers if beneath else ()), *reader.specs("dispatchers", ())),
        _provenance(reader, base.provenance if base else None, not_in),
    )


def _base(reader: _Reader, known: dict[str, Preset]) -> Preset | None:
    if "extends" not in reader.data:
        return None
    name = reader.string("extends")
    reader.expect("extends", name, sorted(known))
    return known[name]


def _stage(reader: _Reader, name: str) -> StageSpec:
    reader.allow("at", "on", "says")
    return StageSpec(name, reader.specs("at"), reader.strings("on", ()), reader.string("says"))


def _tensor(reader: _Reader, name: str) -> TensorSpec:
    reader.allow("at", "on", "calling", "tensor", "also", "side", "says")
    return TensorSpec(
        name,
        reader.specs("at"),
        reader.strings("on", ()),
        reader.strings("calling", ()),
        reader.expression("tensor"),
        reader.expression("also") if "also" in reader.data else None,
        reader.string("side"),
        reader.string("says"),
    )


def _provenance(
    reader: _Reader, base: ProvenanceSpec | None, not_in: tuple[str, ...]
) -> ProvenanceSpec | None:
    if "provenance" not in reader.data:
        return base
    inside = _Reader(reader.file, reader.data["provenance"], "provenance.", not_in)
    inside.allow("begins", "modifies", "adds", "sources")
    sources = []
    for name, table in inside.table("sources").items():
        each = _Reader(reader.file, table, f"provenance.sources.{name}.", not_in)
        each.allow("at", "names")
        sources.append(SourcesSpec(name, each.specs("at"), each.expression("names")))
    return ProvenanceSpec(
        inside.specs("begins"), inside.specs("modifies"), inside.specs("adds"), tuple(sources)
    )


class _Reader(NamedTuple):
    """A table of a preset file; every complaint names the file and the key."""

    file: Path
    data: Any
    prefix: str = ""
    not_in: tuple[str, ...] = ()  # of the places in this table

    def allow(self, *keys: str) -> None:
        if not isinstance(self.data, dict):
            raise self._wrong(self.prefix.rstrip("."), self.data, "a table")
        for key in self.data:
            if key not in keys:
                raise PresetError(
                    f"{self.file}: {self.prefix}{key}: not a key of a preset; "
                    f"expected {', '.join(keys)}"
                )

    def string(self, key: str) -> str:
        value = self.data.get(key)
        if not isinstance(value, str) or not value:
            raise self._wrong(self.prefix + key, value, "a string")
        return value

    def strings(self, key: str, missing: tuple[str, ...] | None = None) -> tuple[str, ...]:
        value = self.data.get(key, missing)
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
            raise self._wrong(self.prefix + key, value, "a list of strings")
        return tuple(value)

    def specs(self, key: str, missing: tuple[str, ...] | None = None) -> tuple[Spec, ...]:
        try:
            parsed = [Spec.parse(text) for text in self.strings(key, missing)]
        except ValueError as error:
            raise PresetError(f"{self.file}: {self.prefix}{key}: {error}") from None
        return tuple(replace(each, not_in=frozenset(self.not_in)) for each in parsed)

    def expression(self, key: str) -> types.CodeType:
        text = self.string(key)
        try:
            return compile(text, f"<{self.prefix}{key}>", "eval")
        except (SyntaxError, ValueError):
            raise self._wrong(self.prefix + key, text, "a Python expression") from None

    def expect(self, key: str, found: str, known: Iterable[str]) -> None:
        if found not in known:
            raise self._wrong(self.prefix + key, found, f"one of {', '.join(known)}")

    def table(self, key: str) -> dict[str, Any]:
        value = self.data.get(key, {})
        if not isinstance(value, dict):
            raise self._wrong(self.prefix + key, value, "a table")
        return value

    def _wrong(self, key: str, found: object, expected: str) -> PresetError:
        shown = "nothing" if found is None else repr(found)
        return PresetError(f"{self.file}: {key}: found {shown}, expected {expected}")
