"""A checkpoint tensor beside its GGUF form."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from modpdb.probes.linear_checkpoint import CheckpointLinear
from modpdb.views.linear import formula
from modpdb.views.text import printable, shape

_ROLES = {
    "linear": "ggml_mul_mat(W, x): both are read along ne[0], W as it is stored",
    "lookup": "ggml_get_rows, a row for each token; as tied output ggml_mul_mat",
    "stack": "3-D: if these are experts, ggml_mul_mat_id multiplies by those chosen",
    "other": "no matrix: added or scaled with, not multiplied by",
}


def checkpoint_linear_path(data: CheckpointLinear) -> RenderableType:
    """A checkpoint tensor beside its GGUF form, and how llama.cpp multiplies by it."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    origin = f"{printable(data.name)}  {shape(data.shape)}  {printable(data.dtype)}"
    table.add_row("checkpoint", Text(origin, style="bold"))
    table.add_row("", Text(f"in {printable(data.file)}", style="dim"))
    table.add_row("GGUF", _gguf_line(data))
    if not data.reversed_only:
        why = f"not simply {shape(data.shape)} reversed: the converter reshapes this tensor"
        table.add_row("", Text(why, style="yellow"))
    table.add_row("in ggml", Text(_ROLES[data.role]))
    if not data.steps:
        return table
    shapes = Table.grid(padding=(0, 2, 0, 0))
    shapes.add_row("", Text("torch", style="dim"), Text("ggml (ne)", style="dim"))
    for step in data.steps:
        cells = (f"  {step.name}", shape(step.shape), shape(step.ne))
        shapes.add_row(*map(Text, cells), Text(step.note, style="dim"))
    with_bias = any(step.name == "b" for step in data.steps)
    return Group(table, Text(), formula(with_bias), shapes)


def _gguf_line(data: CheckpointLinear) -> Text:
    if data.gguf_name is None:
        return Text("no name for it in the name map", style="yellow")
    line = Text(f"{printable(data.gguf_name)}  ne {shape(data.ne)}", style="bold")
    return line.append(
        "  observed" if data.observed else "  predicted, by the name map", style="not bold cyan"
    )
