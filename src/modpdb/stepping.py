"""Stepping through a model: plumbing is passed through, and its frames are hidden."""

from __future__ import annotations

import types
from typing import Any

from modpdb.plumbing import Plumbing
from modpdb.tracing import PerThread, TracingPdb


class SteppingPdb(TracingPdb):
    """TracingPdb that does not stop in plumbing by itself: what plumbing calls it does stop in,
    and where a breakpoint or `step --raw` has led to, it steps on as anywhere."""

    _plumbing: Plumbing | None = None
    _raw = PerThread(False)  # the next stop may be in plumbing
    _stands_in = PerThread(0)  # the id of the frame where the program stands, if that is plumbing

    @property
    def plumbing(self) -> Plumbing:
        """Of the preset that is on; of any script where there is none."""
        if self._plumbing is None:
            self._plumbing = Plumbing.generic()
        return self._plumbing

    @plumbing.setter
    def plumbing(self, plumbing: Plumbing) -> None:
        self._plumbing = plumbing

    def do_step(self, arg: str) -> Any:
        """s(tep) [--raw]

        Execute the current line, stop at the first possible occasion: in a function that is
        called, or on the next line. What lies between a module's call and its forward (torch's
        module call, decorators, configurations) is passed through; --raw stops there too.
        """
        if arg.strip() not in ("", "--raw"):
            self.error(f"step takes --raw or nothing, not {arg.strip()!r}")
            return None
        self._raw = arg.strip() == "--raw"
        return super().do_step("")

    do_s = do_step

    def stop_here(self, frame: types.FrameType) -> bool:
        """bdb's, without plumbing when stepping from anywhere else."""
        if not super().stop_here(frame):
            return False
        if self._raw or frame is self.stopframe or id(frame) == self._stands_in:
            return True
        return frame not in self.plumbing

    def user_call(self, frame: types.FrameType, argument_list: Any) -> None:
        """pdb's stops at the call and then at the first line: where plumbing was passed through,
        at the first line only, as `into`."""
        if not self._passed_through(frame.f_back) or frame in self.plumbing:
            super().user_call(frame, argument_list)

    def _passed_through(self, caller: types.FrameType | None) -> bool:
        """Whether *caller* is plumbing in which nobody has stopped."""
        if self._raw or caller is None or id(caller) == self._stands_in:
            return False
        return caller in self.plumbing

    def set_return(self, frame: types.FrameType) -> None:
        """bdb's waits in the caller for an exception (all versions): in one that can stop."""
        super().set_return(frame)
        caller = self.stopframe
        if self.returnframe is not frame or frame in self.plumbing:
            return  # of a generator, or by somebody who looks at plumbing
        while caller is not None and caller in self.plumbing:
            caller = caller.f_back
        if caller is not self.stopframe:
            self._set_stopinfo(caller, frame)

    def dispatch_return(self, frame: types.FrameType, arg: Any) -> Any:
        try:
            return super().dispatch_return(frame, arg)
        finally:
            if id(frame) == self._stands_in:
                self._stands_in = 0  # another frame may get the id

    def get_stack(self, f: types.FrameType | None, t: types.TracebackType | None) -> Any:
        top, raised = f, t
        while f is None and raised is not None:
            top, raised = raised.tb_frame, raised.tb_next
        self._raw = False
        self._stands_in = 0
        if top is not None and top in self.plumbing:
            self._stands_in = id(top)
        return super().get_stack(f, t)

    def _is_hidden(self, frame: types.FrameType) -> bool:
        if super()._is_hidden(frame):
            return True
        hides = self.config.enable_hidden_frames and id(frame) != self._stands_in
        return bool(hides) and frame in self.plumbing

    def compute_stack(self, fullstack: Any, idx: int | None = None) -> Any:
        """pdbpp 0.12 also counts what is hidden above the frame stood in: where an exception
        comes by, the stack goes on to the frame that raised it."""
        stack, index = super().compute_stack(fullstack, idx)
        if idx is None or len(stack) == len(fullstack):
            return stack, index
        below = {id(frame) for frame, _ in fullstack[: idx + 1]}
        return stack, max(sum(id(frame) in below for frame, _ in stack) - 1, 0)
