"""The way of a call, top to bottom: what was read, what is predicted, what was observed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from modpdb.probes.builtins import Operator
from modpdb.probes.call_path import CallPath
from modpdb.probes.known_calls import Prediction
from modpdb.probes.matching import as_op, disagreement, matched
from modpdb.probes.observing import Run, Seen
from modpdb.probes.scripting import Scripted
from modpdb.views.call_listing import Listing, aligned, most
from modpdb.views.places import defined, short_file
from modpdb.views.text import plural, printable
from modpdb.views.way import (
    Lines,
    by_kind,
    certain,
    dispatcher,
    hooked_call,
    numbered,
    op_text,
    ops_text,
)

_FORWARD_WORDS = {
    "set on the instance": "set on the instance, in place of the class's",
    "compiled": "compiled by torch.compile: this is the eager way of what is inside",
    "scripted": "TorchScript: its interpreter runs a graph",
}
_HELP = "not predicted: --run observes it"
_HELP_SCRIPT = "--script tries TorchScript"
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
        own = Text("by a __call__ of its own: ", "yellow").append_text(defined(data.call))
        lines.insert(0, own)
    return lines


def _forward(data: CallPath) -> Lines:
    lines = [defined(data.forward.source)]
    for wrapper in data.forward.wrappers:
        lines.append(Text("inside ").append_text(defined(wrapper)))
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
            help_ = f"{_HELP}, {_HELP_SCRIPT}" if data.classes else _HELP
            lines.append(Text(_HELP_KNOWN if data.layer else help_, "dim"))
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
            lines.append(Text(f"  and {most(run.seen[_LISTED:])}", "dim"))
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


def _calls(data: CallPath, run: Run | None) -> Iterator[RenderableType]:
    if data.reading.problem:
        yield Text(f"not read: {printable(data.reading.problem)}", "yellow")
    elif not data.reading.calls and data.classes:
        yield Text("its source calls nothing of torch's", "dim")
    told = run is not None and not run.not_run and not _listed(data)
    lines = matched(data.reading.calls, run.seen if run is not None and told else ())
    if not lines:
        return
    listing = Listing(told)
    rows = list(listing.rows(lines, 0))
    yield Text()
    head = Text("the calls in its source", "bold")
    yield head.append("; branches that its attributes rule out are left out", "not bold dim")
    yield from aligned(rows)
    if listing.left_out:
        left = f"{plural(listing.left_out, 'call')} in branches that were not taken left out"
        yield Text(left, "dim")
