"""Runs SCRIPT ARGS… under the Pdb of MODULE (pdb or pdbpp), with commands from standard input.

Not by `python -m pdb`: exactly 3.13.0's refuses options that are the script's, and all of them
start a script anew when it has ended, which would be timed.
"""

import io
import os
import sys
import types
from typing import Any


def debugger(module: str) -> Any:
    """The module's Pdb, set up as its own command line does."""
    if module == "pdbpp":
        from modpdb._pdbpp import pdbpp  # can be imported on exactly 3.13.0, too

        return pdbpp.Pdb(nosigint=True, readrc=False)
    import pdb

    options: dict[str, Any] = {"nosigint": True, "readrc": False}
    if sys.version_info >= (3, 14):
        options["backend"] = "monitoring"  # what the command line takes; the class, settrace
    return pdb.Pdb(**options)


def main(module: str, script: str, *arguments: str) -> None:
    pdb = debugger(module)
    file = os.path.abspath(script)
    with io.open_code(file) as stream:
        code = compile(stream.read(), file, "exec", dont_inherit=True)
    sys.argv[:] = [script, *arguments]
    sys.path[0] = os.path.dirname(os.path.realpath(file))
    target = types.ModuleType("__main__")
    target.__file__ = file
    sys.modules["__main__"] = target
    pdb.run(code, vars(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
