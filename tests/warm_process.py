"""A process that has imported what conversions import, and forks for each run of modpdb.

Torch and transformers take 3 s of every run; a fork of a process that has them takes none. Where a
test is of what is imported, or when, it runs `python -m modpdb` instead.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


class WarmProcess:
    """`run` as conftest's modpdb_run; PYTHON… variables come too late for it."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def run(
        self,
        args: Sequence[str | Path],
        input: str = "",
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        files = [self._scratch / name for name in ("stdin", "stdout", "stderr")]
        files[0].write_text(input, encoding="utf-8")
        request = {
            "args": [str(each) for each in args],
            "environment": {**os.environ, **(env or {})},
            "cwd": str(cwd or Path.cwd()),
            "files": [str(each) for each in files],
        }
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        status = int(self._server.stdout.readline())
        out, err = (each.read_text("utf-8", errors="replace") for each in files[1:])
        return subprocess.CompletedProcess(request["args"], status, out, err)

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=10)


@contextlib.contextmanager
def warm_process(scratch: Path) -> Iterator[WarmProcess]:
    process = WarmProcess(scratch)
    try:
        yield process
    finally:
        process.close()


# -- the process itself -----------------------------------------------------------------------


def _serve() -> None:
    import sentencepiece  # noqa: F401
    import torch  # noqa: F401
    from transformers import AutoConfig, AutoTokenizer  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:  # reading a config imports half of transformers
        Path(folder, "config.json").write_text('{"model_type": "llama"}')
        AutoConfig.from_pretrained(folder)
    gc.freeze()  # else the collector writes to every page that is shared with the forks
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                _run(json.loads(line))
            except SystemExit as end:
                _end(end.code if type(end.code) is int else int(end.code is not None))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(request: dict[str, Any]) -> None:
    """`python -m modpdb` from here on, in the fork."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    modes = (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT | os.O_TRUNC] * 2)
    for number, (file, mode) in enumerate(zip(request["files"], modes, strict=True)):
        opened = os.open(file, mode, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    # What the parent's have read ahead is not of this run.
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.path[0] = request["cwd"]
    sys.argv = ["modpdb", *request["args"]]
    runpy.run_module("modpdb", run_name="__main__", alter_sys=True)
    raise SystemExit


def _end(status: int) -> None:
    """Without taking torch and transformers down object by object, which takes 1 s."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve()
