"""Which tensors of a checkpoint a written one may be made of: candidates, which a relation proves.

What the name map says and provenance has seen come first, then tensors of the same block and of
fitting sizes. A wrong guess costs a look at a few values. Whether a source belongs where it was
written is the name map's to say, never provenance's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modpdb.probes.conversion import mapped_name
from modpdb.probes.safetensors_files import TensorEntry
from modpdb.probes.tensor_names import base_name

_GUESSES = 64  # tensors tried where no name helps
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Candidate:
    """Checkpoint names, several where they are stacked or joined. *by*: how they were found:
    "provenance", "name" or "values"."""

    sources: tuple[str, ...]
    by: str


class Pairing:
    """*mapping* is a TensorNameMap's. *seen*: the sources of a written tensor, by its name, as
    they were observed."""

    def __init__(
        self,
        tensors: Sequence[TensorEntry],
        mapping: Mapping[str, Any],
        seen: Mapping[str, tuple[str, ...]],
    ) -> None:
        self._sizes = {each.name: math.prod(each.shape or ()) for each in tensors}
        self._seen = seen
        self._places: dict[str, str] = {}
        self._named: dict[str, list[str]] = {}
        known = dict(mapping)
        for name in sorted(self._sizes, key=natural):
            made = gguf_of(known, name)
            if made is not None:
                self._places[name] = made
                self._named.setdefault(made, []).append(name)
        self._blocks: dict[str, list[str]] = {}
        for name in self._sizes:
            self._blocks.setdefault(block_of(name), []).append(name)

    def named(self, gguf: str) -> tuple[str, ...]:
        """The checkpoint's tensors of which the name map says that they become *gguf*."""
        bare = gguf.removesuffix(".weight")
        return tuple(self._named.get(gguf, ())) or tuple(self._named.get(bare, ()))

    def belongs(self, name: str, gguf: str) -> bool:
        """Whether the name map says that *name* becomes *gguf*."""
        return self.place(name) in (gguf, gguf.removesuffix(".weight"))

    def place(self, name: str) -> str:
        """What the name map says that the checkpoint's tensor *name* becomes; "" for nothing."""
        return self._places.get(name, "")

    def candidates(self, gguf: str, elements: int) -> Iterator[Candidate]:
        """For the written tensor *gguf*, the likeliest first, each once."""
        done: set[tuple[str, ...]] = set()
        for candidate in self._all(gguf, elements):
            known = all(name in self._sizes for name in candidate.sources)
            if known and candidate.sources not in done:
                done.add(candidate.sources)
                yield candidate

    def _all(self, gguf: str, elements: int) -> Iterator[Candidate]:
        named, seen = self.named(gguf), self._seen.get(gguf)
        if named and seen != named:
            yield Candidate(named, "name")  # where both fit, as of zero biases, it is in its place
        if seen:
            yield Candidate(seen, "provenance")
        if named:
            yield Candidate(named, "name")
            for name in named:
                yield Candidate((name,), "name")
        beside = self._blocks.get(block_of(gguf), [])
        for group in self._groups(beside, elements):
            yield Candidate(group, "values")
        for name in self._fitting(beside, elements):
            yield Candidate((name,), "values")
        everywhere = [name for name, size in self._sizes.items() if size == elements]
        for name in everywhere[:_GUESSES]:
            yield Candidate((name,), "values")

    def _groups(self, names: Sequence[str], elements: int) -> Iterator[tuple[str, ...]]:
        """Tensors alike but for the last number, such as experts, that together have as many
        elements."""
        groups: dict[str, list[str]] = {}
        for name in sorted(names, key=natural):
            numbers = list(_NUMBER.finditer(name))
            if len(numbers) > 1 or (numbers and not block_of(name)):
                last = numbers[-1]
                groups.setdefault(f"{name[: last.start()]}#{name[last.end() :]}", []).append(name)
        for group in groups.values():
            if len(group) > 1 and sum(self._sizes[name] for name in group) == elements:
                yield tuple(group)

    def _fitting(self, names: Sequence[str], elements: int) -> list[str]:
        """Those of as many elements, then larger ones, of which it may be a part."""
        larger = [name for name in names if self._sizes[name] > elements]
        return [name for name in names if self._sizes[name] == elements] + larger[:_GUESSES]


def gguf_of(mapping: dict[str, Any], name: str) -> str | None:
    """The GGUF name of a checkpoint tensor by the name map: that of a LoRA adapter's half by its
    base's, that of an expert by the name that all experts have together."""
    base = base_name(name)
    half = ""
    if base != name:
        half = ".lora_a" if re.search(r"\.lora_(embedding_)?A", name) else ".lora_b"
    for variant in _variants(base):
        found = mapped_name(mapping, variant)
        if found is not None:
            return found + half
    return None


def _variants(name: str) -> Iterator[str]:
    """As it is, as converters change it (`filter_tensors`), and without the number of an expert."""
    plain = name.replace("language_model.", "")
    bare = plain.removeprefix("model.").removeprefix("transformer.")
    for each in dict.fromkeys((name, plain, f"model.{plain}", bare, f"transformer.{bare}")):
        yield each
        if re.search(r"\.experts\.\d+\.", each):
            yield re.sub(r"\.experts\.\d+\.", ".experts.", each)
        if each.endswith("_bias"):
            stem = each.removesuffix("_bias")
            yield f"{stem}.bias"
            yield f"{stem}_proj.bias"


def block_of(name: str) -> str:
    """The first number that is a part of a name, as converters take the block; "" for none."""
    return next((part for part in name.split(".") if part.isdecimal()), "")


def natural(name: str) -> tuple[Any, ...]:
    """Sorts experts.2 before experts.10."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in name.split("."))
