"""Where in a model the program stands: module paths in the stack, breakpoints on modules."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

from modpdb.breakpoints.books import NamedBreakpoint
from modpdb.commands.module_breaks import ModuleBreakpoint, ModuleWaiter
from modpdb.commands.nan_breaks import NanBreakpoint
from modpdb.probes._static import class_attribute, class_name
from modpdb.probes._torch import torch_or_none
from modpdb.views.text import printable

if TYPE_CHECKING:
    from modpdb.breakpoints.engine import Engine
    from modpdb.breakpoints.locator import Locator
    from modpdb.commands.module_calls import ModuleCalls, Waiter
    from modpdb.plumbing import Plumbing

_MISSING = object()


class ModuleStops:
    """Mixed into ModPdb, before what it overrides. Without torch it costs nothing."""

    if TYPE_CHECKING:
        engine: Engine
        locator: Locator
        plumbing: Plumbing
        config: Any

        def _note(self, text: str) -> None: ...
        def _reached(
            self, breakpoint: NamedBreakpoint, frame: types.FrameType, note: str | None
        ) -> bool: ...

    _module_calls: ModuleCalls | None = None

    @property
    def module_calls(self) -> ModuleCalls:
        """Which modules are called; made when it is first asked for."""
        if self._module_calls is None:
            from modpdb.commands.module_calls import ModuleCalls

            self._module_calls = ModuleCalls(
                self.engine, self.locator, lambda f: self.plumbing.dispatches(f), self._note
            )
        return self._module_calls

    @property
    def knows_modules(self) -> bool:
        """Whether anything was asked of ``module_calls`` yet."""
        return self._module_calls is not None

    def setup(self, frame: types.FrameType | None, tb: types.TracebackType | None) -> Any:
        if self._module_calls is not None:
            self._module_calls.stopped()
        return super().setup(frame, tb)  # type: ignore[misc]

    def go_on(self) -> None:
        """The program runs on from a stop."""
        if self._module_calls is not None:
            self._module_calls.rest()

    def _search_for(self, breakpoint: NamedBreakpoint) -> None:
        waiter: Waiter
        if isinstance(breakpoint, ModuleBreakpoint):
            waiter = ModuleWaiter(self, breakpoint, self._reached)  # type: ignore[arg-type]
        elif isinstance(breakpoint, NanBreakpoint):
            from modpdb.commands.nan_watch import NanWaiter

            waiter = NanWaiter(
                breakpoint, self.engine, self.module_calls.paths, self._reached, self._note
            )
            breakpoint.when_deleted.append(waiter.remove)
        else:
            super()._search_for(breakpoint)  # type: ignore[misc]
            return
        self.module_calls.add(waiter)
        breakpoint.when_deleted.append(lambda: self.module_calls.remove(waiter))

    def format_stack_entry(self, frame_lineno: Any, lprefix: str = ": ") -> str:
        """With a line for the module whose method the frame runs: its path and what it is."""
        entry = str(super().format_stack_entry(frame_lineno, lprefix))  # type: ignore[misc]
        try:
            stands = self._module_of(frame_lineno[0])
        except Exception:
            stands = None  # the stop must be shown whatever the model is
        if stands is None:
            return entry
        place, found, source = entry.rpartition(lprefix)
        if not found:
            place, lprefix = entry, ""
        indent = lprefix[1:] if lprefix.startswith("\n") and lprefix.isspace() else ""
        line = "\n" if lprefix.startswith("\n") or not found else "  "
        return f"{place}{line}{indent}{stands}{lprefix}{source}"

    def _module_of(self, frame: types.FrameType) -> str | None:
        """`model.layers.3.self_attn  Gemma3Attention.forward`; None where *frame* runs no method
        of a module that is being called."""
        if torch_or_none() is None:
            return None
        code = frame.f_code
        if not code.co_argcount:
            return None
        from modpdb.probes.module_state import is_module

        module = frame.f_locals.get(code.co_varnames[0])
        if not is_module(module):
            return None
        path = self.module_calls.place(frame, module)
        if path is None:
            return None
        cls = type(module)
        owned = class_attribute(cls, code.co_name, _MISSING) is not _MISSING
        name = f"{class_name(cls)}.{code.co_name}" if owned else class_name(cls)
        path, name = printable(path), printable(name)
        if path and self.config.highlight:
            path = f"\x1b[1m{path}\x1b[0m"
        return f"{path}  {name}" if path else name
