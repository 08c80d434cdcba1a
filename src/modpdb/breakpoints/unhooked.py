"""What runs code without hooks, on 3.11, where it cannot be given any: traced until it ends."""

from __future__ import annotations

import dis
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from modpdb.breakpoints import live
from modpdb.breakpoints.settrace import Traced, Tracer

_YIELD = dis.opmap["YIELD_VALUE"]
Runs = types.FrameType | live.Suspended | types.CodeType
Uncovered = Callable[[types.CodeType, int], Traced]
"""The code objects that run or are made from where code runs, once it has come to an offset, in
which somebody waits and no hook tells."""


@dataclass(eq=False)
class _Unhooked:
    """A frame on this thread's stack, a generator that sleeps, or a module's code about to run;
    and the code objects in which somebody waits in vain."""

    what: Runs
    codes: Traced

    def ended(self, returning: types.FrameType | None) -> bool:
        if isinstance(self.what, types.FrameType):
            return self.what is returning and not _yields(returning)
        if isinstance(self.what, types.CodeType):
            return returning is not None and returning.f_code is self.what
        return live.frame_of(self.what) is None

    def is_wanted(self) -> bool:
        return any(place is not None and place.is_watched() for _, place in self.codes.values())


def _yields(frame: types.FrameType) -> bool:
    """Whether what looks like a return is a generator's yield."""
    return frame.f_code.co_code[frame.f_lasti] == _YIELD


class Unhooked:
    """Keeps the tracer on what needs it, and on nothing else."""

    def __init__(self, tracer: Tracer, uncovered: Uncovered) -> None:
        self._tracer = tracer
        self._uncovered = uncovered
        self._all: list[_Unhooked] = []

    def add(self, what: Runs, code: types.CodeType, offset: int = -1) -> bool:
        """Trace *what*, which has come to *offset* in *code*, if somebody waits in vain there;
        whether that is news."""
        codes = self._uncovered(code, offset)
        if not codes:
            return False
        news = not all(map(self._tracer.traces, codes))
        codes.setdefault(id(code), (code, None))  # to see it return
        self._all.append(_Unhooked(what, codes))
        self._tracer.trace(codes)
        return news

    def look_around(self, files: set[str], codes: Iterable[types.CodeType]) -> Iterator[str]:
        """Find what runs code of *files*, or sleeps in *codes*; a sentence for each that is
        news."""
        known = {id(each.what) for each in self._all}
        for thread, frame in live.stacks():
            if frame.f_code.co_filename not in files or id(frame) in known:
                continue
            if thread != threading.get_ident():
                if self._uncovered(frame.f_code, frame.f_lasti):
                    yield (
                        f"{frame.f_code.co_qualname} runs in another thread already: what is set "
                        "in it is met from its next call on"
                    )
            elif self.add(frame, frame.f_code, frame.f_lasti):
                yield _said_of(frame)
        for each in live.suspended(codes):
            asleep = live.frame_of(each)
            if asleep is None or id(each) in known:
                continue
            if self.add(each, asleep.f_code, asleep.f_lasti):
                yield _said_of(asleep)

    def returned(self, frame: types.FrameType | None) -> list[types.CodeType]:
        """*frame* returns: trace no longer what ran there only, or what nobody waits for any
        more. The modules' codes that have ended by that."""
        gone = [each for each in self._all if each.ended(frame) or not each.is_wanted()]
        if gone:
            self._all = [each for each in self._all if each not in gone]
            codes: Traced = {}
            for left in self._all:
                # A place, where one of them has it, wins over having to see the return.
                for key, (code, place) in left.codes.items():
                    if place is not None or key not in codes:
                        codes[key] = code, place
            self._tracer.trace_only(codes)
        return [each.what for each in gone if isinstance(each.what, types.CodeType)]


def _said_of(frame: types.FrameType) -> str:
    return (
        f"{frame.f_code.co_qualname} runs already: until it returns every call in the script is "
        "traced, which can make it many times slower"
    )


def still_made(code: types.CodeType, offset: int) -> Iterator[types.CodeType]:
    """The code objects of functions that *code* can make once it has come to *offset*."""
    instructions = list(dis.get_instructions(code))
    back_to = min(
        (
            each.argval
            for each in instructions
            if "JUMP_BACKWARD" in each.opname and each.argval <= offset <= each.offset
        ),
        default=offset,
    )
    for each in instructions:
        if isinstance(each.argval, types.CodeType) and each.offset >= back_to:
            yield each.argval
