"""`record`, `activations`, `compare-runs` at the prompt."""

import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from modpdb import ModPdb

torch = pytest.importorskip("torch")
nn = torch.nn

X = [[1.0, -2.0, 3.0, 0.5]]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.up = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return x + self.up(self.norm(x))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(4, 2, bias=False)

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Prompt:
    """The prompt in a function that holds a model and its input."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.dbg = ModPdb(stdin=io.StringIO(), stdout=io.StringIO(), nosigint=True, readrc=False)
        self.model = Model()
        self.dbg.setup(self.stop(self.model, torch.tensor(X)), None)

    @staticmethod
    def stop(model: Any, x: Any) -> FrameType:
        return sys._getframe()

    def __call__(self, *lines: str) -> str:
        """What the last of *lines* prints."""
        for line in lines:
            self.dbg.stdout = io.StringIO()
            self.dbg.onecmd(self.dbg.precmd(line))
        return self.dbg.stdout.getvalue().rstrip("\n")


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Prompt]:
    monkeypatch.delenv("COLUMNS")
    monkeypatch.chdir(tmp_path)
    from modpdb.commands import activations

    monkeypatch.setattr(activations, "_RUNS", activations._Runs())
    yield Prompt()
    if activations._RUNS.running is not None:
        activations._RUNS.end()


def test_record_says_what_it_does(ask: Prompt) -> None:
    assert ask("record") == "recording 1, every module; `record stop` ends it"
    assert ask("p model(x).shape") == "torch.Size([1, 2])"
    assert ask("record") == "recording 1, every module: 11 calls of 11 modules so far"
    assert ask("record *.up") == "*** a recording is under way already: `record stop` ends it"
    assert ask("record stop") == "recorded 11 calls of 11 modules; `activations` shows it"
    assert ask("record stop") == "*** nothing is being recorded; `record` starts"
    assert not nn.modules.module._global_forward_hooks


def test_activations(ask: Prompt) -> None:
    said = ask("record", "p model(x)", "record stop", "activations").splitlines()
    assert said[0] == "recording 1: 11 calls of 11 modules · every module"
    assert said[1] == "no NaN and no Inf in 11 outputs"
    assert re.match(r"greatest value: \S+ at layers\.\d$", said[2])
    assert [line.split()[:2] for line in said[5:-1]] == [
        ["model", "Model"],
        ["layers.{0…2}", "Block"],
        ["norm", "LayerNorm"],
        ["up", "Linear"],
        ["head", "Linear"],
    ]
    assert said[-1] == "all f32"


def test_nan_is_said_first(ask: Prompt) -> None:
    with torch.no_grad():
        ask.model.layers[1].up.weight[0, 0] = float("nan")
    said = ask("record", "p model(x)", "record stop", "activations")
    assert (
        said.splitlines()[1]
        == "NaN begins at layers.1.up: 1 of 4 of its output; its inputs had none"
    )
    row = next(line for line in said.splitlines() if "layers.{0…2}" in line)
    assert "2 of 3" in row and "NaN" in row


def test_what_is_chosen(ask: Prompt) -> None:
    assert ask("record layers.*.up") == "recording 1, modules layers.*.up; `record stop` ends it"
    ask("p model(x)")
    assert ask("record stop") == "recorded 3 calls of 3 modules; `activations` shows it"
    assert "layers.{0…2}.up" in ask("activations")
    assert (
        ask("activations --unfold *.1.up").count("layers.1.up") == 2
    )  # the greatest value, and its row
    assert (
        ask("activations laers.1.up")
        == "*** 'laers.1.up' is no path in recording 1; near: layers.1.up, layers.2.up"
    )
    ask("record nothing.*", "p model(x)")
    assert (
        ask("record stop")
        == "nothing recorded: no module that ran is meant by 'nothing.*'; 11 other modules ran, such as model.head"
    )
    assert ask("activations") == "*** recording 2 has no calls: no module ran"


def test_top_and_inputs(ask: Prompt) -> None:
    ask("record", "p model(x)", "record stop")
    rows = ask("activations --top 2").splitlines()[4:]
    assert len(rows) == 2 and all("layers." in row for row in rows)
    assert "in 0" in ask("activations --inputs head")
    assert ask("activations head --inputs") == ask("activations --inputs head")
    assert ask("activations --top x") == "*** --top takes a whole number, not 'x'"


def test_a_file(ask: Prompt, tmp_path: Path) -> None:
    said = ask("record run.safetensors --values")
    path = tmp_path / "run.safetensors"
    assert said == f"recording 1, every module with values, to {path}; `record stop` ends it"
    assert (
        ask("p model(x)", "record stop")
        == f"recorded 11 calls of 11 modules, 168 bytes of values, in {path}; `activations` shows it"
    )
    assert (
        ask("activations --of run.safetensors").splitlines()[1:]
        == ask("activations").splitlines()[1:]
    )
    assert ask("record run.safetensors") == f"*** {path} is there already; --force overwrites it"
    assert (
        ask("compare-runs 1, run.safetensors").splitlines()[2]
        == "no divergence in 11 outputs, the farthest NMSE 0 apart"
    )
    assert "with values" in ask("record --force --values run.safetensors")


def test_values_that_were_written_over_are_not_compared(ask: Prompt) -> None:
    ask("record run.safetensors --values", "p model(x)", "record stop")
    ask("record run.safetensors --values --force", "p model(x)", "record stop")
    assert "11 outputs compared by statistics only" in ask("compare-runs 1, 2")
    Path("run.safetensors").unlink()
    assert "11 outputs compared by statistics only" in ask("compare-runs 2, 2")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("record a b", "'a b': expected at most one glob of paths and one file"),
        ("record a/b", "'a/b': a recording's file ends in .safetensors"),
        (
            "record --values",
            "--values needs a file to stream them to: record --values FILE.safetensors",
        ),
        ("record 'a", '"\'a": No closing quotation'),
        (
            "record --what",
            "record has no option --what; it takes --values, --calls NAME,NAME…, --no-stats, --force",
        ),
        ("activations", "nothing is recorded yet; `record` starts"),
        ("activations --of 7", "'7' is no recording (none in memory) and no file"),
        ("compare-runs 1", "compare-runs takes two recordings: compare-runs A, B"),
        ("compare-runs 1, 2", "'1' is no recording (none in memory) and no file"),
    ],
)
def test_one_sentence(ask: Prompt, line: str, said: str) -> None:
    assert ask(line) == f"*** {said}"


def test_two_runs(ask: Prompt) -> None:
    ask("record", "p model(x)", "record stop")
    with torch.no_grad():
        ask.model.layers[1].up.bias[0] += 1
    said = ask("record", "p model(x)", "record stop", "compare-runs 1, last").splitlines()
    assert said[2].startswith("first divergence: layers.1.up: ") and said[2].endswith(
        "by statistics, tolerance 1e-05 of f32"
    )
    assert said[3].startswith("11 outputs compared by statistics only")
    assert [line.split()[0] for line in said[6:]] == ["model", "layers.{1…2}", "up", "norm", "head"]
    assert said[7].endswith("first at 1")


def test_no_statistics(ask: Prompt) -> None:
    said = ask("record --no-stats", "p model(x)", "record stop", "activations")
    assert said.splitlines()[1] == "no output's values were read: NaN would not be known"


def test_names_are_escaped(ask: Prompt) -> None:
    ask.model._modules["\x1b[31m"] = nn.Identity()
    ask.model.forward = lambda x: ask.model._modules["\x1b[31m"](x)
    said = ask("record", "p model(x)", "record stop", "activations")
    assert "\x1b" not in said and "\\x1b[31m" in said


PROGRAM = """\
import torch
from torch import nn

def rotate(x):
    return x, x * 2

class Rotates(nn.Module):
    def forward(self, x):
        return rotate(x)[1]

model = nn.Sequential(Rotates(), nn.ReLU())
x = torch.ones(2)
model(x)
model(x)
"""


def test_in_a_program(modpdb_run: Any, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(PROGRAM)
    lines = ["b 13", "c", "record --calls rotate out.safetensors", "n", "activations", "c"]
    done = modpdb_run([script], "\n".join(lines), cwd=tmp_path, env={"COLUMNS": None})
    assert "recording 1, every module and what rotate returned, to" in done.stdout
    assert re.search(r"\n  0 +Rotates .*\n    rotate\(\) .*\+1 output\n  1 +ReLU", done.stdout)
    path = os.path.realpath(tmp_path / "out.safetensors")
    assert (
        done.stderr == f"modpdb: recorded 8 calls of 4 modules, in {path}; `activations` shows it\n"
    )


def test_before_torch(modpdb_run: Any, tmp_path: Path) -> None:
    """It begins with the first module that is called, and before that does not disturb."""
    script = tmp_path / "run.py"
    script.write_text(PROGRAM)
    lines = ["record *.1", "record", "c"]
    done = modpdb_run([script], "b 14\n" + "\n".join([*lines, "activations", "c"]), cwd=tmp_path)
    waits = "recording 1, modules *.1, as soon as torch is imported"
    assert f"{waits}; `record stop` ends it\n" in done.stdout and f"{waits}\n" in done.stdout
    assert "recording 1: 1 call of 1 module" in done.stdout

    script.write_text("print(1)\n")
    done = modpdb_run([script], "record\nrecord stop\nactivations\nc\n", cwd=tmp_path)
    assert "nothing recorded: no module was called" in done.stdout


def test_a_fork_leaves_the_file_to_its_parent(modpdb_run: Any, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        PROGRAM
        + "import os, sys\npid = os.fork()\nif not pid:\n    model(x)\n    sys.exit()\nos.waitpid(pid, 0)\n"
    )
    done = modpdb_run([script], "b 13\nc\nrecord out.safetensors\nc\n", cwd=tmp_path)
    assert done.stderr.count("modpdb: recorded 6 calls of 3 modules") == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.safetensors", "run.py"]


def test_what_functions_return_in_code_run_from_the_prompt(modpdb_run: Any, tmp_path: Path) -> None:
    """There a second debugger is at work, as in run-model."""
    (tmp_path / "script.py").write_text(
        "import torch\n"
        "def helper(x): return x + 1\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x): return helper(x)\n"
        "net, x = Net(), torch.ones(1, 3)\n"
        "breakpoint()\n"
        "pass\n"
    )
    typed = "c\nrecord --calls helper\ndebug net(x)\nc\nrecord stop\nactivations\nc\n"
    done = modpdb_run(["script.py"], typed, cwd=tmp_path)
    assert re.search(r"^  helper\(\) +\[1, 3\]", done.stdout, re.MULTILINE), (
        done.stdout + done.stderr
    )
