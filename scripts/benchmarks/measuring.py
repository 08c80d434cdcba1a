"""How a row of the bench is described and measured."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from types import FrameType
from typing import Any

Side = Callable[[], float]
"""Does once what is measured, ours or the peer's; returns the seconds it took."""


class BenchError(Exception):
    """What was run did not do what is to be measured; the message says what it did."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of every repetition, ours and the peer's; no `theirs` where there is no peer."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...] = ()

    @property
    def value(self) -> float:
        """What the limit is for: the ratio of the medians, or our median in seconds."""
        return median(self.ours) / median(self.theirs) if self.theirs else median(self.ours)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the bench.

    `measure` takes the number of repetitions and raises BenchError; `against` names the peer, and
    `limit` is the highest ratio to it, or without a peer the most seconds. None: only reported.
    """

    name: str
    what: str
    against: str | None
    limit: float | None
    measure: Callable[[int], Measured]
    repetitions: int = 11
    timeout: float = 180.0
    """Seconds for all repetitions and what they need."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a row: `measured`, or why it was not in `problem`."""

    row: Row
    measured: Measured | None
    problem: str = ""

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "failed"
        if self.row.limit is None:
            return "no limit"
        return "ok" if self.measured.value <= self.row.limit else "OVER"


def run(row: Row, repetitions: int | None = None) -> Result:
    """Measures the row, as often as it says itself if `repetitions` is None."""
    try:
        with within(row.timeout):
            return Result(row, row.measure(repetitions or row.repetitions))
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


def interleaved(repetitions: int, ours: Side, theirs: Side) -> Measured:
    """Measures both in turn, so that a slow moment of the machine falls on both.

    Who begins changes from one repetition to the next; a first run of each is not counted.
    """
    ours(), theirs()
    mine: list[float] = []
    peers: list[float] = []
    for repetition in range(repetitions):
        pair = [(ours, mine), (theirs, peers)]
        for side, seconds in pair if repetition % 2 else reversed(pair):
            seconds.append(side())
    return Measured(tuple(mine), tuple(peers))


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
