"""Which code is the debugger's own: not stepped into, and not shown."""

from __future__ import annotations

import os

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_PROGRAMS = os.path.join(_PACKAGE, "programs") + os.sep  # run for the user, as a script of theirs


def is_ours(file: str) -> bool:
    """Whether *file*, a code object's, belongs to modpdb and is none of its programs."""
    return file.startswith(_PACKAGE) and not file.startswith(_PROGRAMS)
