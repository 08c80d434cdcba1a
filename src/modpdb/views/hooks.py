"""`hooks`: each module or tensor that has some, and under it what runs, in order."""

from __future__ import annotations

from collections.abc import Sequence

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
    blocks += [(_owner(path, copies, what), found) for path, copies, (what, found) in alike]
    kinds = max((len(hook.kind) for _, found in blocks for hook in found), default=0)
    parts: list[RenderableType] = [_heading(report, every)]
    for head, found in blocks:
        parts += [head, Grid([_row(hook, kinds) for hook in found], wrap=1)]
    if report.scripted:
        words = "hooks that TorchScript compiled in are not listed: they are not Python's"
        parts.append(Text(words, "dim"))
    return Group(*parts)


def _heading(report: HookReport, every: Sequence[Hook]) -> Text:
    number = sum(hook.kind not in _NO_HOOK for hook in every)
    where = _modules(report)
    if not number:
        return Text(f"no hooks on {where}; none for all modules")
    return Text(f"{plural(number, 'hook')} on {where}, in the order they run")


def _modules(report: HookReport) -> str:
    """What was looked at: a LlamaMLP and 4 modules below it."""
    roots, names = len(report.roots), dict.fromkeys(report.roots)
    below = report.modules - roots
    whole = "modules" if len(names) > 1 else printable(report.roots[0])
    if roots > 1:
        whole = f"{roots:,} {whole}" if len(names) > 1 else f"{roots:,} × {whole}"
    if not below:
        return whole
    return f"{whole} and {plural(below, 'module')} below {'it' if roots == 1 else 'them'}"


def _owner(path: str, copies: int, what: str) -> Text:
    text = Text(printable(path), "bold")
    text.append("  " if path else "")
    text.append(f"{copies:,} × " if copies > 1 else "", "bold")
    return text.append(printable(what), "not bold cyan")


def _row(hook: Hook, kinds: int) -> tuple[Text, Text, Text]:
    """Kind, function with what is bound to it, and where it is defined."""
    name = Text(printable(hook.function.name))
    if hook.notes:
        name.append("  " + " · ".join(map(printable, hook.notes)), "yellow")
    style = "yellow" if hook.kind in _NO_HOOK else "cyan"
    return Text(f"  {hook.kind:{kinds}}", style), name, Text(location(hook.function), "dim")
