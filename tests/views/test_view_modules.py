"""How modules, tensors and variables look on a screen."""

import io
import time

import pytest
import torch
from rich.console import Console, RenderableType
from torch import nn

from modpdb.probes.checkpoints import Checkpoint, TensorEntry, checkpoint_tree
from modpdb.probes.checkpoints import tensor_rows as checkpoint_rows
from modpdb.probes.modules import module_tree
from modpdb.probes.registered import parameters
from modpdb.probes.values import frame_locals
from modpdb.views import modules as views
from modpdb.views.values import variables


def printed(shown: RenderableType, width: int = 200) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(shown)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(64, 128, bias=False)
        self.norm = nn.RMSNorm(64)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = Attention()


class Model(nn.Module):
    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 64)
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.head = nn.Linear(64, 10, bias=False)
        self.head.weight = self.embed.weight


def test_tree_of_a_model() -> None:
    assert printed(views.module_tree(module_tree(Model().to(torch.bfloat16).eval()))) == [
        "Model   25,408 parameters · 49.6 KiB (50,816 bytes) · bf16 · eval",
        "tied, counted once: embed.weight = head.weight (640)",
        "embed         Embedding 10 × 64    640    1.2 KiB  tied with head.weight",
        "layers.{0…2}  3 × Layer, each    8,256   16.1 KiB",
        "  self_attn   Attention          8,256   16.1 KiB",
        "    q_proj    Linear 64 → 128    8,192   16.0 KiB",
        "    norm      RMSNorm 64            64  128 bytes",
        "head          Linear 64 → 10       640    1.2 KiB  tied with embed.weight",
    ]


def test_depth_unfold_and_type() -> None:
    tree = module_tree(Model())
    labels = [line.split()[0] for line in printed(views.module_tree(tree, depth=1))[2:]]
    assert labels == ["embed", "layers.{0…2}", "head"]
    rows = printed(views.module_tree(tree, unfold=True))
    assert sum("q_proj" in row for row in rows) == 3
    assert not any("{" in row for row in rows)
    (row,) = printed(views.module_tree(tree, type_glob="rms*"))[2:]
    assert row.split("  ") == [
        "layers.{0…2}.self_attn.norm",
        "3 × RMSNorm 64, each",
        "64",
        "256 bytes",
    ]


@pytest.mark.parametrize("width", [40, 80, 160])
def test_nothing_is_wider_than_the_screen_or_lost(width: int) -> None:
    model = Model()
    model.layers[1].half().requires_grad_(False)
    rows = printed(views.module_tree(module_tree(model)), width)
    assert max(map(len, rows)) <= width
    words = " ".join(" ".join(rows).split())
    for word in ("layers.{0, 2}", "layers.1", "f16", "frozen", "tied with embed.weight"):
        assert word in words


def test_what_deviates_is_said_once_at_the_top() -> None:
    model = nn.Sequential(Model(), Model())
    model[1].half().requires_grad_(False)
    rows = printed(views.module_tree(module_tree(model)))
    assert sum("frozen" in row and "partly" not in row for row in rows) == 1
    assert sum("f16" in row for row in rows[2:]) == 1
    assert "partly frozen" in rows[0]


def test_a_tie_within_a_folded_block_is_told_by_the_block() -> None:
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(4)]
    for block in blocks:
        block[1].weight = block[0].weight
    model = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})
    rows = printed(views.module_tree(module_tree(model)))
    assert any("tied with blocks.{0…3}.1.weight" in row for row in rows)


def test_names_cannot_write_to_the_terminal() -> None:
    model = nn.Module()
    model._modules["[red]\x1b]0;x\x07"] = nn.Linear(2, 2)
    text = "\n".join(printed(views.module_tree(module_tree(model))))
    assert "\x1b" not in text
    assert r"[red]\x1b]0;x\x07" in text


def test_checkpoint_tree_says_where_it_comes_from() -> None:
    tensors = tuple(
        TensorEntry(f"model.layers.{layer}.q.weight", "bf16", (4, 2), 16, "m.safetensors")
        for layer in range(3)
    )
    checkpoint = Checkpoint("tiny", ("m.safetensors",), tensors, ("n.bin: odd",))
    assert printed(views.module_tree(checkpoint_tree(checkpoint))) == [
        "implied by the tensor names   24 parameters · 48 bytes · bf16",
        "3 tensors by the files' headers: m.safetensors in tiny",
        "problem: n.bin: odd",
        "model                          24  48 bytes",
        "  layers.{0…2}  3 × each        8  16 bytes",
        "    q           weight [4, 2]   8  16 bytes",
    ]
    assert printed(views.tensor_rows(checkpoint_rows(tensors[:1]))) == [
        "model.layers.0.q.weight  [4, 2]  bf16  16 bytes",
        "1 tensor · 8 elements · 16 bytes · m.safetensors",
    ]


def test_tensor_rows_count_a_tied_tensor_once() -> None:
    rows = printed(views.tensor_rows(parameters(Model(layers=0))))
    assert rows == [
        "embed.weight  [10, 64]  f32  2.5 KiB  tied with head.weight",
        "head.weight   [10, 64]  f32  2.5 KiB  tied with embed.weight",
        "1 tensor, 1 further name of tied ones · 640 elements · 2.5 KiB (2,560 bytes)"
        " · 1 name registered as None",
    ]


def test_names_registered_as_none_are_shown_where_they_are_all_there_is() -> None:
    model = nn.Module()
    model.register_buffer("gone", None)
    row, _ = printed(views.tensor_rows(parameters(model, "buffers")))
    assert row.split() == ["gone", "None"]


def test_bad_values_come_first() -> None:
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[float("nan"), 1.0]]))
    row, _ = printed(views.tensor_rows(parameters(layer, stats=True)))
    assert row == "weight  [1, 2]  f32  8 bytes  1 NaN · [1, 1] μ 1 σ 0"


def test_no_rows() -> None:
    assert printed(views.tensor_rows([], "parameters")) == ["no parameters"]


def test_variables() -> None:
    found = frame_locals({"x": torch.zeros(2), "name": "a\x1b", "torch": torch, "__doc__": None})
    assert printed(variables(found)) == [
        "x     Tensor  [2] f32",
        r"name  str     'a\x1b'",
        "imported modules: torch",
        "dunder names: __doc__",
    ]
    assert printed(variables([])) == ["no local variables"]


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 4, bias=False)
        self.up = nn.Linear(8, 4, bias=False)
        self.down = nn.Linear(4, 8, bias=False)


def test_thousands_of_experts_stay_a_few_rows() -> None:
    with torch.device("meta"):
        model = nn.ModuleList(nn.ModuleList(Expert() for _ in range(100)) for _ in range(20))
    started = time.process_time()
    rows = printed(views.module_tree(module_tree(model)))
    assert time.process_time() - started < 2  # 8,021 modules; 0.1 s here, a square would take 10
    assert len(rows) == 6
    unfolded = printed(views.module_tree(module_tree(model), unfold=True))
    assert len(unfolded) == 1 + 20 * 100 * 4
