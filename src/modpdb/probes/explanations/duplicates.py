"""`Duplicated tensor name`: two sources of one GGUF tensor."""

from __future__ import annotations

from typing import Any

from modpdb.probes.conversion import mapped_name, name_mapping
from modpdb.probes.explanations.explanation import (
    Caught,
    Cause,
    Explanation,
    Row,
    Step,
    Table,
    in_quotes,
    quoted,
    raised,
    typed,
)
from modpdb.probes.explanations.known_names import override
from modpdb.probes.explanations.sizes import tensors_of


def duplicated(caught: Caught) -> Explanation | None:
    """Which checkpoint tensors give the same GGUF name."""
    message = caught.message
    if not raised(caught, ValueError) or not message.startswith("Duplicated tensor name"):
        return None
    frame = caught.frame("add_tensor_info", "add_tensor")
    name: Any = frame.variables.get("name") if frame is not None else None
    name = name if type(name) is str else in_quotes(message)
    loop = caught.frame("prepare_tensors")
    second: Any = loop.variables.get("name") if loop is not None else None
    sources, seen = _seen(caught, name)
    mapping = name_mapping(caught.conversion) if caught.conversion is not None else {}
    rows, first = [], ""
    for each in tensors_of(caught.conversion):
        mapped = mapped_name(mapping, each.name) == name
        if each.name != second and not (each.name in sources or (mapped and not seen)):
            continue
        by = "being added" if each.name == second else "held" if seen else "by the name map"
        rows.append(Row(each.name, (_shape(each.shape), each.dtype or "?", each.file, by)))
        first = first or (each.name if each.name != second else "")
    says = f"the writer has a tensor {name} already"
    if type(second) is str:
        says += f"; {second} would be written under that name too"
    causes = _causes(name, first, second)
    steps = _steps(caught, first, second)
    tables = (Table(f"what becomes {name}", tuple(rows), brief=True),) if rows else ()
    return Explanation(
        "duplicate",
        says,
        causes,
        tables,
        steps,
        caught.frames[0].place if caught.frames else "",
    )


def _seen(caught: Caught, name: str) -> tuple[tuple[str, ...], bool]:
    """The sources of what the writer holds, and whether the conversion was seen making it."""
    held = caught.provenance.written.get(name) if caught.provenance is not None else None
    return (held.sources, True) if held is not None and held.sources else ((), False)


def _steps(caught: Caught, first: str, second: Any) -> tuple[Step, ...]:
    if type(second) is not str:
        return ()
    owner, file, line = override(caught.conversion) if caught.conversion else ("", "", 0)
    leave = "if it is the same tensor twice, leave it out: first line of "
    drop = Step(
        f"{leave}{owner and f'{owner}.'}modify_tensors",
        (f"if name == {quoted(second)}:", "    return []"),
        file,
        line,
    )
    return (Step("compare them", typed("compare", first, second)), drop) if first else (drop,)


def _causes(name: str, first: str, second: Any) -> tuple[Cause, ...]:
    if first and type(second) is str:
        return (
            Cause(f"{first} and {second} both become {name}"),
            Cause(
                "one of the two is left over, from another way of saving or a tied copy", guess=True
            ),
        )
    return (Cause("the converter makes the name twice; the name map has it once", guess=True),)


def _shape(dims: Any) -> str:
    return "?" if dims is None else "[" + ", ".join(map(str, dims)) + "]"
