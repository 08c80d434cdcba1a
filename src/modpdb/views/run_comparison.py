"""Two recordings side by side: the verdict first, then a row for modules that are alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.recording import Call, Recording
from modpdb.probes.run_comparison import TOLERANCE, Compared, Misfit, RunComparison
from modpdb.views.activations import summary
from modpdb.views.folding import folded
from modpdb.views.grid import Grid
from modpdb.views.text import plural, printable, shape

_ONLY_SHOWN = 10  # paths that are in one recording only


def run_comparison(found: RunComparison, *, unfold: bool) -> RenderableType:
    """The verdict, the errors by module, then what is in one only."""
    parts: list[RenderableType] = [
        Text(f"A  {printable(summary(found.a))}", "dim"),
        Text(f"B  {printable(summary(found.b))}", "dim"),
        *_verdict(found),
    ]
    if found.compared or found.misfits:
        parts += [Text(), _table(found, unfold)]
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
        text = Text("no divergence", "green")
        error = _error(worst)
        text.append(f" in {plural(len(known), 'output')}, the farthest {error} apart")
        lines.append(text)
    if not found.compared and not found.misfits:
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
    lines.append(Text(_tolerances(found.compared), "dim"))
    return [line for line in lines if line.plain]


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


def _table(found: RunComparison, unfold: bool) -> Grid:
    """Errors by module in the order in which they began; alike ones as one row."""
    groups: dict[tuple[object, ...], list[Compared]] = {}
    for each in sorted(found.compared, key=lambda each: each.a.number):
        parts = each.a.full_path.split(".")
        pattern = tuple(None if part.isdecimal() else part for part in parts)
        key = (each.a.number, each.name) if unfold else (pattern, each.name)
        groups.setdefault(key, []).append(each)
    head = tuple(Text(each, "dim") for each in ("", "class", "least", "greatest", ""))
    rows = [head, *(_row(found.a, group) for group in groups.values())]
    rows += [
        (
            Text(printable(f"{_label(found.a, each.a)} {each.name}".strip())),
            Text(printable(each.a.class_name), "dim"),
            Text(""),
            Text(""),
            Text(f"{shape(each.shapes[0])} in A, {shape(each.shapes[1])} in B", "bold red"),
        )
        for each in found.misfits
    ]
    return Grid(rows, right=frozenset({2, 3}))


def _row(recording: Recording, group: Sequence[Compared]) -> tuple[Text, ...]:
    paths = dict.fromkeys(recording.label(each.a) for each in group)
    name = Text(printable(", ".join(path for path, _, _ in folded((p, 0) for p in paths))))
    if group[0].name:
        name.append(f" {printable(group[0].name)}", "cyan")
    errors = [each.error for each in group if each.error is not None]
    weak = group[0].by != "values"
    cells = [
        Text(f"{(each if weak else each**2):.1e}" if each else "0" if errors else "")
        for each in ((min(errors), max(errors)) if errors else (0.0, 0.0))
    ]
    return (name, Text(printable(group[0].a.class_name), "dim"), *cells, _remark(recording, group))


def _remark(recording: Recording, group: Sequence[Compared]) -> Text:
    words = []
    over = [each for each in group if each.differs]
    if over:
        first = min(over, key=lambda each: each.a.ended)
        of = f" in {len(over)} of {len(group)}, first {_label(recording, first.a)}"
        words.append(Text(f"differs{of if len(group) > 1 else ''}", "bold red"))
    bad = sum(each.bad for each in group)
    if bad:
        words.append(Text(f"{bad:,} NaN or Inf in one only", "bold red"))
    if any(each.by == "statistics" for each in group):
        words.append(Text("by statistics", "yellow"))
    if any(each.unknown for each in group):
        words.append(Text("not compared", "yellow"))
    return Text(" · ", "dim").join(words)


def _only(found: RunComparison, name: str, calls: Sequence[Call]) -> Text:
    recording = found.a if name == "A" else found.b
    labels = dict.fromkeys(_label(recording, call) for call in calls)
    shown = [path for path, _, _ in folded((label, 0) for label in labels)]
    more = f" and {len(shown) - _ONLY_SHOWN:,} more" if len(shown) > _ONLY_SHOWN else ""
    names = ", ".join(map(printable, shown[:_ONLY_SHOWN]))
    return Text(f"only in {name}: {names}{more}", "yellow")
