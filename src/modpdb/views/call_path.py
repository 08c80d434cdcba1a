"""The way of a call, top to bottom: what was read, what is predicted, what was observed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from modpdb.probes.builtins import Operator
from modpdb.probes.call_path import CallPath
from modpdb.probes.forward_source import Called
from modpdb.probes.known_calls import Prediction
from modpdb.probes.matching import Line, as_op, disagreement, matched
from modpdb.probes.observing import Run, Seen
from modpdb.probes.scripting import Scripted
from modpdb.views.folding import folded
from modpdb.views.grid import Grid
from modpdb.views.text import plural, printable, shape
from modpdb.views.way import (
    Lines,
    by_kind,
    certain,
    dispatcher,
    hooked_call,
    numbered,
    op_text,
    ops_text,
    place,
    short_file,
)

_FORWARD_WORDS = {
    "set on the instance": "set on the instance, in place of the class's",
    "compiled": "compiled by torch.compile: this is the eager way of what is inside",
    "scripted": "TorchScript: its interpreter runs a graph",
}
# What operators do with memory within themselves: in a table of calls it hides the rest.
_ALLOCATION = frozenset({"as_strided", "empty", "empty_strided", "empty_like", "resize_"})
_MOST = 4  # operators that are named of a module that calls many
_INDENT = "  "
_WIDEST = 38  # of a call's text, beside which there is room for what it means
_HELP = "not predicted: --run observes it, --script tries TorchScript"
_HELP_KNOWN = "INPUT lets it be predicted, --run observes it"
_LISTED = 30  # operators that are listed one by one where no source tells them apart


def call_path(
    data: CallPath, run: Run | None = None, scripted: Scripted | None = None
) -> RenderableType:
    """The way as numbered steps; below, the calls of `forward` line by line."""
    way: list[tuple[str, Lines]] = []
    if data.held_in:
        way.append(("attribute", [Text(printable(data.held_in))]))
    if data.classes:
        way.append(("class", [Text(_classes(data.classes))]))
        way.append(("call", _call(data)))
    if data.forward.state != "missing" and data.forward.source.file:
        way.append(("forward" if data.classes else "function", _forward(data)))
    detailed = len(data.operators) == 1 and bool(data.layer or not data.classes)
    if detailed:
        way.append(("builtin", _builtin(data.operators[0])))
        way.append(("dispatcher", _dispatched(data.operators[0])))
    way.append(("branch" if data.layer else "run", _branch(data, run)))
    if scripted is not None:
        way.append(("script", _scripted(scripted)))
    parts: list[RenderableType] = [_title(data), numbered(way), *_calls(data, run)]
    if not detailed and data.operators:
        parts += _by_kernels(data.operators)
    return Group(*parts)


def _title(data: CallPath) -> Text:
    title = Text(printable(data.path or data.class_name), "bold")
    return title.append(f"   {printable(data.class_name)}", "not bold cyan")


def _classes(names: Sequence[str]) -> str:
    """Without their modules, since the file of `forward` says which is meant; two of one name
    in full."""
    short = [name.rpartition(".")[2] for name in names]
    shown = [
        name if short.count(own) > 1 else f"nn.{own}" if name.startswith("torch.nn.") else own
        for name, own in zip(names, short, strict=True)
    ]
    return printable(" → ".join(shown))


def _call(data: CallPath) -> Lines:
    lines = list(hooked_call(data.hooks))
    if not data.initialised:
        return [Text("before super().__init__(): a call raises AttributeError", "yellow")]
    if data.call is not None:
        own = Text("by a __call__ of its own: ", "yellow").append_text(place(data.call))
        lines.insert(0, own)
    return lines


def _forward(data: CallPath) -> Lines:
    lines = [place(data.forward.source)]
    for wrapper in data.forward.wrappers:
        lines.append(Text("inside ").append_text(place(wrapper)))
    if data.forward.state in _FORWARD_WORDS:
        lines.append(Text(_FORWARD_WORDS[data.forward.state], "yellow"))
    return lines


# -- operators -----------------------------------------------------------------------------------


def _builtin(found: Operator) -> Lines:
    lines: list[RenderableType] = []
    for binding in found.bindings:
        lines.append(Text(binding.name))
        if binding.signature:
            lines.append(Text(printable(binding.signature), "dim"))
        lines.append(Text(f"parsed by {binding.parser}, generated code", "dim"))
    return lines or [Text("no builtin of that name: another one leads to it", "yellow")]


def _dispatched(found: Operator) -> Lines:
    head, *lines = dispatcher(found.name, found.kernels)
    return [head, *[Text(printable(schema), "dim") for schema in found.schemas], *lines]


def _by_kernels(operators: Sequence[Operator]) -> Iterator[RenderableType]:
    """The operators that the source names, after what the dispatcher holds for them."""
    same: dict[str, list[str]] = {}
    for each in operators:
        kinds: dict[str, list[str]] = {}
        for kernel in each.kernels:
            kinds.setdefault(_KIND_WORDS.get(kernel.kind, kernel.kind), []).append(kernel.key)
        words = " · ".join(f"{', '.join(keys)}: {kind}" for kind, keys in kinds.items())
        same.setdefault(words or "not in the dispatcher's table", []).append(each.name)
    yield Text()
    head = Text("operators named there, by their kernels", "bold")
    yield head.append("; `call-path torch.NAME` shows one", "not bold dim")
    for words, names in same.items():
        yield Text(f"  {words}", "dim")
        yield Padding(Text(", ".join(name.removeprefix("aten::") for name in names)), (0, 0, 0, 4))


_KIND_WORDS = {
    "math kernel": "composite, made of other operators",
    "default backend kernel": "composite, one for all backends",
}


# -- prediction and observation ------------------------------------------------------------------


def _branch(data: CallPath, run: Run | None) -> Lines:
    lines: list[RenderableType] = [*by_kind(data.by_input), *map(Text, data.notes)]
    if data.prediction is not None:
        lines += _predicted(data.prediction)
    if run is None:
        if data.prediction is None and not data.by_input:
            lines.append(Text(_HELP_KNOWN if data.layer else _HELP, "dim"))
        return lines
    if run.not_run:
        return [*lines, Text(f"not run: {printable(run.not_run)}", "yellow")]
    lines += _observed(data, run)
    return lines


def _listed(data: CallPath) -> bool:
    """Whether its operators are few and all known: then they are listed as they are nested."""
    predicted = data.prediction is not None and bool(data.prediction.branch.ops)
    return predicted or not data.reading.calls


def _predicted(prediction: Prediction) -> list[RenderableType]:
    lines: list[RenderableType] = [certain(prediction.branch)]
    if prediction.branch.ops:
        lines.append(Text(f"  {ops_text(prediction.branch.ops)}"))
    if prediction.among:
        lines.append(Text(f"  with {', '.join(prediction.among)} somewhere within"))
    return lines


def _observed(data: CallPath, run: Run) -> Lines:
    head = Text("observed", "green")
    operators, modules = _counted(run.seen)
    head.append(f": {plural(operators, 'operator')}", "default")
    head.append(f" in {plural(modules, 'module call')}" if modules else "", "default")
    head.append(f" → {printable(run.result)}" if run.result else "", "default")
    lines: list[RenderableType] = [head]
    if _listed(data):
        lines += [Text(f"  {op_text(as_op(each))}") for each in run.seen[:_LISTED]]
        if len(run.seen) > _LISTED:
            lines.append(Text(f"  and {_most(run.seen[_LISTED:])}", "dim"))
    for word in _attention_words(run.seen):
        lines.append(Text(f"attention: {word}", "green"))
    if run.error:
        lines.append(Text(f"it raised {printable(run.error)}", "red"))
    if run.prediction is not None and run.prediction.branch.certainty != "not known":
        lines += _agreement(data.prediction, run.prediction, run)
    forked = "run in a forked copy, on one thread: memory here is as it was"
    lines.append(Text(forked, "dim"))
    return lines


def _agreement(
    before: Prediction | None, prediction: Prediction, run: Run
) -> Iterator[RenderableType]:
    if before is not None and before != prediction:
        yield Text("on the one thread that it ran with, another way is chosen:", "yellow")
        yield from _predicted(prediction)
    where = disagreement(prediction, run)
    if where:
        yield Text(f"the two differ: {printable(where)}", "bold red")
    else:
        word = prediction.branch.certainty
        yield Text(f"the two agree: it went as {word}", "green")


_ATTENTION = "_scaled_dot_product_"


def _attention_words(seen: Sequence[Seen]) -> Iterator[str]:
    """Which backends of scaled_dot_product_attention ran."""
    found = Counter(
        each.name for each in _all(seen) if each.name.startswith(_ATTENTION) and not each.class_name
    )
    for name, number in found.items():
        word = name.removeprefix(_ATTENTION).removesuffix("_for_cpu").removeprefix("attention_")
        word = word.removesuffix("_attention")
        times = f", {number} times" if number > 1 else ""
        yield f"the {word} backend was taken ({name}{times})"


def _all(seen: Sequence[Seen]) -> Iterator[Seen]:
    for each in seen:
        yield each
        yield from _all(each.inner)


def _counted(seen: Sequence[Seen]) -> tuple[int, int]:
    """Operators called by Python, and modules called."""
    operators = modules = 0
    for each in seen:
        if each.class_name:
            inner = _counted(each.inner)
            operators, modules = operators + inner[0], modules + inner[1] + 1
        else:
            operators += 1
    return operators, modules


def _scripted(found: Scripted) -> Lines:
    if found.not_tried:
        return [Text(f"not tried: {printable(found.not_tried)}", "yellow")]
    if not found.reason:
        return [Text("torch.jit.script compiles it", "green")]
    lines = [Text(f"torch.jit.script refuses it: {printable(found.reason)}", "red")]
    if found.at is not None:
        where = f"{short_file(found.at.file)}:{found.at.line}"
        lines.append(Text(f"{where}  ", "dim").append(printable(found.text), "not dim"))
    return lines


# -- line by line --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    """A call, or with no *what* the condition that those below stand under."""

    line: int
    text: Text
    what: Text | None


def _calls(data: CallPath, run: Run | None) -> Iterator[RenderableType]:
    if data.reading.problem:
        yield Text(f"not read: {printable(data.reading.problem)}", "yellow")
    elif not data.reading.calls and data.classes:
        yield Text("its source calls nothing of torch's", "dim")
    told = run is not None and not run.not_run and not _listed(data)
    lines = matched(data.reading.calls, run.seen if run is not None and told else ())
    if not lines:
        return
    listing = _Listing(told)
    rows = list(listing.rows(lines, 0))
    yield Text()
    head = Text("the calls in its source", "bold")
    yield head.append("; branches that its attributes rule out are left out", "not bold dim")
    yield from _aligned(rows)
    if listing.left_out:
        left = f"{plural(listing.left_out, 'call')} in branches that were not taken left out"
        yield Text(left, "dim")


def _aligned(rows: Sequence[_Row]) -> Iterator[RenderableType]:
    """Calls as columns of equal widths throughout; conditions and long texts across all."""
    numbers = max(len(str(row.line)) for row in rows)
    lengths = [cell_len(row.text.plain) for row in rows if row.what is not None]
    width = min(max(lengths, default=0), _WIDEST)
    cells: list[tuple[Text, Text, Text]] = []
    for row in rows:
        number = Text((str(row.line) if row.line else "").rjust(numbers), "dim")
        text = row.text.copy()
        if row.what is None or cell_len(text.plain) > width:
            yield Grid(cells)
            cells = []
            yield Grid([(number, text)])
            number, text = Text(" " * numbers), Text()
        text.pad_right(width - cell_len(text.plain))
        if row.what is not None:
            cells.append((number, text, row.what))
    yield Grid(cells)


class _Listing:
    """Makes the rows of calls. *told*: with what a run has shown of them."""

    def __init__(self, told: bool) -> None:
        self._told = told
        self.left_out = 0

    def rows(self, lines: Sequence[Line], level: int) -> Iterator[_Row]:
        under: tuple[str, ...] = ()
        last = 0
        for line in _folded(lines):
            called = line.called
            if called is None:
                number, last = (
                    (line.seen[0].line if line.seen[0].line != last else 0),
                    line.seen[0].line,
                )
                yield _Row(number, Text(_INDENT * level), _named(line.seen, "also "))
                continue
            if self._told and called.under and not line.seen and not line.unclear:
                self.left_out += 1 + len(called.inner)
                continue
            yield from _conditions(under, called.under, level)
            under = called.under
            inside = level + len(under)
            text = Text(f"{_INDENT * inside}{printable(called.text)}")
            number, last = (called.line if called.line != last else 0), called.line
            yield _Row(number, text, self._what(line))
            if line.seen or not self._told:
                yield from self.rows(line.inner, inside + 1)

    def _what(self, line: Line) -> Text:
        assert line.called is not None
        certain = replace(line.called, certainty="read") if line.seen else line.called
        what = _meaning(certain)
        if self._told and line.seen and line.called.kind == "run time":
            return Text("known at run time", "yellow").append_text(_ran(line.seen))
        if not self._told or line.unclear or (line.seen and line.inner):
            return what
        if not line.seen:
            return what.append("  not seen", "dim")
        if line.called.kind == "module":
            return what.append("  → ", "green").append_text(_inside(line.seen))
        if line.called.operator:
            return what.append("  → ", "green").append(_operands(line.seen), "default")
        return what.append("  → ", "green").append(_most(line.seen), "default")


def _conditions(before: tuple[str, ...], now: tuple[str, ...], level: int) -> Iterator[_Row]:
    """The conditions of *now* that the call before did not stand under."""
    common = 0
    while common < min(len(before), len(now)) and before[common] == now[common]:
        common += 1
    for depth, condition in enumerate(now[common:], common):
        indent = _INDENT * (level + depth)
        yield _Row(0, Text(f"{indent}{printable(condition)}:", "dim"), None)


def _folded(lines: Sequence[Line]) -> Iterator[Line]:
    """The same call of `layers.0`, `layers.1`, … as one of `layers.{0…25}`."""

    def key(line: Line) -> Called | int:
        called = line.called
        if called is None or called.kind != "module":
            return id(line)
        return replace(called, path="", means="")

    for _, group in groupby(lines, key):
        together = list(group)
        if len(together) < 2:
            yield from together
            continue
        named = [(each.called.path, each.called.means) for each in together if each.called]
        for path, _, means in folded(named):
            alike = [each for each in together if each.called and each.called.means == means]
            seen = tuple(found for each in alike for found in each.seen)
            first = alike[0].called
            assert first is not None
            yield Line(replace(first, path=path, means=means), seen)


def _meaning(called: Called) -> Text:
    text = Text()
    if called.kind == "module":
        text.append(printable(called.path)).append(f"  {printable(called.means)}", "cyan")
    elif called.kind == "run time":
        text.append("known at run time", "yellow")
        text.append(f": {printable(called.means)}" if called.means else "", "dim")
    elif called.operator:
        text.append(called.operator)
        text.append("  guessed" if called.certainty == "guessed" else "", "yellow")
    elif called.source is not None:
        file = short_file(called.source.file).rpartition("/")[2]
        text.append(f"{file}:{called.source.line}", "dim")
        text.append("" if called.inner else "  not read", "dim")
    return text


def _ran(seen: Sequence[Seen]) -> Text:
    """Which function a choice at run time has come to, and what that did."""
    text = Text("  → ", "green")
    frame = next((each.via[0] for each in seen if each.via), None)
    if frame is not None:
        file = short_file(frame.file).rpartition("/")[2]
        text.append(printable(frame.name), "default").append(f" {file}:{frame.line}  ", "dim")
    return text.append(_most(seen), "default")


def _inside(modules: Sequence[Seen]) -> Text:
    """What modules did: a single operator with its operands, else how many of which."""
    times = f"{len(modules):,} times, " if len(modules) > 1 else ""
    inner = [found for each in modules for found in each.inner]
    if len(inner) == 1 and not inner[0].class_name:
        return Text(f"{inner[0].name} {_operands(inner)}", "default")
    return Text(f"{times}{_most(inner)}", "default")


def _named(seen: Sequence[Seen], word: str) -> Text:
    text = Text(word, "dim")
    if len(seen) == 1 and not seen[0].class_name:
        return text.append(f"{seen[0].name} {_operands(seen)}", "default")
    return text.append(_most(seen), "default")


def _python_operators(seen: Sequence[Seen]) -> Iterator[Seen]:
    """Those that Python has called, in modules and out of them."""
    for each in seen:
        if each.class_name:
            yield from _python_operators(each.inner)
        else:
            yield each


def _most(seen: Sequence[Seen]) -> str:
    """How often which operators ran, the most frequent named."""
    found = Counter(each.name for each in _python_operators(seen)).most_common()
    words = [f"{number:,} {name}" if number > 1 else name for name, number in found[:_MOST]]
    if len(found) > _MOST:
        words.append(f"{sum(number for _, number in found[_MOST:]):,} more")
    return ", ".join(words) or "no operators"


def _operands(seen: Sequence[Seen]) -> str:
    """The operands of an operator and what it calls, of the first of several runs."""
    first = seen[0]
    words = [" ".join(shape(each) for each in first.shapes) or "seen"]
    inner = [each.name for each in first.inner if each.name not in _ALLOCATION]
    words += [f"({', '.join(inner)})"] if inner else []
    words += [f"and {len(seen) - 1:,} more times"] if len(seen) > 1 else []
    return " ".join(words)
