"""`tensor` and `compare`: what a tensor is, and how two of them are related."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from modpdb.commands.progress import Progress
from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import (
    Held,
    Source,
    Typed,
    complete_paths,
    frames_outwards,
    held_modules,
    matches,
    not_understood,
    split_target,
    typed,
)
from modpdb.probes._static import class_name, instance_dict
from modpdb.views.text import printable

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.probes.checkpoints import TensorEntry

_ITEMS = 1_000  # of one container that are looked at for shared storage
_NAMED = 20_000  # parameters and buffers likewise
_SHOWN = 4  # names in a sentence


@command(
    "tensor",
    "x",
    options={"--force": "", "--plot": "FILE.png"},
    completes=complete_paths,
    bare_alias=False,
)
def tensor(dbg: ModPdb, arguments: Arguments) -> None:
    """tensor [--force] [--plot FILE.png] EXPR | NAME

    A tensor: range, mean, deviation, memory, history.

    EXPR gives anything that is a tensor in some way: torch, numpy, llama.cpp's lazy tensors,
    a LoRA pair, a safetensors slice. NAME is a parameter or buffer that the frame holds, or in
    a conversion a tensor of the checkpoint. A lazy tensor is computed beside the conversion,
    which it leaves as it is; what would take more than 2 GiB is done with --force only. --plot
    writes a histogram and a heat map as a picture. Ctrl-C leaves the statistics so far.
    """
    from modpdb.probes.tensor_summary import How, summarise
    from modpdb.views.tensor import summary

    name, value, names = _tensor_of(dbg, arguments.target)
    force = bool(arguments.options.get("--force"))
    file = arguments.text("--plot")
    if file is not None:
        _refuse_to_overwrite(file)
    with Progress(dbg) as told:
        found = summarise(name, value, _neighbours(dbg), How(force, names=names, watch=told))
    dbg.show(summary(found))
    if file is not None:
        _plot(dbg, file, value, found, force)


@command("compare", options={"--force": ""}, completes=complete_paths)
def compare(dbg: ModPdb, arguments: Arguments) -> None:
    """compare [--force] A, B

    Two tensors: equal, or how far apart and how related.

    A and B as for `tensor`. B is measured against A: greatest difference and where, NMSE with
    llama.cpp's bands, cosine. If one is made of the other by a cast, transpose, reshape, slice,
    permutation of rows (RoPE's by head), + c, × c or negated exponential, that is said, proved
    on all values.
    """
    from modpdb.probes.compare import compare as probe
    from modpdb.views.compare import comparison

    first, second = split_target(arguments.target)
    if not first or not second:
        raise UsageError("compare takes two tensors: compare A, B")
    force = bool(arguments.options.get("--force"))
    with Progress(dbg) as told:
        sides = []
        for text in (first, second):
            name, value, _ = _tensor_of(dbg, text)
            sides.append((name, _values(name, value, force, told)))
        found = probe(*sides, watch=told)
    dbg.show(comparison(found))


def _values(name: str, value: Any, force: bool, told: Progress) -> Any:
    from modpdb.probes.tensor_like import TooMuch, values
    from modpdb.probes.tensors import NoStatistics
    from modpdb.views.text import size

    try:
        found = values(value, force=force, watch=told)
    except NoStatistics as reason:
        raise UsageError(f"{name} has no values to compare: {reason}") from None
    if isinstance(found, TooMuch):
        raise UsageError(
            f"{name}: computing it reads {size(found.cost.read)} and holds up to "
            f"{size(found.cost.held)}; compare --force does it"
        )
    return found


# -- what is meant -------------------------------------------------------------------------------


def _tensor_of(dbg: ModPdb, text: str) -> tuple[str, Any, dict[int, str]]:
    """Name and value of the tensor that *text* means, and the checkpoint names of what stands
    in lazy graphs. Raises UsageError where it means none or several."""
    from modpdb.probes.tensor_like import kind

    if not text:
        raise UsageError("a tensor is wanted: an expression or a name; `locals` lists what is here")
    target = typed(dbg, text)
    names = _leaf_names(dbg)
    if kind(target.value):
        return text, target.value, names
    held = held_modules_or_none(dbg)
    if isinstance(held, Source):
        name, value = _of_checkpoint(held, target)
        return name, value, names
    return *_of_modules(held, target), names


def held_modules_or_none(dbg: ModPdb) -> Held | Source | None:
    from modpdb.probes._torch import torch_or_none

    try:
        return held_modules(dbg) if torch_or_none() is not None else None
    except UsageError:  # nothing is held: then it is about the expression
        return None


def _leaf_names(dbg: ModPdb) -> dict[int, str]:
    from modpdb.probes.conversion import find_conversion
    from modpdb.probes.lazy import leaf_names

    conversion = find_conversion(variables for _, variables in frames_outwards(dbg))
    return leaf_names(instance_dict(conversion.model).get("model_tensors")) if conversion else {}


def _of_modules(held: Held | None, target: Typed) -> tuple[str, Any]:
    from modpdb.probes.registered import named_tensors

    pool: list[tuple[str, Any]] = []
    if held is not None:
        pool = [pair for prefix, root in held.prefixed() for pair in named_tensors(root, prefix)]
        chosen = held.chooses(target.text)
        found = {id(value): (name, value) for name, value in pool if chosen(name)}
        if len(found) == 1:
            return found.popitem()[1]
        if found:
            raise UsageError(_several(target.text, [name for name, _ in found.values()]))
    if not target.refusal.startswith(", and"):  # it is something, and no tensor
        raise UsageError(_no_tensor(target))
    raise UsageError(not_understood(target, "no tensor", (name for name, _ in pool)))


def _no_tensor(target: Typed) -> str:
    what = class_name(type(target.value))
    if target.module is not None:
        return f"{target.text} is no tensor but a {what}; `params {target.text}` lists what it has"
    return f"{target.text} is no tensor, but of class {what}"


def _several(text: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{text!r} means {len(names):,} tensors: {', '.join(names[:_SHOWN])}{more}"


def _of_checkpoint(source: Source, target: Typed) -> tuple[str, Any]:
    from modpdb.probes.conversion_tensors import gguf_name

    tensors = source.checkpoint.tensors
    text = target.text
    found = [each for each in tensors if each.name == text]
    found = found or [each for each in tensors if _meant(each.name, text)]
    if not found:
        named = ((each, gguf_name(source.conversion, each.name)) for each in tensors)
        found = [each for each, gguf in named if gguf is not None and _meant(gguf.name, text)]
    if len(found) > 1:
        raise UsageError(_several(text, [each.name for each in found]))
    if not found:
        if not target.refusal.startswith(", and"):
            raise UsageError(_no_tensor(target))
        names = [each.name for each in tensors]
        raise UsageError(not_understood(target, "no tensor of the checkpoint", names))
    return found[0].name, _loaded(source, found[0])


def _meant(name: str, text: str) -> bool:
    """By its name, or that without .weight: the layer's."""
    return matches(name, text) or matches(name, f"{text}.weight")


def _loaded(source: Source, entry: TensorEntry) -> Any:
    """The checkpoint's tensor as the converter would make it, or as it is stored."""
    from modpdb.probes.checkpoints import CheckpointError
    from modpdb.probes.stored import stored_tensor

    listed = instance_dict(source.conversion.model).get("model_tensors")
    if type(listed) is dict and entry.name in listed:
        try:
            return listed[entry.name]()  # a new lazy tensor each time
        except Exception as error:
            raise UsageError(f"{entry.name}: {type(error).__name__}: {error}") from None
    if not entry.file.endswith(".safetensors") or source.conversion.dir_model is None:
        raise UsageError(f"{entry.name}: {entry.file} is a pickle, which is not executed to look")
    try:
        return stored_tensor(source.conversion.dir_model / entry.file, entry)
    except CheckpointError as error:
        raise UsageError(str(error)) from None


# -- what lies beside it -------------------------------------------------------------------------


def _neighbours(dbg: ModPdb) -> Iterator[tuple[str, Any]]:
    """The tensors that the frame names: variables, items of containers, parameters, buffers."""
    from modpdb.probes.registered import named_tensors
    from modpdb.probes.tensor_like import kind

    for name, value in list(dbg.curframe_locals.items()):
        if kind(value):
            yield name, value
        elif type(value) is dict:
            for key, item in islice(list(value.items()), _ITEMS):
                yield f"{name}[{key!r}]" if type(key) in (str, int) else f"{name}[…]", item
        elif type(value) in (list, tuple):
            for number, item in enumerate(value[:_ITEMS]):
                yield f"{name}[{number}]", item
    held = held_modules_or_none(dbg)
    if isinstance(held, Held):
        several = len(held.roots) > 1
        for name, root in held.roots:
            for path, value in islice(named_tensors(root, name if several else ""), _NAMED):
                yield (path if several else f"{name}.{path}"), value


# -- the picture ---------------------------------------------------------------------------------


def _refuse_to_overwrite(file: str) -> None:
    """Anything but a picture that was written before."""
    if not file.endswith(".png"):
        raise UsageError(f"--plot writes PNG: a file name that ends in .png, not {file!r}")
    if os.path.exists(file):
        with open(file, "rb") as there:
            if there.read(8) != b"\x89PNG\r\n\x1a\n":
                raise UsageError(f"{file} exists and is no PNG: not overwritten")


def _plot(dbg: ModPdb, file: str, value: Any, found: Any, force: bool) -> None:
    from modpdb.probes.heat_map import heat_map
    from modpdb.probes.tensor_like import TooMuch, values
    from modpdb.probes.tensors import NoStatistics
    from modpdb.views.picture import caption, picture

    if found.statistics is None or found.statistics.minimum is None:
        raise UsageError(f"nothing to plot: {found.no_statistics or 'no finite values'}")
    try:
        plain = values(value, force=force)
        if isinstance(plain, TooMuch):
            raise NoStatistics("computing it would take too much; --force does it")
        cells = heat_map(plain, found.statistics)
    except NoStatistics as reason:
        raise UsageError(f"no picture: {reason}") from None
    data = picture(found.statistics, cells)
    try:
        with open(file, "wb") as out:
            out.write(data)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    dbg.message(f"{printable(file)}: {caption(found.statistics, cells)}")
