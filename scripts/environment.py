#!/usr/bin/env python3
"""Makes the virtual environment in which the demo and the tests run, and prints its Python's path.

`.venv` at the root of the repository, with modpdb installed in place and everything the tests
need, at the versions that constraints.txt pins. Made by the Python that runs this script. Where
nothing it was made from has changed since, nothing is done. Needs the standard library only.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
EXTRAS = "test,lint"
STAMP = "modpdb-environment"


class SetUpError(Exception):
    """The environment cannot be made; the message is a sentence for the person who wanted it."""


def say(message: str) -> None:
    print(f"environment: {message}", file=sys.stderr, flush=True)


def recipe(root: Path) -> str:
    """A hash of all that decides what the environment holds; its path too, as scripts name it."""
    parts = [str(root).encode(), f"{sys.version_info[:2]}".encode()]
    parts += [(root / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def is_current(venv: Path, wanted: str) -> bool:
    """Whether the environment was finished by this recipe and its Python is still there."""
    stamp = venv / STAMP
    return stamp.is_file() and stamp.read_text() == wanted and (venv / "bin/python").exists()


def can_be_updated(venv: Path) -> bool:
    """Whether its Python still runs, is of our version and has pip."""
    probe = f"import pip, sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    try:
        asked = subprocess.run([venv / "bin/python", "-c", probe], stderr=subprocess.DEVNULL)
    except OSError:
        return False
    return asked.returncode == 0


def run(command: list[str | Path], failure: str) -> None:
    """Runs it with its output on our stderr, as our stdout is for the path alone."""
    if subprocess.run(command, stdout=sys.stderr).returncode != 0:
        raise SetUpError(failure)


def install(venv: Path, root: Path) -> None:
    """Installs modpdb in place with its extras; the constraints keep torch at the pinned build."""
    command: list[str | Path] = [venv / "bin/python", "-m", "pip", "install"]
    if not sys.stderr.isatty():
        command.append("-qq")  # errors only
    command += ["--constraint", root / "constraints.txt", "--editable", f"{root}[{EXTRAS}]"]
    run(command, "pip could not install what the tests need (its message is above); run this again")


def ensure(root: Path) -> Path:
    """Makes or updates `.venv` under root where needed; returns the path of its Python.

    Raises SetUpError where this Python is too old, venv is missing or pip fails. The stamp is
    written last, so an environment that was interrupted half-way is taken up again.
    """
    if sys.version_info < OLDEST:
        raise SetUpError(
            f"modpdb needs Python {OLDEST[0]}.{OLDEST[1]} or later, and {sys.executable} is "
            f"{sys.version.split()[0]}; PYTHON=/path/to/python3 chooses another"
        )
    venv = root / ".venv"
    wanted = recipe(root)
    if not is_current(venv, wanted):
        if not can_be_updated(venv):
            say(f"making {venv} with Python {sys.version.split()[0]}")
            run(
                [sys.executable, "-m", "venv", "--clear", venv],
                f"{sys.executable} cannot make a virtual environment (its message is above; "
                "on Debian and Ubuntu the package python3-venv is missing)",
            )
        say("installing modpdb, PyTorch, transformers and the test tools: minutes the first time")
        install(venv, root)
        (venv / STAMP).write_text(wanted)
        say("ready")
    return venv / "bin/python"


def main() -> int:
    try:
        print(ensure(ROOT))
    except SetUpError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
