"""`tensor`, `x` and `compare` at the prompt."""

import io
import re
import struct
import sys
import zlib
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import at_prompt
import pytest

torch = pytest.importorskip("torch")


class Prompt(at_prompt.Prompt):
    """The prompt in a frame that has *variables*."""

    def __init__(self, **variables: Any) -> None:
        super().__init__(frame_with(**variables))


def frame_with(**variables: Any) -> FrameType:
    space: dict[str, Any] = {"sys": sys}
    parameters = ", ".join(variables)
    exec(f"def stop({parameters}):\n    return sys._getframe()", space)
    return space["stop"](**variables)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 3)
    torch.nn.init.constant_(layer.bias, 0.5)
    return torch.nn.Sequential(layer, torch.nn.BatchNorm1d(3))


def test_a_line_then_detail(model: Any) -> None:
    weight = model[0].weight
    torch.nn.init.constant_(weight, 1.0)
    weight.data[0, 0] = 3.0
    ask = Prompt(w=weight, m=model, part=weight[1:].detach())
    assert ask("tensor w").splitlines() == [
        "w  [3, 4] f32 48 bytes  Parameter  [1 █              ▁ 3]  μ 1.167  σ 0.5528",
        "  fits f16",
        "  values   3, 1, 1, 1 … 1, 1, 1, 1",
        "  rows     norm 2 … 3.464, median 2, greatest at 0",
        "  columns  norm 1.732 … 3.317, median 1.732, greatest at 0",
        "  is also  m.0.weight",
        "  shares   storage with part",
    ]


def test_x_is_the_command_only_with_an_argument() -> None:
    ask = Prompt(x=torch.ones(2), y=torch.ones(3))
    assert ask("x") == "tensor([1., 1.])"
    assert ask("x y") == "y  [3] f32 12 bytes  all 1  fits f16"
    assert ask("x x").startswith("x  [2] f32")
    assert ask("x + 1") == "tensor([2., 2.])"
    assert ask("x[0]") == "tensor(1.)"
    assert "x" not in vars(Prompt(y=1))
    assert ask("help x").startswith("tensor [--force]")


def test_by_the_name_of_a_parameter_or_buffer(model: Any) -> None:
    ask = Prompt(m=model)
    assert ask("x 0.bias").startswith("0.bias  [3] f32 12 bytes  Parameter  all 0.5")
    assert ask("x m.1.running_var").startswith("1.running_var  [3] f32")
    assert ask("tensor 1.*").startswith("*** '1.*' means 5 tensors: 1.weight, 1.bias, ")
    assert ask("tensor 0.weigt") == "*** '0.weigt' is no tensor here; near: 0.weight, 1.weight"
    assert ask("tensor m") == "*** m is no tensor but a Sequential; `params m` lists what it has"
    assert ask("tensor 3") == "*** 3 is no tensor, but of class int"
    assert ask("tensor").startswith("*** a tensor is wanted")
    assert "NameError" in ask("tensor nowhere + 1")


def test_what_is_wrong_with_values_is_in_the_first_line() -> None:
    bad = torch.tensor([1.0, float("nan"), 3e5, float("inf"), 1e-9, 0.0])
    said = Prompt(t=bad)("x t")
    for words in ("1 NaN", "1 Inf", "f16: 1 overflow", "1 zero (17%)", "[0 ", " 300000]"):
        assert words in said
    assert "f16: 1 become 0" in Prompt(t=torch.tensor([1.0, 1e-9]))("x t")
    assert "no finite value" in Prompt(t=bad[1:2])("x t")
    assert "no elements" in Prompt(t=bad[:0])("x t")
    small = Prompt(t=torch.full((4,), 1e-6) * torch.arange(4))("x t")
    assert "in f16  3 (75%) subnormal, of fewer digits" in small


def test_names_of_checkpoints_are_escaped() -> None:
    said = Prompt(d={"\x1b[31m[red]": torch.ones(2)}, t=torch.ones(2))(r'x d["\x1b[31m[red]"]')
    assert "\x1b" not in said and "[red]" in said


def test_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ask = Prompt(t=torch.tensor([[-1.0, 0.0], [0.5, 1.0]]), nan=torch.full((2,), float("nan")))
    said = ask("x --plot t.png t")
    assert said.endswith(
        "t.png: histogram, and 2 × 2 as a cell a value; blue is -1, white 0, red 1"
    )
    data = (tmp_path / "t.png").read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    body = data[data.index(b"IDAT") + 4 :]
    rows = zlib.decompressobj().decompress(body)
    assert len(rows) == height * (1 + 3 * width) and width == 512
    line = 1 + 3 * width
    top, bottom = rows[(height - 512) * line : (height - 511) * line], rows[-line:]
    assert tuple(top[1:4]) == (0, 0, 255) and tuple(top[-3:]) == (255, 255, 255)
    assert tuple(bottom[1:4]) == (255, 128, 128) and tuple(bottom[-3:]) == (255, 0, 0)
    assert "written" not in ask("x --plot t.png t")  # a picture of before may be replaced
    (tmp_path / "mine.png").write_text("mine")
    assert "exists and is no PNG" in ask("x --plot mine.png t")
    assert "a file name that ends in .png" in ask("x --plot t.txt t")
    assert ask("x --plot n.png nan").endswith("*** nothing to plot: no finite values")
    assert "No such file" in ask("x --plot no/t.png t")


def test_compare() -> None:
    torch.manual_seed(0)
    a = torch.randn(16, 6)
    ask = Prompt(a=a, b=a + 1, c=a.T, h=a.half(), d=a + 1e-4 * torch.randn(16, 6))
    assert ask("compare a, a").splitlines()[0] == "identical: same shape, dtype and values"
    assert ask("compare a, b").startswith("related: B = A + 1\n")
    assert ask("compare a, c").splitlines() == [
        "related: B is A transposed",
        "  A  a  [16, 6] f32",
        "  B  c  [6, 16] f32",
    ]
    assert re.match(r"related: B is A, cast f32 → f16, \d+ rounded", ask("compare a, h"))
    said = ask("compare a, d")
    assert said.startswith("different: no relation is found\n")
    assert re.search(r"NMSE +\d\.\d+e-0[89]  essentially identical, passes by llama", said)
    assert re.search(r"max abs +0\.000\d+ at \[\d+, \d\]: ", said)
    assert ask("compare c[2:4], c").startswith("related: A is rows 2:4 of the 6 of B")
    assert ask("compare a, a[0, :5]").startswith(
        "different: the shapes differ, and no relation is found"
    )
    assert ask("compare a").startswith("*** compare takes two tensors")
    assert ask("compare a, 3").startswith("*** 3 is no tensor")


def test_ropes_permutation_is_named() -> None:
    torch.manual_seed(0)
    a = torch.randn(32, 6)
    b = a.reshape(4, 2, 4, 6).swapaxes(1, 2).reshape(32, 6)
    said = Prompt(a=a, b=b)("compare a, b")
    assert said.startswith("related: B is A rows permuted per head, as RoPE's pairs, 4 heads\n")


class Hostile:
    def __getattr__(self, name: str) -> Any:
        raise SystemExit(name)

    def __repr__(self) -> str:
        raise SystemExit

    __eq__ = __len__ = __bool__ = __iter__ = __array__ = __hash__ = __repr__  # type: ignore


def test_hostile_objects_are_not_asked() -> None:
    near = Hostile()
    vars(near).update(_meta=Hostile(), _func=Hostile(), _args=(), _data=None, _kwargs={})
    lora = Hostile()
    vars(lora).update(_lora_A=Hostile(), _lora_B=Hostile())
    chunks = Hostile()
    vars(chunks).update(_chunks=[Hostile()], shape=(Hostile(),), dtype=Hostile())
    held = {"list": [Hostile()], "dict": {"k": Hostile()}, "plain": SimpleNamespace()}
    ask = Prompt(h=Hostile(), near=near, lora=lora, chunks=chunks, t=torch.ones(2), **held)
    assert ask("x t").startswith("t  [2] f32 8 bytes  all 1")
    for name in ("h", "near", "chunks"):
        assert ask(f"x {name}") == f"*** {name} is no tensor, but of class Hostile"
    assert ask("x lora").startswith("lora  ? ?  Hostile")
    assert ask("compare t, h").startswith("*** h is no tensor")
    assert ask("p 'alive'") == "'alive'"


def test_ctrl_c_leaves_partial_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    from modpdb.commands import progress
    from modpdb.probes import tensors

    def interrupt(self: object, what: str, done: int, of: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tensors, "CHUNK", 10)
    monkeypatch.setattr(progress.Progress, "__call__", interrupt)
    said = Prompt(t=torch.arange(100.0))("x t")
    assert "partial: 10 elements read  [0 " in said and "rows" not in said


def test_progress_is_shown_at_a_terminal_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    from modpdb.commands.progress import Progress

    times = iter([0.0, 0.5, 1.2, 1.25, 1.4])
    monkeypatch.setattr("modpdb.commands.progress.time.monotonic", lambda: next(times))
    dbg = SimpleNamespace(stdout=io.StringIO(), at_terminal=lambda: True)
    with Progress(dbg) as told:  # type: ignore[arg-type]
        for done in (1, 2, 3, 4):
            told("reading", done, 4)
    shown = dbg.stdout.getvalue().split("\r\x1b[K")
    assert [each.split("  ")[0] for each in shown] == ["", "reading 50%", "reading 100%", ""]


def test_too_much_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import gguf

    meta = gguf.LazyNumpyTensor.meta_with_dtype_and_shape("float32", (1 << 20, 1 << 10))
    lazy = gguf.LazyNumpyTensor(meta=meta, args=(3,), func=lambda n: 1 / 0)
    ask = Prompt(t=lazy)
    assert ask("x t").splitlines()[1:] == [
        "  from    LEAF [1048576, 1024] f32",
        "  values  not computed: it would read 4.0 GiB and hold up to 4.0 GiB; tensor",
        "          --force does it",
    ]
    assert "cannot be computed: ZeroDivisionError: division by zero" in ask("x --force t")
    assert "compare --force does it" in ask("compare t, t")
