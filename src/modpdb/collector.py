"""Python's garbage collector, kept away for a moment."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Hold the garbage collector off for a moment in which many objects are made and kept.

    A collection walks the whole heap, and that is the user's: over a model of 60,000 modules it
    takes longer than looking at them, and 0.2 s where torch and transformers are loaded. One comes
    for so many objects made since the last, while the collector is on.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
