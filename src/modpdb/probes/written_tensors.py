"""The tensors of a GGUF with their bytes: of a file, or of a writer that still holds them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from modpdb.probes import lazy
from modpdb.probes._static import class_name, instance_dict
from modpdb.probes._torch import torch_or_none
from modpdb.probes.files import CheckpointError
from modpdb.probes.gguf_contents import GGUFContents, GGUFTensor
from modpdb.probes.gguf_files import read_places
from modpdb.probes.stored import Mapped, mapped
from modpdb.probes.tensor_like import values
from modpdb.probes.tensors import NoStatistics
from modpdb.probes.writer import held_tensors, writer_contents

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


class Written(Protocol):
    """Tensors of a GGUF; *contents* has the metadata, names, types and shapes."""

    contents: GGUFContents

    def data(self, tensor: GGUFTensor) -> Mapped:
        """Its bytes as they stand in the file, a flat uint8 tensor. CheckpointError where they
        cannot be had."""
        ...


class WrittenFile:
    """A GGUF file, with the others of its shards.

    CheckpointError where it cannot be read or is big-endian.
    """

    def __init__(self, path: Path) -> None:
        self._files = _shards(path)
        self.places: list[dict[str, int]] = []  # by shard: where the data of each begins
        parts: list[GGUFContents] = []
        for number, file in enumerate(self._files):
            found, places = read_places(file)
            if "big-endian" in found.details:
                raise CheckpointError(f"{file}: big-endian, expected a little-endian file")
            tensors = tuple(each._replace(shard=number) for each in found.tensors)
            parts.append(found._replace(tensors=tensors))
            self.places.append(places)
        self.contents = parts[0]._replace(
            tensors=tuple(each for part in parts for each in part.tensors),
            problems=tuple(each for part in parts for each in part.problems),
            shards=len(parts),
        )

    def data(self, tensor: GGUFTensor) -> Mapped:
        if tensor.nbytes is None:
            raise CheckpointError(f"{tensor.dtype} is not a type that is known here")
        file, place = self._files[tensor.shard], self.places[tensor.shard][tensor.name]
        return mapped(file, tensor.name, torch_or_none().uint8, tensor.nbytes, place)


def _shards(path: Path) -> Sequence[Path]:
    """All of the files of which *path* is one, in their order."""
    named = _SHARD.fullmatch(path.name)
    if named is None:
        return [path]
    stem, _, of = named.groups()
    return [path.with_name(f"{stem}-{number:05}-of-{of}.gguf") for number in range(1, int(of) + 1)]


class WrittenByWriter:
    """What a GGUFWriter has taken; lazy tensors are computed beside their graphs."""

    def __init__(self, writer: Any, where: str) -> None:
        self.contents = writer_contents(writer, where)
        if "big-endian" in self.contents.details:
            raise CheckpointError(f"{where}: writes big-endian, expected little-endian")
        self._held = held_tensors(writer)

    def data(self, tensor: GGUFTensor) -> Mapped:
        found = instance_dict(self._held[tensor.name]).get("tensor")
        if found is None:
            raise CheckpointError("the writer has passed it on to a file and keeps it no more")
        try:
            plain = lazy.evaluate(found) if lazy.is_lazy(found) else found
            held = values(plain, force=True)
        except NoStatistics as reason:
            raise CheckpointError(f"it cannot be read: {reason}") from None
        except Exception as error:  # whatever the converter's operations raise
            said = str(error).partition("\n")[0]
            raise CheckpointError(
                f"computing it raises {class_name(type(error))}: {said}"
            ) from None
        torch = torch_or_none()
        flat = held.contiguous().reshape(-1).view(torch.uint8)
        if tensor.nbytes is not None and flat.shape[0] != tensor.nbytes:
            raise CheckpointError(f"{flat.shape[0]:,} bytes, expected {tensor.nbytes:,}")
        return Mapped(flat, None)


def torch_shape(tensor: GGUFTensor) -> tuple[int, ...]:
    return tensor.ne[::-1]


def elements(tensor: GGUFTensor) -> int:
    return math.prod(tensor.ne)
