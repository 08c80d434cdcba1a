"""A process for pdb, one for modpdb, and the same session under both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from transcripts import (
    Session,
    Transcript,
    compared,
    modpdb_transcript,
    pdb_transcript,
    report,
)

WORKER = Path(__file__).with_name("session_worker.py")


class Worker:
    """A process that runs sessions under one debugger."""

    def __init__(self, debugger: str, home: Path) -> None:
        self.environment = {
            **os.environ,
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / ".config"),
            # The reference is pdb itself, not what pdbpp's .pth file makes of it.
            "PDBPP_HIJACK_PDB": "0",
            "PYTHONUNBUFFERED": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, WORKER, debugger],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            cwd=home,
            env=self.environment,
        )

    def ask(self, program: Path, session: Session) -> None:
        assert self._process.stdin is not None
        request = {"program": str(program), "typed": session.input}
        print(json.dumps(request), file=self._process.stdin, flush=True)

    def answer(self) -> tuple[str, int]:
        """What the session printed, and its exit status."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with status {self._process.wait()}")
        answer = json.loads(line)
        return answer["printed"], answer["status"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class TwoDebuggers:
    """Runs sessions under both, at the same time, and compares them."""

    def __init__(self, folder: Path, beside: Mapping[str, str]) -> None:
        home = folder / "home"
        home.mkdir()
        self._program = folder / "program.py"
        for name, text in beside.items():
            (folder / name).write_text(text)
        self._pdb = Worker("pdb", home)
        self._modpdb = Worker("modpdb", home)

    def close(self) -> None:
        self._pdb.close()
        self._modpdb.close()

    def run(self, session: Session, command_line: bool = False) -> tuple[Transcript, Transcript]:
        """The session's transcripts under pdb and under modpdb.

        *command_line*: modpdb is started as by a user.
        """
        self._program.write_text(session.program)
        self._pdb.ask(self._program, session)
        if command_line:
            modpdb = self._by_command_line(session)
        else:
            self._modpdb.ask(self._program, session)
            modpdb = modpdb_transcript(*self._modpdb.answer())
        return pdb_transcript(*self._pdb.answer()), modpdb

    def _by_command_line(self, session: Session) -> Transcript:
        done = subprocess.run(
            [sys.executable, "-m", "modpdb", "--no-rc", self._program],
            input=session.input,
            env=self._modpdb.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        return modpdb_transcript(done.stdout, done.returncode)

    def compare(self, session: Session, command_line: bool = False) -> list[str]:
        """What both have seen. Raises AssertionError, with all there is to know, where they
        differ."""
        pdb, modpdb = self.run(session, command_line)
        expected, seen = compared(pdb.seen, modpdb.seen)
        if seen != expected:
            raise AssertionError(report(session, pdb, modpdb))
        return seen
