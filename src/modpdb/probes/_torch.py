"""torch as the script sees it: taken from sys.modules, never imported by us."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


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


def uncompiled(
    function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
) -> _Result:
    """Call *function* with torch.compile kept from compiling it, and from warning about it.

    Where a compiled function calls Python, torch.compile looks at every call made from there: at
    ours too, when a breakpoint is noticed.
    """
    if "torch._dynamo" not in sys.modules:
        return function(*args, **kwargs)
    from torch._C._dynamo.eval_frame import set_eval_frame

    before = set_eval_frame(None)
    try:
        return function(*args, **kwargs)
    finally:
        set_eval_frame(before)
