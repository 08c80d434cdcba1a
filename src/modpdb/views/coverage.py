"""`coverage`: the verdict, what is missing or wrong and by which fact, then counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.coverage_findings import Coverage, Finding, Kind
from modpdb.views.named_rows import named_rows
from modpdb.views.text import plural, printable, shape

# In the order in which they are shown.
_LABELS: dict[Kind, str] = {
    "missing": "missing",
    "key": "no key",
    "shape": "wrong shape",
    "unexpected": "unexpected",
    "refused": "refused",
    "doubtful": "not known",
    "note": "note",
    "dropped": "dropped",
}


_ORDER = {kind: place for place, kind in enumerate(_LABELS)}


def coverage(found: Coverage, where: str, *, unfold: bool = False) -> RenderableType:
    """*where* names what was looked at: a file, or the writer as the frame reaches it."""
    parts: list[RenderableType] = [_heading(found, where)]
    parts += findings([*found.findings, *found.unjudged], unfold=unfold)
    parts.append(Text(_last(found), "dim"))
    return Group(*parts)


def verdict(found: Coverage) -> str:
    """A few words: `3 tensors missing, 1 key missing`, `complete: 38 of 38 tensors …`."""
    counts = {kind: sum(each.kind == kind for each in found.findings) for kind in _LABELS}
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
        return f"so far {wrong or 'nothing wrong'}: {found.unfinished} still to come"
    if not found.source:
        doubtful = f"; {unknown:,} doubtful" if unknown else ""
        return (
            f"not known: {printable(found.arch)} is in no table of what the loader needs{doubtful}"
        )
    if wrong:
        return wrong + (f", {unknown:,} not known" if unknown else "")
    have = (
        f"{found.present:,} of {found.required:,} tensors that {printable(found.arch)} needs, "
        f"{plural(found.present_keys, 'key')}"
    )
    return f"complete as far as is known: {have}" if unknown else f"complete: {have}"


def _heading(found: Coverage, where: str) -> Text:
    style = "bold red" if found.wrong else "bold green" if found.complete else "bold yellow"
    said = f"   {printable(found.arch)} · {printable(where)}"
    return Text(verdict(found), style).append(said, "not bold default")


def findings(found: Sequence[Finding], *, unfold: bool) -> Iterator[RenderableType]:
    """Those of a kind and a cause together."""
    groups: dict[tuple[Kind, str], list[Finding]] = {}
    for each in found:
        groups.setdefault((each.kind, each.words), []).append(each)
    for (kind, words), members in sorted(groups.items(), key=lambda group: _ORDER[group[0][0]]):
        if kind == "note":
            yield from (Text(f"note: {printable(each.name)} is {words}") for each in members)
            continue
        head = f"{_LABELS[kind]}: {printable(words)}"
        yield from named_rows(
            head,
            ((each.name, (_shapes(each.ne, each.needed), each.remark)) for each in members),
            unfold=unfold,
        )


def _shapes(ne: tuple[int, ...] | None, needed: tuple[int, ...] | None) -> str:
    if ne is not None and needed is not None:
        return f"{shape(ne)}, needs {shape(needed)}"
    known = ne if ne is not None else needed
    return "" if known is None else shape(known)


def _last(found: Coverage) -> str:
    if found.unfinished:
        return "`ahead` looks at all that will be written"
    if not found.source:
        return "nothing is proved; gguf.MODEL_TENSORS only says what there may be"
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
