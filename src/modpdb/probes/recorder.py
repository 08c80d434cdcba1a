"""Notes calls of modules while they run, by torch's global forward hooks.

Nothing is put on any module: what is pickled, copied or scripted meanwhile carries none of ours.
The global hooks run before a module's own, so what is noted is what `forward` itself gave, and
what the call was given before the module's own pre-hooks.
"""

from __future__ import annotations

import itertools
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from modpdb.probes._static import class_name, instance_dict
from modpdb.probes._torch import torch_or_none
from modpdb.probes.module_paths import ModulePaths, model_of
from modpdb.probes.module_state import describe_class, named_modules
from modpdb.probes.recording import Call, Recording
from modpdb.probes.running_calls import still_run
from modpdb.probes.tensor_notes import Store, TensorNoter
from modpdb.probes.tree import joined

MOST_CALLS = 100_000  # about 2 KB each

_UNSEEN = {
    "compiled": "compiled: what runs inside it is not seen",
    "scripted": "scripted: what runs inside it is not seen",
}


@dataclass(frozen=True, slots=True)
class _Known:
    """A module that was called before, and how its calls are noted."""

    module: weakref.ref[Any]
    root: str
    path: str
    class_name: str
    unseen: str
    wanted: bool
    calls: Iterator[int]


@dataclass(slots=True)
class _Running:
    """A call that has begun. *frame* is that of torch which runs the hooks and forward."""

    module: Any
    known: _Known
    frame: types.FrameType
    call: Call | None  # None of one that is not wanted


class _Thread(threading.local):
    def __init__(self) -> None:
        self.running: list[_Running] = []


class Recorder:
    """Notes calls into *recording* between start() and stop(), of the modules that *wanted* takes
    by the model's name and the module's path. Raises nothing into the program."""

    def __init__(
        self,
        recording: Recording,
        wanted: Callable[[str, str], bool],
        *,
        stats: bool = True,
        store: Store | None = None,
    ) -> None:
        self.recording = recording
        self.stores = store is not None
        self._torch: Any = None
        self._wanted = wanted
        self._stats = stats
        self._store = store
        self._paths = ModulePaths()
        self._roots: dict[int, tuple[weakref.ref[Any], str]] = {}
        self._modules: dict[int, _Known] = {}
        self._counts: dict[tuple[str, str], Iterator[int]] = {}
        self._counting = threading.Lock()
        self._ends = itertools.count(1)
        self._thread = _Thread()
        self._handles: list[Any] = []

    def start(self) -> None:
        """From now on; torch must be imported by then."""
        self._torch = torch_or_none()
        self._noter = TensorNoter(self._torch, stats=self._stats, store=self._store)
        module = self._torch.nn.modules.module
        self._handles = [
            module.register_module_forward_pre_hook(self._before),
            # Not with_kwargs: up to 2.13 at least it is not heeded where forward raised.
            module.register_module_forward_hook(self._after, always_call=True),
        ]

    def stop(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def passed_by(self) -> list[str]:
        """The paths of modules that ran and were not wanted."""
        known = self._modules.values()
        return [joined(each.root, each.path) for each in known if not each.wanted]

    def returned(self, frame: types.FrameType, value: object) -> bool:
        """Note what a named function returns; for the engine, which is never to stop there."""
        try:
            self._note_return(frame, value)
        except KeyboardInterrupt:
            raise  # Ctrl-C came just now: it is meant for the program
        except BaseException as error:
            self._failed(error)
        return False

    def _note_return(self, frame: types.FrameType, value: object) -> None:
        running = self._thread.running
        del running[still_run(running, frame) :]
        name = f"{frame.f_code.co_qualname.replace('<locals>.', '')}()"
        around = running[-1].known if running else None
        root, path = (around.root, joined(around.path, name)) if around else ("", name)
        calls = self._counts.setdefault((root, path), itertools.count(1))
        call = self._begun(root, path, "", calls)
        if call is not None:
            call.outputs = self._noter.notes(value, lambda: _place(call, "out"))
            call.ended = next(self._ends)

    # -- the hooks -------------------------------------------------------------------------------

    def _before(self, module: Any, args: Any) -> None:
        if self._torch.compiler.is_compiling():  # Dynamo goes through here: it sees nothing to do
            return
        try:
            self._enter(module, args, sys._getframe(1))
        except KeyboardInterrupt:
            raise  # Ctrl-C came just now: it is meant for the program
        except BaseException as error:
            self._failed(error)

    def _after(self, module: Any, args: Any, result: Any) -> None:
        if self._torch.compiler.is_compiling():
            return
        try:
            self._leave(module, result, sys._getframe(1))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        said = f"{type(error).__name__}: {error}"
        if said not in self.recording.problems and len(self.recording.problems) < 10:
            self.recording.problems.append(said)

    def _enter(self, module: Any, args: Any, frame: types.FrameType) -> None:
        running = self._thread.running
        del running[still_run(running, frame) :]
        known = self._modules.get(id(module))
        if known is None or known.module() is not module:
            known = self._meet(module, running[-1] if running else None, frame)
        call = None
        if known.wanted:
            call = self._begun(known.root, known.path, known.class_name, known.calls)
        # On the stack before its tensors are read, so that an error there leaves the nesting right.
        running.append(_Running(module, known, frame, call))
        if call is None:
            return
        call.unseen = known.unseen
        # Global pre-hooks are not given keyword arguments (2.13): the caller has them.
        kwargs = frame.f_locals.get("kwargs")
        given = {**dict(enumerate(args)), **(kwargs if type(kwargs) is dict else {})}
        call.inputs = self._noter.notes(given, lambda: _place(call, "in"))

    def _begun(self, root: str, path: str, class_name: str, nths: Iterator[int]) -> Call | None:
        """The next call; None where there is no more room."""
        calls = self.recording.calls
        around = [each.call for each in self._thread.running if each.call is not None]
        thread = threading.current_thread()
        with self._counting:
            if len(calls) >= MOST_CALLS:
                self.recording.left_out += 1
                return None
            call = Call(
                len(calls) + 1,
                root,
                path,
                class_name,
                nth=next(nths),
                parent=around[-1].number if around else 0,
                depth=len(around),
                thread="" if thread is threading.main_thread() else thread.name,
            )
            calls.append(call)
        return call

    def _leave(self, module: Any, result: Any, frame: types.FrameType) -> None:
        running = self._thread.running
        if not any(each.module is module for each in running):
            return  # it had begun before the recording did
        while (last := running.pop()).module is not module:
            pass  # left by an exception that runs no hooks, as KeyboardInterrupt
        if last.call is None:
            return
        last.call.ended = next(self._ends)
        # Where forward raised, torch calls from the frame around the one that ran it.
        last.call.raised = frame is not last.frame
        if not last.call.raised:
            call = last.call
            call.outputs = self._noter.notes(result, lambda: _place(call, "out"))

    # -- who is called ---------------------------------------------------------------------------

    def _meet(self, module: Any, around: _Running | None, frame: types.FrameType) -> _Known:
        """Find out which module this is, the first time that it is called."""
        root, path = self._locate(module, around, frame)
        described = describe_class(self._torch, type(module))
        key = (root, path)
        known = _Known(
            weakref.ref(module),
            root,
            path,
            _original_name(module) if described.scripted else described.name,
            next((words for flag, words in _UNSEEN.items() if flag in described.special), ""),
            self._wanted(root, path),
            self._counts.setdefault(key, itertools.count(1)),
        )
        self._modules[id(module)] = known
        return known

    def _locate(
        self, module: Any, around: _Running | None, frame: types.FrameType
    ) -> tuple[str, str]:
        """The model's name and the path in it.

        A module that is in no model known is the first of one, with what it is part of among
        the variables of its callers; called by another, it is that one's, registered or not.
        """
        found = self._known_place(module)
        if found is None and around is None:
            model, name = model_of(module, frame)
            self._learn(model, name or class_name(type(model)))
            found = self._known_place(module)
        elif found is None and around is not None:
            for path, inside in named_modules(around.module, around.known.path):
                if inside is module:  # registered since the model was learned
                    return around.known.root, path
            name = f"({class_name(type(module))})"
            return around.known.root, joined(around.known.path, name)
        assert found is not None
        return found

    def _known_place(self, module: Any) -> tuple[str, str] | None:
        path = self._paths.path(module)
        if path is None:
            return None
        model = self._paths.model(module)
        known = self._roots.get(id(model))
        return None if known is None or known[0]() is not model else (known[1], path)

    def _learn(self, model: Any, name: str) -> None:
        self._paths.learn(model)
        self._modules.clear()  # what was a model of its own may be part of this one
        taken = {each for reference, each in self._roots.values() if reference() is not None}
        numbered = (f"{name}#{number}" for number in itertools.count(2))
        free = next(each for each in itertools.chain([name], numbered) if each not in taken)
        self._roots[id(model)] = weakref.ref(model), free


def _place(call: Call, side: str) -> str:
    """What values of this call are stored under: layers.0.mlp#1.out, the number being the nth."""
    return f"{call.full_path}#{call.nth}.{side}"


def _original_name(module: Any) -> str:
    """Of a TorchScript module, the name of the class that it was made from."""
    script = instance_dict(module).get("_c")
    return class_name(type(module)) if script is None else script._type().name()
