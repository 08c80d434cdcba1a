"""What looking at every module costs a forward pass: `record`, `break-nan`."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

from benchmarks.measuring import BenchError, Measured, interleaved, timed

TOKENS = 128


def passes(size: str) -> tuple[Any, Callable[[], Any]]:
    """A Gemma 3, and its forward pass without gradients, batch 1."""
    import torch

    from make_checkpoint import Recipe, build

    model = build(Recipe("gemma3", size, dtype="f32")).eval()
    ids = (torch.arange(TOKENS) % 300).unsqueeze(0)

    def run() -> Any:
        with torch.no_grad():
            return model(ids)

    return model, run


def forward_recorded(repetitions: int, *, size: str = "148m") -> Measured:
    """Every module's statistics noted.

    Raises BenchError where not every module that ran was noted, or one without statistics.
    """
    from modpdb.probes.recorder import Recorder
    from modpdb.probes.recording import Recording

    model, plain = passes(size)

    def recorded() -> None:
        recording = Recording("1", "every module")
        recorder = Recorder(recording, lambda root, path: True)
        recorder.start()
        plain()
        recorder.stop()
        check(recording, model)

    return interleaved(repetitions, timed(recorded), timed(plain))


def forward_checked(repetitions: int, *, size: str = "148m") -> Measured:
    """Every module's output looked at for NaN and Inf, the model being known already.

    Raises BenchError where not every module that ran was looked at.
    """
    from modpdb import ModPdb
    from modpdb.commands.nan_breaks import NanBreakpoint

    model, plain = passes(size)
    debugger = ModPdb(stdout=io.StringIO())
    debugger.module_calls.learn(model)

    def checked() -> float:
        breakpoint = NanBreakpoint("*", grad=False)
        debugger.add_breakpoint(breakpoint)
        debugger.settle()
        debugger.engine.begin()
        began = time.perf_counter()
        plain()
        took = time.perf_counter() - began
        debugger.engine.end()
        debugger.do_clear(str(breakpoint.number))
        debugger.settle()
        if breakpoint.calls < ran(model):  # one may be called twice
            raise BenchError(f"{breakpoint.calls} calls were looked at, {ran(model)} ran")
        return took

    return interleaved(repetitions, checked, timed(plain))


def ran(model: Any) -> int:
    """How many modules a forward pass calls."""
    from torch import nn

    return sum(not isinstance(each, nn.ModuleList) for each in model.modules())


def check(recording: Any, model: Any) -> None:
    """Raises BenchError."""
    if recording.modules() != ran(model):
        raise BenchError(f"{recording.modules()} modules are recorded, and {ran(model)} ran")
    unread = [call.path for call in recording.calls if not call.outputs[0].statistics]
    if unread or recording.problems:
        raise BenchError(f"not read: {unread}; {recording.problems}")
