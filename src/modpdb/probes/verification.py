"""A verdict for each written tensor: what it is made of, proved on all values, and whether that is
what the architecture needs.

The checkpoint is read afresh, and what is written is taken from the file or the writer. One tensor
is looked at after the other, its pieces by several threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from modpdb.probes._static import class_name
from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.encodings import NoQuantiser, Target, written
from modpdb.probes.files import CheckpointError
from modpdb.probes.gguf_contents import GGUFContents, GGUFTensor
from modpdb.probes.left_out import TIED, Left, left_out
from modpdb.probes.misses import Miss, closest
from modpdb.probes.pairing import Candidate, Pairing
from modpdb.probes.relations import Relation, assembled, in_order, relations, stacking_order
from modpdb.probes.row_orders import RowOrder
from modpdb.probes.source_tensors import SourceTensors
from modpdb.probes.stored import Mapped
from modpdb.probes.tensor_like import Watch
from modpdb.probes.written_tensors import Written, elements, torch_shape

Status = Literal["ok", "WRONG", "unjudged", "unexplained"]
Judge = Callable[[tuple[str, ...], str, Relation], tuple[Status, str]]
"""Whether a relation of these sources is what the architecture needs of the written tensor of this
name: "ok", "WRONG" or "unjudged", and why."""
Orders = Callable[[tuple[str, ...], str], RowOrder | None]
"""The order of rows that is needed, of which relations alone do not tell whether it is there."""

_ALSO = 3  # further relations that are told
_FIRST = 64  # values
_RELEASE = 1 << 24  # elements after which memory of files is given back
# Computed by converters from the config: gguf.MODEL_TENSOR.ROPE_FREQS and ROPE_FACTORS_*.
_COMPUTED = ("rope_freqs", "rope_factors_long", "rope_factors_short")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one written tensor; *shape* in torch's order, *type* ggml's.

    *stored* are the dtypes of *sources*. *relation* is how it is made of them, exactly; None where
    no relation is found, then *miss* is what comes nearest to one. *also*: others that hold as
    well. *by*: how the sources were found, as Candidate has it. *reason*: why it is not ok, or what
    was needed. *decided*: the place in the converter, "" where it was not observed.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    status: Status
    reason: str
    sources: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()
    relation: Relation | None = None
    also: tuple[Relation, ...] = ()
    miss: Miss | None = None
    by: str = ""
    decided: str = ""


@dataclass(frozen=True, slots=True)
class Verification:
    """*where* the written tensors are and the folder they are made of. *of*: how many there are, of
    which *verdicts* has those that were asked for; *left* is told where all were."""

    where: str
    source: str
    architecture: str
    verdicts: tuple[Verdict, ...]
    of: int
    left: tuple[Left, ...] = ()
    problems: tuple[str, ...] = ()

    def count(self, status: Status) -> int:
        return sum(each.status == status for each in self.verdicts)


@dataclass(frozen=True, slots=True)
class Comparing:
    """What written tensors are compared with, and by whom they are judged. *decided*: places in
    the converter by the written tensor's name. *others*: the name map of vision and audio parts,
    which are in a file of their own."""

    source: SourceTensors
    pairing: Pairing
    judge: Judge
    decided: Mapping[str, str]
    order: Orders = lambda sources, name: None
    others: Mapping[str, Any] = field(default_factory=dict)


def verify(
    found: Written,
    against: Comparing,
    chosen: Callable[[str], bool] | None = None,
    watch: Watch | None = None,
) -> Verification:
    """The written tensors whose names are *chosen*, all where that is None."""
    contents = found.contents
    asked = [each for each in contents.tensors if chosen is None or chosen(each.name)]
    seen = _Seen(sum(map(elements, asked)), watch)
    with undisturbed(torch_or_none()):
        verdicts = tuple(_verdict(found, each, against, seen) for each in asked)
        left = _left(against, contents, verdicts) if chosen is None else ()
    return Verification(
        contents.where,
        against.source.checkpoint.folder,
        contents.architecture,
        verdicts,
        len(contents.tensors),
        left,
        (*contents.problems, *against.source.checkpoint.problems),
    )


class _Seen:
    """How many elements have been compared; gives the memory of files back on the way."""

    def __init__(self, of: int, watch: Watch | None) -> None:
        self._of = of
        self._watch = watch
        self._before = self._now = self._kept = 0
        self.open: list[Mapped] = []

    def __call__(self, more: int) -> None:
        self._now += more
        self._kept += more
        if self._kept >= _RELEASE:
            self._kept = 0
            for each in self.open:
                each.release()
        self._tell(min(self._before + self._now, self._of))

    def done(self, count: int) -> None:
        """A tensor of *count* elements has its verdict."""
        self.open.clear()
        self._before, self._now = self._before + count, 0
        self._tell(self._before)

    def _tell(self, done: int) -> None:
        if self._watch is not None:
            self._watch("comparing", done, self._of)


def _verdict(found: Written, tensor: GGUFTensor, against: Comparing, seen: _Seen) -> Verdict:
    shape = torch_shape(tensor)

    def verdict(status: Status, reason: str, sources: tuple[str, ...] = (), **more: Any) -> Verdict:
        dtypes = (against.source.entries[name].dtype or "?" for name in sources)
        return Verdict(
            tensor.name,
            tensor.dtype,
            shape,
            status,
            reason,
            sources,
            tuple(dict.fromkeys(dtypes)),
            decided=against.decided.get(tensor.name, ""),
            **more,
        )

    try:
        held = found.data(tensor)
        target = written(held.values, shape or (1,), tensor.dtype)
    except (CheckpointError, NoQuantiser) as error:
        return verdict("unjudged", f"not compared: {error}")
    seen.open.append(held)
    target.done = seen
    try:
        return _Search(tensor, target, against, seen).verdict(verdict)
    except (RuntimeError, ValueError) as error:  # torch's, numpy's, gguf's: of this tensor alone
        said = str(error).partition("\n")[0]
        return verdict("unjudged", f"not compared: {class_name(type(error))}: {said}")
    finally:
        seen.done(elements(tensor))


class _Search:
    """For what one tensor is made of."""

    def __init__(self, tensor: GGUFTensor, target: Target, against: Comparing, seen: _Seen) -> None:
        self._tensor = tensor
        self._target = target
        self._against = against
        self._seen = seen
        self._named = against.pairing.named(tensor.name)
        self._problem = ""

    def verdict(self, make: Callable[..., Verdict]) -> Verdict:
        tensor = self._tensor
        nearest: tuple[Candidate, Miss] | None = None
        for candidate in self._against.pairing.candidates(tensor.name, elements(tensor)):
            sources = self._read(candidate)
            if sources is None:
                continue
            found = self._explained(candidate, sources, make)
            found = found or self._in_another_order(candidate, sources, make)
            if found is not None:
                return found
            if nearest is None and candidate.by != "values":
                nearest = self._nearest(candidate, sources)
        if self._problem:
            return make("unjudged", f"not compared: {self._problem}")
        if tensor.name.removesuffix(".weight") in _COMPUTED:
            return make("unjudged", "made of no tensor: converters compute it from the config")
        if nearest is None:
            return make("unexplained", "no tensor of the checkpoint has these values")
        candidate, miss = nearest
        return make("unexplained", "", sources=candidate.sources, miss=miss, by=candidate.by)

    def _read(self, candidate: Candidate) -> list[Any] | None:
        source = self._against.source
        found = []
        for name in candidate.sources:
            try:
                opened = source.tensor(name)
            except CheckpointError as error:
                self._problem = self._problem or str(error)
                return None
            self._seen.open.append(opened)
            found.append(opened.values if opened.values.ndim else opened.values.reshape(1))
        return found

    def _explained(
        self, candidate: Candidate, sources: list[Any], make: Callable[..., Verdict]
    ) -> Verdict | None:
        """By the simplest relation that holds, or another where only that is what is needed."""
        names = candidate.sources
        judged: list[tuple[Status, str, Relation]] = []
        for relation in itertools.islice(self._relations(names, sources), 1 + _ALSO):
            if judged and relation.kind in ("plus", "times") and not self._ambiguous():
                continue  # of what is a copy: by so little that rounding undoes it
            status, reason = self._judged(names, relation)
            judged.append((status, reason, relation))
            if status != "WRONG" and not self._ambiguous():
                break
        if not judged:
            return None
        status, reason, relation = min(judged, key=lambda each: each[0] != "ok")
        also = tuple(each for _, _, each in judged if each is not relation)
        return make(status, reason, sources=names, relation=relation, also=also, by=candidate.by)

    def _in_another_order(
        self, candidate: Candidate, sources: list[Any], make: Callable[..., Verdict]
    ) -> Verdict | None:
        """Of experts that are stacked, but not as they are numbered."""
        order = stacking_order(sources, self._target) if len(sources) > 1 else None
        if order is None:
            return None
        names = tuple(candidate.sources[number] for number in order)
        ordered = [sources[number] for number in order]
        return self._explained(Candidate(names, candidate.by), ordered, make)

    def _judged(self, names: tuple[str, ...], relation: Relation) -> tuple[Status, str]:
        status, reason = self._against.judge(names, self._tensor.name, relation)
        placed, why = self._placed(names, relation)
        if placed == "WRONG" or (placed == "unjudged" and status == "ok"):
            status, reason = placed, why
        overflow = relation.cast.overflow if relation.cast else 0
        if status == "ok" and overflow:
            many = f"{overflow:,} value{'s' * (overflow != 1)}"
            return "WRONG", f"{many} too large for {self._tensor.dtype} became infinite"
        return status, reason

    def _relations(self, names: tuple[str, ...], sources: list[Any]) -> Iterator[Relation]:
        every: Iterable[Relation]
        if len(sources) == 1:
            every = relations(sources[0], self._target)
            order = self._against.order(names, self._tensor.name)
            found = in_order(sources[0], self._target, order) if order is not None else None
            every = itertools.chain([found] if found is not None else [], every)
        else:
            every = assembled(sources, self._target)
        return (each for each in every if each.exact)

    def _ambiguous(self) -> bool:
        """Whether all values are the same, as far as some tell: then several relations hold."""
        target = self._target
        first = target.decode(target.held[:1]).flatten()[:_FIRST]
        if (first != first[0]).any():
            return False
        _, held = target.few(target.held)
        return bool((target.decode(held) == first[0]).all())

    def _placed(self, names: tuple[str, ...], relation: Relation) -> tuple[Status, str]:
        """Whether the name map puts *names* here, too."""
        here, pairing = self._tensor.name, self._against.pairing
        other = next((name for name in names if not pairing.belongs(name, here)), None)
        if other is None:
            return "ok", ""
        place = pairing.place(other)
        if (place, here) == TIED and not self._named:
            return "ok", ""
        if not place and not self._named:
            return "unjudged", f"the name map has no place for {other}"
        part = relation.kind == "slice" or relation.rows is not None
        status: Status = "WRONG" if place and not part else "unjudged"
        words = f"the values are those of {other}, which the name map puts in {place}"
        if self._named:
            expected = ", ".join(self._named[:2]) + (", …" if len(self._named) > 2 else "")
            words = f"the values are those of {other}: the name map puts {expected} here"
        return status, words

    def _nearest(self, candidate: Candidate, sources: list[Any]) -> tuple[Candidate, Miss] | None:
        """Of several sources that of the first which is not as it should be."""
        parts: list[tuple[str, Any, Target]]
        if len(sources) == 1:
            parts = [(candidate.sources[0], sources[0], self._target)]
        elif self._target.shape[0] == len(sources):
            halves = map(self._target.like, self._target.held.unbind(0))
            parts = list(zip(candidate.sources, sources, halves, strict=True))
        else:
            return None
        for name, source, target in parts:
            if len(parts) > 1 and next(relations(source, target), None) is not None:
                continue
            miss = closest(source, target)
            if miss is not None:
                return Candidate((name,), candidate.by), miss
        return None


# -- source tensors that nothing was made of -----------------------------------------------------


def _left(
    against: Comparing, contents: GGUFContents, verdicts: Iterable[Verdict]
) -> tuple[Left, ...]:
    used = {name for each in verdicts for name in each.sources}
    written = {each.name for each in contents.tensors}
    return tuple(left_out(against.source, against.pairing, used, written, against.others))
