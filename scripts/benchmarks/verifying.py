"""`verify`: every value of a real conversion compared, beside loading both files."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.conversions import SIZE, path_printed_by
from benchmarks.debuggers import ROOT
from benchmarks.measuring import BenchError, Measured, NotHere, interleaved, timed
from benchmarks.tensors import peak


def verify_against_loading(repetitions: int, *, size: str = SIZE) -> Measured:
    """The relation of each tensor found and proved; what is needed is not asked. Raises BenchError
    where a relation is not found."""
    with converted(size) as (checkpoint, file):
        compare(checkpoint, file)
        return interleaved(
            repetitions,
            timed(lambda: compare(checkpoint, file)),
            timed(lambda: load(checkpoint, file)),
        )


def verify_memory(repetitions: int, *, size: str = SIZE) -> Measured:
    """MiB that the peak of a process grows by when it verifies, each in a process of its own.
    Raises NotHere where the system does not tell."""
    if not Path("/proc/self/status").exists():
        raise NotHere("the peak is read from /proc/self/status")
    with converted(size) as paths:
        return Measured(tuple(_grown(*paths) for _ in range(repetitions)))


@contextmanager
def converted(size: str) -> Iterator[tuple[Path, Path]]:
    """A Gemma 3 of that size, and what the real script makes of it in f16."""
    script = Path(path_printed_by("fetch_llama_cpp.py"), "convert_hf_to_gguf.py").resolve()
    checkpoint = path_printed_by("make_checkpoint.py", "gemma3", "--size", size)
    sys.path.append(str(script.parent / "gguf-py"))
    with tempfile.TemporaryDirectory(prefix="modpdb-bench-") as name:
        out = Path(name, "out.gguf")
        command = [
            sys.executable,
            str(script),
            checkpoint,
            "--outfile",
            str(out),
            "--outtype",
            "f16",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchError(f"the conversion failed: {done.stderr.strip()[-300:]}")
        try:
            yield Path(checkpoint), out
        finally:
            sys.path.remove(str(script.parent / "gguf-py"))


def compare(checkpoint: Path, file: Path) -> None:
    import gguf  # noqa: F401 - taken from sys.modules
    import torch  # noqa: F401

    from modpdb.probes.checkpoint_files import open_checkpoint
    from modpdb.probes.comparing import comparing, name_map
    from modpdb.probes.verification import verify
    from modpdb.probes.written_tensors import WrittenFile

    written = WrittenFile(file)
    mapping = name_map(written.contents)
    against = comparing(open_checkpoint(checkpoint), mapping, lambda *_: ("ok", ""))
    found = verify(written, against)
    if found.count("ok") != len(written.contents.tensors):
        raise BenchError(f"{found.count('unexplained')} tensors are not explained")


def load(checkpoint: Path, file: Path) -> int:
    """Both in memory by their own readers, where a loop of comparisons by hand would begin."""
    import gguf
    from safetensors.torch import load_file

    source = load_file(checkpoint / "model.safetensors")
    return len(source) + len([each.data.copy() for each in gguf.GGUFReader(file).tensors])


def _grown(checkpoint: Path, file: Path) -> float:
    code = "from benchmarks.verifying import print_growth; print_growth()"
    done = subprocess.run(
        [sys.executable, "-c", code, checkpoint, file, *sys.path[-1:]],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT / "scripts",
    )
    try:
        return float(done.stdout)
    except ValueError:
        raise BenchError(f"no figure: {done.stderr.strip()[-300:]}") from None


def print_growth() -> None:
    """Prints the growth of the peak, in MiB, after torch and gguf are there."""
    checkpoint, file, package = sys.argv[1:4]
    sys.path.append(package)
    import gguf  # noqa: F401
    import torch  # noqa: F401

    before = peak()
    compare(Path(checkpoint), Path(file))
    print(peak() - before)
