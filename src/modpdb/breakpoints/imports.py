"""Modules as they load: their code, before it runs."""

from __future__ import annotations

import importlib.machinery
import types
from collections.abc import Callable

Loaded = Callable[[str, types.CodeType], types.CodeType]
"""Told a module's name and code before that runs; returns what to run in its place."""

_listeners: list[Loaded] = []


def watch_imports(loaded: Loaded) -> Callable[[], None]:
    """Call *loaded* for every module read from a file, before it runs.

    Wraps SourceFileLoader.get_code while anybody listens. That also serves
    spec_from_file_location, and leaves ``__spec__`` and sys.meta_path as they were. Returns what
    undoes it.
    """
    loader = importlib.machinery.SourceFileLoader
    if not _listeners:
        # The method is inherited: deleting the attribute brings it back.
        loader.get_code = _get_code  # type: ignore
    _listeners.append(loaded)

    def undo() -> None:
        _listeners.remove(loaded)
        if not _listeners:
            del loader.get_code

    return undo


def _get_code(self: importlib.machinery.SourceFileLoader, fullname: str) -> types.CodeType | None:
    code = super(importlib.machinery.SourceFileLoader, self).get_code(fullname)
    if code is not None:
        for listener in list(_listeners):
            code = listener(fullname, code)
    return code


# Python leaves the frames of this file out of the traceback of a failed import: be one of them.
_get_code.__code__ = _get_code.__code__.replace(
    co_filename="<frozen importlib._bootstrap_external>"
)
