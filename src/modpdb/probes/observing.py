"""What a call does when it is run once: its operators and module calls, nested, line by line.

It runs in a forked copy of the process, so that random state, gradients, hooks, running
statistics and caches stay as they are here.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modpdb.probes._static import class_attribute, class_name, instance_dict, is_a
from modpdb.probes._torch import torch_or_none
from modpdb.probes.builtins import Source
from modpdb.probes.forked import ForkError, error_line, in_fork
from modpdb.probes.known_calls import Prediction, predicted
from modpdb.probes.linear_branch import intercepted
from modpdb.probes.module_state import entries, is_module, named_modules, uncompiled
from modpdb.probes.profiling import Event, events
from modpdb.probes.tensors import local_tensor

_MARK = "modpdb module "  # a range of the profiler that is a module's call, by number
_FRAME = re.compile(r"(.*)\((\d+)\): (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Seen:
    """One call that was observed.

    name: an operator's without "aten::", or a module's path. class_name: of a module, "" of an
    operator. shapes: of the operands that are tensors with dimensions. line: in the source of
    the function that was asked about; 0 where it was called from elsewhere. via: the Python
    functions between that line and the call, outermost first.
    """

    name: str
    class_name: str
    shapes: tuple[tuple[int, ...], ...]
    line: int
    via: tuple[Source, ...]
    inner: tuple[Seen, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One run. error: what it raised. not_run: why there was none. prediction: as for one thread,
    which is what it ran with. result: what it gave, as types and shapes."""

    seen: tuple[Seen, ...] = ()
    result: str = ""
    error: str = ""
    not_run: str = ""
    prediction: Prediction | None = None


def run_once(
    target: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    code: types.CodeType | None,
    waiting: Callable[[], None] = lambda: None,
) -> Run:
    """Call *target* in a forked copy of the process and tell what it did.

    code: of the function whose lines are told apart. What is compiled by torch.compile runs
    eagerly. Not protected is what `in_fork` does not copy; what is on an accelerator cannot be
    run at all.
    """
    reason = _cannot_run(target, (args, kwargs))
    if reason:
        return Run(not_run=reason)
    try:
        found: Run = in_fork(lambda: _observed(target, args, kwargs, code), waiting, timeout=300)
    except ForkError as problem:
        return Run(not_run=str(problem))
    return found


def missing_arguments(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The names of the arguments that a call lacks; "" where that is not known."""
    torch = torch_or_none()
    function = target
    if is_module(target):
        function = instance_dict(target).get("forward")
        if function is None and not is_a(target, torch.jit.ScriptModule):
            function = class_attribute(type(uncompiled(target)), "forward")
            args = (target, *args)
    if not is_a(function, types.FunctionType) and not is_a(function, types.MethodType):
        return ""
    lacking = []
    given = list(args)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if given and parameter.kind is not parameter.KEYWORD_ONLY:
            given.pop(0)
        elif name not in kwargs and parameter.default is parameter.empty:
            lacking.append(name)
    return ", ".join(lacking)


def _cannot_run(target: Any, given: Any) -> str:
    torch = torch_or_none()
    watcher = "a profiler is on" if torch.autograd._profiler_enabled() else intercepted()
    if watcher:
        return f"{watcher} and would see the run"
    tensors = list(_tensors(target, given))
    if any(local_tensor(each) is not None for each in tensors):
        return "its tensors are sharded, and one copy of one process cannot run them"
    devices = {str(torch._C.TensorBase.device.__get__(each)) for each in tensors}
    away = sorted(each for each in devices if each.partition(":")[0] not in ("cpu", "meta"))
    if away:
        return f"{', '.join(away)} cannot be used in a forked copy of the process"
    return ""


def _tensors(target: Any, given: Any) -> Iterator[Any]:
    torch = torch_or_none()
    for _, module in named_modules(target) if is_module(target) else ():
        for registry in ("_parameters", "_buffers"):
            yield from (
                value
                for _, value in entries(instance_dict(module), registry)
                if is_a(value, torch.Tensor)
            )
    pending = [given]
    while pending:
        value = pending.pop()
        if is_a(value, torch.Tensor):
            yield value
        elif type(value) in (tuple, list):
            pending.extend(value)
        elif type(value) is dict:
            pending.extend(value.values())


# -- in the child --------------------------------------------------------------------------------


def _observed(
    target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], code: types.CodeType | None
) -> Run:
    torch = torch_or_none()
    if "torch._dynamo" in sys.modules:
        torch.compiler.set_stance("force_eager")
    prediction = predicted(target, args, kwargs)
    called = _watch_modules()
    given: list[Any] = []

    def modpdb_run() -> None:
        try:
            given.append((target(*args, **kwargs), ""))
        except BaseException as problem:  # whatever it raises, it is what was observed
            given.append((None, error_line(problem)))

    found = events(modpdb_run, details=True)
    result, error = given[0]
    modules = list(named_modules(uncompiled(target))) if is_module(target) else []
    paths = {id(module): path for path, module in reversed(modules)}
    named = [(paths.get(id(each), ""), class_name(type(each))) for each in called]
    seen = _Telling(named, modpdb_run.__code__, code).all_of(_inside(found))
    return Run(seen, "" if error else _summary(result), error, prediction=prediction)


def _watch_modules() -> list[Any]:
    """Have each module's call marked as a range of the profiler; the list gets the modules."""
    from torch.autograd.profiler import record_function

    torch = torch_or_none()
    original = torch.nn.Module.__call__
    called: list[Any] = []

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        called.append(self)
        with record_function(f"{_MARK}{len(called) - 1}"):
            return original(self, *args, **kwargs)

    torch.nn.Module.__call__ = watched
    return called


def _inside(found: tuple[Event, ...]) -> tuple[Event, ...]:
    """Without the range of the module itself that was called."""
    if len(found) == 1 and found[0].name == f"{_MARK}0":
        return found[0].inner
    return found


class _Telling:
    """Turns the profiler's events into Seen."""

    def __init__(
        self,
        modules: Sequence[tuple[str, str]],
        base: types.CodeType,
        code: types.CodeType | None,
    ) -> None:
        self._modules = modules
        self._base = base
        self._code = code

    def all_of(self, found: Sequence[Event]) -> tuple[Seen, ...]:
        return tuple(self._one(each) for each in found)

    def _one(self, event: Event) -> Seen:
        line, via = self._place(event.stack)
        shapes = tuple(shape for shape in event.shapes if shape)
        name, kind = event.name.removeprefix("aten::"), ""
        if event.name.startswith(_MARK):
            name, kind = self._modules[int(event.name.removeprefix(_MARK))]
            shapes = ()
        return Seen(name, kind, shapes, line, via, self.all_of(event.inner))

    def _place(self, stack: Sequence[str]) -> tuple[int, tuple[Source, ...]]:
        """The line in the function asked about, and the functions further in."""
        frames = []
        for text in stack:
            found = _FRAME.fullmatch(text)
            if found is None:
                continue
            frame = Source(found[3], found[1], int(found[2]))
            if _is_of(frame, self._base):
                break
            frames.append(frame)
        frames.reverse()
        for place, frame in enumerate(frames):
            if self._code is not None and _is_of(frame, self._code):
                via = [each for each in frames[place + 1 :] if not _is_machinery(each)]
                return frame.line, tuple(via)
        return 0, tuple(each for each in frames if not _is_machinery(each))


def _is_of(frame: Source, code: types.CodeType) -> bool:
    return (
        frame.name == code.co_name
        and frame.file == code.co_filename
        and frame.line >= code.co_firstlineno
    )


def _is_machinery(frame: Source) -> bool:
    """Of the call of a module, of the profiler's ranges, or ours."""
    ours = frame.file == __file__
    return ours or frame.file.endswith(
        ("torch/nn/modules/module.py", "torch/autograd/profiler.py", "torch/_ops.py")
    )


def _summary(value: Any, depth: int = 0) -> str:
    """The type of a result, and the shapes of the tensors in it; nothing of it is called."""
    torch = torch_or_none()
    if is_a(value, torch.Tensor):
        return f"{class_name(type(value))} {list(value.shape)}"
    if type(value) in (tuple, list) and depth < 2:
        inner = ", ".join(_summary(each, depth + 1) for each in list(value)[:4])
        more = ", …" if len(value) > 4 else ""
        return f"({inner}{more})" if type(value) is tuple else f"[{inner}{more}]"
    return "None" if value is None else class_name(type(value))
