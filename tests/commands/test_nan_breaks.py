"""`break-nan`: stops at the module that makes the first NaN or Inf, and nowhere else."""

import re
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("torch")

HEAD = """\
import copy, pickle, torch
from torch import nn
torch.manual_seed(0)
"""
LLAMA = """\
import transformers
config = transformers.LlamaConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, vocab_size=100,
)
model = transformers.LlamaForCausalLM(config).eval()
ids = torch.tensor([[1, 2, 3, 4, 5]])
"""
PARTS = """\
class Root(nn.Module):
    def forward(self, x):
        return torch.sqrt(x)

class Between(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)
    def forward(self, x):
        x = self.first(x)
        x = x / 0
        return self.last(x)

class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()
    def forward(self, x, mask):
        x = self.inner(x) + mask
        return x.softmax(-1)

class InPlace(nn.Module):
    def forward(self, x):
        return x.log_()
"""


@pytest.fixture
def stops(modpdb_run, tmp_path: Path):
    """`stops(script, typed, then)`: what is printed; *then* is typed at each stop before `c`."""

    def run(script: str, typed: str = "break-nan", more: str = "") -> str:
        (tmp_path / "script.py").write_text(HEAD + textwrap.dedent(script) + "print('done')\n")
        lines = f"{typed}\nc\n" + f"{more}\nc\n" * 9
        done = modpdb_run(["script.py"], lines, cwd=tmp_path)
        assert done.returncode == 0 and "done\n" in done.stdout, done.stdout + done.stderr
        return str(done.stdout + done.stderr)

    return run


def made(text: str) -> list[str]:
    """The modules at which it stopped, by what it says they put out."""
    return re.findall(r"^(\S.*?) puts out ", text, re.MULTILINE)


@pytest.mark.parametrize("inference", ["no_grad", "inference_mode"])
def test_a_planted_nan(stops, inference: str) -> None:
    """In one weight of 120,000: at the module that has it, once, in its frame."""
    planted = (
        LLAMA
        + "with torch.no_grad(): model.model.layers[2].mlp.down_proj.weight[3, 5] = float('nan')\n"
    )
    text = stops(
        planted + f"with torch.{inference}(): model(ids)\n",
        more="p self.weight.shape\nup\np self.layer_idx",
    )
    assert made(text) == ["model.layers.2.mlp.down_proj"]
    assert "--Return--\n" in text and "->Tensor [1, 5, 64] f32\n" in text
    assert (
        "model.layers.2.mlp.down_proj puts out 5 NaN among 320 values of its output, f32 [1, 5, 64], the first at [0, 0, 3]\n"
        "    its weight holds 1 NaN among 8,192 values, f32 [64, 128], the first at [3, 5]\n"
        "    given input: f32 [1, 5, 128], "
    ) in text
    assert "torch.Size([64, 128])\n" in text


def test_what_flows_through_a_module_is_not_made_there(stops) -> None:
    text = stops(
        PARTS
        + "net = nn.Sequential(nn.Linear(3, 3), Root(), nn.Linear(3, 3), nn.Sequential(nn.ReLU()))\n"
        + "net(torch.tensor([[5., -60., 7.]]))\n"
    )
    assert made(text) == ["1"]


def test_made_between_two_modules(stops) -> None:
    """By the code of the module around them, not by the one that was given it."""
    text = stops(PARTS + "net = nn.Sequential(Between())\nnet(torch.ones(1, 3))\n")
    assert made(text) == ["0"]
    assert "0 puts out " in text and "given x: f32 [1, 3], 1 to 1\n" in text


def test_a_mask_of_inf_makes_nan_only_where_all_is_masked(stops) -> None:
    script = (
        PARTS
        + "net = Masked()\nmask = torch.tensor([0., float('-inf')])\nnet(torch.ones(2, 2), mask)\n"
    )
    assert made(stops(script)) == []
    script += "net(torch.ones(2, 2), torch.full((2,), float('-inf')))\n"
    assert made(stops(script)) == ["the model"]


def test_written_in_place(stops) -> None:
    text = stops(
        PARTS
        + "net = nn.Sequential(nn.ReLU(), InPlace())\nwith torch.inference_mode(): net(torch.tensor([-1., 1.]))\nwith torch.no_grad(): net(torch.tensor([-1., 1.]))\n"
    )
    assert made(text) == ["1", "1"]


def test_a_sum_that_overflows_is_not_bad(stops) -> None:
    assert (
        made(
            stops(
                "nn.Identity()(torch.full((9, 9), 60000., dtype=torch.float16))\nnn.Identity()(torch.tensor([3e38, 3e38]))\n"
            )
        )
        == []
    )


def test_every_floating_dtype(stops) -> None:
    dtypes = ["float16", "bfloat16", "float64", "complex64", "float8_e4m3fn"]
    script = """\
class Bad(nn.Module):
    def forward(self, x):
        return {"a": [x, torch.full((2,), float("nan")).to(x.dtype)]}
"""
    text = stops(script + "".join(f"Bad()(torch.ones(2, dtype=torch.{name}))\n" for name in dtypes))
    assert made(text) == ["the model"] * 5
    assert re.findall(r"of its output\[a.1\], (\S+) \[2\]", text) == [
        "f16",
        "bf16",
        "f64",
        "c64",
        "f8_e4m3fn",
    ]


def test_a_glob_chooses_whose_is_told(stops) -> None:
    script = (
        PARTS
        + "net = nn.Sequential(Root(), nn.Identity(), Root())\nnet(torch.tensor([-1.]))\nnet[2](torch.tensor([-1.]))\n"
    )
    assert made(stops(script, "break-nan 2")) == ["2"]
    text = stops(script, "break-nan 1")
    assert made(text) == []
    said = "none was made in 1 call of 1 module; 1 call passed on what others had made\n"
    assert f"breakpoint 1 at NaN or Inf of 1: {said}" in text


def test_what_a_part_makes_that_is_not_meant_is_made_by_the_module_around_it(stops) -> None:
    script = PARTS + "net = nn.Sequential()\nnet.outer = nn.Sequential(Between(), Root())\n"
    script += "net.next = nn.Sequential(Root())\nnet(torch.ones(1, 3))\n"
    text = stops(script, "break-nan outer")
    assert made(text) == ["outer"]
    assert "\n    made inside, by outer.0\n    given input: f32 [1, 3], 1 to 1\n" in text
    assert made(stops(script, "break-nan *.0")) == ["outer.0"]


def test_weights_of_parts_that_are_not_called(stops) -> None:
    """torch's fast path reads them past the parts."""
    script = """\
net = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2).eval()
with torch.no_grad():
    net.layers[1].linear2.weight[0, 0] = float("nan")
    net(torch.ones(1, 4, 16))
"""
    text = stops(script)
    assert made(text) == ["layers.1"]
    assert "    its linear2.weight holds 1 NaN among 512 values, f32 [16, 32], the first at" in text


def test_a_compiled_model_is_said_not_to_be_looked_at(stops) -> None:
    """A run in which nothing was looked at is not one in which there was nothing."""
    script = "net = torch.compile(nn.Linear(2, 2), backend='eager')\nnet(torch.full((1, 2), float('nan')))\n"
    text = stops(script, "b 5\nc\nbreak-nan")
    assert "Breakpoint 2 at NaN or Inf: not looked at: the model is compiled: " in text
    assert "breakpoint 2 at NaN or Inf was never reached: not looked at: the model is" in text
    assert "and 1 other\n" in text


def test_a_model_that_is_learned_again_is_counted_once(stops) -> None:
    script = "net = nn.Sequential(nn.ReLU(), nn.ReLU())\nnet(torch.ones(1))\n"
    text = stops(script, "b 5\nc\nbreak-nan\nb @nothing")
    assert "breakpoint 2 at NaN or Inf: none was made in 3 calls of 3 modules\n" in text


def test_exceptions_on_the_way(stops) -> None:
    text = stops(
        PARTS
        + """\
class Fails(nn.Module):
    def forward(self, x): raise ValueError
net = nn.Sequential(nn.Sequential(nn.Identity(), Fails()), Root())
try: net(torch.ones(1))
except ValueError: pass
net[1](torch.tensor([-1.]))
nn.Sequential(Root())(torch.tensor([float('nan')]))

import weakref
given = [torch.ones(1) for _ in range(5)]
alive = [weakref.ref(each) for each in given]
while given:
    try: net(given.pop())
    except ValueError: pass
net[1](torch.ones(1))
print("kept:", sum(each() is not None for each in alive))
"""
    )
    assert made(text) == ["1"]
    assert "kept: 0\n" in text


def test_gradients(stops) -> None:
    script = (
        PARTS
        + """\
net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), Root(), nn.Linear(3, 1))
with torch.no_grad(): net[0].bias.fill_(-10.)
loss = net(torch.ones(2, 3)).sum()
loss.backward()
after = 1
"""
    )
    text = stops(script, "break-nan --grad")
    assert (
        "-> after = 1\nthe backward pass of 2 gives 6 Inf and nothing else, 6 values of the gradient of its input, f32 [2, 3], the first at [0, 0]\n"
        in text
    )
    assert text.count("the backward pass of") == 1
    assert "the backward pass" not in stops(script, "break-nan")
    text = stops(
        script.replace(
            "net(torch.ones(2, 3)).sum()", "(net[:2](torch.ones(2, 3)) * float('inf')).sum()"
        ),
        "break-nan --grad",
    )
    assert "what comes after the model gives 6 Inf" in text


def test_nothing_is_left_anywhere(stops) -> None:
    """What is copied and pickled meanwhile has no hooks; results and random numbers are the same."""
    script = (
        LLAMA
        + """\
before = torch.random.get_rng_state()
state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
plain = model(ids).logits
for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
    assert torch.equal(each(ids).logits, plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in each.modules())
    assert not any(p._backward_hooks for p in each.parameters())
assert not torch.nn.modules.module._global_forward_hooks
assert torch.equal(before, torch.random.get_rng_state())
assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
"""
    )
    text = stops(script, "break-nan")
    assert made(text) == []
    assert re.search(r"none was made in \d{3} calls of \d+ modules", text)


def test_cleared_and_refused(stops) -> None:
    script = PARTS + "net = Root()\nnet(torch.tensor([-1.]))\n"
    assert made(stops(script, "break-nan\nclear 1")) == []
    assert made(stops(script, "break-nan\ndisable 1")) == []
    assert "break-nan takes one path or glob of modules, not 'a b'" in stops(
        script, "break-nan a b"
    )


def test_a_trace_and_a_pickle_notice_nothing(stops) -> None:
    """torch.jit.trace notes every operator, and torch warns of a hook that is not pickled."""
    script = """\
import warnings
warnings.simplefilter("error")
warnings.simplefilter("ignore", DeprecationWarning)
net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
x = torch.ones(1, 3, requires_grad=True)
with torch.no_grad(): x.log_()
net(x)
pickle.dumps((net, x))
graph = torch.jit.trace(net, x).inlined_graph
print(sorted({each.kind() for each in graph.nodes()} - {"prim::GetAttr"}))
"""
    text = stops(script, "break-nan --grad")
    assert "['aten::linear', 'aten::relu']\n" in text
    assert "none was made in 6 calls of 3 modules\n" in text  # torch runs the model once to check


def test_a_module_is_counted_once(stops) -> None:
    """However often its model is looked through, for whatever breakpoint."""
    script = """\
net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
breakpoint()
net(torch.ones(1, 3))
"""
    text = stops(script, "c\nbreak-nan\nb @0\nb @1")
    assert "none was made in 3 calls of 3 modules\n" in text
