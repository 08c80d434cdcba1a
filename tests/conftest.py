"""What the tests share: isolation, the real conversion script, checkpoints, piped runs.

Nothing here imports torch: tests of the torch-free core run in a process without it.
"""

import bdb
import linecache
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from looks import Looks

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))  # test_scripts.py imports them as modules
sys.path.insert(0, str(Path(__file__).resolve().parent))  # for derived.py
# Made by users for their own sessions; each of them changes what modpdb does or prints.
USER_VARIABLES = ("NO_COLOR", "FORCE_COLOR", "PYTHONBREAKPOINT", "MODPDB_DEBUG")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def isolated(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """No test sees the user's files and variables, or what an earlier test left in the debugger."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / ".local" / "state"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "xterm")
    for name in USER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(linecache, "checkcache", linecache.checkcache)  # pdbpp replaces it
    monkeypatch.setattr(sys, "breakpointhook", sys.breakpointhook)
    trace = sys.gettrace()
    yield
    sys.settrace(trace)
    bdb.Breakpoint.clearBreakpoints()
    engine = sys.modules.get("modpdb.breakpoints.engine")
    if engine is not None and engine.wiring.cache_info().currsize:
        engine.wiring().forget_all()
    if pdbpp := sys.modules.get("pdbpp"):
        pdbpp.local.GLOBAL_PDB = None  # else the next instance made may be this test's


# -- running modpdb -----------------------------------------------------------------------------


def run_python(
    args: Sequence[str | Path],
    input: str = "",
    *,
    env: Mapping[str, str | None] | None = None,
    cwd: str | Path | None = None,
    timeout: float = 120,
) -> "subprocess.CompletedProcess[str]":
    """Runs this Python with args, standard input, output and error piped, as text.

    `env` is laid over the environment; None takes a variable away. `timeout` is in seconds.
    """
    environment = {**os.environ, **(env or {})}
    return subprocess.run(
        [sys.executable, *args],
        input=input,
        env={name: value for name, value in environment.items() if value is not None},
        cwd=cwd,
        timeout=timeout,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


@pytest.fixture
def plain_run() -> Run:
    """`plain_run(args, input="", *, env, cwd, timeout)`: this Python, piped, without modpdb."""
    return run_python


@pytest.fixture
def modpdb_run() -> Run:
    """`modpdb_run(args, …)`: the same under `python -m modpdb`; input holds its commands."""

    def run(
        args: Sequence[str | Path], input: str = "", **options: object
    ) -> "subprocess.CompletedProcess[str]":
        return run_python(["-m", "modpdb", *args], input, **options)  # type: ignore[arg-type]

    return run


# -- the real conversion script -----------------------------------------------------------------


def path_printed_by(script: str, *args: str) -> Path:
    """Runs one of scripts/, which prints the path of what it brought or made.

    In a process of its own, so that no torch and no transformers come into the tests'.
    """
    done = run_python([SCRIPTS / script, *args], timeout=600)
    if done.returncode != 0:
        pytest.fail(f"{script} failed: {done.stderr.strip()}", pytrace=False)
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def llama_cpp() -> Path:
    """The folder of llama.cpp's newest conversion scripts: a launcher and `conversion/`."""
    return path_printed_by("fetch_llama_cpp.py")


@pytest.fixture(scope="session")
def llama_cpp_single_file() -> Path:
    """The folder of mid 2025's, where convert_hf_to_gguf.py is a single file."""
    return path_printed_by("fetch_llama_cpp.py", "--single-file")


@pytest.fixture(params=["llama_cpp", "llama_cpp_single_file"])
def tree(request: pytest.FixtureRequest) -> Path:
    """Both of them, one after the other."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def looks(tmp_path_factory: pytest.TempPathFactory) -> "Looks":
    """`looks(modpdb_run, name, script, …)`: a conversion of looks.py, run when first asked for."""
    from looks import Looks

    return Looks(tmp_path_factory.mktemp("looks"))


@pytest.fixture(scope="session")
def gemma3_checkpoint() -> Path:
    """A tiny Gemma 3 of four layers in bf16, with its tokenizer; not to be written to."""
    return path_printed_by("make_checkpoint.py", "gemma3")


@pytest.fixture(scope="session")
def llama_checkpoint() -> Path:
    """A tiny Llama of four layers with two heads to a key, in bf16; not to be written to."""
    return path_printed_by("make_checkpoint.py", "llama")


@pytest.fixture(scope="session")
def llama_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of rank 4 for q_proj and up_proj of two of that Llama's layers, in f32."""
    pytest.importorskip("torch")
    from derived import lora_adapter

    modules = {"self_attn.q_proj": (64, 64), "mlp.up_proj": (160, 64)}
    return lora_adapter(tmp_path_factory.mktemp("lora") / "adapter", modules)


@pytest.fixture(scope="session")
def qwen2_checkpoint() -> Path:
    """A tiny Qwen 2 of four layers in bf16, its embeddings tied; not to be written to."""
    return path_printed_by("make_checkpoint.py", "qwen2")


@pytest.fixture(scope="session")
def mixtral_checkpoint() -> Path:
    """A tiny Mixtral of four layers with four experts each, in bf16; not to be written to."""
    return path_printed_by("make_checkpoint.py", "mixtral")


@pytest.fixture(scope="session")
def phi3_checkpoint() -> Path:
    """A tiny Phi 3 of four layers, q, k and v in one weight, in bf16; not to be written to."""
    return path_printed_by("make_checkpoint.py", "phi3")
