"""pdb for people who convert models.

import modpdb; modpdb.set_trace()            # stop here
modpdb.post_mortem(error)                    # where an exception was raised
PYTHONBREAKPOINT=modpdb.set_trace            # breakpoint() stops in modpdb
pytest --pdb --pdbcls=modpdb:ModPdb          # failing tests end at its prompt
python -m modpdb script.py ARGS…             # a whole script under it
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from modpdb._version import __version__

if TYPE_CHECKING:
    from types import TracebackType

    from modpdb.debugger import ModPdb

__all__ = ["ModPdb", "__version__", "pm", "post_mortem", "set_trace"]


def __getattr__(name: str) -> Any:
    # pdbpp takes a moment to import: only for those who come to debug.
    if name == "ModPdb":
        from modpdb.debugger import ModPdb

        return ModPdb
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def set_trace(*, header: str | None = None, commands: list[str] | None = None) -> None:
    """Stop in the caller. *header* is shown first; *commands* are run as if typed."""
    from modpdb.debugger import ModPdb

    debugger = ModPdb()
    if header is not None:
        debugger.message(header)
    debugger.set_trace(sys._getframe().f_back, commands)


def post_mortem(error: BaseException | TracebackType | None = None) -> None:
    """The prompt where *error* was raised; without it, the exception being handled.

    Raises ValueError where there is none, or it has no traceback.
    """
    from modpdb.debugger import ModPdb

    error = error if error is not None else sys.exc_info()[1]
    traceback = error.__traceback__ if isinstance(error, BaseException) else error
    if traceback is None:
        raise ValueError("no exception is being handled, and none with a traceback was given")
    debugger = ModPdb()
    debugger.post_mortem(error or traceback)


def pm() -> None:
    """The prompt where the last uncaught exception was raised, at an interactive interpreter.

    Raises ValueError where there was none.
    """
    post_mortem(getattr(sys, "last_exc", None) or getattr(sys, "last_value", None))
