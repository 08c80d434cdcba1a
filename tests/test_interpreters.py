"""The torch-free core on every other Python of this machine, each in a subprocess of its own.

MODPDB_PYTHONS adds Pythons that are not on PATH, separated as PATH is.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The person's home: a test is given another.
PYENV = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
CACHE = ROOT / ".cache" / "interpreters"
MINORS = (11, 12, 13, 14, 15)
MINUTES = 8

# What the core and its tests import without torch, with all that those need in turn.
REQUIREMENTS = (
    *("pdbpp", "fancycompleter", "pyrepl", "prompt_toolkit", "wcwidth", "rich", "pygments"),
    *("markdown-it-py", "mdurl", "pytest", "pluggy", "iniconfig", "packaging", "hypothesis"),
    *("sortedcontainers", "pexpect", "ptyprocess"),
)
TORCH_FREE = (
    *("tests/test_cli.py", "tests/test_launcher.py", "tests/test_rcfile.py"),
    *("tests/test_debugger.py", "tests/test_hostile.py", "tests/differential"),
    *("tests/commands", "tests/presets", "tests/breakpoints", "tests/prompt"),
)

pytestmark = pytest.mark.interpreters


@dataclass(frozen=True)
class Interpreter:
    """A Python that runs; *version* is `3.13.0`, `3.14.0t` where it is free-threaded."""

    executable: Path
    version: str


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
    is too old, has no venv, or is the one that runs these tests."""
    code = (
        "import json, sys, sysconfig, venv, ensurepip\n"
        "tag = 't' if sysconfig.get_config_var('Py_GIL_DISABLED') else ''\n"
        "print(json.dumps([sys.executable, list(sys.version_info[:3]), sys.version.split()[0] + tag]))"
    )
    try:
        done = subprocess.run(
            [executable, "-I", "-c", code], capture_output=True, text=True, timeout=20
        )
        found, numbers, version = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if tuple(numbers[:2]) < (3, MINORS[0]) or version == sys.version.split()[0]:
        return None
    return Interpreter(Path(found), version)


@cache
def others() -> tuple[Interpreter, ...]:
    """One interpreter for each version. Not asked for before a test runs: it takes seconds."""
    found: dict[str, Interpreter] = {}
    for each in dict.fromkeys(path.absolute() for path in candidates()):
        interpreter = asked(each)
        if interpreter is not None:
            found.setdefault(interpreter.version, interpreter)
    return tuple(found.values())


def pins() -> list[str]:
    """REQUIREMENTS at the versions of constraints.txt."""
    versions = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, pinned, version = line.partition("==")
        if pinned:
            versions[name.lower()] = version
    return [f"{name}=={versions[name.lower()]}" for name in REQUIREMENTS]


def environment(interpreter: Interpreter) -> Path:
    """The Python of a virtual environment with REQUIREMENTS, made once and then reused.

    It is made under another name and renamed when it is whole, so that one that was interrupted
    is never taken for it.
    """
    recipe = "\n".join([str(interpreter.executable), *pins()])
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
        made_by(unfinished / python, *install, *pins())
        unfinished.rename(folder)
    except OSError:
        if not (folder / python).exists():  # else another test run was faster
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder / python


def made_by(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=MINUTES * 60)
    if done.returncode != 0:
        pytest.fail(f"{command[0]} failed: {(done.stdout + done.stderr).strip()}", pytrace=False)


def run_core(interpreter: Interpreter) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [environment(interpreter), "-m", "pytest", "-q", "-p", "no:cacheprovider", *TORCH_FREE],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
            # With pdbpp's .pth file on, pytest does not start on exactly 3.13.0.
            "PDBPP_HIJACK_PDB": "0",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=MINUTES * 60,
        check=False,
    )


@pytest.mark.parametrize("minor", MINORS, ids=lambda minor: f"3.{minor}")
def test_the_torch_free_core(minor: int) -> None:
    found = [each for each in others() if each.version.startswith(f"3.{minor}.")]
    if not found:
        pytest.skip(f"no other Python 3.{minor} here; MODPDB_PYTHONS names further ones")
    for interpreter in found:
        done = run_core(interpreter)
        tail = "\n".join(done.stdout.splitlines()[-60:])
        assert done.returncode == 0, f"Python {interpreter.version}:\n{tail}"
        assert " passed" in done.stdout, f"Python {interpreter.version} ran no test:\n{tail}"
