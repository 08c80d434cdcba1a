"""What linear-path prints: told from plain data, looked at as text."""

import io

import pytest
import torch
from rich.console import Console, RenderableType
from torch import nn

from modpdb.probes.linear import LinearRow, linear_path, linears
from modpdb.probes.linear_branch import Branch, Op
from modpdb.probes.linear_checkpoint import checkpoint_linear_path
from modpdb.probes.profiling import Observation, observe
from modpdb.views import linear as view
from modpdb.views.linear_checkpoint import checkpoint_linear_path as checkpoint_view


def printed(renderable: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    console.print(renderable)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


@pytest.fixture
def layer() -> nn.Linear:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
        layer.bias.copy_(torch.tensor([1.0, 2]))
    return layer


X = torch.tensor([[1.0, 2, 3], [4, 5, 6]])


def test_the_example(layer):
    text = printed(view.linear_path(linear_path(layer, "model.head", X), observe(layer, X)))
    assert text.startswith("model.head   3 → 2 · bias · f32\n")
    steps = ["attribute", "class", "call", "forward", "F.linear", "dispatcher", "C++", "branch"]
    positions = [text.index(f"\n{number} {name}") for number, name in enumerate(steps, 1)]
    assert positions == sorted(positions)
    assert "F.linear is torch._C._nn.linear: True" in text
    assert "predicted: 2-D input with bias" in text and "the two agree" in text
    assert torch.version.git_version in text.replace("\n              ", "")
    assert text.endswith(
        """\
y = x Wᵀ + b
  x     [2, 3]
  W     [2, 3]  stored as [out, in]
  Wᵀ    [3, 2]  a view, no copy
  x Wᵀ  [2, 2]
  b     [2]     broadcast over the rows
  y     [2, 2]

the numbers, computed here in float64 from the stored values
    x           Wᵀ       x Wᵀ       b        y
    1  2  3  ·  1  4  =  14  32  +  1  2  =  15  34
    4  5  6     2  5     32  77              33  79
                3  6"""
    )


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("x", [None, X, torch.zeros(2, 2, 3).transpose(0, 1), torch.zeros(2, 5)])
def test_it_fits_the_width(layer, x, width):
    layer.register_forward_hook(lambda *_: None)
    text = printed(view.linear_path(linear_path(layer, "l", x), observe(layer, x)), width)
    assert max(map(len, text.splitlines())) <= width


def test_wide_numbers_go_below_each_other_or_are_left_out():
    layer = nn.Linear(8, 8)
    with torch.no_grad():
        layer.weight.fill_(0.125)
    below = printed(view.linear_path(linear_path(layer, "l", torch.ones(2, 8))))
    assert "\n  =  y     " in below
    assert max(map(len, below.splitlines())) <= 80
    tiny = printed(view.linear_path(linear_path(layer, "l", torch.full((2, 8), -1.234567e-20))))
    assert "the numbers" not in tiny and "y = x Wᵀ + b" in tiny


def test_a_difference_is_told_in_words(layer):
    seen = Observation("F.linear(x, weight, bias)", None, ops=(Op("t"), Op("mm")))
    text = printed(view.linear_path(linear_path(layer, "l", X), seen))
    assert "the two differ: operator 2: predicted addmm, observed mm" in text


def test_a_run_that_was_not_made_says_why(layer):
    seen = Observation("", None, error="a profiler is on and would see the run")
    text = printed(view.linear_path(linear_path(layer, "l", X), seen))
    assert "not run: a profiler is on" in text and "agree" not in text


def test_without_an_input_one_line_for_kinds_that_go_alike(layer):
    text = printed(view.linear_path(linear_path(layer, "l")))
    assert "predicted for 1-D, 3-D contiguous, 4-D contiguous:\n" in text
    made_up = printed(view.linear_path(linear_path(layer, "l"), observe(layer)))
    assert "x [1, 3] made up of zeros" in made_up


def test_names_are_escaped_and_no_markup(layer):
    text = printed(view.linear_path(linear_path(layer, "[red]a\x1b[31m")))
    assert text.startswith("[red]a\\x1b[31m") and "\x1b" not in text
    row = LinearRow("a\x1b.[bold]q", "Linear", "Linear", 4, 5, True, "f32")
    assert "a\\x1b.[bold]q" in printed(view.linears([row]))
    stored = checkpoint_linear_path("a\x1b", (4, 5), "f32", "f\x1b", "g\x1b")
    assert "\x1b" not in printed(checkpoint_view(stored))


def test_linears_are_folded():
    root = nn.Module()
    root.layers = nn.ModuleList(
        nn.ModuleDict(
            {
                "q": nn.Linear(4, 4, bias=False),
                "experts": nn.ModuleList(nn.Linear(4, 8) for _ in range(3 if block < 5 else 2)),
            }
        )
        for block in range(6)
    )
    root.head = root.layers[0].q
    assert printed(view.linears(linears(root, "model"))) == (
        "23 linear layers under 24 names, in → out\n"
        "model.layers.{0…5}.q               6 ×  4 → 4  no bias  f32\n"
        "model.layers.{0…4}.experts.{0…2}  15 ×  4 → 8  bias     f32\n"
        "model.layers.5.experts.{0…1}       2 ×  4 → 8  bias     f32\n"
        "model.head                              4 → 4  no bias  f32  same layer as\n"
        "                                                        model.layers.0.q"
    )


def test_folding_keeps_every_path():
    """One layer differs, so its neighbours are folded around it and it stands alone."""
    rows = [LinearRow(f"l.{n}.q", "Linear", "Linear", 4, 5 + (n == 3), True, "f") for n in range(6)]
    text = printed(view.linears(rows))
    assert "l.{0…2, 4…5}.q  5 ×  4 → 5" in text
    assert "l.3.q                4 → 6" in text


def test_checkpoint():
    found = checkpoint_linear_path(
        "q_proj.weight",
        (1024, 640),
        "bf16",
        "m.safetensors",
        "blk.0.attn_q.weight",
        bias=(1024,),
    )
    assert printed(checkpoint_view(found)) == (
        "checkpoint  q_proj.weight  [1024, 640]  bf16\n"
        "            in m.safetensors\n"
        "GGUF        blk.0.attn_q.weight  ne [640, 1024]  predicted, by the name map\n"
        "in ggml     ggml_mul_mat(W, x): both are read along ne[0], W as it is stored\n"
        "\n"
        "y = x Wᵀ + b\n"
        "        torch        ggml (ne)\n"
        "  x     […, 640]     [640, …]\n"
        "  W     [1024, 640]  [640, 1024]  the same memory, named in reverse\n"
        "  x Wᵀ  […, 1024]    [1024, …]    ggml_mul_mat(W, x)\n"
        "  b     [1024]       [1024]       ggml_add, repeated over the rows\n"
        "  y     […, 1024]    [1024, …]"
    )


def test_checkpoint_that_is_reshaped_or_has_no_name():
    moved = checkpoint_linear_path("q", (4, 6), "f", "m", "blk.0.q", (4, 6), observed=True)
    assert "ne [4, 6]  observed" in printed(checkpoint_view(moved))
    assert "not simply [4, 6] reversed" in printed(checkpoint_view(moved))
    unknown = checkpoint_linear_path("q", (4, 6), "f", "m")
    assert "no name for it in the name map" in printed(checkpoint_view(unknown))


def test_what_is_not_known_is_said():
    layer = nn.LazyLinear(5)
    text = printed(view.linear_path(linear_path(layer, "l"), observe(layer)))
    assert "? → 5 · lazy" in text and "not run: weight: no shape until the first call" in text
    refused = Branch("refused", "operands of float64 and float32: one dtype is wanted")
    data = linear_path(nn.Linear(3, 2), "l", torch.zeros(2, 3, dtype=torch.float64))
    assert data.native.branch == refused
    assert f"refused: {refused.reason}" in printed(view.linear_path(data))
