"""The prompt in the tests' own process: a line is typed, what it prints comes back."""

import io
from types import FrameType

from modpdb import ModPdb


class Prompt:
    """The prompt at *frame*, or before the first stop."""

    def __init__(self, frame: FrameType | None = None) -> None:
        self.dbg = ModPdb(stdin=io.StringIO(), stdout=io.StringIO(), nosigint=True, readrc=False)
        if frame is not None:
            self.dbg.setup(frame, None)

    def __call__(self, line: str) -> str:
        """What *line* prints."""
        self.dbg.stdout = io.StringIO()
        self.dbg.onecmd(self.dbg.precmd(line))
        return self.dbg.stdout.getvalue().rstrip("\n")
