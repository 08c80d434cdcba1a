"""Tensors of a checkpoint that nothing was made of, and whether that is as it should be."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from modpdb.probes.encodings import Target
from modpdb.probes.files import CheckpointError
from modpdb.probes.pairing import Pairing, gguf_of
from modpdb.probes.source_tensors import SourceTensors

TIED = ("token_embd.weight", "output.weight")
"""Where only the first is there, it is used in the place of the other, too."""

_SKIPPED = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")
"""What `prepare_tensors` of conversion/base.py passes over."""


@dataclass(frozen=True, slots=True)
class Left:
    """A source tensor that nothing was made of. *fine*: that is as it should be. *place*: what the
    name map says it becomes, where the file lacks that; else ""."""

    name: str
    why: str
    fine: bool
    place: str = ""


def left_out(
    source: SourceTensors,
    pairing: Pairing,
    used: Collection[str],
    written: Set[str],
    others: Mapping[str, Any],
) -> Iterator[Left]:
    """Those that are not *used*. *written*: the names in the file; *others*: a name map of what
    belongs in another file."""
    known = dict(others)
    for name in source.entries:
        if name in used:
            continue
        place = pairing.place(name)
        lacking = "" if written & {place, f"{place}.weight"} else place
        if name.endswith(_SKIPPED):
            yield Left(name, "a buffer that converters pass over", True)
        elif twin := _twin(
            source, name, [each for each in used if _may_stand(pairing, each, lacking)]
        ):
            yield Left(name, f"the same values as {twin}", True)
        elif lacking:
            yield Left(name, f"{lacking} is not in the file", False, lacking)
        elif not place and gguf_of(known, name) is not None:
            yield Left(name, "of the vision or audio part, which is a file of its own", True)
        else:
            yield Left(name, "nothing was made of it", False)


def _may_stand(pairing: Pairing, name: str, lacking: str) -> bool:
    """Whether *name* may be used in the place of one whose tensor the file is *lacking*."""
    return not lacking or (pairing.place(name), lacking) == TIED


def _twin(source: SourceTensors, name: str, used: Collection[str]) -> str:
    """A tensor of *used* that has the same values, such as tied embeddings; "" for none."""
    entry = source.entries[name]
    for other in used:
        theirs = source.entries[other]
        if (theirs.dtype, theirs.shape) != (entry.dtype, entry.shape):
            continue
        try:
            one, two = source.tensor(name), source.tensor(other)
        except CheckpointError:
            continue
        if 0 not in one.values.shape and Target.of(two.values).made_of(one.values):
            return other
    return ""
