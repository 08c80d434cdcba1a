"""call-path at the prompt."""

import io
import os

import pytest

from modpdb import ModPdb

torch = pytest.importorskip("torch")
nn = torch.nn

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(4, 4)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3))
        self.norm = nn.LayerNorm(4)

    def forward(self, x, scale=None):
        h = self.proj(x).relu()
        for layer in self.layers:
            h = layer(h)
        if scale is not None:
            h = h * scale
        return self.norm(h)


def session(*commands: str, width: int = 80) -> list[str]:
    """What each command says at a stop that has a Block, its input and some oddities."""
    block, x, half = Block().eval(), torch.zeros(2, 4), torch.ones(1)
    mod, text, cls = nn.ModuleList(), "text", Block
    more = [x]

    def program(block=block, x=x, half=half, mod=mod, text=text, cls=cls, more=more):
        return None

    os.environ["COLUMNS"] = str(width)
    lines = "".join(f"{line}\n" for line in ("s", *commands, "c"))
    dbg = ModPdb(stdin=io.StringIO(lines), stdout=io.StringIO(), nosigint=True, readrc=False)
    dbg.runcall(program)
    return [part.strip("\n") for part in dbg.stdout.getvalue().split("(ModPdb) ")][2:-1]


def printed(line: str, **options: int) -> str:
    (said,) = session(line, **options)
    return said


def test_the_way_without_input():
    said = printed("call-path block")
    steps = ("1 class", "2 call", "3 forward", "4 run")
    assert [said.index(f"\n{step} ") for step in steps] == sorted(
        said.index(f"\n{step} ") for step in steps
    )
    assert "  self.proj(x)  proj  Linear\n" in said
    assert "for layer in self.layers:\n" in said and "layers.{0…2}  Sequential" in said
    assert "if scale is not None:\n" in said and "aten::mul" in said
    assert "--run observes it" in said and "4 run" in said


@forks
def test_a_run_line_by_line():
    said = printed("cp --run block, x, scale=half", width=160)
    assert "observed: 10 operators in 11 module calls → Tensor [2, 4]" in said
    assert "proj  Linear  → linear [2, 4] [4, 4] [4] (t, addmm)" in said
    assert "layers.{0…2}  Sequential  → 3 times, 3 linear, 3 relu" in said
    assert "aten::mul  → [2, 4] [1]" in said
    assert "norm  LayerNorm  → layer_norm [2, 4] [4] [4] (native_layer_norm)" in said
    assert "if scale" not in said  # decided by the argument
    assert "memory here is as it was" in said and "not seen" not in said


@forks
def test_known_layers_are_predicted_and_agree():
    said = printed("cp --run block.norm, x")
    assert "predicted: over the last dimension" in said
    assert "layer_norm (native_layer_norm (" in said and "the two agree" in said
    assert "parsed by THPVariable_layer_norm in python_torch_functions" in said
    assert "1 class" in said  # of what an expression gives no owner is known
    by_path = printed("cp layers.0.0")
    assert "1 attribute   _modules['0'] of Sequential" in by_path
    assert "predicted for 2-D:" in by_path


def test_builtins_of_python_are_not_torchs_operators():
    """TorchScript has an aten::len."""
    said = printed("cp len")
    assert "aten::" not in said and "--script" not in said


def test_functions():
    said = printed("cp torch.nn.functional.scaled_dot_product_attention, x, x, x")
    assert "torch's own choice of a backend: math" in said
    assert "backends enabled now: flash" in said


def test_arguments_are_typed_as_in_a_call():
    assert "*** INPUT 'x, scale=': " not in printed("cp block, x, scale=half")
    assert "if scale" not in printed("cp block, *more, **{'scale': half}")
    assert "if scale" not in printed("cp block, x=x, scale=half")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cp cls", "Block is a class: call-path needs a module made of it"),
        ("cp text", "text: a str is neither a module nor a function"),
        ("cp x", "x: a Tensor is neither a module nor a function"),
        ("cp nothing", "'nothing' is no module path here"),
        ("cp layers.*", "call-path shows one module, and 9 are meant: block.layers.0, block.layers.0.0, block.layers.0.1, …"),
        ("cp --run block", "--run needs the arguments of the call: call-path --run block, x"),
        ("cp block, (", "INPUT '(' cannot be the arguments of a call: '(' was never closed"),
        ("cp block, missing", "INPUT 'missing': NameError: name 'missing' is not defined"),
        ("cp block, x) + (x", "INPUT 'x) + (x' cannot be the arguments of a call"),
        ("cp block, x)(x", "INPUT 'x)(x' cannot be the arguments of a call"),
        ("cp --script torch.relu", "--script is for modules, and torch.relu is a builtin_function_or_method"),
        ("cp --quick block", "call-path has no option --quick; it takes --run, --script"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(line, said):
    reply = printed(line)
    assert reply.startswith(f"*** {said}") and "\n" not in reply


@forks
@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize(
    "line",
    ["cp block", "cp --run block, x", "cp --run block.norm, x", "cp mod", "cp --script block"]
    + ["cp --run torch.nn.MultiheadAttention(4, 2), x, x, x", "cp torch.nn.functional.layer_norm"],
)
def test_it_fits_the_width(line, width):
    said = printed(line, width=width)
    assert not said.startswith("***")
    assert max(map(len, said.splitlines())) <= width


@forks
def test_scripts_or_not():
    assert "torch.jit.script compiles it" in printed("cp --script block.proj")


@forks
def test_breakpoints_in_the_forward_do_not_stop_the_copy():
    file, line = __file__, Block.forward.__code__.co_firstlineno + 1
    _, said, alive = session(f"b {file}:{line}", "cp --run block, x", "p 'alive'")
    assert "observed: 9 operators" in said and alive == "'alive'"
