"""The other Pythons of this machine, and environments of theirs without torch.

MODPDB_PYTHONS adds Pythons that are not on PATH, separated as PATH is. Needs the standard library
only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The person's home: a test is given another.
PYENV = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
CACHE = ROOT / ".cache" / "interpreters"
OLDEST = (3, 11)
TIMEOUT = 8 * 60
"""Seconds for each step of making an environment."""

CORE = (
    *("pdbpp", "fancycompleter", "pyrepl", "prompt_toolkit", "wcwidth", "rich", "pygments"),
    *("markdown-it-py", "mdurl"),
)
"""What modpdb imports without torch, with all that those need in turn."""


class InterpreterError(Exception):
    """An environment cannot be made; the message says which command failed, and how."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that runs; `version` is `3.13.0`, `3.14.0t` where it is free-threaded."""

    executable: Path
    version: str

    @property
    def minor(self) -> int:
        return int(self.version.split(".")[1])


def candidates() -> list[Path]:
    """Executables that may be another Python: MODPDB_PYTHONS, PATH, pyenv."""
    named = os.environ.get("MODPDB_PYTHONS", "").split(os.pathsep)
    on_path = (
        path
        for folder in os.environ.get("PATH", "").split(os.pathsep)
        for path in sorted(Path(folder or ".").glob("python3.*"))
        if re.fullmatch(r"python3\.\d+t?", path.name)
    )
    pyenv = PYENV / "versions"
    return [*(Path(each) for each in named if each), *on_path, *sorted(pyenv.glob("*/bin/python"))]


def asked(executable: Path) -> Interpreter | None:
    """The Python behind *executable*; None where it does not run (as pyenv's shims may not),
    is too old, has no venv, or is the one that runs this."""
    code = (
        "import json, sys, sysconfig, venv, ensurepip\n"
        "tag = 't' if sysconfig.get_config_var('Py_GIL_DISABLED') else ''\n"
        "version = sys.version.split()[0] + tag\n"
        "print(json.dumps([sys.executable, list(sys.version_info[:3]), version]))"
    )
    try:
        done = subprocess.run(
            [executable, "-I", "-c", code], capture_output=True, text=True, timeout=20
        )
        found, numbers, version = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if tuple(numbers[:2]) < OLDEST or version == sys.version.split()[0]:
        return None
    return Interpreter(Path(found), version)


@cache
def others() -> tuple[Interpreter, ...]:
    """One interpreter for each version. Asking them all takes seconds."""
    found: dict[str, Interpreter] = {}
    for each in dict.fromkeys(path.absolute() for path in candidates()):
        interpreter = asked(each)
        if interpreter is not None:
            found.setdefault(interpreter.version, interpreter)
    return tuple(found.values())


def pins(requirements: Sequence[str]) -> list[str]:
    """The requirements at the versions of constraints.txt. Raises KeyError for one not in it."""
    versions = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, pinned, version = line.partition("==")
        if pinned:
            versions[name.lower()] = version
    return [f"{name}=={versions[name.lower()]}" for name in requirements]


def environment(interpreter: Interpreter, requirements: Sequence[str]) -> Path:
    """The Python of a virtual environment with the requirements alone, made once and then reused.

    It is made under another name and renamed when it is whole, so that one that was interrupted
    is never taken for it. Raises InterpreterError.
    """
    pinned = pins(requirements)
    recipe = "\n".join([str(interpreter.executable), *pinned])
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    folder = CACHE / f"{interpreter.version}-{digest}"
    python = Path("bin", "python")
    if (folder / python).exists():
        return folder / python
    CACHE.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{interpreter.version}-", dir=CACHE))
    try:
        made_by(interpreter.executable, "-m", "venv", unfinished)
        # torch and what comes with it is left out on purpose: hence no dependencies.
        install = ("-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps")
        made_by(unfinished / python, *install, *pinned)
        unfinished.rename(folder)
    except OSError:
        if not (folder / python).exists():  # else another run was faster
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder / python


def made_by(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode != 0:
        raise InterpreterError(f"{command[0]} failed: {(done.stdout + done.stderr).strip()}")
