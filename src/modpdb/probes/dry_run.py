"""The rest of a llama.cpp conversion, run dry in a forked copy of the process.

What the converter will do with a tensor cannot be told from its name map: `modify_tensors` stacks,
splits, renames and drops. So the converter's own functions run, in a copy: lazily, every failure
noted and passed over, and nothing written. The program and its converter stay as they are.
"""

from __future__ import annotations

import ast
import inspect
import os
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from types import CodeType, FrameType
from typing import Any, Literal

from modpdb.probes._static import instance_dict
from modpdb.probes.conversion import Conversion, mapped_name, name_mapping
from modpdb.probes.forked import in_fork
from modpdb.probes.gguf_contents import GGUFTensor, KeyValue
from modpdb.probes.progress import source_of
from modpdb.probes.provenance import Provenance, WrittenTensor
from modpdb.probes.tensor_names import base_name
from modpdb.probes.writer import is_writer, writer_contents

Kind = Literal[
    "unmapped", "duplicate", "experts", "hparam", "metadata", "tokenizer", "converter", "raised"
]
Frames = Sequence[tuple[FrameType, Mapping[str, Any]]]
"""The whole stack with its variables, innermost first."""

_STEPS = ("prepare_tensors", "prepare_metadata", "set_gguf_parameters", "set_vocab")


@dataclass(frozen=True, slots=True)
class Miss:
    """Something at which the conversion would stop.

    *kind*: the name map has no name; two tensors of a GGUF name; experts that were not stacked;
    a key that the config lacks; the metadata; the tokenizer; the converter cannot be made; or
    anything else. *tensor* is the checkpoint tensor at hand, of a duplicate the GGUF name, of
    metadata the key, "" for none. *words* are what was raised, in one line, *where* its
    `file:line function`. *names*: the keys of the config that were asked for; the experts; the
    sources of a duplicate, those of the first tensor first. *doubtful*: it may come of a value
    that was assumed before.
    """

    kind: Kind
    tensor: str
    words: str
    where: str
    names: tuple[str, ...] = ()
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a conversion will come to; *misses* in the order in which it would meet them.

    *dropped* are the tensors of which nothing is written, *filtered* those that the converter's
    `filter_tensors` keeps out, which versions before late 2025 do not have. *tensors* are
    *written* as the file will hold them. *given*: keys that the config lacks, for which 1 was
    assumed so that the next failure comes to light; *assumed* are the keys of *metadata* whose
    value depends on that.

    *exact*: the converter did it; else *why* not, and all is the name map's word but for what had
    been written. *afresh*: a converter of its own did, made by the call that made the script's.
    *only_vocabulary*: the script is asked for nothing else, so that it will write no tensor.
    """

    misses: tuple[Miss, ...] = ()
    written: tuple[WrittenTensor, ...] = ()
    dropped: tuple[str, ...] = ()
    filtered: tuple[str, ...] = ()
    metadata: tuple[KeyValue, ...] = ()
    tensors: tuple[GGUFTensor, ...] = ()
    given: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    seconds: float = 0.0
    exact: bool = True
    why: str = ""
    afresh: bool = False
    only_vocabulary: bool = False


def dry_run(
    conversion: Conversion,
    frames: Frames,
    slow: Callable[[], None] = lambda: None,
    *,
    only_tensors: bool = False,
    seen: Provenance | None = None,
) -> DryRun:
    """Run what is left of *conversion*, or all of it where it has begun, in a forked copy.

    *frames* are the whole stack. *slow* is called once if that takes over a second.
    *only_tensors*: without metadata and tokenizer, which take most of the time. *seen*: what was
    collected so far, of use where the converter cannot be run. Raises ForkError where the copy
    gives no result, CheckpointError where there is only the name map to ask and the checkpoint's
    names cannot be read.
    """
    began = time.perf_counter()
    make, why, afresh = _maker(conversion, frames)
    if make is None:
        found = by_name_map(conversion, why, seen)
    else:
        from modpdb.probes.rehearsal import rehearse

        chosen = make
        with TemporaryDirectory(prefix="modpdb-") as scratch:
            found = in_fork(
                lambda: rehearse(chosen, conversion, scratch, only_tensors=only_tensors), slow
            )
    return replace(
        found,
        seconds=time.perf_counter() - began,
        afresh=afresh and found.exact,
        only_vocabulary=_wants_only_vocabulary(frames),
    )


def by_name_map(conversion: Conversion, why: str, seen: Provenance | None = None) -> DryRun:
    """The weaker answer: what the name map alone says of tensors that were not *seen* to be
    written. Raises CheckpointError."""
    mapping = name_mapping(conversion)
    known = seen is not None and seen.is_of(conversion.model)
    written = list(seen.written.values()) if seen is not None and known else []
    done = source_names(written)
    if done:
        why += f"; of what was written, {len(written):,}, it was seen"
    misses = []
    for tensor in source_of(conversion).tensors if mapping else ():
        if tensor.name in done:
            continue
        name = mapped_name(mapping, base_name(tensor.name) if conversion.adapter else tensor.name)
        if name is None:
            misses.append(Miss("unmapped", tensor.name, "the name map has no name for it", ""))
            continue
        shape, dtype = tensor.shape or (), tensor.dtype or "?"
        written.append(WrittenTensor(name, (tensor.name,), True, None, shape, dtype, "?", "", ""))
    return DryRun(tuple(misses), tuple(written), exact=False, why=why)


# -- the converter to run ------------------------------------------------------------------------


def _maker(conversion: Conversion, frames: Frames) -> tuple[Callable[[], Any] | None, str, bool]:
    """What gives a converter that has done nothing yet, in the copy; why there is none; and
    whether it is a new one."""
    model = conversion.model
    if model is None:
        return None, "the converter is not being made yet", False
    if not hasattr(os, "fork"):
        return None, "this system cannot fork a process", False
    if _is_eager(model, frames):
        return None, "under --no-lazy every tensor would be read", False
    if _is_untouched(model, frames):
        return lambda: model, "", False
    call = _making_call(model, frames)
    if call is not None:
        return call, "", True
    return (
        None,
        "the conversion has begun, and the call that made the converter is not found",
        False,
    )


def _is_eager(model: Any, frames: Frames) -> bool:
    lazy = instance_dict(model).get("lazy")
    if lazy is None:  # it is not that far: the argument of its __init__
        arguments = [held for frame, held in frames if held.get("self") is model]
        given = (held.get("eager", _named(held).get("eager")) for held in arguments)
        return any(value is True for value in given)
    remote = instance_dict(model).get("remote_hf_model_id")
    return lazy is False and remote is None


def _wants_only_vocabulary(frames: Frames) -> bool:
    """Under --vocab-only, by the script's parsed arguments."""
    return any(instance_dict(held.get("args")).get("vocab_only") is True for _, held in frames)


def _named(held: Mapping[str, Any]) -> dict[str, Any]:
    found = held.get("kwargs")
    return found if type(found) is dict else {}


def _is_untouched(model: Any, frames: Frames) -> bool:
    """Whether *model* is whole and has not begun to convert: its next step is the first."""
    state = instance_dict(model)
    writer = state.get("gguf_writer")
    if "tensor_map" not in state or not is_writer(writer):
        return False
    own = [frame for frame, held in frames if held.get("self") is model]
    if any(frame.f_code.co_name == "__init__" for frame in own):
        return False
    if writer_contents(writer, "").tensors or _has_begun_to_write(writer):
        return False
    steps = [frame for frame in own if frame.f_code.co_name in _STEPS]
    return not steps or (
        steps == [frames[0][0]]
        and steps[0].f_code.co_name == "prepare_tensors"
        and steps[0].f_lineno == _first_line(steps[0].f_code)
    )


def _has_begun_to_write(writer: Any) -> bool:
    return instance_dict(instance_dict(writer).get("state")).get("_name_") != "NO_FILE"


def _first_line(code: CodeType) -> int:
    lines = (line for _, _, line in code.co_lines() if line is not None)
    return next((line for line in lines if line > code.co_firstlineno), code.co_firstlineno)


def _making_call(model: Any, frames: Frames) -> Callable[[], Any] | None:
    """The script's `model_instance = model_class(…)`, evaluated once more where it stands.

    It is found in the frame that holds the converter under a name of its own, or in the one that
    is just making it.
    """
    making = False
    for frame, held in frames:
        names = {name for name, value in held.items() if value is model and name != "self"}
        if names or making:
            call = _assigned_call(frame, names)
            if call is not None:
                code = compile(ast.Expression(call), frame.f_code.co_filename, "eval")
                variables = {**frame.f_globals, **held}
                return lambda: eval(code, variables)
        making = frame.f_code.co_name == "__init__" and held.get("self") is model
    return None


def _assigned_call(frame: FrameType, names: set[str]) -> ast.Call | None:
    """What is called to assign one of *names*, the last before the line at hand; without names,
    in the statement of that line."""
    try:
        lines, first = inspect.getsourcelines(frame)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return None
    at = frame.f_lineno - max(first, 1) + 1
    found = None
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        targets = {target.id for target in node.targets if isinstance(target, ast.Name)}
        end = node.end_lineno or node.lineno
        fits = targets & names and node.lineno <= at if names else node.lineno <= at <= end
        if fits and (found is None or found.lineno < node.value.lineno):
            found = node.value
    return found


def source_names(tensors: Iterable[WrittenTensor]) -> set[str]:
    """The checkpoint tensors of which *tensors* are made."""
    return {name for tensor in tensors for name in tensor.sources}
