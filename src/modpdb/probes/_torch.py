"""torch as the script sees it: taken from sys.modules, never imported by us."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def torch_or_none() -> Any:
    """The torch that the script has imported, or None; None too while it is being imported."""
    torch = sys.modules.get("torch")
    if torch is None or getattr(getattr(torch, "__spec__", None), "_initializing", False):
        return None
    return torch


@contextmanager
def undisturbed(torch: Any) -> Iterator[None]:
    """Look at tensors without autograd and without running `__torch_function__` of subclasses."""
    with torch.no_grad(), torch._C.DisableTorchFunction():
        yield


@contextmanager
def collector_paused() -> Iterator[None]:
    """Hold the garbage collector off for a moment in which many objects are made and kept.

    A collection walks the whole heap, and that is the user's model: over 60,000 modules it takes
    longer than looking at them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
