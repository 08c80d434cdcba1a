"""The torch-free core on every other Python of this machine, each in a subprocess of its own.

MODPDB_PYTHONS adds Pythons that are not on PATH, separated as PATH is.
"""

import os
import subprocess
import sys

import pytest

from interpreters import CORE, ROOT, TIMEOUT, Interpreter, InterpreterError, environment, others

MINORS = (11, 12, 13, 14, 15)

# What the core and its tests import without torch, with all that those need in turn.
REQUIREMENTS = (
    *CORE,
    *("pytest", "pluggy", "iniconfig", "packaging", "hypothesis", "sortedcontainers"),
    *("pexpect", "ptyprocess"),
)
TORCH_FREE = (
    *("tests/test_cli.py", "tests/test_launcher.py", "tests/test_rcfile.py"),
    *("tests/test_debugger.py", "tests/test_hostile.py", "tests/differential"),
    *("tests/test_threads.py", "tests/test_stops.py", "tests/test_stepping.py"),
    "tests/test_nested.py",
    *("tests/commands", "tests/presets", "tests/breakpoints", "tests/prompt"),
)

# Of what the tests themselves run on: where another release of it may differ.
SAME_MINOR = (
    *("tests/test_stops.py", "tests/test_stepping.py", "tests/test_threads.py"),
    *("tests/test_debugger.py", "tests/breakpoints", "tests/differential"),
)

pytestmark = pytest.mark.interpreters


def run_core(interpreter: Interpreter) -> "subprocess.CompletedProcess[str]":
    try:
        python = environment(interpreter, REQUIREMENTS)
    except InterpreterError as error:
        pytest.fail(str(error), pytrace=False)
    tests = SAME_MINOR if interpreter.minor == sys.version_info.minor else TORCH_FREE
    return subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "MODPDB_SESSIONS": "200",  # and half as many on the corpus: 300 made up
            # With pdbpp's .pth file on, pytest does not start on exactly 3.13.0.
            "PDBPP_HIJACK_PDB": "0",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.mark.parametrize("minor", MINORS, ids=lambda minor: f"3.{minor}")
def test_the_torch_free_core(minor: int) -> None:
    found = [each for each in others() if each.minor == minor]
    if not found:
        pytest.skip(f"no other Python 3.{minor} here; MODPDB_PYTHONS names further ones")
    for interpreter in found:
        done = run_core(interpreter)
        tail = "\n".join(done.stdout.splitlines()[-60:])
        assert done.returncode == 0, f"Python {interpreter.version}:\n{tail}"
        assert " passed" in done.stdout, f"Python {interpreter.version} ran no test:\n{tail}"
