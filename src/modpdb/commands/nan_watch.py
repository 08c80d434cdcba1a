"""Which module makes NaN or Inf: follows the calls of a model while it runs."""

from __future__ import annotations

import functools
import sys
import threading
import types
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from modpdb.commands.nan_breaks import NanBreakpoint
from modpdb.probes._static import instance_dict
from modpdb.probes._torch import torch_or_none
from modpdb.probes.bad_values import BadValues
from modpdb.probes.forwards import is_container
from modpdb.probes.gradients import GradientHooks, Role
from modpdb.probes.module_state import entries
from modpdb.probes.running_calls import still_run
from modpdb.views.bad_values import gradient_in_words, in_words

if TYPE_CHECKING:
    from modpdb.breakpoints.engine import Engine
    from modpdb.commands.module_calls import Met
    from modpdb.probes.module_paths import ModulePaths

Stops = Callable[[NanBreakpoint, types.FrameType, "str | None"], bool]


class _Given(NamedTuple):
    """A tensor that a forward was called with."""

    name: str
    tensor: Any
    version: int | None  # None of an inference tensor
    bad: bool  # of an inference tensor: whether it was when it was given


class _Call:
    """A forward that runs. What it was *given* is held until it returns: forward rebinds its
    arguments."""

    __slots__ = ("enters_parts", "frame", "given", "made_inside", "maker", "module")

    def __init__(self, frame: types.FrameType, module: Any, given: list[_Given]) -> None:
        self.frame = frame
        self.module = module
        self.given = given
        self.enters_parts = False
        self.made_inside = False  # a module below that is meant has made NaN or Inf
        self.maker = ""  # one that is not meant has made it: its path


class _Thread(threading.local):
    """The calls that run in a thread, the innermost last. What an exception has left is held until
    the next module is called there, or the thread ends."""

    def __init__(self) -> None:
        self.running: list[_Call] = []


class NanWaiter:
    """Looks at what every module of the models puts out; asks for those that are meant."""

    def __init__(
        self,
        breakpoint: NanBreakpoint,
        engine: Engine,
        paths: ModulePaths,
        stops: Stops,
        note: Callable[[str], None],
    ) -> None:
        self._breakpoint = breakpoint
        self._engine = engine
        self._paths = paths
        self._stops = stops
        self._note = note
        self._told_of = -1  # the backward pass that was told of last
        self._thread = _Thread()

    @functools.cached_property
    def _values(self) -> BadValues:
        return BadValues()  # not before there is a model, and with it torch

    @functools.cached_property
    def _gradients(self) -> GradientHooks:
        return GradientHooks(self._gradient_arrived)

    def remove(self) -> None:
        self._engine.unwatch(self.returned)
        self._thread = _Thread()  # with what other threads hold
        if "_gradients" in vars(self):
            self._gradients.remove()

    # -- a Waiter of ModuleCalls -------------------------------------------------------------------

    def wants(self, path: str) -> bool:
        return True  # what the others have made flows through those that are meant

    def learned(self, met: Sequence[Met], paths: Iterable[str]) -> None:
        seen = [each for each in met if each.code is not None]
        for each in seen:
            assert each.code is not None
            self._engine.watch_return(each.code, self.returned)
        wants = self._breakpoint.spec.wants
        meant = [each.module for each in seen if any(map(wants, each.paths))]
        unseen = (
            (each.paths[0], each.problem)
            for each in met
            if each.code is None and not is_container(each.problem)
        )
        for said in self._breakpoint.learned(meant, unseen):
            self._note(said)

    def entered(self, frame: types.FrameType) -> bool:
        try:
            self._enter(frame)
        except Exception as error:  # it would be raised in the script
            self._failed(error)
        return False

    def _failed(self, error: Exception) -> None:
        self._note(f"*** {self._breakpoint}: {type(error).__name__}: {error}")

    def _enter(self, frame: types.FrameType) -> None:
        if self._values.is_traced():
            return  # to look would be traced, too
        running = self._thread.running
        del running[still_run(running, frame) :]
        arguments = dict(frame.f_locals)
        code = frame.f_code
        module = arguments.pop(code.co_varnames[0]) if code.co_argcount else None
        given = [self._given(name, each) for name, each in self._values.tensors(arguments)]
        if running:
            running[-1].enters_parts = True
        running.append(_Call(frame, module, given))
        if self._breakpoint.spec.grad:
            self._watch_gradients(module, given, begins=len(running) == 1)

    def _given(self, name: str, tensor: Any) -> _Given:
        version = self._values.version(tensor)
        return _Given(name, tensor, version, version is None and self._values.is_bad(tensor))

    # -- returns -----------------------------------------------------------------------------------

    def returned(self, frame: types.FrameType, value: object) -> bool:
        """Whether *frame*, a forward that returns *value*, has made the first NaN or Inf."""
        try:
            return self._makes_bad(frame, value)
        except Exception as error:
            self._failed(error)
            return False

    def _makes_bad(self, frame: types.FrameType, value: object) -> bool:
        running = self._thread.running
        if not any(call.frame is frame for call in running):
            return False  # it had begun before the breakpoint was set
        while (call := running.pop()).frame is not frame:
            pass
        outputs = self._values.tensors(value)
        path = self._paths.path(call.module)
        if path is None:
            return False
        wanted = self._breakpoint.spec.wants(path)
        self._breakpoint.calls += wanted
        if self._breakpoint.spec.grad:
            for _, tensor in outputs:
                self._gradients.watch(tensor, Role.PUT_OUT, path)
        bad = [(name, tensor) for name, tensor in outputs if self._values.is_bad(tensor)]
        if not bad:
            return False
        makes = not call.made_inside and not self._was_given(call, bad)
        if running:
            running[-1].made_inside |= call.made_inside or (makes and wanted)
            if makes and not wanted and not running[-1].maker:
                running[-1].maker = call.maker or path
        if not wanted:
            return False
        if not makes:
            self._breakpoint.passed_on += 1
            return False
        return self._stops(self._breakpoint, frame, self._made(call, path, bad))

    def _was_given(self, call: _Call, bad: Iterable[tuple[str, Any]]) -> bool:
        """Whether *call* only passes on what it was given: NaN, Inf, or -Inf as that. Attention
        masks hold -Inf, and NaN that comes of it is made here."""
        found = [each.tensor for each in call.given if self._came_bad(each)]
        given = {kind for tensor in found for kind in self._values.kinds(tensor)}
        put_out = {kind for _, tensor in bad for kind in self._values.kinds(tensor)}
        return bool(given - {"-inf"}) or bool(given & put_out)

    def _came_bad(self, given: _Given) -> bool:
        if given.version is None:
            return given.bad
        # What was written to since may have been made bad by this very call.
        return given.version == self._values.version(given.tensor) and self._values.is_bad(
            given.tensor
        )

    def _made(self, call: _Call, path: str, bad: Iterable[tuple[str, Any]]) -> str:
        put_out = [self._values.found(*each) for each in bad]
        given = [self._values.found(each.name, each.tensor) for each in call.given]
        # Where no part is called, as on the fast path of attention, their weights are its own.
        weights = self._values.weights(call.module, parts=not call.enters_parts)
        return in_words(path, put_out, given, list(weights), call.maker)

    # -- gradients ---------------------------------------------------------------------------------

    def _watch_gradients(self, module: Any, given: Iterable[_Given], begins: bool) -> None:
        path = self._paths.path(module)
        if path is None:
            return
        if begins:
            self._gradients.new_pass()
        for each in given:
            self._gradients.watch(each.tensor, Role.GIVEN, path)
        for name, parameter in entries(instance_dict(module), "_parameters"):
            if parameter is not None:
                self._gradients.watch(parameter, Role.OWN, f"{path}.{name}" if path else name)

    def _gradient_arrived(self, roles: list[tuple[Role, str]], gradient: Any) -> None:
        try:
            self._look_at_gradient(roles, gradient)
        except Exception as error:
            self._failed(error)

    def _look_at_gradient(self, roles: list[tuple[Role, str]], gradient: Any) -> None:
        """Stop behind the line of the script that runs the backward pass, once a pass."""
        this_pass = torch_or_none()._C._current_graph_task_id()
        if this_pass == self._told_of or not self._engine.is_awake():
            return
        if not self._values.is_bad(gradient):
            return
        self._told_of = this_pass
        # Who took the tensor last is innermost, and its gradients come first: that of what it put
        # out was finite.
        role, path = next(
            (each for each in reversed(roles) if each[0] is not Role.PUT_OUT), roles[-1]
        )
        frame = outside_torch(sys._getframe(3))
        if not self._breakpoint.spec.wants(path):
            return
        said = gradient_in_words(path, role, self._values.found("", gradient))
        if frame is None:  # of a thread of autograd's own: nowhere to stop
            self._note(said)
        elif self._stops(self._breakpoint, frame, said):
            self._engine.wake(frame)


def outside_torch(frame: types.FrameType | None) -> types.FrameType | None:
    """The innermost caller that is no part of torch."""
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("torch."):
        frame = frame.f_back
    return frame
