"""`Unprocessed experts`: a mixture of experts of which not all tensors came."""

from __future__ import annotations

import re
from typing import Any

from modpdb.probes._static import is_a
from modpdb.probes.explanations.explanation import (
    Caught,
    Cause,
    Explanation,
    Row,
    Step,
    Table,
    held,
    raised,
)
from modpdb.probes.explanations.sizes import EXPERTS, config_number, shown_number, tensors_of

_NAME = re.compile(r"(?P<before>.*\.experts\.)(?P<expert>\d+)\.(?P<part>.+)")


def unprocessed_experts(caught: Caught) -> Explanation | None:
    """Which experts of which layer have arrived, and which have not."""
    if not raised(caught, ValueError) or not caught.message.startswith("Unprocessed experts"):
        return None
    frame = caught.frame("prepare_tensors")
    waiting: Any = held(frame.variables.get("self"), "_experts") if frame is not None else None
    layers = waiting if type(waiting) is list else []
    config = caught.config or {}
    expected = config_number(config, EXPERTS)
    key = next((key for key in EXPERTS if config.get(key) == expected), EXPERTS[0])
    stored = shown_number(EXPERTS, tensors_of(caught.conversion), config)
    rows = []
    missing: list[str] = []
    for number, layer in enumerate(layers):
        names = [name for name in layer if type(name) is str] if is_a(layer, dict) else []
        if names:
            row, lacking = _layer(number, names, expected)
            rows.append(row)
            missing += lacking
    waits = sum(len(layer) for layer in layers if is_a(layer, dict))
    says = (
        f"{waits} experts' tensors wait in {len(rows)} of {len(layers)} layers for others of their "
        "layer, which did not come"
    )
    causes = _causes(key, expected, stored.value if stored else None, missing)
    return Explanation(
        "experts",
        says,
        causes,
        (Table("tensors of experts that came", tuple(rows), brief=True),) if rows else (),
        _steps(key, expected, stored.value if stored else None, missing),
        caught.frames[0].place if caught.frames else "",
    )


def _layer(number: int, names: list[str], expected: int | None) -> tuple[Row, list[str]]:
    found = [match for name in names if (match := _NAME.fullmatch(name))]
    parts = list(dict.fromkeys(match["part"] for match in found))
    there = {int(match["expert"]) for match in found}
    before = found[0]["before"] if found else ""
    wanted = range(expected if expected is not None else max(there, default=-1) + 1)
    lacking = [
        f"{before}{expert}.{part}"
        for expert in wanted
        for part in parts
        if f"{before}{expert}.{part}" not in set(names)
    ]
    of = f" of {len(wanted) * len(parts)}" if parts else ""
    shown = ", ".join(name.removeprefix(before) for name in lacking[:3])
    more = ", …" if len(lacking) > 3 else ""
    words = f"{len(names)}{of}, not {shown}{more}" if lacking else f"{len(names)}{of}"
    return Row(before.removesuffix(".") or f"layer {number}", (words,)), lacking


def _causes(
    key: str, expected: int | None, stored: int | None, missing: list[str]
) -> tuple[Cause, ...]:
    if expected is not None and stored is not None and stored != expected:
        return (
            Cause(
                f"config.json says {key} = {expected}; the checkpoint has experts 0 to {stored - 1}"
            ),
        )
    if missing:
        return (
            Cause(
                f"the checkpoint lacks {missing[0]}"
                + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            ),
        )
    return (Cause("the converter counts on other tensors to an expert than there are", guess=True),)


def _steps(
    key: str, expected: int | None, stored: int | None, missing: list[str]
) -> tuple[Step, ...]:
    look = Step("see what there is", ("ckpt *experts*",))
    if expected is not None and stored is not None and stored != expected:
        return Step("if the checkpoint is whole, in config.json", (f'  "{key}": {stored},',)), look
    return look, Step("if it is there in the original, download that file again")
