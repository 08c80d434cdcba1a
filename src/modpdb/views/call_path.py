"""The way of a call, top to bottom: what was read, what is predicted, what was observed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import Group, RenderableType
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
    short_class,
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
_HELP = "--run with the arguments observes what it does"


def call_path(
    data: CallPath, run: Run | None = None, scripted: Scripted | None = None
) -> RenderableType:
    """The way as numbered steps; below, the calls of `forward` line by line."""
    way: list[tuple[str, Lines]] = []
    if data.held_in:
        way.append(("attribute", [Text(printable(data.held_in))]))
    if data.classes:
        way.append(("class", [Text(" → ".join(map(short_class, data.classes)))]))
        way.append(("call", _call(data)))
    if data.forward.state != "missing":
        way.append(("function" if not data.classes else "forward", _forward(data)))
    detailed = len(data.operators) == 1
    if detailed:
        way.append(("builtin", _builtin(data.operators[0])))
        way.append(("dispatcher", _dispatched(data.operators[0])))
    way.append(("branch" if data.layer else "run", _branch(data, run)))
    if scripted is not None:
        way.append(("script", _scripted(scripted)))
    parts: list[RenderableType] = [_title(data), numbered(way), *_calls(data, run)]
    if not detailed and data.operators:
        parts += [Text(), Text("operators that the source names", "bold"), _table(data.operators)]
    return Group(*parts)


def _title(data: CallPath) -> Text:
    title = Text(printable(data.path or data.class_name), "bold")
    return title.append(f"   {printable(data.class_name)}", "not bold cyan")


def _call(data: CallPath) -> Lines:
    lines = list(hooked_call(data.hooks))
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
    if data.layer:
        lines.append(Text(f"a layer that is known here: {data.layer}", "dim"))
    return lines


# -- operators -----------------------------------------------------------------------------------


def _builtin(found: Operator) -> Lines:
    lines: list[RenderableType] = []
    for binding in found.bindings:
        lines.append(Text(binding.name))
        if binding.signature:
            lines.append(Text(printable(binding.signature), "dim"))
        lines.append(Text(f"parsed by {binding.parser}, torch's generated code", "dim"))
    if not lines:
        lines.append(Text("no builtin of that name: Python reaches it by another one", "yellow"))
    return lines


def _dispatched(found: Operator) -> Lines:
    head, *lines = dispatcher(found.name, found.kernels)
    return [head, *[Text(printable(schema), "dim") for schema in found.schemas], *lines]


def _table(operators: Sequence[Operator]) -> Grid:
    rows = []
    for each in operators:
        kinds: dict[str, list[str]] = {}
        for kernel in each.kernels:
            kinds.setdefault(_KIND_WORDS.get(kernel.kind, kernel.kind), []).append(kernel.key)
        words = " · ".join(f"{', '.join(keys)}: {kind}" for kind, keys in kinds.items())
        names = ", ".join(binding.name.removeprefix("torch.") for binding in each.bindings)
        rows.append((Text(f"  {each.name}"), Text(names, "dim"), Text(words or "not in the table")))
    return Grid(rows)


_KIND_WORDS = {
    "math kernel": "composite",
    "default backend kernel": "composite, with an autograd formula",
}


# -- prediction and observation ------------------------------------------------------------------


def _branch(data: CallPath, run: Run | None) -> Lines:
    lines: list[RenderableType] = [*by_kind(data.by_input), *map(Text, data.notes)]
    if data.prediction is not None:
        lines += _predicted(data.prediction)
    if run is None:
        if data.prediction is None and not data.by_input:
            lines.append(Text(_HELP, "dim"))
        return lines
    if run.not_run:
        return [*lines, Text(f"not run: {printable(run.not_run)}", "yellow")]
    lines += _observed(data, run)
    return lines


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
    if data.layer:
        lines += [Text(f"  {op_text(as_op(each))}") for each in run.seen]
    for word in _attention_words(run.seen):
        lines.append(Text(f"attention: {word}", "green"))
    if run.error:
        lines.append(Text(f"it raised {printable(run.error)}", "red"))
    if run.prediction is not None and run.prediction.branch.certainty != "not known":
        lines += _agreement(data.prediction, run.prediction, run)
    forked = "in a forked copy of the process, on one thread: nothing here has changed"
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


def _calls(data: CallPath, run: Run | None) -> Iterator[RenderableType]:
    if data.reading.problem:
        yield Text(f"not read: {printable(data.reading.problem)}", "yellow")
    observed = run is not None and not run.not_run
    lines = matched(data.reading.calls, run.seen if run is not None and not data.layer else ())
    if not lines:
        return
    yield Text()
    yield Text("the calls in its source, in order", "bold").append(
        "; branches that its attributes rule out now are left out", "not bold dim"
    )
    yield Grid(list(_rows(lines, 0, observed and not data.layer)), right=frozenset({0}), wrap=1)


def _rows(lines: Sequence[Line], level: int, observed: bool) -> Iterator[tuple[Text, ...]]:
    under: tuple[str, ...] = ()
    last = 0
    for line in _folded(lines):
        called = line.called
        if called is None:
            yield Text(), Text(), Text(), _seen_text(line.seen, "also ")
            continue
        common = 0
        while common < min(len(under), len(called.under)) and under[common] == called.under[common]:
            common += 1
        for depth in range(common, len(called.under)):
            indent = _INDENT * (level + depth)
            yield Text(), Text(f"{indent}{printable(called.under[depth])}:", "dim"), Text(), Text()
        under = called.under
        number = Text(str(called.line) if called.line != last else "", "dim")
        last = called.line
        indent = _INDENT * (level + len(under))
        text = Text(f"{indent}{printable(called.text)}")
        yield number, text, _meaning(called), _remark(line, observed)
        yield from _rows(line.inner, level + len(under) + 1, observed)


def _folded(lines: Sequence[Line]) -> Iterator[Line]:
    """The same call of `layers.0`, `layers.1`, … as one of `layers.{0…25}`."""
    group: list[Line] = []
    for line in lines:
        if group and not _alike(group[-1], line):
            yield from _joined(group)
            group = []
        group.append(line)
    yield from _joined(group)


def _alike(one: Line, other: Line) -> bool:
    if one.called is None or other.called is None or not one.called.path:
        return False
    same = replace(one.called, path="", means="") == replace(other.called, path="", means="")
    return same and one.called.kind == "module"


def _joined(group: list[Line]) -> Iterator[Line]:
    if len(group) < 2:
        yield from group
        return
    named = [(each.called.path, each.called.means) for each in group if each.called]
    for path, _, means in folded(named):
        called = group[0].called
        assert called is not None
        seen = tuple(
            found
            for each in group
            if each.called and each.called.means == means
            for found in each.seen
        )
        yield Line(replace(called, path=path, means=means), seen, ())


def _meaning(called: Called) -> Text:
    text = Text()
    if called.kind == "module":
        text.append(printable(called.path), "").append(f"  {printable(called.means)}", "cyan")
    elif called.kind == "run time":
        text.append("known at run time", "yellow")
        if called.means:
            text.append(f": {printable(called.means)}", "dim")
    elif called.operator:
        text.append(called.operator)
    elif called.source is not None:
        text.append(
            f"{short_file(called.source.file).rpartition('/')[2]}:{called.source.line}", "dim"
        )
        if not called.inner:
            text.append("  not read", "dim")
    if called.certainty == "guessed" and called.operator:
        text.append("  guessed", "yellow")
    return text


def _remark(line: Line, observed: bool) -> Text:
    if not observed or (line.called is not None and line.inner):
        return Text()
    if not line.seen:
        return Text("" if line.unclear else "not seen", "dim")
    return _seen_text(line.seen)


def _seen_text(seen: Sequence[Seen], word: str = "") -> Text:
    """What was observed of one call: an operator's operands and what it calls, or, of a module
    that calls many, the most frequent."""
    text = Text("→ ", "green").append(word, "dim")
    modules = [each for each in seen if each.class_name]
    if len(seen) > 1 and not modules:
        return text.append(_most([each.name for each in seen]), "default")
    if not modules:
        return text.append(_operator_text(seen[0]), "default")
    operators, inner = _counted([found for each in modules for found in each.inner])
    if operators == 1 and not inner:
        (only,) = modules[0].inner
        return text.append(f"{only.name} {_operator_text(only)}", "default")
    names = [each.name for module in modules for each in _python_operators(module.inner)]
    times = f"{len(modules):,} times, " if len(modules) > 1 else ""
    return text.append(f"{times}{_most(names)}", "default")


def _python_operators(seen: Sequence[Seen]) -> Iterator[Seen]:
    for each in seen:
        if each.class_name:
            yield from _python_operators(each.inner)
        else:
            yield each


def _most(names: Sequence[str]) -> str:
    found = Counter(names).most_common()
    words = [f"{number} {name}" if number > 1 else name for name, number in found[:_MOST]]
    if len(found) > _MOST:
        words.append(f"{sum(number for _, number in found[_MOST:])} more")
    return ", ".join(words)


def _operator_text(seen: Seen) -> str:
    operands = " ".join(shape(each) for each in seen.shapes)
    inner = [each.name for each in seen.inner if each.name not in _ALLOCATION]
    return f"{operands} ({', '.join(inner)})".strip() if inner else operands or "seen"
