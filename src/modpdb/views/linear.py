"""A linear layer's way, top to bottom, and lists of linears."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from modpdb.probes.builtins import Builtin, CppSource
from modpdb.probes.linear import Arithmetic, LinearPath, LinearRow, Matrix, Number, Step
from modpdb.probes.linear_branch import Branch, TensorFacts
from modpdb.probes.linear_layer import Operand
from modpdb.probes.profiling import Observation, difference
from modpdb.probes.tensors import short_dtype
from modpdb.views.folding import folded
from modpdb.views.places import defined
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
    short_class,
)

# A terminal's usual width; wider arithmetic is put one matrix below the other.
_LINE = 80

_FORWARD_WORDS = {
    "overridden": "overridden: what follows is F.linear on weight and bias, if it gets there",
    "set on the instance": "set on the instance: what follows is F.linear, if it gets there",
    "compiled": "compiled by torch.compile: what follows is the eager way of the layer inside",
    "scripted": "TorchScript: its interpreter calls aten::linear without F.linear",
}


def linear_path(data: LinearPath, observation: Observation | None = None) -> RenderableType:
    """The way as numbered steps, then the shapes, then the numbers where there are few."""
    way: list[tuple[str, Lines]] = [
        ("attribute", _attribute(data)),
        ("class", [Text(" → ".join(short_class(name) for name in data.classes))]),
        ("call", hooked_call(data.hooks)),
        ("forward", _forward(data)),
    ]
    if data.native.cpp is not None:
        way.append(("F.linear", _builtin(data.builtin)))
    way.append(("dispatcher", dispatcher(data.native.operator, data.native.kernels)))
    if data.native.cpp is not None:
        way.append(("C++", _cpp(data.native.cpp)))
    way.append(("branch", _branches(data, observation)))
    parts: list[RenderableType] = [_title(data), numbered(way), Text()]
    if data.forward_is in _FORWARD_WORDS:
        parts.append(Text("of F.linear; the layer's own forward may do more", style="yellow"))
    parts.append(_shapes(data.steps))
    arithmetic = None if data.arithmetic is None else _arithmetic(data.arithmetic)
    if arithmetic is not None:
        parts += [Text(), arithmetic]
    return Group(*parts)


def _title(data: LinearPath) -> Text:
    title = Text(printable(data.path or "layer"), style="bold")
    title.append(f"   {_features(data.in_features, data.out_features)}", style="not bold")
    words = [] if data.kind == "Linear" else [data.kind]
    words.append("no bias" if data.bias.place == "none" else "bias")
    if data.weight.tensor is not None:
        words += _tensor_words(data.weight.tensor)
    title.append("".join(f" · {printable(word)}" for word in words), style="not bold dim")
    return title


def _features(into: int | None, out: int | None) -> str:
    sizes = ("?" if size is None else f"{size:,}" for size in (into, out))
    return " → ".join(sizes)


def _tensor_words(facts: TensorFacts) -> list[str]:
    """dtype, and what is not usual: device, layout, class."""
    words = [short_dtype(facts.dtype)]
    words += [facts.device] if facts.device != "cpu" else []
    words += [facts.layout] if facts.layout != "strided" else []
    return words + ([facts.subclass] if facts.subclass else [])


def _attribute(data: LinearPath) -> Lines:
    lines = []
    if data.held_in:
        lines.append(Text(printable(data.held_in)))
    lines += [_operand(each) for each in (data.weight, data.bias) if each.place != "none"]
    return lines


def _operand(operand: Operand) -> Text:
    line = Text(f"{operand.name:6}  {operand.place}")
    if operand.tensor is not None:
        line.append(f"  {shape(operand.tensor.shape)}")
        if operand.tensor.requires_grad:
            line.append("  requires_grad", style="dim")
    if operand.note:
        line.append(f"  {printable(operand.note)}", style="yellow")
    return line


def _forward(data: LinearPath) -> Lines:
    lines = [defined(data.forward)]
    if data.forward_is in _FORWARD_WORDS:
        lines.append(Text(_FORWARD_WORDS[data.forward_is], style="yellow"))
    return lines


def _builtin(builtin: Builtin) -> Lines:
    if not builtin.is_target:
        replaced = Text(f"F.linear is not {builtin.target}: it was replaced by", style="yellow")
        return [replaced, defined(builtin.source)]
    rows = [("type", builtin.type_name), ("file", builtin.library)]
    rows += zip(("doc", ""), builtin.doc, strict=False)
    error = builtin.source_error.partition(":")[0]
    if error:
        rows.append(("source", f"not Python but C++: inspect.getsource raises {error}"))
        rows.append(("", "step goes over it; its docstring was put on by _add_docstr"))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(printable(value), style="not dim"))
    return [Text(f"F.linear is {builtin.target}: True"), table]


def _cpp(source: CppSource) -> Lines:
    lines = [Text(f"{source.function}  {source.path}")]
    commit = Text(source.url or "this build of torch does not tell its commit", style="dim")
    return [*lines, commit]


def _branches(data: LinearPath, observation: Observation | None) -> Lines:
    branch = data.native.branch
    lines: list[RenderableType] = []
    if branch is None:
        lines += by_kind(data.native.branches)
    else:
        lines.append(certain(branch))
        lines += [Text(f"  {ops_text(branch.ops)}")] if branch.ops else []
    if observation is not None:
        lines += _observed(branch, observation, data.forward_is)
    return lines or [Text("not known without the weight's properties", style="yellow")]


def _observed(branch: Branch | None, seen: Observation, forward_is: str) -> Lines:
    if not seen.ran:
        return [Text(f"not run: {printable(seen.error)}", style="yellow")]
    made_up = f", x {shape(seen.x.shape)} made up of zeros" if seen.x and seen.made_up else ""
    head = Text("observed", style="green").append(f": {printable(seen.ran)}{made_up}", "default")
    lines = [head, *[Text(f"  {op_text(op)}") for op in seen.ops]]
    if seen.error:
        lines.append(Text(f"  it raised {printable(seen.error)}", style="red"))
    if branch is None or branch.certainty == "not known":
        return lines
    where = difference(branch, seen)
    agrees = Text(f"the two agree: it went as {branch.certainty}", style="green")
    if forward_is in _FORWARD_WORDS:
        agrees = Text("F.linear alone went so; the layer's own forward was not run", "yellow")
    lines.append(Text(f"the two differ: {where}", style="bold red") if where else agrees)
    return lines


def _shapes(steps: Sequence[Step]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    for step in steps:
        table.add_row(Text(f"  {step.name}"), Text(shape(step.shape)), Text(step.note, "dim"))
    return Group(formula(any(step.name == "b" for step in steps)), table)


def formula(bias: bool) -> Text:
    return Text("y = x Wᵀ + b" if bias else "y = x Wᵀ", style="bold")


def _arithmetic(data: Arithmetic) -> RenderableType | None:
    """x · Wᵀ = x Wᵀ, then + b = y: beside each other, else one below the other.

    None where not even one matrix fits a line.
    """
    named: list[tuple[str, str, Matrix]] = [
        ("", "x", data.x),
        ("·", "Wᵀ", data.weight_t),
        ("=", "x Wᵀ", data.product),
    ]
    if data.bias is not None:
        named += [("+", "b", (data.bias,)), ("=", "y", data.y)]
    style = _number_format([value for *_, matrix in named for row in matrix for value in row])
    blocks = [(sign, name, _aligned(matrix, style)) for sign, name, matrix in named]
    widths = [max(len(name), len(rows[0])) for _, name, rows in blocks]
    table = Table.grid(padding=(0, 2, 0, 0))
    if sum(widths) + 5 * len(blocks) <= _LINE:
        cells = [(Text(f"\n{sign}"), Text("\n".join([name, *rows]))) for sign, name, rows in blocks]
        table.add_row(*(cell for pair in cells for cell in pair))
    elif max(widths) + 13 <= _LINE:
        for sign, name, rows in blocks:
            table.add_row(Text(sign), Text(name), Text("\n".join(rows)))
    else:
        return None
    title = Text("the numbers, computed here in float64 from the stored values", style="bold")
    return Group(title, Padding(table, (0, 0, 0, 2), expand=False))


def _aligned(matrix: Matrix, style: str) -> list[str]:
    """One line for each row, the columns aligned to the right."""
    cells = [[format(value, style) for value in row] for row in matrix]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    pad = [[text.rjust(width) for text, width in zip(row, widths, strict=True)] for row in cells]
    return ["  ".join(row) for row in pad]


def _number_format(values: Sequence[Number]) -> str:
    """Whole numbers bare, three decimals where they show all, else three significant digits."""
    real = [value for value in values if not isinstance(value, complex)]
    if len(real) == len(values) and all(math.isfinite(value) for value in real):
        if all(float(value).is_integer() and abs(value) < 1e6 for value in real):
            return ".0f"
        if all(value == 0 or 1e-3 <= abs(value) < 1e3 for value in real):
            return ".3f"
    return ".3g"


def linears(rows: Sequence[LinearRow]) -> RenderableType:
    """One line for each linear; those that differ by the numbers in their paths only are one."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for column in range(5):
        table.add_column(justify="right" if column == 1 else "left", no_wrap=column < 4)
    for path, number, row in folded((row.path, replace(row, path="")) for row in rows):
        special = row.class_name if row.kind == "subclass" else row.kind
        words = [] if row.kind == "Linear" else [special]
        words += ["hooked"] if row.hooked else []
        words += [f"same layer as {row.shared_with}"] if row.shared_with else []
        table.add_row(
            Text(printable(path)),
            Text(f"{number:,} ×" if number > 1 else ""),
            Text(_features(row.in_features, row.out_features)),
            Text("bias" if row.bias else "no bias", style="dim"),
            Text(f"{short_dtype(row.dtype)}  {printable(' · '.join(words))}".strip()),
        )
    layers = sum(not row.shared_with for row in rows)
    head = Text(plural(layers, "linear layer"), style="bold")
    head.append("" if layers == len(rows) else f" under {len(rows):,} names", style="not bold")
    return Group(head.append(", in → out", style="not bold"), table)
