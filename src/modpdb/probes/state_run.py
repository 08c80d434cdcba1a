"""What `state_dict()` gives when it is run, hooks and extra state and all: in a forked copy."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modpdb.probes._static import class_name
from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.forked import ForkError, in_fork
from modpdb.probes.tensors import TensorFacts, TensorReader


@dataclass(frozen=True, slots=True)
class Kept:
    """A key as observed. Of what is no tensor, as extra state: its class, how many bytes
    torch.save makes of it or why it cannot, and why torch.load(weights_only=True), its default,
    would refuse them; "" where there is no reason."""

    name: str
    facts: TensorFacts | None
    class_name: str = ""
    pickled: int = 0
    no_pickle: str = ""
    not_loaded: str = ""


@dataclass(frozen=True, slots=True)
class Ran:
    """The keys that state_dict() gave, or, in a line, what it raised."""

    keys: tuple[Kept, ...] = ()
    error: str = ""


def run_state(root: Any, prefix: str, slow: Callable[[], None]) -> Ran:
    """What `root.state_dict(prefix=…)` gives, run in a forked copy of the process.

    *slow* is called if it takes over a second.
    """
    start = f"{prefix}." if prefix else ""
    try:
        return Ran(in_fork(lambda: _kept(root.state_dict(prefix=start)), slow))
    except ForkError as error:
        return Ran(error=str(error))


def _kept(state: dict[str, Any]) -> tuple[Kept, ...]:
    torch = torch_or_none()
    reader = TensorReader(torch)
    found = []
    for name, value in state.items():
        if reader.is_tensor(value):
            with undisturbed(torch):
                found.append(Kept(str(name), reader.facts(value)))
        else:
            found.append(_other(torch, str(name), value))
    return tuple(found)


def _other(torch: Any, name: str, value: Any) -> Kept:
    kind = class_name(type(value))
    file = io.BytesIO()
    try:
        torch.save(value, file)
    except Exception as error:  # of the object's own pickling as well
        return Kept(name, None, kind, no_pickle=f"{class_name(type(error))}: {_line(error)}")
    file.seek(0)
    try:
        torch.load(file, weights_only=True)
    except pickle.UnpicklingError as error:
        return Kept(name, None, kind, file.getbuffer().nbytes, not_loaded=refusal(error))
    return Kept(name, None, kind, file.getbuffer().nbytes)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def refusal(error: BaseException) -> str:
    """What torch.load(weights_only=True) says, without its page of advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = (line for line in lines if line.startswith("WeightsUnpickler error:"))
    line = next(named, lines[0] if lines else class_name(type(error)))
    return line.removeprefix("WeightsUnpickler error:").partition(". Please ")[0].strip()
