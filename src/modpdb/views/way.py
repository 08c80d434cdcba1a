"""What the views of a call's way share: numbered steps, hooks, places, operators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from modpdb.probes.builtins import Kernel
from modpdb.probes.hooks import Hook
from modpdb.probes.linear_branch import Branch, Op
from modpdb.views.places import defined
from modpdb.views.text import printable

CERTAINTY_STYLE = {
    "predicted": "cyan",
    "guessed": "yellow",
    "refused": "red",
    "not known": "yellow",
}
_KERNEL_WORDS = {"math kernel": "composite, made of other operators"}

Lines = Sequence[RenderableType]


def numbered(way: Sequence[tuple[str, Lines]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for number, (name, lines) in enumerate(way, 1):
        label = Text(f"{number} {name}", style="cyan")
        for line in lines:
            table.add_row(label, line)
            label = Text()
    return table


def short_class(name: str) -> str:
    if name.startswith("torch.nn.modules."):
        return "nn." + name.rpartition(".")[2]
    return printable(name)


def hooked_call(hooks: Sequence[Hook]) -> Lines:
    if not hooks:
        return [Text("__call__ → _call_impl → forward: no hooks, the fast path")]
    lines = [Text("__call__ → _call_impl, with hooks in this order:")]
    for hook in hooks:
        line = Text(f"{hook.kind}  ").append_text(defined(hook.function))
        lines.append(line.append("  for all modules" if hook.everywhere else ""))
    return lines


def dispatcher(operator: str, kernels: Sequence[Kernel]) -> Lines:
    if not kernels:
        return [Text(f"{operator}: the dispatcher's table cannot be read here")]
    same: dict[tuple[str, str], list[str]] = {}
    for kernel in kernels:
        same.setdefault((kernel.kind, kernel.place), []).append(kernel.key)
    lines = [Text(operator)]
    for (kind, place), keys in same.items():
        lines.append(Text(f"{', '.join(keys)}: {_KERNEL_WORDS.get(kind, kind)}"))
        lines.append(Text(printable(place), style="dim"))
    return lines


def by_kind(branches: Sequence[tuple[str, Branch]]) -> Lines:
    """One line for each outcome, after the kinds of input that lead to it."""
    same: dict[tuple[str, str], list[str]] = {}
    for kind, branch in branches:
        outcome = ops_text(branch.ops) or branch.reason
        same.setdefault((branch.certainty, outcome), []).append(kind)
    lines: list[RenderableType] = []
    for (certainty, outcome), kinds in same.items():
        head = Text(certainty, style=CERTAINTY_STYLE[certainty])
        lines.append(head.append(f" for {', '.join(kinds)}:", style="default"))
        lines.append(Text(f"  {printable(outcome)}"))
    return lines


def certain(branch: Branch) -> Text:
    style = CERTAINTY_STYLE[branch.certainty]
    return Text(branch.certainty, style=style).append(f": {printable(branch.reason)}", "default")


def ops_text(ops: Iterable[Op]) -> str:
    return ", ".join(op_text(op) for op in ops)


def op_text(op: Op) -> str:
    return f"{op.name} ({ops_text(op.inner)})" if op.inner else op.name
