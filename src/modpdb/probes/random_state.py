"""Whatever draws random numbers or changes torch's defaults, with all as it was afterwards."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from modpdb.probes._torch import torch_or_none


@contextmanager
def kept_state() -> Iterator[None]:
    """The random numbers of Python, numpy and torch, and torch's default dtype, are given back.

    Meanwhile the default dtype is float32, Python's random numbers go on from where they are.
    """
    torch, numpy = torch_or_none(), sys.modules.get("numpy")
    python_state = random.getstate()
    numpy_state = None if numpy is None else numpy.random.get_state()
    if torch is not None:
        torch_state, dtype = torch.random.get_rng_state(), torch.get_default_dtype()
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        random.setstate(python_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)
        if torch is not None:
            torch.random.set_rng_state(torch_state)
            torch.set_default_dtype(dtype)
            if cuda is not None:
                torch.cuda.set_rng_state_all(cuda)
