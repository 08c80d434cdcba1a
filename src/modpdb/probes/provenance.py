"""Where each tensor that a conversion writes comes from, collected while it runs.

At `modify_tensors` the lazy tensor that is handed in is noted with the checkpoint tensor's name;
at `GGUFWriter.add_tensor` the graph of what is written is followed to what was noted. (The
caller's variables there are wrong for stacked experts: they name the last one.) What is kept are
names, shapes and operations: of lazy tensors only ids, for as long as they live.
"""

from __future__ import annotations

import functools
import re
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from modpdb.probes._static import instance_dict, mro, namespace
from modpdb.probes.conversion import find_conversion, mapped_name, name_mapping
from modpdb.probes.lazy import (
    Leaf,
    Made,
    bound_names,
    history,
    is_eager,
    is_lazy,
    leaves,
    shape_and_dtype,
)
from modpdb.probes.tensor_names import base_name
from modpdb.probes.tensors import short_dtype
from modpdb.probes.writer import type_name

Frames = Iterable[types.FrameType]
Says = Callable[[Frames, str], tuple[str, ...]]
"""The checkpoint names that the functions of these frames, innermost first, say a GGUF tensor is
made of: what is asked where no graph tells."""

_CALLERS = 8  # frames that are looked at between a tensor's loop and what is called in it


class Source(NamedTuple):
    """A checkpoint tensor; *file* is "" where it is not known."""

    name: str
    file: str


class WrittenTensor(NamedTuple):
    """A tensor as the writer was given it.

    *sources* are checkpoint names in the order of their use, none where it is not known what it is
    made of; *inferred*: they are from variables of the converter or the name map, not from the
    graph. *history* is None where there is no graph. *shape* in torch's order, in elements; *dtype*
    that of the array, *type* ggml's. *site* is the place that called add_tensor, *converter* that
    of the innermost override of modify_tensors that had it, "" where none did: "conversion/base.py:
    1177 ModelBase.prepare_tensors".
    """

    name: str
    sources: tuple[str, ...]
    inferred: bool
    history: Leaf | Made | None
    shape: tuple[int, ...]
    dtype: str
    type: str
    site: str
    converter: str


def sources_of(written: WrittenTensor) -> tuple[Source, ...]:
    """Its sources with their files, as far as the graph names these."""
    found = leaves(written.history) if written.history is not None else ()
    files = {leaf.name: leaf.file for leaf in found}
    return tuple(Source(name, files.get(name, "")) for name in written.sources)


class Provenance:
    """What was seen of a conversion so far; another one that begins takes its place.

    *written* by GGUF name, in the order of writing; *duplicates* were written under a name that
    was taken. *sources_to* leads from a checkpoint name to GGUF names. *converted* are checkpoint
    names that came to modify_tensors (of a LoRA adapter: the base model's), with the place of the
    innermost override that had them.

    `begins`, `modifies` and `adds` take frames that stand at the entry of the functions of these
    names. They may raise; whoever calls them while the program runs must not let that through.
    """

    def __init__(self, says: Says = lambda frames, name: ()) -> None:
        self._says = says
        self._forget()

    def _forget(self) -> None:
        self.written: dict[str, WrittenTensor] = {}
        self.duplicates: list[WrittenTensor] = []
        self.sources_to: dict[str, list[str]] = {}
        self.converted: dict[str, str] = {}
        self._model: Callable[[], Any] = lambda: None
        self._checkpoint: frozenset[str] = frozenset()
        self._adapter: frozenset[str] = frozenset()
        self._names = _ById()
        self._known = _ById()
        self._mapping: dict[str, Any] = {}
        self._mapped: dict[str, list[str]] | None = None
        self._merged: dict[str, list[str]] = {}  # by GGUF name: what may be stacked to it
        self._at_hand = ""
        self._loop = 0  # the id of the code in which it is at hand

    def is_of(self, model: object) -> bool:
        """Whether what was seen is the conversion of *model*, and that from its beginning."""
        return model is not None and self._model() is model

    # -- events ----------------------------------------------------------------------------------

    def begins(self, frame: types.FrameType) -> None:
        """`prepare_tensors`: the checkpoint's tensors are known, and none is converted yet."""
        model = _argument(frame, 0)
        if model is self._model() or "gguf_writer" not in instance_dict(model):
            return
        self._forget()
        self._model = _reference(model)
        conversion = find_conversion([each.f_locals for each in _outwards(frame)])
        if conversion is None:
            return
        state = instance_dict(model)
        listed = state.get("model_tensors")
        self._mapping = name_mapping(conversion)
        for bound, name in bound_names(listed):
            self._names.note(bound, name)
        self._checkpoint = frozenset(filter(_is_name, listed if type(listed) is dict else ()))
        if conversion.adapter is not None:
            self._adapter = frozenset(filter(_is_name, conversion.adapter))
            for name in self._adapter:
                self._names.note(conversion.adapter[name], name)

    def modifies(self, frame: types.FrameType) -> None:
        """`modify_tensors(self, data_torch, name, bid)`, of any class along the MRO."""
        model = _argument(frame, 0)
        data, name = _argument(frame, 1), _argument(frame, 2)
        if not _is_name(name) or "gguf_writer" not in instance_dict(model):
            return
        if model is not self._model():
            self.begins(frame)
        caller = _loop_around(frame)
        if caller is None:  # by an override's super(): the innermost but the base's has decided
            if self._at_hand and not _is_the_base(model, frame.f_code):
                self.converted[self._at_hand] = place(frame.f_code)
            return
        self._at_hand, self._loop = name, id(caller.f_code)
        self.converted[name] = place(frame.f_code)
        for part in _parts(data):
            if is_lazy(part):
                self._known.note(part, self._origin(part, name))
            else:
                self._may_be_stacked(name)

    def adds(self, frame: types.FrameType) -> None:
        """`GGUFWriter.add_tensor(self, name, tensor, raw_shape=None, raw_dtype=None, …)`."""
        given = frame.f_locals
        name, tensor = given.get("name"), given.get("tensor")
        caller = frame.f_back
        if not _is_name(name) or caller is None:
            return
        origin = history(tensor, self._names, self._known) if is_lazy(tensor) else None
        found = leaves(origin) if origin is not None else ()
        sources = tuple(dict.fromkeys(leaf.name for leaf in found if leaf.name))
        inferred = () if sources else self._inferred(name, caller)
        known = origin or tensor
        shape, dtype, kind = _as_written(known, given.get("raw_shape"), given.get("raw_dtype"))
        in_loop = id(caller.f_code) == self._loop
        written = WrittenTensor(
            name,
            sources or inferred,
            bool(inferred),
            origin,
            shape,
            dtype,
            kind,
            place(caller.f_code, caller.f_lineno),
            self._converter(sources or inferred, in_loop),
        )
        if name in self.written:
            # Another writer's file (LoRA adapters beside a model's) may have tensors of that name.
            if _argument(frame, 0) is instance_dict(self._model()).get("gguf_writer"):
                self.duplicates.append(written)
            return
        self.written[name] = written
        for source in written.sources:
            self.sources_to.setdefault(source, []).append(name)

    # -- sources ---------------------------------------------------------------------------------

    def _origin(self, lazy: Any, name: str) -> Leaf | Made:
        """How *lazy*, handed in as *name*, is made. Before mid 2025 nothing but that name tells
        of which tensor its leaf is."""
        origin = history(lazy, self._names, self._known)
        found = list(leaves(origin))
        if any(leaf.name for leaf in found) or len(found) != 1:
            return origin
        return _named(origin, name) if self._is_of_checkpoint(name) else origin

    def _is_of_checkpoint(self, name: str) -> bool:
        """Converters add tensors of their own, such as rope_freqs.weight, to the loop."""
        if self._checkpoint:
            return name in self._checkpoint
        listed: Any = instance_dict(self._model()).get("tensor_names")
        return name in listed if type(listed) is set else True

    def _may_be_stacked(self, name: str) -> None:
        """Without a graph: `experts.3.w1` belongs to what the map calls `experts.w1`."""
        for number in re.finditer(r"\.\d+(?=\.)", name):
            merged = mapped_name(self._mapping, name[: number.start()] + name[number.end() :])
            if merged is not None:
                self._merged.setdefault(merged, []).append(name)

    def _inferred(self, name: str, caller: types.FrameType) -> tuple[str, ...]:
        said = self._says(list(_first(_CALLERS, _outwards(caller))), name)
        known = tuple(each for each in said if self._is_of_checkpoint(each))
        if known:
            return known
        if name in self._merged:
            return tuple(self._merged[name])
        if id(caller.f_code) == self._loop:
            if self._adapter:
                return self._halves(name)
            return (self._at_hand,) if self._is_of_checkpoint(self._at_hand) else ()
        return tuple(self._by_the_map().get(name, ()))

    def _by_the_map(self) -> dict[str, list[str]]:
        """Checkpoint names by the GGUF name that the name map gives them."""
        if self._mapped is None:
            self._mapped = {}
            for each in sorted(self._checkpoint):
                made = mapped_name(self._mapping, each)
                self._mapped.setdefault(made or "", []).append(each)
        return self._mapped

    def _halves(self, name: str) -> tuple[str, ...]:
        """Those of a LoRA adapter's tensors that make the half *name* of the tensor at hand."""
        half = "A" if name.endswith(".lora_a") else "B"
        mine = (key for key in self._adapter if base_name(key) == self._at_hand)
        return tuple(
            sorted(key for key in mine if re.search(rf"\.lora_(embedding_)?{half}\b", key))
        )

    def _converter(self, sources: tuple[str, ...], in_loop: bool) -> str:
        if in_loop:
            return self.converted.get(self._at_hand, "")
        places = [self.converted[each] for each in sources if each in self.converted]
        return places[-1] if places else ""


class _ById(dict[int, Any]):
    """Something noted of objects, by their id, for as long as they live: ids are reused."""

    def __init__(self) -> None:
        super().__init__()
        self._references: dict[int, Any] = {}

    def note(self, thing: Any, value: Any) -> None:
        """Nothing is noted of what cannot be weakly referred to."""
        key = id(thing)

        def gone(_: Any) -> None:
            self.pop(key, None)
            self._references.pop(key, None)

        try:
            self._references[key] = weakref.ref(thing, gone)
        except TypeError:
            return
        self[key] = value


def _reference(model: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(model)
    except TypeError:
        return lambda: model


def _is_name(value: object) -> TypeGuard[str]:
    return type(value) is str


def _parts(data: Any) -> tuple[Any, ...]:
    """What is handed to modify_tensors; of convert_lora_to_gguf.py's LoraTorchTensor both."""
    state = instance_dict(data)
    if "_lora_A" in state and "_lora_B" in state:
        return state["_lora_A"], state["_lora_B"]
    return (data,)


def _named(origin: Leaf | Made, name: str) -> Leaf | Made:
    """*origin*, which has one leaf, with that leaf's name."""
    if isinstance(origin, Leaf):
        return Leaf(origin.file, name, origin.shape, origin.dtype, origin.materialised)
    inputs = tuple(_named(each, name) for each in origin.inputs)
    return Made(origin.operation, inputs, origin.shape, origin.dtype)


def _as_written(tensor: Any, raw_shape: Any, raw_dtype: Any) -> tuple[tuple[int, ...], str, str]:
    """Shape in elements, dtype of the array, and ggml's type; *tensor* may be its history."""
    if type(tensor) in (Leaf, Made):
        shape, dtype = tensor.shape, tensor.dtype
    elif is_eager(tensor):
        shape, dtype, _ = shape_and_dtype(tensor)
    else:  # LazyChunkedTensor: read when it is written
        state = instance_dict(tensor)
        held, dtype = state.get("shape"), short_dtype(str(state.get("dtype", "?")))
        shape = held if type(held) is tuple else ()
    if type(raw_shape) in (list, tuple):
        shape = tuple(raw_shape)
    kind = type_name(raw_dtype)
    gguf = sys.modules.get(type(raw_dtype).__module__)
    sizes = getattr(gguf, "GGML_QUANT_SIZES", {}) if kind else {}
    if dtype == "u8" and shape and raw_dtype in sizes:
        elements, nbytes = sizes[raw_dtype]
        shape = (*shape[:-1], shape[-1] // nbytes * elements)
    return shape, dtype, kind or dtype


# -- frames --------------------------------------------------------------------------------------


def place(code: types.CodeType, line: int | None = None) -> str:
    """`conversion/base.py:1177 ModelBase.prepare_tensors`: the file below the script's folder."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    shown = _shown(code.co_filename, main if type(main) is str else "")
    return f"{shown}:{line or code.co_firstlineno} {code.co_qualname}"


@functools.lru_cache(64)
def _shown(file: str, script: str) -> str:
    path, folder = Path(file), Path(script).parent
    below = bool(script) and path.is_relative_to(folder)
    return path.relative_to(folder).as_posix() if below else path.name


def _argument(frame: types.FrameType, number: int) -> Any:
    code = frame.f_code
    if number >= code.co_argcount:
        return None
    return frame.f_locals.get(code.co_varnames[number])


def _outwards(frame: types.FrameType | None) -> Iterator[types.FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _first(number: int, frames: Iterator[types.FrameType]) -> Iterator[types.FrameType]:
    for _, frame in zip(range(number), frames, strict=False):
        yield frame


def _loop_around(frame: types.FrameType) -> types.FrameType | None:
    """The frame that calls modify_tensors; None where another modify_tensors does."""
    caller = frame.f_back
    for each in _first(_CALLERS, _outwards(caller)):
        if each.f_code.co_name == frame.f_code.co_name:
            return None
    return caller


def _is_the_base(model: Any, code: types.CodeType) -> bool:
    """Whether *code* is the last class's along the MRO: the one that overrides none."""
    for cls in reversed(mro(type(model))):
        found = namespace(cls).get(code.co_name)
        if type(found) is types.FunctionType:
            theirs = found.__code__
            return (theirs.co_filename, theirs.co_firstlineno) == (
                code.co_filename,
                code.co_firstlineno,
            )
    return False
