"""Modules as they load: their code, before it runs."""

from __future__ import annotations

import importlib.machinery
import threading
import types
from collections.abc import Callable

Loaded = Callable[[str, types.CodeType, bytes], types.CodeType]
"""Told a module's name, its code before that runs, and the bytes that were read for it, of source
or of a cached file (b"" where that is not known); returns what to run in its place."""

_listeners: list[Loaded] = []


class _Read(threading.local):
    data = b""


_read = _Read()


def watch_imports(loaded: Loaded) -> Callable[[], None]:
    """Call *loaded* for every module read from a file, before it runs.

    Wraps SourceFileLoader's get_code and get_data while anybody listens. That also serves
    spec_from_file_location, and leaves ``__spec__`` and sys.meta_path as they were. Returns what
    undoes it.
    """
    loader = importlib.machinery.SourceFileLoader
    if not _listeners:
        # The methods are inherited: deleting the attributes brings them back.
        loader.get_code = _get_code  # type: ignore
        loader.get_data = _get_data  # type: ignore
    _listeners.append(loaded)

    def undo() -> None:
        _listeners.remove(loaded)
        if not _listeners:
            del loader.get_code
            del loader.get_data

    return undo


def _get_code(self: importlib.machinery.SourceFileLoader, fullname: str) -> types.CodeType | None:
    _read.data = b""
    code = super(importlib.machinery.SourceFileLoader, self).get_code(fullname)
    data, _read.data = _read.data, b""
    if code is not None:
        for listener in list(_listeners):
            code = listener(fullname, code, data)
    return code


def _get_data(self: importlib.machinery.SourceFileLoader, path: str) -> bytes:
    data = super(importlib.machinery.SourceFileLoader, self).get_data(path)
    _read.data = data
    return data


# Python leaves the frames of this file out of the traceback of a failed import: be of it.
for _function in (_get_code, _get_data):
    _function.__code__ = _function.__code__.replace(
        co_filename="<frozen importlib._bootstrap_external>"
    )
