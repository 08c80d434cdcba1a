"""How much memory is free."""

from __future__ import annotations

import re
from pathlib import Path

from modpdb.probes._torch import torch_or_none

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")  # version 2, as a container sees its own


def free_memory(device: str = "cpu") -> int | None:
    """Bytes that can be had on *device* without swapping; None where that is not known.

    Of the CPU: MemAvailable of proc(5), or what the cgroup still allows where that is less.
    """
    if device.startswith("cuda"):
        torch = torch_or_none()
        return None if torch is None else int(torch.cuda.mem_get_info(device)[0])
    if device != "cpu":
        return None
    known = [each for each in (_available(), _allowed()) if each is not None]
    return min(known, default=None)


def _available() -> int | None:
    try:
        found = re.search(r"^MemAvailable: +(\d+) kB$", _MEMINFO.read_text(), re.MULTILINE)
    except OSError:  # no Linux
        return None
    return int(found[1]) * 1024 if found else None


def _allowed() -> int | None:
    """What the control group allows beyond what is used; file cache counts as free."""
    try:
        limit = (_GROUP / "memory.max").read_text().strip()
        used = int((_GROUP / "memory.current").read_text())
        cache = re.search(r"^inactive_file (\d+)$", (_GROUP / "memory.stat").read_text(), re.M)
    except (OSError, ValueError):  # none, or version 1
        return None
    if limit == "max":
        return None
    return max(int(limit) - used + (int(cache[1]) if cache else 0), 0)
