"""Failures with no name of their own: which tensor or metadata key was at hand."""

from __future__ import annotations

from typing import Any

from modpdb.probes._static import class_name, instance_dict
from modpdb.probes.explanations.explanation import (
    Caught,
    Cause,
    Explanation,
    Frame,
    Row,
    Step,
    Table,
    error_words,
    held,
    quoted,
    raised,
    typed,
)
from modpdb.probes.explanations.sizes import SYNONYMS, shown_number, tensors_of
from modpdb.probes.lazy import is_lazy, shape_and_dtype
from modpdb.probes.writer import is_writer

_UNKNOWN = Cause("none that modpdb knows: it can only say what was at hand")
_CONVERTING = ("modify_tensors", "prepare_tensors", "generate_extra_tensors")
_METADATA = ("set_gguf_parameters", "prepare_metadata", "set_vocab")


# -- metadata that cannot be written --------------------------------------------------------------


def metadata_value(caught: Caught) -> Explanation | None:
    """A value that does not pack: which key has it, and where in the config it may come from."""
    frame = caught.frame("write_kv_data_to_file", "add_key", "add_val")
    if frame is None or not is_writer(frame.variables.get("self")):
        return None
    key, holder = frame.variables.get("key"), frame.variables.get("val")
    if type(key) is not str:
        return None
    value, kind = held(holder, "value"), held(held(holder, "type"), "_name_")
    words = _plain(value)
    says = f"the metadata key {key} cannot be written: its value is {words}"
    says += f", its type {kind}" if type(kind) is str else ""
    nulls = _nulls(caught) if value is None else []
    causes = (
        [Cause(f"a null in the config came through: {', '.join(nulls[:4])}", guess=True)]
        if nulls
        else []
    )
    if not causes:
        causes = [Cause(f"{words} is no {str(kind).lower()}: {error_words(caught.error)}")]
    steps = [_fill(caught, name) for name in nulls[:2]]
    steps.append(
        Step(
            "run again and stop where the key is set",
            (f"b GGUFWriter.add_key_value, key == {quoted(key)}",),
        )
    )
    tables = _null_table(caught, nulls)
    return Explanation("metadata", says, tuple(causes), tables, tuple(steps), frame.place)


def _nulls(caught: Caught) -> list[str]:
    """Keys of the config that are null and stand for a number; those alike to the key first."""
    config = caught.config or {}
    numbers = {name for group in SYNONYMS for name in group}
    return [
        key
        for key, value in dict.items(config)
        if value is None and type(key) is str and key in numbers
    ]


def _null_table(caught: Caught, nulls: list[str]) -> tuple[Table, ...]:
    rows = []
    for name in nulls:
        shown = shown_number([name], tensors_of(caught.conversion), caught.config or {})
        rows.append(
            Row(name, ("null", f"the shapes show {shown.value}: {shown.how}" if shown else ""))
        )
    return (Table("null in the config", tuple(rows), brief=True),) if rows else ()


def _fill(caught: Caught, name: str) -> Step:
    shown = shown_number([name], tensors_of(caught.conversion), caught.config or {})
    if shown is None:
        return Step(f"take {name} out of config.json, or give it its number")
    return Step("in config.json", (f'  "{name}": {shown.value},',))


# -- tensors --------------------------------------------------------------------------------------


def tensor_written(caught: Caught) -> Explanation | None:
    """Something raised while a tensor is written, where lazy ones are computed at last."""
    frame = next(
        (f for f in caught.frames if f.function in ("write_tensors_to_file", "write_tensor_data")),
        None,
    )
    if frame is None or not is_writer(frame.variables.get("self")):
        return None
    name = frame.variables.get("name", frame.variables.get("first_tensor_name"))
    if type(name) is not str:
        return None
    what = error_words(caught.error)
    says = f"{name} was being written when this was raised: {what}"
    causes, tables = _promised(caught)
    if raised(caught, RuntimeWarning) and "overflow" in caught.message:
        causes = [
            Cause(
                "a value of it is larger than the type it is written as holds; f16 ends at 65,504"
            )
        ]
        steps = [
            Step("write another type", ("--outtype bf16",)),
            Step("see its range", typed("x", name)),
        ]
    else:
        steps = [Step("run again and stop where it is added", typed("b", f"@{name}"))]
    if not causes:
        causes = [
            Cause("lazy operations are done only now: one of those that make it failed", guess=True)
        ]
    return Explanation("writing", says, tuple(causes), tables, tuple(steps), frame.place)


def _promised(caught: Caught) -> tuple[list[Cause], tuple[Table, ...]]:
    """Where a lazy operation gave another shape or dtype than it did on the meta device."""
    frame = caught.frames[0] if caught.frames else None
    node = frame.variables.get("_t") if frame is not None else None
    if not raised(caught, AssertionError) or not is_lazy(node):
        return [], ()
    state = instance_dict(node)
    given = state["_data"]
    if given is None:
        return [Cause("an operation of its graph gave nothing")], ()
    said, got = _kind(state["_meta"]), _kind(given)
    rows = (Row("on the meta device", (said,)), Row("computed", (got,)))
    cause = f"an operation gives {got} where it gave {said} on the meta device"
    return [Cause(cause)], (Table("the operation's result", rows, brief=True),)


def _kind(tensor: Any) -> str:
    shape, dtype, _ = shape_and_dtype(tensor)
    return f"[{', '.join(map(str, shape))}] {dtype}"


def at_hand(caught: Caught) -> Explanation | None:
    """Anything else that is raised while tensors are converted or metadata is set."""
    if caught.conversion is None or caught.conversion.model is None:
        return None
    if raised(caught, KeyboardInterrupt, SystemExit, GeneratorExit):
        return None
    frame = caught.frame(*_CONVERTING)
    name = _name(caught)
    what = error_words(caught.error)
    if frame is not None and name:
        rows = _variables(frame)
        says = f"{what}, while {name} was being converted"
        steps = (
            Step(
                "go to the converter's line and look", (*typed("ckpt", name), "up", "x data_torch")
            ),
            Step("run again and stop before it", typed("b", f"@{name}")),
        )
        cause = _UNKNOWN
        tables = (Table("at hand", rows, brief=True),) if rows else ()
        return Explanation("tensor at hand", says, (cause,), tables, steps, frame.place)
    frame = caught.frame(*_METADATA)
    if frame is None:
        return None
    doing = "the tokenizer was read" if frame.function == "set_vocab" else "the metadata was set"
    says = f"{what}, in {frame.qualname}, while {doing}"
    cause = _UNKNOWN
    looks = (Step("see what is there so far", ("gguf kv", "hparams")),)
    return Explanation("metadata at hand", says, (cause,), (), looks, frame.place)


def _name(caught: Caught) -> str:
    """The checkpoint's tensor in the loop of prepare_tensors, else that of modify_tensors."""
    for function in ("prepare_tensors", "modify_tensors"):
        for frame in caught.frames:
            name = frame.variables.get("name")
            if frame.function == function and type(name) is str:
                return name
    return ""


def _variables(frame: Frame) -> tuple[Row, ...]:
    names = ("name", "new_name", "data_torch", "data", "data_qtype", "bid", "old_dtype")
    rows = []
    for name in names:
        if name in frame.variables:
            rows.append(Row(name, (_plain(frame.variables[name]),)))
    return tuple(rows)


def _plain(value: Any) -> str:
    if type(value) in (str, int, float, bool, type(None)):
        return repr(value)
    member = instance_dict(value).get("_name_")
    if type(member) is str:
        return member
    if is_lazy(value):
        return f"lazy {_kind(value)}"
    if type(value) in (list, tuple):
        more = ", …" if len(value) > 4 else ""
        items = ", ".join(map(_plain, value[:4]))
        return f"a {class_name(type(value))} of {len(value)}: {items}{more}"
    return class_name(type(value))
