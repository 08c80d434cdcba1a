"""What keeps a forked copy of a program from changing anything outside of it."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import Any

from modpdb.probes._static import is_a

# Events of sys.audit that change files or start processes; "open" is looked at by its flags.
_PROCESSES = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork")
_CHANGES = (
    *_PROCESSES, "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link",
    "os.symlink", "os.chmod", "os.chown", "os.utime", "os.setxattr", "shutil.", "tempfile.",
)  # fmt: skip
_TO = ("shutil.copy", "os.link", "os.symlink")  # events whose second path is the one that changes
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class FenceError(PermissionError):
    """The copy was about to change something outside of it."""


class Fence:
    """An audit hook that lets files be written in one folder only, and no process be started."""

    def __init__(self, scratch: str) -> None:
        self._scratch = os.path.join(os.path.realpath(scratch), "")

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            if not args[2] & _WRITES or args[0] == os.devnull:
                return
        elif not event.startswith(_CHANGES):
            return
        if event.startswith(("os.rename", "shutil.move")):
            changed = args[:2]
        else:  # of a copy or link the source stays as it is
            changed = args[1:2] if event.startswith(_TO) else args[:1]
        allowed = not event.startswith(_PROCESSES)
        if allowed and all(type(path) is int or self._is_inside(path) for path in changed):
            return
        words = " ".join(f"{path!s:.200}" for path in changed)
        raise FenceError(f"a dry run changes nothing, and this would: {event} {words}")

    def _is_inside(self, path: Any) -> bool:
        if not is_a(path, str) and not is_a(path, PurePath):
            return False
        return os.path.join(os.path.realpath(path), "").startswith(self._scratch)
