"""`Duplicated tensor name`: two sources of one GGUF tensor."""

from __future__ import annotations

from typing import Any

from modpdb.probes._static import is_a
from modpdb.probes.conversion import mapped_name, name_mapping
from modpdb.probes.explanations.explanation import (
    Caught,
    Cause,
    Explanation,
    Row,
    Step,
    Table,
    in_quotes,
)
from modpdb.probes.explanations.sizes import tensors_of


def duplicated(caught: Caught) -> Explanation | None:
    """Which checkpoint tensors give the same GGUF name."""
    message = caught.message
    if not is_a(caught.error, ValueError) or not message.startswith("Duplicated tensor name"):
        return None
    frame = caught.frame("add_tensor_info", "add_tensor")
    name: Any = frame.variables.get("name") if frame is not None else None
    name = name if type(name) is str else in_quotes(message)
    loop = caught.frame("prepare_tensors")
    second: Any = loop.variables.get("name") if loop is not None else None
    conversion = caught.conversion
    rows, first = [], ""
    if conversion is not None:
        mapping = name_mapping(conversion)
        for each in tensors_of(conversion):
            if each.name == second or mapped_name(mapping, each.name) == name:
                by = "being added" if each.name == second else "by the name map"
                rows.append(Row(each.name, (_shape(each.shape), each.dtype or "?", each.file, by)))
                first = first or (each.name if each.name != second else "")
    says = f"the writer has a tensor {name} already"
    if type(second) is str:
        says += f"; {second} would be written under that name too"
    causes = _causes(first, second)
    steps = (
        [Step("compare them", (f"compare {first}, {second}",))]
        if first and type(second) is str
        else []
    )
    if type(second) is str:
        words = "if it is the same tensor twice, leave it out: first line of modify_tensors"
        steps.append(
            Step(words, (f'if name == "{second}":', "    return []  # a generator: return"))
        )
    tables = (Table(f"what becomes {name}", tuple(rows), brief=True),) if rows else ()
    return Explanation(
        "duplicate",
        says,
        causes,
        tables,
        tuple(steps),
        caught.frames[0].place if caught.frames else "",
    )


def _causes(first: str, second: Any) -> tuple[Cause, ...]:
    if first and type(second) is str:
        return (
            Cause(f"{first} and {second} have the same GGUF name by the name map"),
            Cause(
                "one of the two is left over, from another way of saving or a tied copy", guess=True
            ),
        )
    return (Cause("the converter makes the name twice; the name map has it once", guess=True),)


def _shape(dims: Any) -> str:
    return "?" if dims is None else "[" + ", ".join(map(str, dims)) + "]"
