"""What was recorded: the verdict first, then a row for calls that are alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from modpdb.probes.activations import (
    Jump,
    Origin,
    Pass,
    Series,
    by_magnitude,
    first_bad,
    magnitude,
    merged_shape,
    rms,
)
from modpdb.probes.recording import Call, Recording, TensorNote
from modpdb.views.folding import folded
from modpdb.views.grid import Grid
from modpdb.views.text import count, numbers, plural, printable, shape

_BARS = "▁▂▃▄▅▆▇█"
_WIDEST_TREND = 13  # bars
_LEAST_TREND = 2.0  # a series whose greatest rms is less than that times its least has none

Row = tuple[Text, Text, Text, Text, Text, Text]
"""Name, class, shape, rms, greatest absolute value, remarks."""


class Table:
    """Rows under a head; classes are left out where the terminal is too narrow for them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        head = ("", "", "shape", "rms", "max |x|", "")
        self._rows = [tuple(Text(each, "dim") for each in head), *rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = list(zip(*self._rows, strict=True))
        width = sum(max(cell_len(cell.plain) for cell in column) + 2 for column in columns[:-1])
        if width > options.max_width:
            del columns[1]
        rows = [list(row) for row in zip(*columns, strict=True)]
        last = len(columns) - 1
        yield Grid(rows, right=frozenset({last - 2, last - 1}))


def activations(
    recording: Recording, found: Sequence[Pass], calls: Sequence[Call], *, inputs: bool
) -> RenderableType:
    """A table for each kind of pass, below what is to be known first."""
    parts: list[RenderableType] = [*verdict(recording, calls), *_scale(recording, found, calls)]
    several = _several_dtypes(calls, inputs)
    for run in found:
        rows = [row for each in run.series for row in _series(each, 0, run.times, several, inputs)]
        parts.append(Text())
        if title := _pass_title(run) if len(found) > 1 or len(run.calls) > 1 else "":
            parts.append(Text(title, "bold"))
        parts.append(Table(rows))
    if not several:  # then no row says it
        parts.append(Text(f"all {printable(_dtype(calls))}", "dim"))
    return Group(*parts)


def top(recording: Recording, calls: Sequence[Call], most: int, *, inputs: bool) -> RenderableType:
    """The tensors with the greatest absolute values, one a row."""
    rows: list[Row] = []
    dtypes = _several_dtypes(calls, inputs)
    for call, side, note, _ in by_magnitude(calls, inputs)[:most]:
        name = Text(printable(_call_label(recording, call)), "bold")
        if place := f"{side if inputs else ''} {note.name}".strip():
            name.append(f" {printable(place)}", "not bold cyan")
        rows.append((name, Text(printable(call.class_name), "dim"), *_note_cells([note], dtypes)))
    return Group(*verdict(recording, calls), Text(), Table(rows))


# -- the verdict ---------------------------------------------------------------------------------


def verdict(recording: Recording, calls: Sequence[Call]) -> list[Text]:
    """Whether NaN or Inf came and where from, what else went wrong, and the greatest values."""
    lines = [Text(printable(summary(recording)), "dim")]
    origins = [first_bad(recording, "NaN"), first_bad(recording, "Inf")]
    lines += [_origin(recording, each) for each in origins if each is not None]
    outputs = [note for call in calls for note in call.outputs]
    read = [note for note in outputs if note.statistics is not None]
    if not any(origins):
        if read:
            lines.append(Text(f"no NaN and no Inf in {plural(len(read), 'output')}"))
        else:
            lines.append(Text("no output's values were read: NaN would not be known", "yellow"))
    raised = next((call for call in calls if call.raised), None)
    if raised is not None:
        name = printable(_call_label(recording, raised))
        lines.append(Text(f"an exception left {name}", "bold red"))
    if len(read) < len(outputs):
        lines.append(Text(_unread(outputs), "yellow"))
    lines += [Text(f"while recording: {printable(each)}", "red") for each in recording.problems]
    return lines


def summary(recording: Recording) -> str:
    """How many calls of how many modules a recording has, and where it is."""
    words = [
        f"recording {recording.name}: {plural(len(recording.calls), 'call')} "
        f"of {plural(recording.modules(), 'module')}"
    ]
    words += [recording.what] if recording.what else []
    words += [recording.file] if recording.file and recording.file != recording.name else []
    if recording.left_out:
        words.append(f"{count(recording.left_out)} later calls were not kept")
    return " · ".join(words)


def _origin(recording: Recording, found: Origin) -> Text:
    def named(call: Call) -> str:
        return printable(_call_label(recording, call))

    statistics = found.note.statistics
    assert statistics is not None
    bad = statistics.nan if found.bad == "NaN" else statistics.inf
    text = Text(f"{found.bad} begins ", "bold red")
    many = f"{count(bad)} of {count(statistics.elements)}"
    if found.how == "made":
        said = f"at {named(found.call)}: {many} of its output; its inputs had none"
    elif found.how == "unsure":
        said = f"at {named(found.call)}: {many} of its output; not all that it got was read"
    elif found.how == "between":
        assert found.shows is not None
        said = (
            f"inside {named(found.call)}, between its modules: "
            f"{many} of what {named(found.shows)} got"
        )
    else:
        place = f" ({printable(found.note.name)})" if found.note.name else ""
        said = f"before {named(found.call)}: {many} of its input{place}"
    return text.append(said, "not bold")


def _unread(outputs: Sequence[TensorNote]) -> str:
    whys: dict[str, int] = {}
    for note in outputs:
        if note.statistics is None:
            why = note.no_statistics or "statistics were not asked for"
            whys[why] = whys.get(why, 0) + 1
    said = ", ".join(f"{number:,}: {printable(why)}" for why, number in whys.items())
    return f"{plural(sum(whys.values()), 'output')} not read ({said})"


def _call_label(recording: Recording, call: Call) -> str:
    label = recording.label(call)
    return f"{label} (call {call.nth})" if call.nth > 1 else label


def _pass_title(run: Pass) -> str:
    roots = [call for call in run.calls if not call.path]
    if not roots:
        return ""
    nths = numbers([call.nth for call in roots]) if len(roots) > 1 else str(roots[0].nth)
    return printable(f"{roots[0].root}, call {nths}")


def _several_dtypes(calls: Sequence[Call], inputs: bool) -> bool:
    return len({n.dtype for c in calls for side, n in c.notes() if inputs or side == "out"}) > 1


def _dtype(calls: Sequence[Call]) -> str:
    return next((note.dtype for call in calls for note in call.outputs), "without output")


def _scale(recording: Recording, found: Sequence[Pass], calls: Sequence[Call]) -> list[Text]:
    """The greatest value, and the greatest jump from one layer to the next."""
    lines = []
    greatest = by_magnitude(calls, inputs=False)[:1]
    for call, _, _, value in greatest:
        name = printable(_call_label(recording, call))
        lines.append(Text(f"greatest value: {value:.3g} at {name}"))
    every = [each for run in found for one in run.series for each in with_below(one)]
    jumps = [jump for each in every if (jump := each.jump()) is not None]
    if jumps:
        jump = max(jumps, key=lambda each: (abs(math.log(each.ratio)), -each.call.ended))
        text = Text(f"scale jumps {_ratio(jump)} ", "bold yellow")
        name = printable(_call_label(recording, jump.call))
        lines.append(text.append(f"at {name}, against the one before it", "not bold"))
    return lines


def with_below(series: Series) -> Iterator[Series]:
    yield series
    for below in series.below:
        yield from with_below(below)


def _ratio(jump: Jump) -> str:
    return f"×{jump.ratio:.3g}" if jump.ratio > 1 else f"÷{1 / jump.ratio:.3g}"


# -- rows ----------------------------------------------------------------------------------------


def _series(series: Series, depth: int, times: int, dtypes: bool, inputs: bool) -> Iterator[Row]:
    name = series_name(series, depth)
    remarks = list(_remarks(series, times))
    yield (
        name,
        Text(printable(series.class_name), "dim"),
        *_note_cells(series.notes, dtypes, remarks, series.scales()),
    )
    if inputs:
        yield from _places(series, depth + 1, dtypes)
    for below in series.below:
        yield from _series(below, depth + 1, times, dtypes, inputs)


def _places(series: Series, depth: int, dtypes: bool) -> Iterator[Row]:
    """A row for every input, and for every output but the first."""
    places: dict[tuple[str, str], list[TensorNote]] = {}
    for call in series.calls:
        for side, note in [*call.notes()]:
            if side == "in" or note is not call.outputs[0]:
                places.setdefault((side, note.name), []).append(note)
    for (went, place), notes in places.items():
        name = Text("  " * depth).append(f"{went} {printable(place)}".strip(), "cyan")
        ranks = {None if note.shape is None else len(note.shape) for note in notes}
        yield name, Text(""), *_note_cells(notes if len(ranks) == 1 else notes[:1], dtypes)


def series_name(series: Series, depth: int) -> Text:
    """The paths of the series, folded, from the modules around them."""
    paths = folded((name, 0) for name in dict.fromkeys(series.names))
    name = ", ".join(printable(path) for path, _, _ in paths)
    return Text("  " * depth).append(name, "bold" if series.below else "")


def _note_cells(
    notes: Sequence[TensorNote],
    dtypes: bool,
    remarks: Sequence[Text] = (),
    scales: Sequence[float] | None = None,
) -> tuple[Text, Text, Text, Text]:
    """Shape, rms, greatest absolute value and remarks of alike tensors."""
    if not notes:
        return Text(""), Text(""), Text(""), Text(" · ").join(remarks)
    dims = Text(shape(merged_shape(notes)))
    dims.append(f" {printable(notes[0].dtype)}" if dtypes else "", "cyan")
    found = [note.statistics for note in notes if note.statistics is not None]
    if scales is None:
        scales = [each for one in found if (each := rms(one)) is not None]
    greatest = [each for one in found if (each := magnitude(one)) is not None]
    words = [*_bad_words(notes), *remarks]
    return (
        dims,
        Text(_range(scales)),
        Text(f"{max(greatest):.3g}" if greatest else ""),
        Text(" · ").join(words),
    )


def _range(values: Sequence[float]) -> str:
    """Least and greatest, with three digits; one where they are alike."""
    if not values:
        return ""
    low, high = (f"{each:.3g}" for each in (min(values), max(values)))
    return low if low == high else f"{low}…{high}"


def _bad_words(notes: Sequence[TensorNote]) -> Iterator[Text]:
    for word in ("NaN", "Inf"):
        found = [
            (note.statistics.nan if word == "NaN" else note.statistics.inf)
            for note in notes
            if note.statistics is not None
        ]
        if any(found):
            held = sum(1 for each in found if each)
            of = f" in {held} of {len(notes)}" if len(notes) > 1 else ""
            yield Text(f"{count(sum(found))} {word}{of}", "bold red")


def _remarks(series: Series, times: int) -> Iterator[Text]:
    """What is to be said of a series, the worrying first; *times* each module is expected to be
    called."""
    raised = sum(call.raised for call in series.calls)
    if raised:
        yield Text("raised" if len(series.calls) == 1 else f"{raised:,} raised", "bold red")
    jump = series.jump()
    if jump is not None:
        at = varying(series.calls, jump.call)
        yield Text(f"{_ratio(jump)} at {at}", "bold yellow")
    modules = len({call.full_path for call in series.calls})
    if len(series.calls) != modules * times:
        yield Text(plural(len(series.calls), "call"))
    bars = trend(Series("", series.by_layer()).scales())
    if bars:
        yield Text(bars, "green")
    more = max((len(call.outputs) for call in series.calls), default=0) - 1
    if more > 0:
        yield Text(f"+{plural(more, 'output')}", "dim")
    for words in dict.fromkeys(call.unseen for call in series.calls if call.unseen):
        yield Text(words, "yellow")
    unread = dict.fromkeys(n.no_statistics for n in series.notes if n.no_statistics)
    for words in unread:
        yield Text(f"not read: {printable(words)}", "yellow")
    zeros = [n.zeros / n.statistics.elements for n in series.notes if n.statistics and n.zeros]
    if zeros and max(zeros) >= 0.5:
        yield Text(f"{max(zeros):.0%} zeros", "yellow")


def varying(calls: Sequence[Call], call: Call) -> str:
    """The parts of the path of *call* in which the paths of *calls*, which are alike, differ."""
    paths = [each.path.split(".") for each in calls]
    changing = [len(set(parts)) > 1 for parts in zip(*paths, strict=True)]
    own = call.path.split(".")
    return ".".join(part for part, changes in zip(own, changing, strict=True) if changes)


def trend(values: Sequence[float]) -> str:
    """Bars for the logarithms of *values* in order, each for one or the greatest of several; ""
    for few, or where they hardly differ."""
    values = [each for each in values if each > 0]
    if len(values) < 3 or max(values) < _LEAST_TREND * min(values):
        return ""
    per_bar = math.ceil(len(values) / _WIDEST_TREND)
    logs = [
        math.log(max(values[start : start + per_bar])) for start in range(0, len(values), per_bar)
    ]
    low, high = min(logs), max(logs)
    step = (len(_BARS) - 1) / (high - low) if high > low else 0
    return "".join(_BARS[round((each - low) * step)] for each in logs)
