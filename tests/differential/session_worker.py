"""Runs scripted sessions under one debugger, each in a process of its own.

Started as `python session_worker.py pdb|modpdb`. It imports the debugger once and forks for each
session, so that a session costs milliseconds and finds a fresh process all the same. Requests
come on standard input, one JSON object a line (`program`, a path, and `typed`); a JSON object
(`printed`, `status`) goes out for each.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import pathlib
import signal
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from typing import NoReturn

TIMEOUT = 20  # seconds
FAILED = 70  # the status where the debugger itself raised


def start_pdb(program: str) -> None:
    """As `python -m pdb PROGRAM`; exactly 3.13.0 cannot be started that way.

    The script's code is run without the text `exec(compile(…))` around it, in whose frame pdb
    stops as well: before a post-mortem, and after the script's last line.
    """
    import pdb

    def code(target: object) -> types.CodeType:
        return compile(pathlib.Path(program).read_bytes(), program, "exec", dont_inherit=True)

    pdb._ScriptTarget.code = property(code)  # type: ignore[attr-defined]
    sys.argv[:] = ["pdb", program]
    pdb.main()


def start_modpdb(program: str) -> None:
    """As `python -m modpdb --no-rc --no-preset PROGRAM`."""
    from modpdb.cli import main

    main(["--no-rc", "--no-preset", program])


STARTS: dict[str, Callable[[str], None]] = {"pdb": start_pdb, "modpdb": start_modpdb}
# Imported once: what a debugger would import in each session anew, and what the programs import,
# lest a step into an `import` goes through the import system.
PROGRAMS_IMPORT = ("asyncio", "contextlib", "pathlib")
IMPORTED_BEFORE = {
    "pdb": ("pdb", *PROGRAMS_IMPORT),
    "modpdb": ("modpdb.launcher", "modpdb.probes.values", *PROGRAMS_IMPORT),
}


def main() -> None:
    name = sys.argv[1]
    for module in IMPORTED_BEFORE[name]:
        importlib.import_module(module)
    if name == "modpdb":
        from modpdb.commands.registry import load_commands

        load_commands()
    for line in requests():
        request = json.loads(line)
        answer = in_a_fork(STARTS[name], request["program"], request["typed"])
        print(json.dumps(answer), flush=True)


def requests() -> Iterator[str]:
    """Lines of standard input, read by the byte: a fork must not inherit what was read ahead."""
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        while line := stdin.readline():
            yield line.decode()


def in_a_fork(start: Callable[[str], None], program: str, typed: str) -> dict[str, object]:
    """Run a session in a child: what it printed, and its exit status, negative for a signal."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        run_session(start, program, typed, writing)
    os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as output:
        printed = output.read()
    _, status = os.waitpid(child, 0)
    return {"printed": printed, "status": os.waitstatus_to_exitcode(status)}


def run_session(start: Callable[[str], None], program: str, typed: str, writing: int) -> NoReturn:
    signal.alarm(TIMEOUT)
    gc.disable()  # what it calls back would be stepped through, at other places each time
    sys.dont_write_bytecode = True  # the next program may have another module of the same name
    sys.stdin = io.StringIO(typed)
    sys.stdout = sys.stderr = open(writing, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
    sys.modules["__main__"] = types.ModuleType("__main__")  # pdb clears it
    status = 0
    try:
        start(program)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        status = FAILED
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
