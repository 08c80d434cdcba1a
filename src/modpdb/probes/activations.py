"""What a recording tells: where NaN begins, where the scale jumps, calls that are alike as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from modpdb.probes.recording import Call, Recording, TensorNote
from modpdb.probes.tensors import Statistics

JUMP = 10.0
"""A ratio of the rms of two outputs, one layer to the next, that is shown as a jump."""


def rms(found: Statistics) -> float | None:
    """The root of the mean square of the finite values, None where a float64 does not hold it."""
    if found.mean is None or found.std is None:
        return None
    root = math.hypot(found.mean, found.std)
    return root if math.isfinite(root) else None


def magnitude(found: Statistics) -> float | None:
    """The greatest absolute value that is finite."""
    if found.minimum is None or found.maximum is None:
        return None
    return max(abs(found.minimum), abs(found.maximum))


# -- where NaN begins ----------------------------------------------------------------------------

Bad = Literal["NaN", "Inf"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the first NaN or Inf of a recording is from.

    ``made``: *call* put it out, and got none. ``unsure``: it put it out, and not all that it got
    was read. ``between``: *call* made it itself, after or before one of its modules: *shows* is
    the call in whose inputs it is first. ``outside``: it came in with the inputs of *call*.
    """

    bad: Bad
    how: Literal["made", "unsure", "between", "outside"]
    call: Call
    note: TensorNote  # the tensor that has it
    shows: Call | None = None


def first_bad(recording: Recording, bad: Bad) -> Origin | None:
    """None where no output that was read has any."""
    ended = sorted((call for call in recording.calls if call.ended), key=lambda call: call.ended)
    made = next(((call, note) for call in ended if (note := _bad(call.outputs, bad))), None)
    if made is None:
        return None
    call, note = made
    if _bad(call.inputs, bad) is None:
        read = all(each.statistics is not None for each in call.inputs)
        return Origin(bad, "made" if read else "unsure", call, note)
    shows, came = next(
        (each, found) for each in recording.calls if (found := _bad(each.inputs, bad))
    )
    around = recording.calls[shows.parent - 1] if shows.parent else None
    if around is not None:
        return Origin(bad, "between", around, came, shows)
    return Origin(bad, "outside", shows, came)


def _bad(notes: Iterable[TensorNote], bad: Bad) -> TensorNote | None:
    for note in notes:
        found = note.statistics
        if found is not None and (found.nan if bad == "NaN" else found.inf):
            return note
    return None


# -- calls that are alike ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Jump:
    """The rms of an output is *ratio* times that of the layer before it: JUMP or more, or 1/JUMP or
    less."""

    ratio: float
    call: Call


@dataclass(slots=True)
class Series:
    """Calls of modules whose paths differ in their numbers only, and that put out the same kind.

    *below* are the series of calls that were made within these.
    """

    class_name: str
    calls: list[Call] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # of each call: its path from the one around it
    below: list[Series] = field(default_factory=list)

    @property
    def notes(self) -> list[TensorNote]:
        """The first output of each call that has one."""
        return [call.outputs[0] for call in self.calls if call.outputs]

    def scales(self) -> list[float]:
        """The rms of each first output, where it is known, in call order."""
        return [scale for call in self.calls if (scale := _scale(call)) is not None]

    def by_layer(self) -> list[Call]:
        """The first call of each module; all calls where it is one module's."""
        if len({call.full_path for call in self.calls}) == 1:
            return self.calls
        return [call for call in self.calls if call.nth == self.calls[0].nth]

    def jump(self) -> Jump | None:
        """The first of its jumps from one module to the next: the way back is one, too."""
        before = None
        for call in self.by_layer():
            scale = _scale(call)
            if before and scale and call.nth == self.calls[0].nth:
                ratio = scale / before
                if not 1 / JUMP < ratio < JUMP:
                    return Jump(ratio, call)
            before = scale
        return None


def _scale(call: Call) -> float | None:
    statistics = call.outputs[0].statistics if call.outputs else None
    return None if statistics is None else rms(statistics)


@dataclass(slots=True)
class Pass:
    """Runs through a model that took and gave the same shapes."""

    calls: list[Call]  # the outermost
    series: list[Series] = field(default_factory=list)

    @property
    def times(self) -> int:
        """How often the whole model ran; 1 where only parts of it were recorded."""
        return sum(not call.path for call in self.calls) or 1


def passes(
    recording: Recording, wanted: Callable[[Call], bool], *, alone: bool = False
) -> list[Pass]:
    """The calls that *wanted* takes, folded in the order in which they began.

    With *alone* every call is a series of its own.
    """
    found: dict[object, Pass] = {}
    series: dict[object, Series] = {}
    made: dict[int, tuple[object, Series, Call]] = {}  # by number: the series that a call is in
    tops: dict[int, Call] = {}
    for call in recording.calls:
        top = tops[call.number] = tops[call.parent] if call.parent else call
        if not wanted(call):
            if call.parent in made:  # what lies below hangs on what lies above
                made[call.number] = made[call.parent]
            continue
        run = found.setdefault(_pass_key(top), Pass([]))
        if top not in run.calls[-1:]:
            run.calls.append(top)
        above = made.get(call.parent)
        key = (
            above[0] if above else _pass_key(top),
            call.number if alone else (_pattern(call.full_path), call.class_name, _kind(call)),
        )
        if key not in series:
            series[key] = Series(call.class_name)
            (above[1].below if above else run.series).append(series[key])
        series[key].calls.append(call)
        series[key].names.append(_relative(recording, call, above[2] if above else None))
        made[call.number] = key, series[key], call
    return list(found.values())


def _pass_key(top: Call) -> object:
    if top.path:  # where only some modules are recorded, they are of one pass
        return top.root
    return top.root, *(notes[0].shape for notes in (top.inputs, top.outputs) if notes)


def _pattern(path: str) -> tuple[str | None, ...]:
    return tuple(None if part.isdecimal() else part for part in path.split("."))


def _kind(call: Call) -> object:
    """Dtype and rank of the first output: sizes may differ, as those of experts do."""
    if not call.outputs:
        return None
    note = call.outputs[0]
    return note.dtype, None if note.shape is None else len(note.shape)


def _relative(recording: Recording, call: Call, above: Call | None) -> str:
    if above is not None and call.full_path.startswith(f"{above.full_path}."):
        return call.full_path.removeprefix(f"{above.full_path}.")
    return recording.label(call)


def by_magnitude(calls: Iterable[Call], inputs: bool) -> list[tuple[Call, str, TensorNote, float]]:
    """Every tensor with its greatest absolute value, greatest first."""
    found = [
        (call, side, note, greatest)
        for call in calls
        for side, note in call.notes()
        if (inputs or side == "out")
        and note.statistics is not None
        and (greatest := magnitude(note.statistics)) is not None
    ]
    return sorted(found, key=lambda each: -each[3])


def merged_shape(notes: Sequence[TensorNote]) -> list[str] | None:
    """The sizes, 13…29 where they differ; None where one is not known."""
    shapes = [note.shape for note in notes]
    if not shapes or any(shape is None for shape in shapes):
        return None
    sizes = zip(*(shape for shape in shapes if shape is not None), strict=True)
    return [str(min(s)) if min(s) == max(s) else f"{min(s)}…{max(s)}" for s in sizes]
