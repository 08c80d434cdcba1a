"""`ahead`: what stops a conversion, in its order, and what it will write."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.coverage_findings import Coverage
from modpdb.probes.dry_run import DryRun, Miss
from modpdb.views.coverage import findings
from modpdb.views.coverage import verdict as coverage_verdict
from modpdb.views.folding import folded, folded_members
from modpdb.views.grid import Grid
from modpdb.views.named_rows import SHOWN, more_rows, named_rows
from modpdb.views.text import duration, plural, printable, size

_WORDS = 200  # characters of what was raised
_NAMES = 3  # patterns of names on a line
_LABELS = {
    "unmapped": "no name",
    "duplicate": "twice",
    "experts": "experts left",
    "hparam": "config lacks",
    "metadata": "metadata",
    "tokenizer": "tokenizer",
    "converter": "converter",
    "raised": "raises",
}


@dataclass(frozen=True, slots=True)
class _Row:
    """Misses that are one but for the numbers in their tensors' names."""

    miss: Miss
    names: str  # folded
    times: int


def ahead(
    found: DryRun,
    class_name: str,
    arch: str,
    needed: Coverage | None = None,
    *,
    unfold: bool = False,
    ended: bool = False,
) -> RenderableType:
    """The verdict, the blockers, what the loader would miss, what nothing is made of, and what
    would be written. *needed*: that against what the loader needs, None where it is not known.
    *ended*: the program does not run on, so that there is no next step to a place in it."""
    rows = list(_rows(found.misses, unfold))
    parts: list[RenderableType] = [verdict(found, rows, needed)]
    if not found.exact:
        parts.append(Text(f"not run: {printable(found.why)}", "yellow"))
    if found.only_vocabulary:
        said = "--vocab-only: the script writes no tensors now; this is of the whole conversion"
        parts.append(Text(said, "yellow"))
    shown = rows if unfold else rows[:SHOWN]
    if shown:
        parts.append(Grid([_cells(row, ended) for row in shown], wrap=1, whole_words=True))
    if len(rows) > len(shown):
        parts.append(more_rows(len(rows) - len(shown)))
    if needed is not None:
        parts += findings(needed.findings, unfold=unfold)
    parts += left_out(found, unfold=unfold)
    parts.append(Text(_written(found, class_name, arch, needed)))
    return Group(*parts)


def verdict(found: DryRun, rows: Sequence[_Row], needed: Coverage | None) -> Text:
    """`1 blocker, 4 missing keys, 0 unmapped`. Names without a GGUF name stop the conversion, too:
    those of one pattern are one blocker."""
    unmapped = sum(miss.kind == "unmapped" for miss in found.misses)
    if not found.exact and not any(miss.kind == "converter" for miss in found.misses):
        return Text(f"{unmapped:,} unmapped, guessed from the name map alone", "bold")
    said = [plural(len(rows), "blocker")]
    kinds = Counter(each.kind for each in needed.findings) if needed is not None else Counter()
    if needed is not None:
        said.append(plural(kinds["key"], "missing key"))
    said.append(f"{unmapped:,} unmapped")
    if kinds["missing"]:
        said.append(plural(kinds["missing"], "missing tensor"))
    if kinds["shape"]:
        said.append(plural(kinds["shape"], "wrong shape"))
    text = Text(", ".join(said), "bold")
    if not rows and needed is not None and needed.wrong:
        text.append(": nothing stops the conversion, but llama.cpp's loader would stop", "not bold")
    elif not rows:
        text.append(": the dry run met nothing to stop it", "not bold")
    return text


def _rows(misses: Sequence[Miss], unfold: bool) -> Iterator[_Row]:
    """In the order of their first."""
    if unfold:
        yield from (_Row(miss, miss.tensor, 1) for miss in misses)
        return
    lines = folded_members(misses, lambda miss: miss.tensor, _alike)
    yield from (_Row(inside[0], names, len(inside)) for names, inside, _ in lines)


def _alike(miss: Miss) -> tuple[str, str, str]:
    words = miss.words.replace(miss.tensor, "…") if miss.tensor else miss.words
    return miss.kind, words, miss.where


def _cells(row: _Row, ended: bool) -> tuple[Text, Text, Text]:
    miss = row.miss
    what = Text(printable(_what(row)))
    if row.times > 1:
        what.append(f"  {row.times:,} ×", "bold")
    step, where = _next_step(row, ended), _short(miss.where)
    place, _, function = where.partition(" ")
    said = function if step == f"b {place}" else where  # nothing twice
    more = Text(printable(f"→ {step}  " if step else ""), "cyan").append(printable(said), "dim")
    return Text(_LABELS[miss.kind], "red" if miss.kind != "unmapped" else "yellow"), what, more


def _short(where: str) -> str:
    """`conversion/base.py:630 map_tensor_name`"""
    place, _, function = where.partition(" ")
    return f"{place} {function.rpartition('.')[2]}".strip()


def _what(row: _Row) -> str:
    miss = row.miss
    if miss.kind == "unmapped":
        return row.names
    if miss.kind == "duplicate":
        return f"{row.names} from {' and from '.join(miss.names)}" if miss.names else row.names
    if miss.kind == "experts" and miss.names:
        return f"{_patterns(miss.names)}: {plural(len(miss.names), 'tensor')} not stacked"
    if miss.kind == "hparam":
        keys = " or ".join(miss.names)
        return f"{keys}, asked for {row.names}" if row.names else keys
    words = miss.words if len(miss.words) <= _WORDS else f"{miss.words[:_WORDS]}…"
    if miss.doubtful:
        words += " (it may come of the value assumed for a key that the config lacks)"
    return f"{row.names}: {words}" if row.names else words


def _patterns(names: Sequence[str]) -> str:
    lines = [name for name, _, _ in folded((name, "") for name in names)]
    return ", ".join(lines[:_NAMES]) + (", …" if len(lines) > _NAMES else "")


def _next_step(row: _Row, ended: bool) -> str:
    """What to type to see more; "" for nothing better than what is on the line."""
    miss = row.miss
    if miss.kind == "duplicate" and len(miss.names) == 2:
        return f"compare {', '.join(miss.names)}"
    if miss.kind == "experts":
        return "hparams *expert*"
    if miss.kind == "hparam":
        return "hparams"
    return "" if ended else _next_stop(row)


def _next_stop(row: _Row) -> str:
    miss = row.miss
    if miss.kind in ("unmapped", "raised") and miss.tensor:
        return f"b @{re.sub(r'{[^}]*}', '*', row.names)}"
    if miss.kind == "tokenizer":
        return "stage vocab"
    if miss.kind == "metadata":
        return "stage params"
    place = miss.where.partition(" ")[0]
    return f"b {place}" if place else ""


def left_out(found: DryRun, *, unfold: bool = False) -> Iterator[RenderableType]:
    """The checkpoint tensors of which nothing is written, without those that failed."""
    for names, head in (
        (found.dropped, "nothing is made of"),
        (found.filtered, "kept out by filter_tensors:"),
    ):
        if names:
            said = f"{head} {plural(len(names), 'tensor')}"
            yield from named_rows(said, [(name, ()) for name in names], unfold=unfold)


def _written(found: DryRun, class_name: str, arch: str, needed: Coverage | None) -> str:
    """One line: how much of what types, how long it took, and whose converter it was."""
    if not found.exact:
        return "nothing was run and nothing written"
    types: Counter[str] = Counter()
    for each in found.tensors:
        types[each.dtype] += each.nbytes or 0
    by_type = [f"{printable(name)} {size(n)}" for name, n in types.most_common()]
    whole = f"{size(sum(types.values()))} ({', '.join(by_type)})"
    nbytes = whole if len(types) > 1 else "".join(by_type)
    said = [plural(len(found.tensors), "tensor"), nbytes, plural(len(found.metadata), "key")]
    if found.assumed:
        said.append(f"{len(found.assumed):,} of them not right until the config has what it lacks")
    afresh = ", from the start," if found.afresh else ""
    fits = needed is not None and not needed.wrong
    loader = f" ({coverage_verdict(needed)})" if needed is not None and fits else ""
    would = f"would write {', '.join(filter(None, said))}{loader}"
    return (
        f"{printable(class_name)} → {printable(arch)} {would}; "
        f"run dry{afresh} in {duration(found.seconds)}, nothing was written"
    )
