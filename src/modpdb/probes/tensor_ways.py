"""What is known of each tensor's way into the file: written ones, and those that are not yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from modpdb.probes.lazy import leaves
from modpdb.probes.provenance import Provenance, WrittenTensor
from modpdb.probes.tensor_names import TensorNames, base_name, name_matcher


@dataclass(frozen=True, slots=True)
class Unwritten:
    """A checkpoint tensor of which nothing has been written; *predicted* is the GGUF name that the
    name map gives it, "" for none, *converter* the modify_tensors it came to, "" where it did not
    come yet."""

    name: str
    predicted: str
    converter: str


@dataclass(frozen=True, slots=True)
class Ways:
    """Tensors in the order of writing, then in the checkpoint's. *collected*: somebody looked
    while the conversion ran, so that what is not among the written was not written."""

    written: tuple[WrittenTensor, ...]
    duplicates: tuple[WrittenTensor, ...]
    unwritten: tuple[Unwritten, ...]
    collected: bool

    def names(self) -> Iterator[str]:
        """Every name, each once: GGUF's, then the checkpoint's."""
        seen: dict[str, None] = {}
        for each in self.written:
            seen[each.name] = None
        for other in self.unwritten:
            seen[other.predicted or other.name] = None
        for each in self.written:
            seen.update(dict.fromkeys(each.sources))
        seen.update((other.name, None) for other in self.unwritten)
        yield from seen

    def of(self, glob: str) -> Ways:
        """Those that *glob* means by either name; a module's name means what is below it."""
        exact, below = name_matcher(glob), name_matcher(f"{glob}.*")

        def fits(name: str) -> bool:
            return exact(name) or below(name)

        return replace(
            self,
            written=tuple(each for each in self.written if _any(fits, each)),
            duplicates=tuple(each for each in self.duplicates if _any(fits, each)),
            unwritten=tuple(
                each for each in self.unwritten if fits(each.name) or fits(each.predicted)
            ),
        )

    def means_one(self, name: str) -> bool:
        """Whether *name* is a tensor's, not only what several begin with."""
        exact = name_matcher(name)
        return any(_any(exact, each) for each in self.written) or any(
            exact(each.name) or exact(each.predicted) for each in self.unwritten
        )

    def lacks_files(self) -> bool:
        """Whether there is a source of which no file is known."""
        return any(
            each.inferred
            or (each.history is not None and any(not leaf.file for leaf in leaves(each.history)))
            for each in self.written
        )


def _any(fits: Callable[[str], bool], written: WrittenTensor) -> bool:
    return fits(written.name) or any(map(fits, written.sources))


def ways(collected: Provenance | None, names: TensorNames | None) -> Ways:
    """*collected* is None where nobody looked, *names* where the conversion is not at hand."""
    predicted = {} if names is None else {name: gguf for gguf, name in names.predicted}
    checkpoint = names.checkpoint if names is not None else ()
    if collected is None:
        return Ways(
            (), (), tuple(Unwritten(n, predicted.get(n, ""), "") for n in checkpoint), False
        )
    done = {name for source in collected.sources_to for name in (source, base_name(source))}
    return Ways(
        tuple(collected.written.values()),
        tuple(collected.duplicates),
        tuple(
            Unwritten(name, predicted.get(name, ""), collected.converted.get(name, ""))
            for name in checkpoint
            if name not in done
        ),
        True,
    )
