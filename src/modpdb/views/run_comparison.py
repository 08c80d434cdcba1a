"""Two recordings side by side: the verdict first, then a row for modules that are alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.activations import Series, passes
from modpdb.probes.recording import Call, Recording
from modpdb.probes.run_comparison import TOLERANCE, Compared, Misfit, RunComparison
from modpdb.views.activations import series_name, summary, varying
from modpdb.views.folding import folded
from modpdb.views.grid import Grid
from modpdb.views.text import plural, printable, shape

_ONLY_SHOWN = 10  # paths that are in one recording only


def run_comparison(found: RunComparison, *, every: bool, unfold: bool) -> RenderableType:
    """The verdict, the errors of the modules that differ (*every*: of all), what is in one only."""
    parts: list[RenderableType] = [
        Text(f"A  {printable(summary(found.a))}", "dim"),
        Text(f"B  {printable(summary(found.b))}", "dim"),
        *_verdict(found),
    ]
    if found.first() is not None or (every and found.compared):
        parts += [Text(), _table(found, every, unfold)]
    for name, calls in (("A", found.only_a), ("B", found.only_b)):
        if calls:
            parts.append(_only(found, name, calls))
    return Group(*parts)


def _verdict(found: RunComparison) -> list[Text]:
    lines = []
    first = found.first()
    if first is not None:
        text = Text("first divergence: ", "bold red")
        lines.append(text.append(_words(found.a, first), "not bold"))
    unknown = sum(each.unknown for each in found.compared)
    known = [each for each in found.compared if not each.unknown]
    if first is None and known:
        worst = max(known, key=lambda each: each.error or 0.0)
        text = Text("no divergence", "yellow" if found.lone else "green")
        error = _error(worst)
        text.append(f" in {plural(len(known), 'output')}, the farthest {error} apart")
        lines.append(text)
    if found.lone:
        lines.append(_lone(found))
    if not found.compared and not found.misfits and not found.lone:
        lines.append(Text("nothing to compare: no module was called in both", "yellow"))
    weak = sum(each.by == "statistics" for each in found.compared)
    if weak:
        lines.append(
            Text(
                f"{plural(weak, 'output')} compared by statistics only: equal ones do not prove "
                "equal values (record both with --values)",
                "yellow",
            )
        )
    if unknown:
        whys = ", ".join(sorted({each.why for each in found.compared if each.why}))
        lines.append(Text(f"{plural(unknown, 'output')} not compared: {printable(whys)}", "yellow"))
    if first is None:
        lines.append(Text(_tolerances(found.compared), "dim"))
    return [line for line in lines if line.plain]


def _lone(found: RunComparison) -> Text:
    """How many outputs one call has and the other has not, and the first of them."""
    each = found.lone[0]
    name = " ".join(filter(None, (_label(found.a, each.a), each.name)))
    other, its = (each.b, "B") if each.of == "A" else (each.a, "A")
    why = "raised" if other.raised else "did not return" if not other.ended else "has no such"
    words = f"{plural(len(found.lone), 'output')} in one only, the first of {printable(name)}"
    return Text(f"{words}: in {its} it {why}", "bold red")


def _tolerances(compared: Iterable[Compared]) -> str:
    used = {dtype for each in compared for dtype in each.dtypes}
    said = ", ".join(f"{name} {limit**2:.0e}" for name, limit in TOLERANCE.items() if name in used)
    return f"NMSE that rounding explains: {said}" if said else ""


def _words(recording: Recording, first: Compared | Misfit) -> str:
    name = printable(_label(recording, first.a))
    place = f" {printable(first.name)}" if first.name else ""
    if isinstance(first, Misfit):
        one, two = map(shape, first.shapes)
        return f"{name}{place}: {one} in A, {two} in B"
    said = _error(first)
    if first.bad:
        said += f", {first.bad:,} NaN or Inf in one only"
    return f"{name}{place}: {said}, tolerance {_limit(first)}"


def _error(found: Compared) -> str:
    """As NMSE where values were compared; else as what the statistics differ by."""
    if found.error is None:
        return "not known"
    if found.by == "values":
        return f"NMSE {found.error**2:.2e}" if found.error else "NMSE 0"
    return f"{found.error:.2e} by statistics" if found.error else "0 by statistics"


def _limit(found: Compared) -> str:
    limit = found.tolerance**2 if found.by == "values" else found.tolerance
    dtype = " and ".join(dict.fromkeys(found.dtypes))
    return f"{limit:.0e} of {printable(dtype)}"


def _label(recording: Recording, call: Call) -> str:
    label = recording.label(call)
    return f"{label} (call {call.nth})" if call.nth > 1 else label


def _table(found: RunComparison, every: bool, unfold: bool) -> Grid:
    """Errors by module in the order in which they began; alike ones as one row."""
    both: list[Compared | Misfit] = [*found.compared, *found.misfits]
    by_call: dict[int, list[Compared | Misfit]] = {}
    for each in both:
        by_call.setdefault(each.a.number, []).append(each)
    mixed = len({each.by for each in found.compared}) > 1
    by_values = any(each.by == "values" for each in found.compared)
    head = "NMSE least" if by_values else "least"
    rows = [tuple(Text(each, "dim") for each in ("", head, "greatest", ""))]

    def add(series: Series, depth: int) -> None:
        outputs: dict[str, list[Compared | Misfit]] = {}
        for call in series.calls:
            for each in by_call[call.number]:
                outputs.setdefault(each.name, []).append(each)
        several = len(outputs) > 1
        for name, group in outputs.items():
            cell = series_name(series, depth)
            cell.append(f" {printable(name)}" if several else "", "not bold cyan")
            rows.append((cell, *_cells(group, every, mixed)))
        for below in series.below:
            add(below, depth + 1)

    chosen = {
        number
        for number, group in by_call.items()
        if every or any(isinstance(each, Misfit) or each.differs for each in group)
    }
    for run in passes(found.a, lambda call: call.number in chosen, alone=unfold):
        for series in run.series:
            add(series, 0)
    return Grid(rows, right=frozenset({1, 2}))


def _cells(group: Sequence[Compared | Misfit], every: bool, mixed: bool) -> tuple[Text, Text, Text]:
    """Least and greatest error, and remarks."""
    errors = [
        each.error**2 if each.by == "values" else each.error
        for each in group
        if isinstance(each, Compared) and each.error is not None
    ]
    extremes = (min(errors), max(errors)) if errors else ()
    low, high = (Text(f"{each:.1e}" if each else "0") for each in extremes or (0, 0))
    return (
        low if errors else Text(""),
        high if errors else Text(""),
        _remark(group, every, mixed),
    )


def _remark(group: Sequence[Compared | Misfit], every: bool, mixed: bool) -> Text:
    """*every*: rows are not only of what differs. *mixed*: not all is compared by the same."""
    words = []
    over = [each for each in group if isinstance(each, Misfit) or each.differs]
    if over:
        first = min(over, key=lambda each: each.a.ended)
        at = varying([each.a for each in group], first.a)
        said = [f"{len(over)} of {len(group)} differ" if len(group) > 1 else "differs"] * every
        said += [f"first at {at}"] if at else []
        words.append(Text(", ".join(said), "bold red"))
    for shapes in dict.fromkeys(each.shapes for each in group if isinstance(each, Misfit)):
        words.append(Text(f"{shape(shapes[0])} in A, {shape(shapes[1])} in B", "red"))
    compared = [each for each in group if isinstance(each, Compared)]
    bad = sum(each.bad for each in compared)
    if bad:
        words.append(Text(f"{bad:,} NaN or Inf in one only", "bold red"))
    if mixed and any(each.by == "statistics" for each in compared):
        words.append(Text("by statistics", "yellow"))
    if any(each.unknown for each in compared):
        words.append(Text("not compared", "yellow"))
    return Text(" · ").join(word for word in words if word.plain)


def _only(found: RunComparison, name: str, calls: Sequence[Call]) -> Text:
    """Modules that only one has, and how often those that both have were called once more."""
    mine, other, its = (found.a, found.b, "B") if name == "A" else (found.b, found.a, "A")
    by_root = mine.several_roots() or other.several_roots()
    there = {(call.root if by_root else "", call.path) for call in other.calls}
    new = [call for call in calls if (call.root if by_root else "", call.path) not in there]
    labels = dict.fromkeys(mine.label(call) for call in new)
    shown = [printable(path) for path, _, _ in folded((label, 0) for label in labels)]
    words = shown[:_ONLY_SHOWN]
    if len(shown) > _ONLY_SHOWN:
        words.append(f"{len(shown) - _ONLY_SHOWN:,} more")
    if len(calls) > len(new):
        words.append(f"{plural(len(calls) - len(new), 'further call')} of modules that {its} has")
    return Text(f"only in {name}: {', '.join(words)}", "yellow")
