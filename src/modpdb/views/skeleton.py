"""`skeleton`: the model's tree, and its parameters beside the checkpoint's names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.skeleton import Skeleton
from modpdb.probes.skeleton_names import Alone, Loads, Names
from modpdb.views.folding import folded
from modpdb.views.modules import module_tree
from modpdb.views.named_rows import named_rows
from modpdb.views.state_against import rules
from modpdb.views.text import plural, printable, shape

_INDENT = "  "


def skeleton(found: Skeleton, *, unfold: bool = False) -> RenderableType:
    """The tree, then where the checkpoint's names are not the parameters', then what is alone."""
    parts: list[RenderableType] = [*skeleton_tree(found, unfold=unfold)]
    if found.names is None:
        parts.append(Text("no tensors beside the config: names are not compared", "yellow"))
    else:
        parts += _names(found.names, unfold)
    return Group(*parts)


def skeleton_tree(
    found: Skeleton, depth: int | None = None, unfold: bool = False, type_glob: str | None = None
) -> Iterator[RenderableType]:
    yield Text(f"from config.json by transformers {found.version}, no weight read", "dim")
    yield from (Text(printable(note), "yellow") for note in found.notes)
    yield module_tree(found.tree, depth=depth, unfold=unfold, type_glob=type_glob)


def _names(names: Names, unfold: bool) -> Iterator[RenderableType]:
    loads = names.loads
    made = [each for each in loads if each.by or len(each.sources) > 1]
    renamed = sum(each.renamed for each in loads)
    yield Text()
    yield _summary(len(loads), len(loads) - len(made) - renamed)
    yield from (Text(f"problem: {printable(problem)}", "yellow") for problem in names.problems)
    if renamed:
        yield Text("renamed while loading", "bold").append(
            f", {plural(renamed, 'tensor')} (checkpoint → parameter)", "not bold"
        )
        yield from rules(names.rules, unfold=unfold)
    if made:
        yield Text("made while loading", "bold").append(", by transformers' operations", "not bold")
        yield from _made(made)
    wrong = [each for each in loads if each.other_shape]
    sections = (
        ("of another shape", [(each.name, (_shapes(each),)) for each in wrong]),
        (f"parameters without a tensor: {len(names.parameters):,}", _alone(names.parameters)),
        (f"tensors without a parameter: {len(names.tensors):,}", _alone(names.tensors)),
    )
    for head, rows in sections:
        yield from named_rows(head, rows, unfold=unfold)


def _summary(loaded: int, same: int) -> Text:
    text = Text(f"{plural(loaded, 'parameter')} from the checkpoint", "bold")
    if same == loaded:
        return text.append(", each by its own name", "not bold")
    return text.append(f", {same:,} of them by their own names", "not bold")


def _made(made: Sequence[Loads]) -> Iterator[RenderableType]:
    """A parameter, what makes it, and a line for each pattern of the tensors that it is of."""
    for name, times, (by, number, sources) in folded((each.name, _making(each)) for each in made):
        line = Text(_INDENT + printable(name))
        line.append(f"  {times:,} ×" if times > 1 else "", "bold")
        yield line
        each = " each" if times > 1 else ""
        yield Text(f"{_INDENT * 2}{', '.join(by)} of {plural(number, 'tensor')}{each}", "cyan")
        yield from (Text(f"{_INDENT * 2}← {printable(source)}") for source in sources)


def _making(each: Loads) -> tuple[tuple[str, ...], int, tuple[str, ...]]:
    """The operations, how many tensors, and their names, with * for the parameter's numbers."""
    numbers = [part for part in each.name.split(".") if part.isdecimal()]
    sources = [name for name, _, _ in folded((name, "") for name in each.sources)]
    return each.by, len(each.sources), tuple(_starred(name, numbers) for name in sources)


def _starred(name: str, numbers: Iterable[str]) -> str:
    for number in numbers:
        name = re.sub(rf"(?<![^.]){number}(?![^.])", "*", name, count=1)
    return name


def _shapes(each: Loads) -> str:
    return f"parameter {shape(each.shape)}, checkpoint gives {shape(each.made)}"


def _alone(found: Iterable[Alone]) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.name, (shape(each.shape), each.dtype or "", each.why)) for each in found]
