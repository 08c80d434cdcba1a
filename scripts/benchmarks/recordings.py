"""What `record` costs a forward pass."""

from __future__ import annotations

from typing import Any

from benchmarks.measuring import BenchError, Measured, interleaved, timed

TOKENS = 128


def forward_recorded(repetitions: int, *, size: str = "148m") -> Measured:
    """A forward pass of a Gemma 3 without gradients, batch 1, every module's statistics noted.

    Raises BenchError where not every module that ran was noted, or one without statistics.
    """
    import torch

    from make_checkpoint import Recipe, build
    from modpdb.probes.recorder import Recorder
    from modpdb.probes.recording import Recording

    model = build(Recipe("gemma3", size, dtype="f32")).eval()
    ids = (torch.arange(TOKENS) % 300).unsqueeze(0)

    def plain() -> Any:
        with torch.no_grad():
            return model(ids)

    def recorded() -> None:
        recording = Recording("1", "every module")
        recorder = Recorder(recording, lambda root, path: True)
        recorder.start()
        plain()
        recorder.stop()
        check(recording, model)

    return interleaved(repetitions, timed(recorded), timed(plain))


def check(recording: Any, model: Any) -> None:
    """Raises BenchError."""
    from torch import nn

    ran = sum(not isinstance(each, nn.ModuleList) for each in model.modules())
    if recording.modules() != ran:
        raise BenchError(f"{recording.modules()} modules are recorded, and {ran} ran")
    unread = [call.path for call in recording.calls if not call.outputs[0].statistics]
    if unread or recording.problems:
        raise BenchError(f"not read: {unread}; {recording.problems}")
