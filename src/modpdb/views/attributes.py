"""`attr`: the places that Python asks for an attribute, and what assigning to it would do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import Group, RenderableType
from rich.text import Text

from modpdb.probes.assignment import Assignment, Assignments
from modpdb.probes.attribute import Attribute, Place
from modpdb.views.grid import Grid
from modpdb.views.places import location
from modpdb.views.text import printable

_REGISTRY = "Module.__getattr__: "  # what the place of a registered name begins with
_STATE_STYLE = {
    "found": "bold green",
    "not there": "dim",
    "hidden": "bold yellow",
    "not known": "yellow",
    "perhaps": "yellow",
}


def attribute(path: str, found: Attribute, assigned: Assignments) -> RenderableType:
    """A heading that says where it is, the places in order, then one line per kind of value."""
    places = [_place(number, place) for number, place in enumerate(found.places, 1)]
    parts: list[RenderableType] = [_heading(path, found), Grid(places)]
    parts += [Text(printable(note)) for place in found.places for note in place.notes]
    parts += [Text(words, "yellow") for words in _shadows(path, found)]
    return Group(*parts, *_assignments(path, assigned))


def _heading(path: str, found: Attribute) -> Text:
    text = Text(printable(path), "bold")
    text.append("   ")
    owner = printable(found.owner)
    place, undecided = found.found, found.undecided
    if place is not None:
        where = place.where.removeprefix(_REGISTRY)
        held = where == "instance __dict__" or where != place.where
        return text.append(place.what + (f", in {where} of {owner}" if held else ""), "not bold")
    if undecided is not None:
        return text.append(
            f"not known: {undecided.where} decides, and was not run", "not bold yellow"
        )
    near = f"; near: {', '.join(map(printable, found.near))}" if found.near else ""
    return text.append(f"not there: {owner} has none{near}", "not bold red")


def _place(number: int, place: Place) -> tuple[Text, Text, Text, Text]:
    remark = Text(printable(place.what), "dim" if place.state == "not there" else "")
    if place.source is not None and place.source.file:
        remark.append("  " if remark else "").append(location(place.source), "dim")
    return (
        Text(str(number), "dim"),
        Text(place.where),
        Text(place.state, _STATE_STYLE[place.state]),
        remark,
    )


def _shadows(path: str, found: Attribute) -> Iterator[str]:
    """What is registered, and not what a read gives."""
    for place in found.places:
        registry = place.where.removeprefix(_REGISTRY)
        if place.state == "hidden" and registry != place.where:
            yield f"hidden: parameters(), state_dict() and .to() go by {registry}, reads do not"


# -- assignment ----------------------------------------------------------------------------------


def _assignments(path: str, assigned: Assignments) -> list[RenderableType]:
    parts: list[RenderableType] = [Text(f"{printable(path)} = …", "bold")]
    if assigned.setter is not None:
        words = f"{assigned.setter_of}.__setattr__ decides, and was not run; torch's or Python's:"
        parts.append(Text(f"  {words}  ", "yellow").append(location(assigned.setter), "dim"))
    same: dict[Assignment, list[str]] = {}
    for outcome in assigned.outcomes:
        same.setdefault(replace(outcome, value="None"), []).append(outcome.value)
    name = path.rpartition(".")[2]
    rows = [
        (Text(f"  {', '.join(values)}", "cyan"), _outcome(outcome, name))
        for outcome, values in same.items()
    ]
    return [*parts, Grid(rows)]


def _outcome(outcome: Assignment, name: str) -> Text:
    """`→ _parameters['weight'], taken out of the instance __dict__ first`, or the error."""
    removed = ", ".join(outcome.removed_from)
    text = Text()
    if outcome.error:
        text.append(printable(outcome.error), "red")
        words = [*outcome.notes, *([f"and gone from {removed} by then"] if removed else [])]
    else:
        text.append(f"→ {_stored(outcome.place, name)}")
        words = [*_hooks(outcome), *outcome.notes]
        words += [f"taken out of {removed} first"] if removed else []
    text.append("".join(f" · {printable(word)}" for word in words))
    if outcome.hidden_by:
        text.append(f" · hidden: a read gives what {printable(outcome.hidden_by)} has", "yellow")
    return text


def _stored(place: str, name: str) -> str:
    return place if place in ("slot", "setter") else f"{place}[{printable(name)!r}]"


def _hooks(outcome: Assignment) -> Sequence[str]:
    """The hooks for all modules that may put another value in its place."""
    return [
        f"or what {hook.function.name} ({location(hook.function)}) gives in its place"
        for hook in outcome.hooks
    ]
