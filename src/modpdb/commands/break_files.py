"""Files and lines as places: which file is meant, and whether it can stop there."""

from __future__ import annotations

import glob
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from modpdb.breakpoints.lines import SourceLines
from modpdb.breakpoints.loaded import module_files
from modpdb.breakpoints.near_misses import nearest_names

LINE = re.compile(r"(?:(?P<file>.+):)?\s*(?P<line>\d+)")
_TO_COME = re.compile(r".*\.py|<.+>")


class FilePlaces:
    """pdb's way from a file's name and a line to a place, mended. Mixed into ModPdb."""

    if TYPE_CHECKING:
        curframe: Any
        mainpyfile: str
        _where: str

        def error(self, msg: Any) -> None: ...

    def lookupmodule(self, filename: str) -> str | None:
        """pdb looks along sys.path only, whose first entry is the script's folder (all
        versions): look beside the rc file that names it and from where the user stands, too, and
        among what is loaded from elsewhere."""
        if self._where:
            folder = os.path.dirname(os.path.expanduser(self._where.rpartition(":")[0]))
            if os.path.isfile(beside := os.path.join(folder, filename)):
                return os.path.abspath(beside)
        found: str | None = super().lookupmodule(filename)  # type: ignore[misc]
        if found is not None and os.path.exists(found):
            return found
        for name in (filename, filename + ".py"):
            if os.path.isfile(name):
                return os.path.abspath(name)
        loaded = loaded_files(filename)
        return loaded[0] if len(loaded) == 1 else None

    def checkline(self, filename: str, lineno: int) -> int:
        """pdb rejects some lines that cannot stop; say why, and where the nearest is that can."""
        try:
            problem = SourceLines.read(filename).why_not(lineno)
        except OSError:  # in a zip file, or made by exec
            return int(super().checkline(filename, lineno))  # type: ignore[misc]
        except ValueError as error:
            problem = str(error)
        if problem is None:
            return lineno
        self.error(problem)
        return 0

    def defaultFile(self) -> str:
        """pdb needs a frame (all versions); an rc line has none yet."""
        if self.curframe is None:
            return self.mainpyfile
        return str(super().defaultFile())  # type: ignore[misc]


def may_come(file: str) -> bool:
    """Whether a file that is nowhere may still be generated, downloaded or exec-ed."""
    return _TO_COME.fullmatch(file) is not None


def loaded_files(name: str) -> list[str]:
    """Files of loaded modules: of the module *name*, or whose path ends in *name*."""
    modules = dict(module_files())
    if name in modules:
        return [modules[name]]
    tail = os.sep + os.path.normpath(name)
    return sorted({file for file in modules.values() if file.endswith(tail)})


def similar_files(name: str) -> list[str]:
    """Python files near the script and where the user stands, whose names are like *name*."""
    there = {
        os.path.relpath(file, folder)
        for folder in (*sys.path[:1], os.getcwd())
        for pattern in ("*.py", "*/*.py")
        for file in glob.iglob(os.path.join(glob.escape(folder or "."), pattern))
    }
    return nearest_names(name, there)
