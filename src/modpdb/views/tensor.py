"""`tensor`: one line that says it all, then the detail."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from modpdb.probes.tensor_summary import Memory, Norms, TensorSummary
from modpdb.probes.tensors import Statistics
from modpdb.views.flow import Flow
from modpdb.views.history import history
from modpdb.views.text import printable, shape, size

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 16  # bars of the histogram line
_SUBNORMAL = 0.01  # the share of values from which it is said: of most weights it is less
_NAMES = 6  # that share storage and are shown
_PLAIN_CLASSES = {"Tensor", "ndarray"}


def summary(found: TensorSummary) -> RenderableType:
    """The line, and below it what is not the default."""
    parts = [Flow(list(_line(found)))]
    details = list(_details(found))
    if details:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for label, value in details:
            table.add_row(f"  {label}", value)
        return Group(*parts, table)
    return Group(*parts)


def _line(found: TensorSummary) -> Iterator[Text]:
    yield Text(printable(found.name), "bold")
    dims = "?" if found.shape is None else shape(found.shape)
    what = Text(dims).append(f" {printable(found.dtype)}", "cyan")
    if found.nbytes is not None:
        what.append(f" {size(found.nbytes)}", "dim")
    yield what
    if found.class_name not in _PLAIN_CLASSES:
        yield Text(printable(found.class_name), "dim")
    for word in found.words:
        yield Text(printable(word), "yellow")
    if found.statistics is not None:
        yield from _numbers(found.statistics, found.of, found.dtype)
    if found.no_statistics:
        yield Text(f"no statistics: {printable(found.no_statistics)}", "yellow")


def _numbers(found: Statistics, of: str, dtype: str) -> Iterator[Text]:
    if of:
        yield Text(f"of {of}", "yellow")
    if found.partial:
        yield Text(f"partial: {found.elements:,} elements read", "bold yellow")
    if found.nan:
        yield Text(f"{found.nan:,} NaN", "bold red")
    if found.inf:
        yield Text(f"{found.inf:,} Inf", "bold red")
    if found.minimum is None or found.maximum is None:
        yield Text("no finite value" if found.elements else "no elements", "yellow")
        return
    if found.minimum == found.maximum:
        if found.elements > 1:
            yield Text(f"all {number(found.minimum)}", "yellow")
        else:
            yield Text(f"= {number(found.minimum)}")
    else:
        bars = sparkline(found.histogram)
        low, high = number(found.minimum), number(found.maximum)
        yield Text(f"[{low} ").append(bars, "green").append(f" {high}]")
        yield Text(f"μ {found.mean:.4g}")
        yield Text(f"σ {found.std:.4g}")
    if found.zeros and found.minimum != found.maximum:
        yield Text(f"{found.zeros:,} {'zero' if found.zeros == 1 else 'zeros'}{_share(found)}")
    if found.f16_overflow:
        yield Text(f"f16: {found.f16_overflow:,} overflow", "bold red")
    elif found.f16_flushed:
        yield Text(f"f16: {found.f16_flushed:,} become 0", "yellow")
    elif dtype in ("f32", "f64", "bf16"):
        yield Text("fits f16", "dim")


def _share(found: Statistics) -> str:
    share = found.zeros / found.elements
    return f" ({share:.0%})" if share >= 0.01 else ""


def number(value: float) -> str:
    """Five digits, whole numbers in full as far as floats are exact."""
    if value == int(value) and abs(value) < 1e7:
        return str(int(value))
    return f"{value:.4g}"


def sparkline(counts: Sequence[int], width: int = _WIDTH) -> str:
    """*counts* as bars, joined to *width* of them; blank is none, the lowest bar at least one."""
    if not counts:
        return "…"
    step = math.ceil(len(counts) / width)
    joined = [sum(counts[start : start + step]) for start in range(0, len(counts), step)]
    most = max(joined)
    return "".join(_BARS[math.ceil(each * 8 / most) - 1] if each else " " for each in joined)


# -- detail --------------------------------------------------------------------------------------


def _details(found: TensorSummary) -> Iterator[tuple[str, RenderableType]]:
    for part in found.parts:
        yield "", summary(part)
    if found.history is not None:
        yield "from", history(found.history)
    if found.cost is not None:
        line = Text("not computed: ", "yellow")
        line.append(
            f"it would read {size(found.cost.read)} and hold up to {size(found.cost.held)}", ""
        )
        yield "values", line.append("; tensor --force does it", "")
    statistics = found.statistics
    if statistics is not None and statistics.f16_subnormal > statistics.elements * _SUBNORMAL:
        share = statistics.f16_subnormal / statistics.elements
        words = f"{statistics.f16_subnormal:,} ({share:.0%}) subnormal, of fewer digits"
        yield "in f16", Text(words)
    if found.first and not (statistics and _all_the_same(statistics)):
        yield "values", _values(found.first, found.last)
    for label, norms in (("rows", found.rows), ("columns", found.columns)):
        if norms is not None:
            yield label, _norms(norms)
    if found.memory is not None and found.shape is not None:
        line = _memory(found.memory, found.nbytes or 0)
        if line:
            yield "memory", line
    if found.same:
        yield "is also", _names(found.same)
    if found.shared:
        yield "shares", Text("storage with ").append_text(_names(found.shared))
    if statistics is not None and 0 < statistics.sampled < _finite(statistics):
        yield "bars", Text(f"of {statistics.sampled:,} values, evenly taken", "dim")


def _finite(found: Statistics) -> int:
    return found.elements - found.nan - found.inf


def _all_the_same(found: Statistics) -> bool:
    return found.minimum == found.maximum and _finite(found) == found.elements


def _values(first: Sequence[object], last: Sequence[object]) -> Text:
    line = Text(", ".join(map(_item, first)))
    if last:
        line.append(" … ", "dim").append(", ".join(map(_item, last)))
    return line


def _item(value: object) -> str:
    return number(value) if isinstance(value, float) and math.isfinite(value) else _other(value)


def _other(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, complex) else str(value)


def _norms(norms: Norms) -> Text:
    line = Text(f"norm {norms.least:.4g} … {norms.greatest:.4g}, median {norms.median:.4g}")
    return line.append(f", greatest at {norms.at:,}", "dim")


def _memory(memory: Memory, nbytes: int) -> Text:
    """Nothing for a tensor that fills a storage of its own in order."""
    words = []
    if not memory.contiguous:
        words.append(f"strides {shape(memory.strides)}, not contiguous")
    if memory.offset:
        words.append(f"from element {memory.offset:,} on")
    if memory.storage != nbytes and (memory.storage or not memory.contiguous):
        words.append(f"in a storage of {size(memory.storage)}")
    if not words:
        return Text()
    if memory.contiguous:
        words.insert(0, f"strides {shape(memory.strides)}")
    return Text(" · ".join(words))


def _names(names: Sequence[str]) -> Text:
    shown = ", ".join(printable(name) for name in names[:_NAMES])
    more = len(names) - _NAMES
    return Text(shown).append(f" and {more:,} more" if more > 0 else "", "dim")
