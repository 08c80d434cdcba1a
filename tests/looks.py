"""Conversions at which several test modules look: each runs once in a session, with all that is
typed in it, as most of its time goes into importing torch and transformers."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from subprocess import CompletedProcess

Run = Callable[..., "CompletedProcess[str]"]

Lines = tuple[str, ...]

CHILDREN = 'p "children:", open("/proc/thread-self/children").read()'
FILES = 'p "files:", __import__("os").listdir("."), __import__("os").listdir("temporary")'


@dataclass(frozen=True)
class Conversion:
    """*stops* of the preset with what is typed at each, in their order; then it goes on to the
    end. A line `NAME: COMMAND` has its answer known as NAME."""

    stops: Mapping[str, Lines]
    options: Lines = ()


CONVERSIONS = {
    "gemma3": Conversion(
        {
            "tensors": ("ahead: ahead", f"files: {FILES}"),
            "params": ("map: map", "prov: prov", "norm: prov blk.0.attn_norm", "ckpt: ckpt *.0.*"),
            "write": ("coverage: coverage",),
        },
    ),
    "llama": Conversion(
        {
            "tensors": ("to come: prov blk.0.attn_q",),
            "params": (
                "ahead: ahead", "map: map", "prov: prov", "q: prov blk.1.attn_q.weight",
                "k: prov model.layers.2.self_attn.k_proj", "block: prov blk.3", "odd: prov atn_q",
            ),
            "write": ("coverage: coverage",),
        },
        ("--outtype", "q8_0"),
    ),
    "mixtral": Conversion(
        {
            "init": (
                "b *.set_vocab", "trace-point *.map_tensor_name, 'passed by'", "init: ahead",
            ),
            "tensors": (
                "tensors: ahead", f"children: {CHILDREN}", "clear 2",
            ),
            "params": (
                "map: map", "some: map *gate_exps*", "prov: prov", "w3: prov model.layers.1.block_sparse_moe.experts.2.w3.weight",
                "ckpt: ckpt", "c", "clear 1",
            ),
            "write": ("write: ahead", f"at last: {CHILDREN}", "coverage: coverage"),
        },
        ("--outtype", "f16"),
    ),
    "phi3": Conversion(
        {
            "tensors": ("ahead: ahead", f"files: {FILES}"),
            "params": ("map: map", "qkv: prov blk.0.attn_qkv"),
            "write": ("coverage: coverage",),
        },
        ("--split-max-tensors", "5", "--dry-run"),
    ),
    "qwen2": Conversion(
        {
            "tensors": ("ahead: ahead", f"files: {FILES}"),
            "write": ("map: map", "coverage: coverage"),
        },
        ("--use-temp-file",),
    ),
    "mixtral, not lazy": Conversion(
        {
            "load": ("load: ahead",),
            "tensors": ("ahead: ahead", "map: map"),
            "params": ("prov: prov", "down: prov blk.2.ffn_down_exps", "known: ahead"),
        },
        ("--no-lazy", "--outtype", "bf16"),
    ),
    "lora": Conversion(
        {
            "init": ("init: ahead",),
            "tensors": ("tensors: ahead", "map: map"),
            "write": (
                "write: ahead", "b: prov blk.1.attn_q.weight.lora_b", "q: prov blk.0.attn_q",
                "prov: prov", "ckpt: ckpt",
            ),
        },
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """What came of it. *file* is what was written, where anything was."""

    done: "CompletedProcess[str]"
    file: Path

    @cached_property
    def answers(self) -> dict[str, str]:
        _, *parts = re.split(r"^(?:\(ModPdb\) )*@@ (.*)\n", self.done.stdout, flags=re.MULTILINE)
        said = (answer.removeprefix("(ModPdb) ") for answer in parts[1::2])
        return dict(zip(parts[::2], said, strict=True))

    def __getitem__(self, name: str) -> str:
        """The answer to a line; where it was the last at a stop, with the next stop."""
        assert name in self.answers, self.done.stdout + self.done.stderr
        return self.answers[name]


class Looks:
    """`looks(conversion, script, arguments)`, run once for these."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[object, Seen] = {}
        self._plain: dict[Path, dict[str, Path]] = {}

    def __call__(self, run: Run, name: str, script: Path, *arguments: str | Path) -> Seen:
        key = (name, script)
        if key not in self._seen:
            conversion, folder = CONVERSIONS[name], self._made()
            out = folder / "o.gguf"
            done = run(
                [f"--stop={stop}" for stop in conversion.stops]
                + [script, *arguments, "--outfile", out, *conversion.options],
                "\n".join(_typed(conversion)) + "\n",
                env={"COLUMNS": "400", "TMPDIR": str(folder / "temporary")},
                cwd=folder,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            self._seen[key] = Seen(done, out)
        return self._seen[key]

    def plain(self, run: Run, script: Path, checkpoints: Mapping[str, Path]) -> dict[str, Path]:
        """What *script* makes of each of *checkpoints* without modpdb, in one process."""
        if script not in self._plain:
            folder = self._made()
            files = {name: folder / f"{name}.gguf" for name in checkpoints}
            lines = [
                (checkpoint, "--outfile", files[name], *CONVERSIONS[name].options)
                for name, checkpoint in checkpoints.items()
            ]
            program = _one_after_the_other(script, lines)
            done = run(["-c", program], env={"TMPDIR": str(folder / "temporary")})
            assert done.returncode == 0, done.stderr
            self._plain[script] = files
        return self._plain[script]

    def by_hand(
        self, run: Run, script: Path, make: Callable[[Path], Mapping[str, tuple[Path, Lines]]]
    ) -> Seen:
        """What *make* puts into a folder, converted in one process: by name a checkpoint, and what
        is typed at stage params; what fails after that is passed over (the tokenizer)."""
        if script not in self._seen:
            folder = self._made()
            out = folder / "o.gguf"
            made = make(folder)
            lines = [
                (checkpoint, "--outfile", out, "--outtype", "bf16")
                for checkpoint, _ in made.values()
            ]
            driver = folder / script.name  # the preset goes by that
            driver.write_text(_one_after_the_other(script, lines, careless=True))
            typed = Conversion({name: lines for name, (_, lines) in made.items()})
            done = run(
                ["--stop=params", driver], "\n".join(_typed(typed)) + "\n", env={"COLUMNS": "400"}
            )
            assert done.returncode == 0, done.stdout + done.stderr
            self._seen[script] = Seen(done, out)
        return self._seen[script]

    def _made(self) -> Path:
        folder = self._folder / str(len(list(self._folder.iterdir())))
        (folder / "temporary").mkdir(parents=True)
        return folder


def _one_after_the_other(
    script: Path, lines: Iterable[Sequence[str | Path]], *, careless: bool = False
) -> str:
    """A program that runs *script* with each of these arguments; *careless*: to the last, whatever
    is raised."""
    program = ["import contextlib, runpy, sys", f"sys.path.insert(0, {str(script.parent)!r})"]
    for arguments in lines:
        program.append(f"sys.argv = {[str(script), *map(str, arguments)]!r}")
        program.append(f"with contextlib.suppress({'Exception' if careless else ''}):")
        program.append(f"    runpy.run_path({str(script)!r}, run_name='__main__')")
    return "\n".join(program) + "\n"


def _typed(conversion: Conversion) -> list[str]:
    lines = []
    for typed in conversion.stops.values():
        for line in typed:
            name, _, command = line.partition(": ")
            lines += [f"!print('@@ {name}')", command] if command else [line]
        lines.append("c")
    return lines


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def files_below(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*"))
