"""What is known of a script: its stages, by name.

One TOML file per script: modpdb's own beside this file, a user's in
``$XDG_CONFIG_HOME/modpdb/presets/``, another package's by the entry point ``modpdb.presets``
(the path of a file). A user's wins over a package's, a package's over ours.
"""

from __future__ import annotations

import fnmatch
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modpdb.breakpoints.locations import Spec
from modpdb.plugins import entry_points

GENERIC = "generic"


class PresetError(Exception):
    """A preset that cannot be used: the file, the key, what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class StageSpec:
    """A stage as its preset describes it: any of ``at``, on an object that has all of ``on``."""

    name: str
    at: tuple[Spec, ...]
    on: tuple[str, ...]
    says: str


@dataclass(frozen=True, slots=True)
class Preset:
    """What a preset file says; ``default`` names the stages that stop."""

    name: str
    scripts: tuple[str, ...]
    default: tuple[str, ...]
    stages: tuple[StageSpec, ...]
    file: Path


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
    """Ours, then packages', then the user's; a file comes after the one it may extend."""
    yield from sorted(Path(__file__).parent.glob("*.toml"), key=lambda file: len(file.name))
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
    """Read one preset file, which may extend one of *known*. Raises PresetError."""
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PresetError(f"{file}: not readable as TOML: {error}") from None
    reader = _Reader(file, data)
    reader.allow("name", "extends", "scripts", "default", "stages")
    base = _base(reader, known or {})
    stages = {stage.name: stage for stage in (base.stages if base else ())}
    for name, table in reader.table("stages").items():
        stages[name] = _stage(_Reader(file, table, f"stages.{name}."), name)
    default = reader.strings("default", base.default if base else None)
    for each in default:
        if each not in stages:
            raise PresetError(
                f"{file}: default: found {each!r}, expected one of {', '.join(stages)}"
            )
    return Preset(
        reader.string("name"),
        reader.strings("scripts"),
        default,
        tuple(stages.values()),
        file,
    )


def _base(reader: _Reader, known: dict[str, Preset]) -> Preset | None:
    if "extends" not in reader.data:
        return None
    name = reader.string("extends")
    if name not in known:
        raise PresetError(
            f"{reader.file}: extends: found {name!r}, expected one of {', '.join(sorted(known))}"
        )
    return known[name]


def _stage(reader: _Reader, name: str) -> StageSpec:
    reader.allow("at", "on", "says")
    specs = []
    for text in reader.strings("at"):
        try:
            specs.append(Spec.parse(text))
        except ValueError as error:
            raise PresetError(f"{reader.file}: {reader.prefix}at: {error}") from None
    return StageSpec(name, tuple(specs), reader.strings("on", ()), reader.string("says"))


@dataclass(frozen=True, slots=True)
class _Reader:
    """A table of a preset file; every complaint names the file and the key."""

    file: Path
    data: Any
    prefix: str = ""

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

    def table(self, key: str) -> dict[str, Any]:
        value = self.data.get(key, {})
        if not isinstance(value, dict):
            raise self._wrong(self.prefix + key, value, "a table")
        return value

    def _wrong(self, key: str, found: object, expected: str) -> PresetError:
        shown = "nothing" if found is None else repr(found)
        return PresetError(f"{self.file}: {key}: found {shown}, expected {expected}")
