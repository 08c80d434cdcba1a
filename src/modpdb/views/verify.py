"""`verify`: the verdict in a line, what is not ok with its reason, then what is, by block."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from modpdb.probes.left_out import Left
from modpdb.probes.misses import Miss
from modpdb.probes.relations import Cast, Relation
from modpdb.probes.verification import Status, Verdict, Verification
from modpdb.views.folding import by_block, folded_members
from modpdb.views.grid import Grid
from modpdb.views.named_rows import SHOWN, more_rows, named_rows
from modpdb.views.relation import cast_effect, relation_words
from modpdb.views.text import count, plural, printable

_ORDER: tuple[Status, ...] = ("WRONG", "unexplained", "unjudged", "ok")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")  # of a block, in a name
_STYLE = {"WRONG": "bold red", "unexplained": "bold red", "unjudged": "yellow", "ok": "green"}


def verification(found: Verification, *, unfold: bool = False) -> RenderableType:
    """*unfold*: a line for each tensor."""
    parts: list[RenderableType] = [_verdict_line(found), _of_what(found)]
    parts += [Text(f"problem: {printable(each)}", "yellow") for each in found.problems]
    by_status = [[each for each in found.verdicts if each.status == one] for one in _ORDER]
    if unfold:
        parts.append(_unfolded([each for some in by_status for each in some]))
    else:
        for status, chosen in zip(_ORDER, by_status, strict=True):
            parts += _section(status, chosen) if chosen else ()
    parts += _left(found.left, unfold)
    return Group(*parts)


def _verdict_line(found: Verification) -> Text:
    """`38 tensors: 36 ok, 2 WRONG`."""
    of = f" of {found.of:,}" if len(found.verdicts) != found.of else ""
    text = Text(f"{plural(len(found.verdicts), 'tensor')}{of}: ", "bold")
    told = [each for each in reversed(_ORDER) if found.count(each)]
    for place, status in enumerate(told):
        text.append(", " if place else "").append(
            f"{found.count(status):,} {status}", _STYLE[status]
        )
    lacking = sum(bool(each.place) for each in found.left)
    if lacking:
        text.append(", " if told else "").append(f"{lacking:,} not in the file", "bold red")
    elif not told:
        text.append("nothing to compare", "yellow")
    return text


def _of_what(found: Verification) -> Text:
    arch = f" ({found.architecture})" if found.architecture else ""
    return Text(printable(f"{found.where}{arch} against {found.source}"), "dim")


# -- rows ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Alike:
    """In what verdicts of a row are the same: all but sources, counts of the cast, and misses."""

    type: str
    stored: tuple[str, ...]
    done: str
    also: tuple[str, ...]
    decided: str
    own: str  # of what is never folded its name


def _alike(verdict: Verdict) -> _Alike:
    relation = verdict.relation
    folds = verdict.miss is None and (verdict.by != "values" or verdict.status == "unjudged")
    return _Alike(
        verdict.type,
        verdict.stored,
        relation_words(relation) if relation is not None else "",
        tuple(_also(each) for each in verdict.also),
        verdict.decided if verdict.status != "ok" else "",
        verdict.name if verdict.status != "ok" and not folds else "",
    )


_Rows = list[tuple[str, list[Verdict]]]


def _folded(chosen: Sequence[Verdict]) -> _Rows:
    lines = folded_members(chosen, lambda each: each.name, _alike)
    return [(path, members) for path, members, _ in lines]


def _section(status: Status, chosen: Sequence[Verdict]) -> Iterator[RenderableType]:
    """Verdicts of one status, those for the same reason together."""
    if status == "ok":
        yield Text("ok", _STYLE[status])
        yield Grid(list(_by_block(_folded(chosen))))
        return
    reasons: dict[str, list[Verdict]] = {}
    for each in chosen:
        reasons.setdefault(_NUMBER.sub("*", each.reason), []).append(each)
    for folded_reason, some in reasons.items():
        alike = {each.reason for each in some}
        reason = alike.pop() if len(alike) == 1 else folded_reason
        head = Text(status, _STYLE[status])
        yield head.append(f"  {printable(reason)}" if reason else "", "not bold")
        rows = _folded(some)
        if status == "unjudged":
            yield Grid(list(_by_block(rows[:SHOWN])))
        else:
            for path, members in rows[:SHOWN]:
                yield Grid([_cells(path, members)])
                yield from _below(members)
        if len(rows) > SHOWN:
            yield more_rows(len(rows) - SHOWN)


def _by_block(rows: _Rows) -> Iterator[tuple[Text, ...]]:
    """Those of one block below a row of its own."""
    for block, lines in by_block([(path, members, None) for path, members in rows]):
        if block:
            head = Text(f"  {printable(block)}", "bold")
            yield head.append(f"  {len(lines[0][1]):,} × each", "not bold dim"), Text(), Text()
        for path, members, _ in lines:
            yield _cells(path, members, block)


def _cells(path: str, members: Sequence[Verdict], block: str = "") -> tuple[Text, ...]:
    name = Text(f"    {printable(path[len(block) + 1 :])}" if block else f"  {printable(path)}")
    if len(members) > 1 and not block:
        name.append(f"  {len(members):,} ×", "bold")
    return name, _types(members[0]), Text(printable(_done(members)))


def _types(verdict: Verdict) -> Text:
    """`bf16 → f16`, what is stored and what is written; once where both are the same."""
    stored = "/".join(verdict.stored)
    change = f"{stored} → " if stored and stored != verdict.type else ""
    return Text(printable(f"{change}{verdict.type}"), "cyan")


def _unfolded(chosen: Sequence[Verdict]) -> RenderableType:
    rows = []
    for each in chosen:
        said = [_done([each])] if each.relation or each.miss else []
        said += [each.reason] if each.reason and each.status != "ok" else []
        if each.sources and (each.status != "ok" or each.by == "values"):
            said.append(f"of {', '.join(each.sources)}")
        said += [f"decided at {each.decided}"] if each.decided and each.status != "ok" else []
        rows.append(
            (
                Text(each.status, _STYLE[each.status]),
                Text(printable(each.name)),
                _types(each),
                Text(printable("; ".join(said))),
            )
        )
    return Grid(rows)


def _done(members: Sequence[Verdict]) -> str:
    """What was done to the source; of several tensors together."""
    first = members[0]
    if first.relation is None:
        return _miss(first.miss) if first.miss is not None else ""
    casts = [each.relation.cast for each in members if each.relation and each.relation.cast]
    words = [relation_words(first.relation)]
    if casts:
        words.append(cast_effect(_together(casts)))
    done = ", ".join(filter(None, words)) or "identical"
    if first.also:
        done += f" (also: {'; '.join(dict.fromkeys(map(_also, first.also)))})"
    return done


def _also(relation: Relation) -> str:
    return relation_words(relation) or "identical"


def _together(casts: Sequence[Cast]) -> Cast:
    first = casts[0]
    return Cast(
        first.before,
        first.after,
        sum(each.rounded for each in casts),
        sum(each.overflow for each in casts),
        max(each.most for each in casts),
        first.quantised,
    )


def _miss(miss: Miss) -> str:
    nearest = f"nearest: {miss.words}, " if miss.words else "nearest to a copy: "
    words = f"{nearest}{miss.equal:,} of {miss.elements:,} values equal"
    if miss.where:
        words += f", largest error {miss.most:.3g} at {_index(miss.where)}"
    if miss.first and miss.first != miss.where:
        words += f", first at {_index(miss.first)}"
    return words


def _index(index: Sequence[int]) -> str:
    return "[" + ", ".join(f"{each:,}" for each in index) + "]"


def _below(members: Sequence[Verdict]) -> Iterator[RenderableType]:
    """Below a row: of what it is made, and where the converter decided."""
    first = members[0]
    sources = [name for each in members for name in each.sources]
    if sources:
        paths = [path for path, _, _ in folded_members(sources, str, lambda _: "")]
        shown = ", ".join(paths[:2]) + (f" and {count(len(paths) - 2)} more" if paths[2:] else "")
        yield _indented(f"of {shown}")
    if first.decided:
        yield _indented(f"decided at {first.decided}")


def _indented(words: str) -> RenderableType:
    return Padding(Text(printable(words), "dim"), (0, 0, 0, 6))


# -- source tensors that nothing was made of -----------------------------------------------------


def _left(left: Sequence[Left], unfold: bool) -> Iterator[RenderableType]:
    lacking = [(each.name, (f"→ {each.place}",)) for each in left if each.place]
    unused = [(each.name, ("",)) for each in left if not each.fine and not each.place]
    fine = [(each.name, (each.why,)) for each in left if each.fine]
    yield from named_rows("the file lacks what is made of", lacking, unfold=unfold)
    yield from named_rows("nothing was made of", unused, unfold=unfold)
    yield from named_rows("not in the file, and need not be", fine, unfold=unfold)
