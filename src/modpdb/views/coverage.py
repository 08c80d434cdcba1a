"""`coverage`: the verdict, what is missing or wrong and by which fact, then counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.coverage import Coverage, Finding, Kind
from modpdb.views.folding import folded_members
from modpdb.views.grid import without_empty
from modpdb.views.named_rows import SHOWN, more_rows
from modpdb.views.text import plural, printable, shape

# In the order in which they are shown, with what a count of them is called.
_KINDS: dict[Kind, tuple[str, str]] = {
    "missing": ("missing", "red"),
    "shape": ("shape", "red"),
    "unexpected": ("unexpected", "red"),
    "key": ("no key", "red"),
    "refused": ("refused", "red"),
    "doubtful": ("not known", "yellow"),
    "note": ("note", ""),
    "dropped": ("dropped", ""),
}


def coverage(found: Coverage, where: str, *, unfold: bool = False) -> RenderableType:
    """*where* names what was looked at: a file, or the writer as the frame reaches it."""
    parts: list[RenderableType] = [_heading(found, where)]
    parts += _findings([*found.findings, *found.unjudged], unfold=unfold)
    parts.append(Text(_last(found), "dim"))
    return Group(*parts)


def verdict(found: Coverage) -> str:
    """A few words: `3 tensors missing, 1 key missing`, `complete: 38 of 38 tensors …`."""
    counts = {kind: sum(each.kind == kind for each in found.findings) for kind in _KINDS}
    said = [
        f"{plural(counts['missing'], 'tensor')} missing" if counts["missing"] else "",
        f"{plural(counts['key'], 'key')} missing" if counts["key"] else "",
        f"{plural(counts['shape'], 'wrong shape')}" if counts["shape"] else "",
        f"{plural(counts['unexpected'], 'unexpected tensor')}" if counts["unexpected"] else "",
        f"{plural(counts['refused'], 'refused value')}" if counts["refused"] else "",
    ]
    wrong = ", ".join(filter(None, said))
    unknown = counts["doubtful"] + len(found.unjudged)
    if found.unfinished:
        return f"so far {wrong or 'nothing wrong'}: {found.unfinished} are still to come"
    if not found.source:
        name = printable(found.arch)
        return f"not known: no loader's facts for {name}" + (
            f"; {unknown} doubtful" * bool(unknown)
        )
    if wrong:
        return wrong
    have = (
        f"{found.present:,} of {found.required:,} tensors that {printable(found.arch)} needs, "
        f"{plural(found.present_keys, 'key')}"
    )
    return f"complete as far as is known: {have}" if unknown else f"complete: {have}"


def _heading(found: Coverage, where: str) -> Text:
    style = "bold red" if found.wrong else "bold green" if found.complete else "bold yellow"
    said = f"   {printable(found.arch)} · {printable(where)}"
    return Text(verdict(found), style).append(said, "not bold default")


def _findings(found: Sequence[Finding], *, unfold: bool) -> Iterator[RenderableType]:
    rows = [row for kind in _KINDS for row in _rows(kind, found, unfold=unfold)]
    shown = rows if unfold else rows[:SHOWN]
    if shown:
        yield without_empty(shown, wrap=1)
    if len(rows) > len(shown):
        yield more_rows(len(rows) - len(shown))


def _rows(kind: Kind, found: Sequence[Finding], *, unfold: bool) -> list[tuple[Text, ...]]:
    label, style = _KINDS[kind]
    some = [each for each in found if each.kind == kind]
    if not some:
        return []
    if unfold:
        lines = [(each.name, [each], _alike(each)) for each in some]
    else:
        lines = folded_members(some, attrgetter("name"), _alike)
    return [
        (
            Text(label if number == 0 else "", style),
            Text(printable(name)),
            _shapes(ne, needed),
            Text(printable(words)),
        )
        for number, (name, _, (words, ne, needed)) in enumerate(lines)
    ]


def _alike(each: Finding) -> tuple[str, tuple[int, ...] | None, tuple[int, ...] | None]:
    return each.words, each.ne, each.needed


def _shapes(ne: tuple[int, ...] | None, needed: tuple[int, ...] | None) -> Text:
    if ne is not None and needed is not None:
        return Text(f"{shape(ne)}, needs {shape(needed)}", "cyan")
    known = ne if ne is not None else needed
    return Text("" if known is None else shape(known), "cyan")


def _last(found: Coverage) -> str:
    if found.unfinished:
        return "`ahead` looks at all that will be written"
    if not found.source:
        return "the loader's facts that modpdb has do not name this architecture: nothing is proved"
    said = [f"by {found.source}"]
    if found.wrong:
        said.insert(
            0,
            f"{found.present:,} of {found.required:,} required tensors, "
            f"{found.present_keys:,} of {found.required_keys:,} keys",
        )
    if found.absent:
        said.append(f"{plural(len(found.absent), 'optional tensor')} not there")
    return " · ".join(said)
