"""The tensors in what a call takes or gives, each noted without disturbing it."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from modpdb.probes._static import (
    class_attribute,
    derives,
    instance_dict,
    mro,
    qualified_name,
)
from modpdb.probes._torch import undisturbed
from modpdb.probes.recording import TensorNote
from modpdb.probes.tensors import NoStatistics, Statistics, TensorReader, local_tensor, statistics
from modpdb.probes.tree import joined

Store = Callable[[str, Any], str]
"""Takes a name and a tensor, and stores its values; gives why not, "" where it did."""

DEEPEST = 4  # lists in dicts in tuples …
MOST = 256  # tensors of one call's inputs or outputs

# Tensors without data of their own: to ask for a value would fail, or change what is traced.
_WITHOUT_DATA = {
    "torch._subclasses.fake_tensor.FakeTensor": "a fake tensor",
    "torch._subclasses.functional_tensor.FunctionalTensor": "a functional tensor",
}


def is_traced(torch: Any) -> bool:
    """Whether torch.jit.trace notes what is done in this thread: to look would be traced, too."""
    return torch._C._get_tracing_state() is not None


class Unreadable:
    """Tells of tensors whose values cannot be read, or not without disturbing who computes."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._without_data: dict[int, str] = {}  # by a class's id: why

    def why(self, tensor: Any, *, on_cuda: bool) -> str:
        """In words; "" of one that may be read."""
        cls = type(tensor)
        if id(cls) not in self._without_data:
            names = {qualified_name(base) for base in mro(cls)}
            why = next((why for name, why in _WITHOUT_DATA.items() if name in names), "")
            self._without_data[id(cls)] = why
        if why := self._without_data[id(cls)]:
            return why
        if on_cuda and self._torch.cuda.is_current_stream_capturing():
            return "a CUDA graph is being captured"
        return ""


class TensorNoter:
    """Notes tensors; one that is met again, and was not written to since, is not read again.

    That is told by the tensor's version counter, which inference tensors do not have: those are
    read every time. Writing through `.data` or numpy's view does not count there.
    """

    def __init__(self, torch: Any, *, stats: bool = True, store: Store | None = None) -> None:
        self._torch = torch
        self._reader = TensorReader(torch)
        self._version = torch._C.TensorBase._version.__get__
        self._is_inference = torch._C.TensorBase.is_inference
        self._stats = stats
        self._store = store
        self._seen: dict[int, tuple[weakref.ref[Any], int, TensorNote]] = {}
        self._unreadable = Unreadable(torch)

    def notes(self, value: Any, place: Callable[[], str]) -> tuple[TensorNote, ...]:
        """A note for every tensor in *value*: itself, or in tuples, lists, dicts and dataclasses.

        Other objects, such as a cache of keys and values, are not looked into. *place* names
        values that are stored.
        """
        if is_traced(self._torch):
            return ()
        found: list[TensorNote] = []
        for name, tensor in nested_tensors(self._reader, value):
            if len(found) == MOST:
                break
            found.append(self._note(name, tensor, place))
        return tuple(found)

    def _note(self, name: str, tensor: Any, place: Callable[[], str]) -> TensorNote:
        if self._is_inference(tensor):
            return self._read(name, tensor, place)
        version = self._version(tensor)
        known = self._seen.get(id(tensor))
        if known is not None and known[0]() is tensor and known[1] == version:
            note = known[2]
            return note if note.name == name else replace(note, name=name)
        note = self._read(name, tensor, place)
        forget = _forgetting(self._seen, id(tensor))
        self._seen[id(tensor)] = (weakref.ref(tensor, forget), version, note)
        return note

    def _read(self, name: str, tensor: Any, place: Callable[[], str]) -> TensorNote:
        facts = self._reader.facts(tensor)
        on_cuda = facts.device.startswith("cuda")
        why = facts.unsized or self._unreadable.why(tensor, on_cuda=on_cuda)
        found, zeros, stored = None, None, ""
        if not why:
            with modes_off(self._torch):
                if self._stats:
                    try:
                        found = statistics(tensor, quick=True)
                        zeros = self._zeros(tensor, found)
                    except NoStatistics as reason:
                        why = str(reason)
                if self._store is not None:
                    key = joined(place(), name) if name else place()
                    with undisturbed(self._torch):
                        stored = "" if self._store(key, tensor.detach()) else key
        return TensorNote(name, facts.shape, facts.dtype, facts.device, found, zeros, why, stored)

    def _zeros(self, tensor: Any, found: Statistics) -> int | None:
        """Elements that are 0. Not counted where 0 lies between the extremes: it would take as
        long as all the rest."""
        if found.minimum is None or found.maximum is None or 0 in (found.minimum, found.maximum):
            with undisturbed(self._torch):
                shard = local_tensor(tensor)
                tensor = tensor if shard is None else shard
                return found.elements - int(tensor.detach().count_nonzero())
        return None if found.minimum < 0 < found.maximum else 0


def modes_off(torch: Any) -> Any:
    """Without the modes that see every operator, a counter's or a tracer's."""
    if not torch._C._len_torch_dispatch_stack():
        return contextlib.nullcontext()
    from torch.utils._python_dispatch import _disable_current_modes

    return _disable_current_modes()


def nested_tensors(
    reader: TensorReader, value: Any, name: str = "", deeper: int = DEEPEST
) -> Iterator[tuple[str, Any]]:
    """Every tensor in *value*: itself, or in tuples, lists, dicts and dataclasses; with its place,
    as 0.last_hidden_state, "" of *value* itself."""
    cls = type(value)
    if reader.is_tensor(value):
        yield name, value
        return
    if not deeper:
        return
    items: Any = ()
    if derives(cls, tuple):
        items = enumerate(tuple.__iter__(value))
    elif derives(cls, list):
        items = enumerate(list.__iter__(value))
    elif derives(cls, dict):
        items = list(dict.items(value))
    elif type(names := class_attribute(cls, "__dataclass_fields__")) is dict:
        held = instance_dict(value)
        items = [(each, held[each]) for each in names if each in held]
    for key, each in items:
        if type(key) in (str, int):
            yield from nested_tensors(reader, each, joined(name, str(key)), deeper - 1)


def _forgetting(seen: dict[int, Any], key: int) -> Callable[[Any], None]:
    """A weak reference's callback that drops the entry, unless its place is another's by now."""

    def forget(reference: Any) -> None:
        entry = seen.get(key)
        if entry is not None and entry[0] is reference:
            del seen[key]

    return forget
