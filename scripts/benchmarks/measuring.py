"""How a row of the bench is described and measured."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from types import FrameType
from typing import Any

Side = Callable[[], float]
"""Does once what is measured, ours or the peer's; returns the seconds it took."""


class BenchError(Exception):
    """What was run did not do what is to be measured; the message says what it did."""


class NotHere(Exception):
    """The row cannot be measured on this machine, and need not be; the message says why."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of every repetition, ours and the peer's; no `theirs` where there is no peer.

    `beside` has those of others that did the same, by name: reported, and no limit is for them.
    """

    ours: tuple[float, ...]
    theirs: tuple[float, ...] = ()
    beside: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """What the limit is for: the ratio of the medians, or our median in seconds."""
        return self.against(self.ours)

    def against(self, samples: Sequence[float]) -> float:
        """The median of the samples as a multiple of the peer's, or in seconds without one."""
        return median(samples) / median(self.theirs) if self.theirs else median(samples)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the bench, or one for each Python.

    `measure` takes the number of repetitions and raises BenchError or NotHere; `against` names the
    peer, and `limit` is the highest ratio to it, or without a peer the most seconds. None: only
    reported.
    """

    name: str
    what: str
    against: str | None
    limit: float | None
    measure: Callable[..., Measured]
    repetitions: int = 11
    timeout: float = 180.0
    """Seconds for all repetitions and what they need."""
    everywhere: bool = False
    """Needs no torch: measured on the other Pythons too, `measure` being given `python=`."""
    minors: range = range(11, 100)
    """The Python 3.x that it is for."""
    unit: str = "s"
    """What is measured, where it is not time: MiB."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a row: `measured`, or why it was not in `problem`."""

    row: Row
    measured: Measured | None
    problem: str = ""
    skipped: bool = False

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "skipped" if self.skipped else "failed"
        if self.row.limit is None:
            return "no limit"
        return "ok" if self.measured.value <= self.row.limit else "OVER"


def run(row: Row, repetitions: int | None = None) -> Result:
    """Measures the row, as often as it says itself if `repetitions` is None."""
    try:
        with within(row.timeout):
            return Result(row, row.measure(repetitions or row.repetitions))
    except NotHere as error:
        return Result(row, None, str(error), skipped=True)
    except (BenchError, TimeoutError) as error:
        return Result(row, None, str(error))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the block when it takes longer. For the main thread only."""

    def too_long(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def interleaved(
    repetitions: int,
    ours: Side,
    theirs: Side,
    beside: Mapping[str, Side] | None = None,
    every: int = 1,
) -> Measured:
    """Measures all in turn, so that a slow moment of the machine falls on all.

    Who begins changes from one repetition to the next; a first run of ours and theirs is not
    counted. Those `beside` may be slow: they take part in one of `every` repetitions.
    """
    ours(), theirs()
    mine: list[float] = []
    peers: list[float] = []
    others: dict[str, list[float]] = {name: [] for name in beside or {}}
    pair = [(ours, mine), (theirs, peers)]
    slow = [(side, others[name]) for name, side in (beside or {}).items()]
    for repetition in range(repetitions):
        for side, seconds in pair if repetition % 2 else reversed(pair):
            seconds.append(side())
        for side, seconds in slow if repetition % every == 0 else ():
            seconds.append(side())
    return Measured(tuple(mine), tuple(peers), {name: tuple(s) for name, s in others.items()})


def repeated(repetitions: int, ours: Side) -> Measured:
    """Measures what has no peer; a first run is not counted."""
    ours()
    return Measured(tuple(ours() for _ in range(repetitions)))


def timed(work: Callable[[], Any]) -> Side:
    """`work` as a Side; the garbage of what ran before is not on its account."""

    def seconds() -> float:
        gc.collect()
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return seconds
