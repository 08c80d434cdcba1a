"""`run-model`: what one run of a model gave."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from modpdb.probes.model_run import ModelRun, Next, Token
from modpdb.views.grid import Grid
from modpdb.views.text import count, printable, shape

_SHOWN = 48  # tokens at either end of a long prompt


def model_run(run: ModelRun) -> RenderableType:
    """The model, what went in, what came out, what may come next."""
    rows: list[tuple[str, RenderableType]] = [("model", _model(run))]
    if run.prompt is not None:
        text = Text(repr(run.prompt))
        rows.append(("prompt", text.append("  (the default)" if run.is_default else "", "dim")))
    rows.append(("tokens", _tokens(run.tokens)))
    if run.decoder:
        rows.append(("decoder", _tokens(run.decoder)))
    rows.append((run.output or "output", _output(run)))
    if run.next:
        rows.append(("next", _next(run.next)))
    if run.seconds is not None:
        rows.append(("forward", Text(_time(run.seconds))))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(overflow="fold")
    for label, row in rows:
        table.add_row(Text(printable(label)), row)
    return Group(table)


def _model(run: ModelRun) -> Text:
    text = Text(printable(run.model), "bold")
    words = [f"{count(run.parameters)} parameters", run.dtype]
    words += [run.device] if run.device != "cpu" else []
    text.append(f"  {' · '.join(words)}", "not bold dim")
    if run.training:
        text.append("  in training mode", "not bold yellow")
    return text


def _tokens(tokens: Sequence[Token]) -> Text:
    """How many, then each id with its piece; of a long prompt both ends."""
    left_out = len(tokens) - 2 * _SHOWN
    text = Text(f"{len(tokens)}:")
    for number, token in enumerate(tokens):
        if left_out > 0 and _SHOWN <= number < _SHOWN + left_out:
            if number == _SHOWN:
                text.append(f" … {left_out:,} more …", "dim")
            continue
        text.append(f" {token.id}")
        if token.text is not None:
            text.append(f" {printable(token.text)}", "green")
        text.append("," if number < len(tokens) - 1 else "")
    return text


def _output(run: ModelRun) -> Text:
    if run.shape is None:
        return Text("no tensor among the outputs", "yellow")
    text = Text(f"{shape(run.shape)} {run.output_dtype}")
    if run.bad:
        text.append(
            f"  {run.bad:,} of the last position's {run.width:,} are NaN or Inf: "
            "no next token can be told",
            "bold red",
        )
    return text


def _next(found: Sequence[Next]) -> RenderableType:
    return Grid(
        [
            (
                Text(_percent(each.probability)),
                Text(str(each.token.id)),
                Text("" if each.token.text is None else printable(each.token.text), "green"),
                Text(f"logit {each.logit:.4g}", "dim"),
            )
            for each in found
        ],
        right=frozenset({0, 1}),
    )


def _percent(probability: float) -> str:
    """Per cent: 53.2 %, 0.41 %, 0.0013 %."""
    percent = 100 * probability
    return f"{percent:.1f} %" if percent >= 1 else f"{percent:.2g} %"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
