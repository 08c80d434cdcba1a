"""What modpdb costs a real conversion, from the start of the process to its end."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.dap import Breakpoint
from benchmarks.debuggers import NEVER, PEERS, ROOT, Program, Ran, Way, modpdb, plain
from benchmarks.measuring import BenchError, Measured, Side, interleaved

FUNCTION = "map_tensor_name"
TENSOR = "model.norm.weight"
"""The condition prints when this tensor comes, once in a conversion."""
SIZE = "148m"
RARELY = 4
"""Peers, which take up to three times as long, take part in every fourth repetition."""


def conversion(repetitions: int, *, size: str = SIZE) -> Measured:
    """With a condition that is never true where tensors are renamed; no preset."""
    return converted(repetitions, partial(modpdb, options=("--no-preset",)), PEERS, size)


def conversion_with_preset(repetitions: int, *, size: str = SIZE) -> Measured:
    """The same with the preset's tracepoints, which see stages and collect provenance, and one stop
    at its stage `tensors`."""

    def with_preset(program: Program) -> Ran:
        ran = modpdb(program, stops=1)
        if "stage tensors:" not in ran.output:
            raise BenchError(f"the preset did not stop at stage tensors: {ran.output[-1000:]}")
        return ran

    with to_convert(size) as program:
        _check_collected(program)
    return converted(repetitions, with_preset, {}, size)


def _check_collected(program: Program) -> None:
    """Raises BenchError where the preset does not collect what is written."""
    program = replace(program, typed=("c", "provenance"))
    ran = modpdb(program, options=("--stop", "tensors", "--stop", "write"))
    if not re.search(r"\b\d+ tensors written from \d+ of the checkpoint\n", ran.output):
        raise BenchError(f"provenance was not collected: {ran.output[-1000:]}")


def looking_ahead(repetitions: int, *, size: str = SIZE) -> Measured:
    """`ahead` as it is typed first, at stage `tensors`; the conversion then goes on."""
    with to_convert(size) as program:
        return Measured(tuple(_looked_ahead(program) for _ in range(repetitions)))


def _looked_ahead(program: Program) -> float:
    typed = (
        "!import time; began = time.perf_counter()",
        "ahead",
        "!print('ahead took', time.perf_counter() - began)",
    )
    ran = modpdb(replace(program, typed=typed), options=("--stop", "tensors"))
    took = re.search(r"ahead took ([\d.]+)", ran.output)
    if took is None or "0 blockers, 0 missing keys, 0 unmapped" not in ran.output:
        raise BenchError(f"ahead did not see that all is well: {ran.output[-1000:]}")
    return float(took[1])


def converted(repetitions: int, ours: Way, peers: dict[str, Way], size: str) -> Measured:
    """The conversion of a Gemma 3 of that size under each. Raises BenchError."""
    with to_convert(size) as program:
        out = Path(program.command[3])
        program = replace(program, breakpoints=(place(Path(program.command[0]).parent),), seen=1)
        plain(program)
        written = out.stat().st_size

        def side(way: Way) -> Side:
            def seconds() -> float:
                out.unlink(missing_ok=True)
                taken = way(program).seconds
                if not out.exists() or out.stat().st_size != written:
                    raise BenchError(f"the conversion did not write {written:,} bytes")
                return taken

            return seconds

        sides = {name: side(way) for name, way in peers.items()}
        return interleaved(repetitions, side(ours), side(plain), sides, every=RARELY)


@contextmanager
def to_convert(size: str) -> Iterator[Program]:
    """The conversion of a Gemma 3 of that size, into a folder that is there as long."""
    # Resolved, as the script puts its own folder on sys.path, and imports the files from there.
    script = Path(path_printed_by("fetch_llama_cpp.py"), "convert_hf_to_gguf.py").resolve()
    checkpoint = path_printed_by("make_checkpoint.py", "gemma3", "--size", size)
    with tempfile.TemporaryDirectory(prefix="modpdb-bench-") as name:
        out = str(Path(name, "out.gguf"))
        command = (str(script), checkpoint, "--outfile", out, "--outtype", "bf16")
        yield Program(Path(sys.executable), command)


def place(tree: Path) -> Breakpoint:
    """The first statement of FUNCTION, in whichever file of llama.cpp's tree it is."""
    for file in (tree / "conversion" / "base.py", tree / "convert_hf_to_gguf.py"):
        if not file.exists():
            continue
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.FunctionDef) and node.name == FUNCTION:
                condition = f'name == "{TENSOR}" and {NEVER}'
                return Breakpoint(file, node.body[0].lineno, condition)
    raise BenchError(f"there is no {FUNCTION} in {tree}")


def path_printed_by(script: str, *arguments: str) -> str:
    """Runs one of scripts/, which brings or makes what is needed, in a process of its own."""
    command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise BenchError(done.stderr.strip())
    return done.stdout.strip()
