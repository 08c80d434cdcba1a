"""Where a preset's script handles a tensor, at work: in which code, and which tensor it is."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from modpdb.breakpoints.locations import Spec
from modpdb.presets import TensorSpec
from modpdb.presets.owners import CodeKey, code_key, first_argument, has, inside_another


class Sighting(NamedTuple):
    """Names of one tensor, or of several, that a frame is about to handle; ``also`` are names
    that count where the checkpoint has them."""

    spec: TensorSpec
    names: tuple[str, ...]
    also: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class TensorPlaces(Spec):
    """The code of every one of *tensors*, looked for at once: looking walks over all functions
    there are. Remembers which code is which place."""

    tensors: tuple[TensorSpec, ...] = ()
    last: str | None = field(default=None, init=False)
    _found: dict[CodeKey, list[tuple[TensorSpec, frozenset[int]]]] = field(
        default_factory=dict, init=False
    )
    _codes: dict[str, set[CodeKey]] = field(default_factory=dict, init=False)

    @functools.cached_property
    def _lasts(self) -> set[str | None]:
        return {at.last for tensor in self.tensors for at in tensor.at}

    def may_be_in_package(self, package: str) -> bool:
        return any(at.may_be_in_package(package) for each in self.tensors for at in each.at)

    def matches(self, module: str, code: types.CodeType) -> bool:
        if code.co_name not in self._lasts and None not in self._lasts:
            return False  # nearly all code there is
        places = []
        for tensor in self.tensors:
            if not any(at.matches(module, code) for at in tensor.at):
                continue
            lines = frozenset(calling_lines(code, tensor.calling))
            if lines or not tensor.calling:
                places.append((tensor, lines))
                self._codes.setdefault(tensor.name, set()).add(code_key(code))
        if places:
            self._found[code_key(code)] = places
        return bool(places)

    def stops_in(self, code: types.CodeType) -> Iterator[tuple[types.CodeType, int | None]]:
        """Where in *code*, which matched, to look: None is its entry."""
        places = self._found.get(code_key(code), ())
        for line in {line for _, lines in places for line in lines or (None,)}:
            yield code, line

    def sightings(self, frame: types.FrameType) -> Iterator[Sighting]:
        """What *frame*, at one of its lines or its entry, is about to handle."""
        for tensor, lines in self._found.get(code_key(frame.f_code), ()):
            # A hook in patched code (3.11) has no line: what the expression gives decides then.
            if lines and frame.f_lineno is not None and frame.f_lineno not in lines:
                continue
            owner = first_argument(frame)
            if not all(has(owner, name) for name in tensor.on):
                continue
            if not lines and inside_another(frame, owner, self._codes[tensor.name]):
                continue
            variables = {**frame.f_locals, "header_names": header_names}
            names = names_given(tensor.tensor, variables)
            also = names_given(tensor.also, variables) if tensor.also and names else ()
            yield Sighting(tensor, names, also)


def calling_lines(code: types.CodeType, names: Iterable[str]) -> set[int]:
    """The lines of *code* that call a function or method of one of *names*."""
    wanted = set(names)
    loads = (
        each
        for each in dis.get_instructions(code)
        if each.opname.startswith("LOAD_") and each.opname != "LOAD_CONST"
    )
    found = (each.positions for each in loads if each.argval in wanted)
    return {at.lineno for at in found if at is not None and at.lineno is not None}


def names_given(expression: types.CodeType, variables: dict[str, Any]) -> tuple[str, ...]:
    """The names that a preset's *expression* gives; none where a variable is not bound here."""
    try:
        # As globals: what a comprehension holds does not see locals.
        value = eval(expression, dict(variables))
        return (value,) if isinstance(value, str) else tuple(v for v in value if type(v) is str)
    except Exception:
        return ()


def header_names(file: Any) -> list[str]:
    """The names in a safetensors file's header, for presets' expressions."""
    from modpdb.probes.checkpoints import read_header

    return [entry.name for entry in read_header(Path(file))]
