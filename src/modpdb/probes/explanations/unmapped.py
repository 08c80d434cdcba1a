"""`Can not map tensor`: names that the name map has no GGUF name for, and what they may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from modpdb.probes.conversion import SUFFIXES, mapped_name, name_mapping
from modpdb.probes.explanations.explanation import (
    Ahead,
    Caught,
    Cause,
    Explanation,
    Row,
    Step,
    Table,
    in_quotes,
    quoted,
    raised,
)
from modpdb.probes.explanations.guesses import Guess, Missing, guesses_for
from modpdb.probes.explanations.known_names import Reason, reasons_for
from modpdb.probes.explanations.mapping_files import file_of, mapping_lines
from modpdb.probes.explanations.sizes import tensors_of
from modpdb.probes.explanations.slots import slots_of
from modpdb.probes.tensor_names import base_name

_LISTED = 2_000  # names that are explained


def unmapped(caught: Caught) -> Explanation | None:
    """Why names are not mapped, all of those that are known, and what to change for each."""
    if not raised(caught, ValueError) or not caught.message.startswith("Can not map tensor"):
        return None
    frame, conversion = caught.frame("map_tensor_name"), caught.conversion
    name: Any = frame.variables.get("name") if frame is not None else None
    name = name if type(name) is str else in_quotes(caught.message)
    if conversion is None or frame is None or not name:
        return None
    entries = {each.name: each for each in tensors_of(conversion)}
    if conversion.adapter is not None:
        entries = {base_name(key): each for key, each in entries.items()}
    mapping = name_mapping(conversion)
    ahead = caught.ahead
    if ahead is None or not ahead.exact:
        ahead = _by_name_map(mapping, entries, name, ahead.why if ahead is not None else "")
    names = list(dict.fromkeys([name, *ahead.unmapped]))[:_LISTED]
    shapes = {
        each: None if conversion.adapter else entries[each].shape if each in entries else None
        for each in names
    }
    taken = {made for each in entries if each not in names and (made := mapped_name(mapping, each))}
    found = list(reasons_for(conversion, mapping, names, taken, entries))
    explained = {each for reason in found for each in reason.names}
    rest = [Missing(each, shapes[each]) for each in names if each not in explained]
    guesses = guesses_for(rest, slots_of(conversion, ahead.metadata), mapping, taken)
    return _explained(caught, name, names, found, guesses, shapes, ahead)


def _by_name_map(mapping: dict[str, Any], names: Iterable[str], at: str, why: str) -> Ahead:
    """The names from *at* on that the map has nothing for."""
    listed = list(names)
    rest = listed[listed.index(at) :] if at in listed else listed
    found = tuple(each for each in rest if mapped_name(mapping, each) is None)
    return Ahead(found, False, f"by the name map alone ({why})" if why else "by the name map alone")


def _explained(
    caught: Caught,
    name: str,
    names: list[str],
    found: list[Reason],
    guesses: list[Guess],
    shapes: Mapping[str, tuple[int, ...] | None],
    ahead: Ahead,
) -> Explanation:
    others = len(names) - 1
    says = f"the name map has no GGUF name for {name}"
    made_from = _made_from(caught, name)
    says += f", which the converter made of {made_from}" if made_from else ""
    if others:
        says += f"; {'1 more name has' if others == 1 else f'{others:,} more names have'} none"
    causes = [reason.cause for reason in found]
    causes += _guessed(caught, guesses)
    several = len(found) + bool(guesses) > 1
    rows = [
        Row(each, (reason.words.get(each, reason.label if several else ""),))
        for reason in found
        for each in reason.names
    ]
    rows += [
        # Beside names that need no shape one column leaves more room for the names.
        Row(each, (f"{shape} {guess.words}".lstrip(),) if found else (shape, guess.words))
        for guess in guesses
        for each in guess.names
        for shape in (_shape(shapes[each]),)
    ]
    order = {each: number for number, each in enumerate(names)}
    rows.sort(key=lambda row: order[row.name])
    guessed = any(each.slot for each in guesses)
    head = "names without a GGUF name" + (", → what it may be" if guessed else "")
    steps = [step for reason in found for step in reason.steps]
    steps += _to_paste([each for each in guesses if each.slot])
    return Explanation(
        "unmapped",
        says,
        tuple(causes),
        (Table(head, tuple(rows), brief=True),),
        tuple(steps),
        _asked_by(caught),
        _remark(ahead),
    )


def _remark(ahead: Ahead) -> str:
    tried = f"tried: the whole name, and without {' or '.join(SUFFIXES)}"
    if ahead.exact:
        return tried
    return f"{tried}; {ahead.why}: a converter may still rename, split or drop names"


def _guessed(caught: Caught, guesses: list[Guess]) -> list[Cause]:
    arch = caught.conversion.arch if caught.conversion is not None else ""
    fitting = sum(len(each.names) for each in guesses if each.slot)
    other = sum(len(each.names) for each in guesses if not each.slot)
    causes = []
    if fitting:
        causes.append(
            Cause(
                f"tensor_mapping.py lacks {_names(fitting)}; {arch} has tensors like "
                f"{'it' if fitting == 1 else 'them'}",
                guess=True,
            )
        )
    if other:
        causes.append(
            Cause(
                f"{_names(other)} {'is' if other == 1 else 'are'} like no tensor of {arch} that is "
                "free: the model is of another architecture, or the converter must drop them",
                guess=True,
            )
        )
    return causes


def _names(number: int) -> str:
    return "1 name" if number == 1 else f"{number:,} names"


def _shape(dims: tuple[int, ...] | None) -> str:
    return "" if dims is None else "[" + ", ".join(map(str, dims)) + "]"


def _asked_by(caught: Caught) -> str:
    asking = next((f for f in caught.frames if f.function != "map_tensor_name"), None)
    return asking.place if asking is not None else ""


def _made_from(caught: Caught, name: str) -> str:
    """The tensor of the loop, where that is another."""
    loop = caught.frame("prepare_tensors")
    source = loop.variables.get("name") if loop is not None else None
    return source if type(source) is str and source != name else ""


def _to_paste(guesses: list[Guess]) -> list[Step]:
    """One step for all lines that tensor_mapping.py is to have."""
    lines = mapping_lines() if guesses else {}
    placed = sorted((lines.get(each.slot, 0), each.slot, each.key) for each in guesses)
    paste = tuple(
        f"{quoted(key)},  # {f'line {line}, ' if line else ''}MODEL_TENSOR.{slot}"
        for line, slot, key in placed
    )
    words = "if so, below these lines"
    return [Step(words, paste, file_of("gguf.tensor_mapping"))] if guesses else []
