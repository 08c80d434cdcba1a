"""From which tensors of the checkpoint each tensor of the GGUF is made."""

from __future__ import annotations

from dataclasses import dataclass

from modpdb.probes.lazy import Leaf, Made


@dataclass(frozen=True, slots=True)
class WrittenTensor:
    """A tensor as it was handed to the GGUFWriter.

    *sources* are checkpoint names in the order of their use; *inferred*: they are not from the
    leaves of the lazy graph, but from the caller's variables or the name map. *shape* is in
    torch's order, *type* ggml's in short. *site* is the place of the caller of add_tensor,
    *converter* that of the modify_tensors that had the tensor; "" where it is not known.
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
