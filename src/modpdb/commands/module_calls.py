"""Which module is called, and at which path: what breakpoints on modules and `into` wait for.

No hook is put on any module, so that what is pickled, copied, scripted or compiled carries none of
ours: the engine watches the code of ``nn.Module.__call__``, where models that nobody has seen yet
come by, and that of the forwards somebody waits for.
"""

from __future__ import annotations

import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from modpdb.breakpoints.engine import Engine
from modpdb.breakpoints.locations import Spec
from modpdb.breakpoints.locator import Locator, Search
from modpdb.probes._torch import uncompiled
from modpdb.probes.forwards import INSIDE_COMPILED, Dispatches, Forwards
from modpdb.probes.module_paths import ModulePaths, model_of
from modpdb.probes.module_state import is_module, named_modules

_MODULE = "torch.nn.modules.module"
_CALL = "_wrapped_call_impl"
MODULE_CALL = Spec(_MODULE, f"Module.{_CALL}")
"""The place of ``nn.Module.__call__``."""


@dataclass(frozen=True, slots=True)
class Met:
    """A module that somebody waits for: every path it has in its model, the first one first.

    ``problem`` says why it cannot be waited for, "" where it can."""

    paths: tuple[str, ...]
    module: Any
    code: types.CodeType | None
    problem: str


class Waiter(Protocol):
    """Somebody who waits for the forwards of modules."""

    def wants(self, path: str) -> bool:
        """Whether the module of that path is meant; "" is that of a whole model."""

    def learned(self, met: Sequence[Met], paths: Iterable[str]) -> None:
        """A model has come: the modules in it that are meant, and the paths of all."""

    def entered(self, frame: types.FrameType) -> bool:
        """The forward of one of them is entered: whether to stop there. Must not raise."""


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A module whose forward is waited for; ``code`` is that forward's."""

    module: weakref.ref[Any]
    code: types.CodeType
    waiters: tuple[Waiter, ...]


@dataclass(frozen=True, slots=True)
class _Into:
    """`into`, in one thread: the forwards of modules that have been called there, by the modules'
    ids. A hook may call others before the forward comes."""

    thread: int
    forwards: dict[int, types.CodeType] = field(default_factory=dict)


class ModuleCalls:
    """Knows the models that were seen, and wakes those who wait for one of their modules.

    ``note`` is given a sentence for the next stop.
    """

    def __init__(
        self,
        engine: Engine,
        locator: Locator,
        dispatches: Dispatches,
        note: Callable[[str], None],
    ) -> None:
        self.paths = ModulePaths()
        self._engine = engine
        self._locator = locator
        self._forwards = Forwards(dispatches)
        self._note = note
        self._waiters: list[Waiter] = []
        self._awaited: dict[int, _Awaited] = {}  # by the id of the module
        self._watched: dict[int, types.CodeType] = {}  # forwards, by id
        self._models: dict[int, tuple[weakref.ref[Any], str]] = {}  # with a variable's name, by id
        self._swept = 100  # so many are kept before those that are gone are looked for
        self._search: Search | None = None
        self._into: _Into | None = None
        self._meeting = threading.RLock()  # while a model is known and not yet watched

    # -- who waits ---------------------------------------------------------------------------------

    def add(self, waiter: Waiter) -> None:
        """Let *waiter* wait in the models that are known and in those to come."""
        self._waiters.append(waiter)
        self._watch_calls()
        for root, name in self._alive():
            self._match(root, name, [waiter])

    def remove(self, waiter: Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        for key, awaited in list(self._awaited.items()):
            if waiter in awaited.waiters:
                left = tuple(each for each in awaited.waiters if each is not waiter)
                self._awaited[key] = _Awaited(awaited.module, awaited.code, left)
        self.rest()

    def go_into(self, frame: types.FrameType) -> None:
        """Stop this thread, which stands in *frame*, at the next forward that is entered."""
        self._into = into = _Into(threading.get_ident())
        self._watch_calls()
        for module in self._not_entered(frame):
            self._follow(into, module)

    def _not_entered(self, frame: types.FrameType) -> Iterator[Any]:
        """The modules that are called already and whose forward is still to come."""
        entered: set[int] = set()
        each: types.FrameType | None = frame
        while each is not None:
            if _is_call(each):
                module = each.f_locals.get("self")
                code = self._forwards.of(module).code
                if code is not None and id(self._engine.original(code)) not in entered:
                    yield module
            entered.add(id(self._engine.original(each.f_code)))
            each = each.f_back

    def stopped(self) -> None:
        """This thread has stopped, wherever: its `into` is over."""
        if self._into is not None and self._into.thread == threading.get_ident():
            self._into = None

    def rest(self) -> None:
        """Watch nothing that nobody waits for."""
        self._awaited = {key: each for key, each in self._awaited.items() if each.waiters}
        wanted = {id(each.code) for each in self._awaited.values()}
        if self._into is None and self._watched.keys() - wanted:
            self._engine.unwatch(self._entered)
            self._watched = {key: code for key, code in self._watched.items() if key in wanted}
            for code in self._watched.values():
                self._engine.watch(code, self._entered)
        if not self._waiters and self._into is None and self._search is not None:
            self._engine.unwatch(self._called)
            self._locator.forget(self._search)
            self._search = None

    def _watch_calls(self) -> None:
        if self._search is None:
            self._search = self._locator.search(
                MODULE_CALL, lambda code: self._engine.watch(code, self._called)
            )

    def _watch(self, code: types.CodeType) -> types.CodeType:
        """Watch a forward; the code as it was written."""
        code = self._engine.original(code)
        if id(code) not in self._watched:
            self._watched[id(code)] = code
            self._engine.watch(code, self._entered)
        return code

    # -- models ------------------------------------------------------------------------------------

    def learn(self, root: Any, name: str = "") -> None:
        """*root* is a model: note its paths, and let those wait in it who want to.

        *name* is that of a variable which holds it: paths may be written with it in front.
        """
        self.paths.learn(root)
        self._models.pop(id(root), None)  # it goes to the end
        self._models[id(root)] = weakref.ref(root), name
        if len(self._models) > self._swept:
            self._models = {id(each): (weakref.ref(each), name) for each, name in self._alive()}
            self._swept = 2 * len(self._models)
        self._match(root, name, self._waiters)

    def place(self, frame: types.FrameType, module: Any) -> str | None:
        """The path of *module*, of whose call *frame* is part, learning its model on demand; None
        where it is not being called."""
        called = list(called_modules(frame))
        if not any(each is module for each in called):
            return None
        outermost = called[-1]
        if not self.paths.still_stands(outermost):
            self.learn(*model_of(outermost, frame))
        if not self.paths.still_stands(module):
            model = self.paths.model(outermost)
            self.learn(outermost if model is None else model)
        if not self.paths.still_stands(module):
            self.learn(module)  # held in a list, or made on the way
        return self.paths.path(module)

    def known_paths(self) -> Iterator[str]:
        """Every path in the models that are alive."""
        for root, _ in self._alive():
            yield from (path for path, _ in named_modules(root) if path)

    def _alive(self) -> list[tuple[Any, str]]:
        models = list(self._models.values())  # other threads may learn of more
        return [(root, name) for known, name in models if (root := known()) is not None]

    def _match(self, root: Any, name: str, waiters: Sequence[Waiter]) -> None:
        if not waiters:
            return
        paths: dict[int, tuple[Any, list[str]]] = {}
        for path, module in named_modules(root):
            paths.setdefault(id(module), (module, []))[1].append(path)
        compiled = [own[0] for each, own in paths.values() if self._forwards.is_compiled(each)]
        for waiter in waiters:
            met = [
                self._met(module, tuple(own), compiled)
                for module, own in paths.values()
                if any(map(waiter.wants, own))
                or (name and any(waiter.wants(_below(name, path)) for path in own))
            ]
            for each in met:
                if each.code is not None:
                    self._await(each.module, each.code, waiter)
            waiter.learned(met, (own[0] for _, own in paths.values()))

    def _met(self, module: Any, paths: tuple[str, ...], compiled: Sequence[str]) -> Met:
        forward = self._forwards.of(module)
        for path in compiled:
            if forward.code is not None and paths[0].startswith(f"{path}." if path else ""):
                return Met(paths, module, None, INSIDE_COMPILED)
        return Met(paths, module, forward.code, forward.problem)

    def _await(self, module: Any, code: types.CodeType, waiter: Waiter) -> None:
        code = self._watch(code)
        awaited = self._awaited.get(id(module))
        waiters: tuple[Waiter, ...] = ()
        if awaited is not None and awaited.module() is module and awaited.code is code:
            waiters = tuple(each for each in awaited.waiters if each is not waiter)
        self._awaited[id(module)] = _Awaited(weakref.ref(module), code, (*waiters, waiter))

    # -- the program comes by ----------------------------------------------------------------------

    def _called(self, frame: types.FrameType) -> bool:
        """A module is called. Never stops: its forward does."""
        try:
            uncompiled(self._look_at_call, frame)
        except Exception as error:  # it would be raised by the script's call
            self._note(f"*** modules: {type(error).__name__}: {error}")
        return False

    def _look_at_call(self, frame: types.FrameType) -> None:
        module = frame.f_locals.get("self")
        with self._meeting:  # another thread waits: it would run past what is being watched
            if not self.paths.knows(module) and is_module(module):
                self._meet(module, frame)
        into = self._into
        if into is not None and into.thread == threading.get_ident():
            self._follow(into, module)

    def _follow(self, into: _Into, module: Any) -> None:
        code = self._forwards.of(module).code
        if code is not None:
            into.forwards[id(module)] = self._watch(code)
            self._settle()

    def _meet(self, module: Any, frame: types.FrameType) -> None:
        """*module* was not seen before: a new model, or what has been added to one."""
        callers = list(called_modules(frame.f_back))
        outermost = callers[-1] if callers else module
        if not self.paths.knows(outermost):
            self.learn(*model_of(outermost, frame.f_back))
        elif callers and any(each is module for _, each in named_modules(callers[0])):
            model = self.paths.model(callers[-1])
            self.learn(callers[-1] if model is None else model)
        if not self.paths.knows(module):
            self.learn(module)
        self._settle()

    def _settle(self) -> None:
        for said in self._engine.wiring.settle():
            self._note(said)

    def _entered(self, frame: types.FrameType) -> bool:
        """A forward that somebody waits for is entered, by whatever instance of its class."""
        return uncompiled(self._stops_at, frame)

    def _stops_at(self, frame: types.FrameType) -> bool:
        code = self._engine.original(frame.f_code)
        into = self._into
        for module in self._owners(frame):
            waiters = self._waiting_for(module, code)
            followed = into is not None and into.forwards.get(id(module)) is code
            if waiters or followed:
                stopped = [waiter.entered(frame) for waiter in waiters]  # each counts its hits
                here = into is not None and into.thread == threading.get_ident()
                return any(stopped) or (followed and here)
        return False

    def _waiting_for(self, module: Any, code: types.CodeType) -> tuple[Waiter, ...]:
        awaited = self._awaited.get(id(module))
        if awaited is None or awaited.code is not code or awaited.module() is not module:
            return ()
        return awaited.waiters

    def _owners(self, frame: types.FrameType) -> Iterator[Any]:
        """The module whose forward *frame* is: its first argument; else, as in a function put
        into an instance, the module that is being called."""
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if is_module(first):
            yield first
        called = next(called_modules(frame.f_back), None)
        if called is not first:
            yield called


def _below(name: str, path: str) -> str:
    return f"{name}.{path}" if path else name


def called_modules(frame: types.FrameType | None) -> Iterator[Any]:
    """The modules of whose calls *frame* is part, the innermost first."""
    while frame is not None:
        if _is_call(frame):
            yield frame.f_locals.get("self")
        frame = frame.f_back


def _is_call(frame: types.FrameType) -> bool:
    return frame.f_code.co_name == _CALL and frame.f_globals.get("__name__") == _MODULE
