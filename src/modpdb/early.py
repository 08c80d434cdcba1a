"""Lines to run at the start: from .modpdbrc files and the command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from modpdb.breakpoints import live
from modpdb.commands.registry import COMMANDS
from modpdb.rcfile import RcFiles, RcLine

# pdb's and pdbpp's own commands that work before there is a frame.
_FRAMELESS = {
    *("alias", "unalias", "b", "break", "tbreak", "cl", "clear", "commands", "condition"),
    *("disable", "enable", "help", "h", "ignore"),
}


class EarlyLines:
    """Runs what needs no frame at once; the rest waits for the first stop. Mixed into ModPdb."""

    if TYPE_CHECKING:
        notes: list[str]
        waiting: list[str]

        def parseline(self, line: str) -> tuple[str | None, str | None, str]: ...
        def resumes(self, name: str) -> bool: ...
        def _run_lines(self, lines: list[str]) -> Any: ...

    def run_rc_files(self, files: RcFiles) -> None:
        """Run what needs no frame now; the rest, in order, at the first stop.

        After a line that lets the program go on, everything waits.
        """
        for problem in files.refused:
            self.notes.append(problem)
        if files.loaded:
            self.notes.append(f"loaded {' and '.join(files.loaded)}")
        self.run_early(files.lines)

    def run_early(self, lines: Iterable[str]) -> None:
        rest = [part for line in lines for part in _parts(line)]
        while rest:
            line = rest.pop(0)
            if self._waiting_for_good() or not self._frameless(line):
                self.waiting.append(line)
                continue
            block = [line]
            if line.split()[0] == "commands":
                block += self._list_of_commands(rest)
            self._run_lines(block)
        live.keep(False)  # the program runs now

    def _list_of_commands(self, lines: list[str]) -> list[str]:
        """Take the body of a `commands` list off *lines*: to `end`, or the line that resumes."""
        body: list[str] = []
        while lines:
            body.append(lines.pop(0))
            if body[-1].strip() == "end":
                break
            if self.resumes(self.parseline(body[-1])[0] or ""):
                if lines and lines[0].strip() == "end":
                    body.append(lines.pop(0))
                break
        return body

    def _waiting_for_good(self) -> bool:
        return any(self.resumes(line.split()[0]) for line in self.waiting)

    def _frameless(self, line: str) -> bool:
        name = self.parseline(line)[0]
        if name is not None and name in COMMANDS:
            return not COMMANDS[name].needs_frame
        return name in _FRAMELESS


def _parts(line: str) -> list[str]:
    """*line* at its `;;`: one part may need a frame and the next not."""
    if line.split()[:1] == ["alias"]:
        return [line]
    where = line.where if isinstance(line, RcLine) else ""
    return [RcLine.at(part.strip(), where) for part in line.split(";;") if part.strip()]
