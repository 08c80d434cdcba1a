"""`tensor`: statistics of a large tensor, and the memory that they take beyond it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.measuring import BenchError, Measured, NotHere, interleaved, timed

ELEMENTS = 1 << 26


def statistics_against_lovely(repetitions: int) -> Measured:
    """Both of 64M bf16 values, with histogram. Raises BenchError where the means differ."""
    import lovely_tensors
    import torch

    from modpdb.probes.tensor_summary import BINS
    from modpdb.probes.tensors import statistics

    values = torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(0)).mul_(0.02)
    tensor = values.bfloat16()
    found, mean = statistics(tensor, bins=BINS), float(tensor.double().mean())
    if found.mean is None or abs(found.mean - mean) > 1e-6 * abs(mean):
        raise BenchError(f"the mean is {mean}, modpdb says {found.mean}")
    return interleaved(
        repetitions,
        timed(lambda: statistics(tensor, bins=BINS)),
        timed(lambda: str(lovely_tensors.lovely(tensor))),
    )


def statistics_memory(repetitions: int) -> Measured:
    """MiB that the peak of a process grows by when it takes the statistics of 64M bf16 values,
    each in a process of its own. Raises NotHere where the system does not tell."""
    if not Path("/proc/self/status").exists():
        raise NotHere("the peak is read from /proc/self/status")
    return Measured(tuple(_grown() for _ in range(repetitions)))


def _grown() -> float:
    done = subprocess.run(
        [sys.executable, "-c", "from benchmarks.tensors import print_growth; print_growth()"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    try:
        return float(done.stdout)
    except ValueError:
        raise BenchError(f"no figure: {done.stderr.strip()[-300:]}") from None


def print_growth() -> None:
    """Prints the growth of the peak, in MiB, after a small tensor has brought in all code."""
    import torch

    from modpdb.probes.tensor_summary import summarise

    summarise("t", torch.ones(8, 8))
    tensor = torch.full((ELEMENTS // 1024, 1024), 0.5, dtype=torch.bfloat16)
    tensor[0, 0] = 1.0
    before = peak()
    summarise("t", tensor)
    print(peak() - before)


def peak() -> float:
    """MiB. Not getrusage's, which a process inherits from the one that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(found.split()[1]) / 1024
