"""Which code is the debugger's own: not stepped into, and not shown."""

from __future__ import annotations

import os
import types

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_PROGRAMS = os.path.join(_PACKAGE, "programs") + os.sep  # run for the user, as a script of theirs


def is_ours(file: str) -> bool:
    """Whether *file*, a code object's, belongs to modpdb and is none of its programs."""
    return file.startswith(_PACKAGE) and not file.startswith(_PROGRAMS)


def strip_traceback(error: BaseException) -> None:
    """Take our own frames off the top of *error*'s traceback; and off its end, where it is a
    KeyboardInterrupt: those are raised in a handler of ours, which Python would not show."""
    while error.__traceback__ is not None and _is_in_ours(error.__traceback__):
        error.__traceback__ = error.__traceback__.tb_next
    each, last = error.__traceback__, None
    while each is not None:
        if not _is_in_ours(each):
            last = each
        each = each.tb_next
    if last is not None and isinstance(error, KeyboardInterrupt):
        last.tb_next = None


def _is_in_ours(tb: types.TracebackType) -> bool:
    return is_ours(tb.tb_frame.f_code.co_filename)
