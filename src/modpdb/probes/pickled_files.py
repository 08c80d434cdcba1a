"""The tensors of a file of torch.save, by following its pickle, never by running it.

Neither torch nor the tensors' data is needed, and names that share a storage are seen to.
(torch.load(weights_only=True) would have torch imported before the script does, runs what the
script has registered as safe, and allocates what a file asks for.)
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from modpdb.probes._static import class_name
from modpdb.probes.files import HEADER_LIMIT, CheckpointError, number, open_file, shown, size_of
from modpdb.probes.pickle_machine import (
    BYTES,
    STORAGES,
    Global,
    Machine,
    Object,
    Tensor,
    items_of,
)
from modpdb.probes.safetensors_files import TensorEntry
from modpdb.probes.tensors import short_dtype

_OLD_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER, torch before 1.6
_NESTED = ("state_dict", "model_state_dict", "model", "module")  # where trainers put the weights


@dataclass(frozen=True, slots=True)
class PickledFile:
    """What a file of torch.save holds. *shared*: names of one storage; *imports*: what running
    the pickle would import beside what tensors need; *inside*: the key of the outermost dict
    under which the tensors are, "" for the dict itself."""

    tensors: tuple[TensorEntry, ...]
    shared: tuple[tuple[str, ...], ...]
    imports: tuple[str, ...]
    inside: str


def read_pickled(path: Path) -> PickledFile:
    """The tensors by name in a file of torch.save, zipped (torch 1.6 and later) or not.

    CheckpointError where it is no such file, is cut short, or says of a tensor what cannot be.
    """
    with open_file(path) as file:
        try:
            loaded, machine, records = _read(path, file)
        except CheckpointError:
            raise
        except Exception as error:  # zipfile's, pickletools' and those of a stack that is empty
            words = str(error) or class_name(type(error))
            raise CheckpointError(f"{path}: not a file of torch.save: {words:.200}") from None
    inside, named = _by_name(loaded)
    imports = tuple(dict.fromkeys(each for each in machine.imports if not _known(each)))
    if not named:
        also = f", which would import {shown(imports[0])} if it were run" if imports else ""
        raise CheckpointError(f"{path}: a {_kind(loaded)} without tensors by name{also}")
    entries = []
    storages: dict[str, list[str]] = {}
    for name, tensor in named.items():
        _check(path, name, tensor, records)
        entries.append(
            TensorEntry(name, short_dtype(tensor.dtype), tensor.shape, tensor.nbytes, path.name)
        )
        if tensor.storage is not None:
            storages.setdefault(tensor.storage.key, []).append(name)
    shared = tuple(tuple(names) for names in storages.values() if len(names) > 1)
    return PickledFile(tuple(entries), shared, imports, inside)


def _kind(loaded: Any) -> str:
    if type(loaded) is not Object:
        return class_name(type(loaded)).lstrip("_")
    return loaded.made_by.name if type(loaded.made_by) is Global else "object"


def _known(name: str) -> bool:
    """Whether tensors and state dicts need it."""
    module, _, last = name.rpartition(".")
    if module in ("torch", "torch.storage"):
        return last in STORAGES or last in BYTES or last in ("Size", "device", "per_tensor_affine")
    return module == "torch._utils" or name in (
        "collections.OrderedDict",
        "torch._tensor._rebuild_from_type_v2",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
    )


def _check(path: Path, name: str, tensor: Tensor, records: Mapping[str, int]) -> None:
    storage = tensor.storage
    if storage is None:
        return
    if tensor.last > storage.elements:
        raise CheckpointError(
            f"{path}: {shown(name)} reaches to element {number(tensor.last)} of its storage, "
            f"which has {number(storage.elements)}"
        )
    expected = storage.elements * BYTES[storage.dtype]
    found = records.get(storage.key)
    if records and found is None:
        raise CheckpointError(f"{path}: {shown(name)} has no record data/{storage.key:.40}")
    if found is not None and found < expected:
        raise CheckpointError(
            f"{path}: {shown(name)} has {found:,} bytes in data/{storage.key:.40}, "
            f"expected {number(expected)}"
        )


# -- the file --------------------------------------------------------------------------------------


def _read(path: Path, file: BinaryIO) -> tuple[Any, Machine, dict[str, int]]:
    """What the pickle stands for, and the bytes of each storage where the file tells them."""
    first = file.read(4)
    file.seek(0)
    if first == b"PK\x03\x04":
        return _zipped(path, file)
    start = BytesIO(file.read(HEADER_LIMIT))
    magic = Machine().run(start)
    if magic != _OLD_MAGIC:
        raise ValueError(f"it begins with {shown(first)}, expected a zip archive or a pickle")
    Machine().run(start)  # the protocol's version
    Machine().run(start)  # the sizes of C types where it was written
    machine = Machine()
    return machine.run(start), machine, {}


def _zipped(path: Path, file: BinaryIO) -> tuple[Any, Machine, dict[str, int]]:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        pickles = [info for info in infos if info.filename.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise CheckpointError(f"{path}: {len(pickles)} records data.pkl, expected one")
        length = pickles[0].file_size
        if length > HEADER_LIMIT:
            raise CheckpointError(
                f"{path}: data.pkl has {length:,} bytes, expected up to {HEADER_LIMIT:,}"
            )
        with archive.open(pickles[0]) as record:
            content = record.read(length)
    prefix = pickles[0].filename.removesuffix("data.pkl") + "data/"
    records = {
        info.filename.removeprefix(prefix): min(info.file_size, size_of(file))
        for info in infos
        if info.filename.startswith(prefix)
    }
    machine = Machine()
    return machine.run(BytesIO(content)), machine, records


def _by_name(loaded: Any) -> tuple[str, dict[str, Tensor]]:
    """The tensors of what was loaded, or of the dict in it that holds them."""
    outer = items_of(loaded)
    for key in ("", *_NESTED):
        found = outer if not key else items_of(outer.get(key))
        named = {name: each for name, each in found.items() if type(each) is Tensor}
        if named:
            return key, {name: each for name, each in named.items() if type(name) is str}
    return "", {}
