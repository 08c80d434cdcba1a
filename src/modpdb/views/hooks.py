"""`hooks`: each module or tensor that has some, and under it what runs, in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.hooks import Hook, HookReport
from modpdb.views.folding import folded
from modpdb.views.grid import Grid
from modpdb.views.places import location
from modpdb.views.text import plural, printable

# Neither of them is a hook by name: they are listed, and not counted.
_NO_HOOK = ("forward replaced", "parametrization")


def hooks(report: HookReport) -> RenderableType:
    """A heading with how many, a block for all modules, one for each module or fold of modules."""
    every = [*report.everywhere, *(hook for each in report.hooked for hook in each.hooks)]
    blocks: list[tuple[Text, Sequence[Hook]]] = []
    if report.everywhere:
        blocks.append((Text("every module", "bold"), report.everywhere))
    alike = folded((each.path, (each.what, each.hooks)) for each in report.hooked)
    for path, copies, (what, found) in alike:
        blocks.append((_owner(path, copies, what), found))
    widths = _widths([hook for _, found in blocks for hook in found])
    parts: list[RenderableType] = [_heading(report, every)]
    for head, found in blocks:
        parts += [head, Grid([_row(hook, widths) for hook in found], wrap=1)]
    if report.scripted:
        words = "hooks that TorchScript compiled in are not listed: they are not Python's"
        parts.append(Text(words, "dim"))
    return Group(*parts)


def _heading(report: HookReport, every: Sequence[Hook]) -> Text:
    below = f" and the {plural(report.modules - 1, 'module')} below it"
    whole = printable(report.root) + (below if report.modules > 1 else "")
    number = sum(hook.kind not in _NO_HOOK for hook in every)
    if not number:
        return Text(f"no hooks on {whole}, none for all modules")
    return Text(f"{plural(number, 'hook')} on {whole}, in the order in which they run")


def _owner(path: str, copies: int, what: str) -> Text:
    text = Text(printable(path), "bold")
    text.append("  " if path else "")
    text.append(f"{copies:,} × " if copies > 1 else "", "bold")
    return text.append(printable(what), "not bold cyan")


def _widths(every: Iterable[Hook]) -> tuple[int, int]:
    """Of kinds and of names over all blocks, so that they stand under each other."""
    pairs = [(len(hook.kind), len(printable(hook.function.name))) for hook in every]
    return max((kind for kind, _ in pairs), default=0), max((name for _, name in pairs), default=0)


def _row(hook: Hook, widths: tuple[int, int]) -> tuple[Text, Text, Text, Text]:
    kind, name = widths
    return (
        Text(f"  {hook.kind:{kind}}", "yellow" if hook.kind in _NO_HOOK else ""),
        Text(f"{printable(hook.function.name):{name}}"),
        Text(location(hook.function), "dim"),
        Text(" · ".join(map(printable, hook.notes))),
    )
