"""What modules and functions took and gave while they ran, as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from modpdb.probes.tensors import Statistics
from modpdb.probes.tree import joined

Side = Literal["in", "out"]


@dataclass(frozen=True, slots=True)
class TensorNote:
    """A tensor as it was when it went into a call or came out of it.

    *name* says where it stood: "" for a lone output, else positions, argument names, keys and
    fields joined by dots (`0`, `hidden_states`, `past.1`). *shape* is None where the size was not
    known. *zeros* counts elements that are 0, where that is known: not where 0 lies between the
    least and the greatest.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: str  # in short: bf16, f32
    device: str
    statistics: Statistics | None = None
    zeros: int | None = None
    no_statistics: str = ""  # why there are none
    stored: str = ""  # under which name its values are in the recording's file


@dataclass(slots=True)
class Call:
    """One call of a module's forward, or of a named function.

    *number* counts calls as they begin, from 1; *ended* counts them as they end, 0 for one that
    did not. *nth* is the how-manieth call of this module it is. *parent* is the number of the
    recorded call around it in the same thread, 0 for none, and *depth* counts those around it.
    """

    number: int
    root: str  # what the model is called
    path: str  # in the model, "" for itself; of a function that of its caller, its name and ()
    class_name: str  # "" for a function
    nth: int
    parent: int
    depth: int
    thread: str = ""  # its name, "" for the main thread
    inputs: tuple[TensorNote, ...] = ()
    outputs: tuple[TensorNote, ...] = ()
    ended: int = 0
    raised: bool = False
    unseen: str = ""  # why nothing inside it was seen, as of a compiled module

    @property
    def full_path(self) -> str:
        """The path with the model's name before it."""
        return joined(self.root, self.path) if self.root and self.path else self.root or self.path

    def notes(self) -> Iterator[tuple[Side, TensorNote]]:
        for note in self.inputs:
            yield "in", note
        for note in self.outputs:
            yield "out", note


@dataclass(slots=True)
class Recording:
    """Calls in the order in which they began."""

    name: str  # "1", "2", … of one in memory; the file's of one that was read
    what: str  # what it was asked to record, in words
    calls: list[Call] = field(default_factory=list)
    file: str = ""  # where it is saved
    left_out: int = 0  # calls that came when there was no more room
    problems: list[str] = field(default_factory=list)  # what went wrong on the way

    def several_roots(self) -> bool:
        return len({call.root for call in self.calls if call.root}) > 1

    def label(self, call: Call) -> str:
        """What the call is called where this recording is shown."""
        return call.full_path if not call.path or self.several_roots() else call.path

    def modules(self) -> int:
        """How many modules, and functions, were called."""
        return len({call.full_path for call in self.calls})
