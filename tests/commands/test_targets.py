"""What a command is about: which modules, which layer, which input; and that looking leaves no trace."""

import sys
from types import FrameType
from typing import Any

import pytest
from at_prompt import Prompt

torch = pytest.importorskip("torch")
nn = torch.nn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(4, 2, bias=False)
        self.register_buffer("scale", torch.ones(1))

    def stop(self, *args: object) -> FrameType:
        other = nn.Linear(9, 9)  # noqa: F841  not spoken of: self is a module
        return sys._getframe()


class Owner:
    """Something that holds modules and is none."""

    def __init__(self, **held: object) -> None:
        vars(self).update(held)

    def stop(self) -> FrameType:
        return sys._getframe()


@pytest.fixture
def ask() -> Prompt:
    """The prompt in a method of a Model."""
    torch.manual_seed(0)
    return Prompt(Model().stop())


@pytest.fixture(autouse=True)
def piped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlimited width, as into a pipe."""
    monkeypatch.delenv("COLUMNS", raising=False)


# -- without a target ------------------------------------------------------------------------------


def test_self_first(ask: Prompt) -> None:
    said = ask("modules")
    assert said.startswith("Model   92 parameters · 368 bytes")
    assert "layers.{0…2}  3 × Block" in said and "9 → 9" not in said
    assert ask("params").endswith(
        "13 tensors · 92 elements · 368 bytes · 1 name registered as None"
    )
    assert ask("buffers").startswith("scale  [1]  f32  4 bytes")


def test_else_the_locals() -> None:
    def function() -> FrameType:
        net = nn.Linear(3, 2)
        inside = net  # noqa: F841  the same one
        tail = nn.Linear(2, 5)  # noqa: F841
        return sys._getframe()

    ask = Prompt(function())
    assert [line.partition(" ")[0] for line in ask("modules").splitlines()] == [
        *("net:", "Linear", "tail:", "Linear"),
    ]
    assert "3 → 2" in ask("modules") and ask("params").count("weight") == 2


def test_else_what_self_holds() -> None:
    ask = Prompt(Owner(model=Model(), config={"a": 1}).stop())
    assert ask("modules").startswith("Model   92 parameters")
    assert ask("modules layers.0.q_proj").startswith("Linear 4 → 4 + bias   20 parameters")


def test_else_the_callers_with_the_frame_named() -> None:
    def caller() -> str:
        net = Model()  # noqa: F841
        return callee()

    def callee() -> str:
        number = 3  # noqa: F841
        return Prompt(sys._getframe())("modules -d 1")

    first, second, *_ = caller().splitlines()
    line = caller.__code__.co_firstlineno + 2
    place = (
        f"test_else_the_callers_with_the_frame_named.<locals>.caller() at test_targets.py:{line}"
    )
    assert first == f"net, held by the caller {place}"
    assert second.startswith("Model   92 parameters")


def test_up_and_down_change_the_frame() -> None:
    def caller() -> list[str]:
        net = Model()  # noqa: F841
        return callee()

    def callee() -> list[str]:
        here = nn.Linear(7, 7)  # noqa: F841
        ask = Prompt(sys._getframe())
        return [
            ask(line) for line in ("modules -d 1", "up", "modules -d 1", "down", "modules -d 1")
        ]

    first, _, second, _, third = caller()
    assert first == third and first.startswith("Linear 7 → 7") and second.startswith("Model ")


def test_else_a_sentence_that_says_what_was_looked_at() -> None:
    def function() -> FrameType:
        number = 3  # noqa: F841
        return sys._getframe()

    ask = Prompt(function())
    for line in ("modules", "params", "buffers", "linear-path", "modules layers.0"):
        said = ask(line)
        assert said.startswith("*** no modules here: looked at the variables of function()")
        assert "what `self` holds" in said and said.endswith("`locals` lists the variables")
        assert "\n" not in said


# -- a target --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "first"),
    [
        ("self.layers[1].norm", "LayerNorm weight [4] · bias [4]   8 parameters"),  # expression
        ("other", "Linear 9 → 9 + bias   90 parameters"),
        ("layers.1", "Block   28 parameters"),  # path
        ("self.layers.1", "Block   28 parameters"),  # with the name by which the frame has it
        ("2.norm", "LayerNorm"),  # the end of a path
        ("head", "Linear 4 → 2   8 parameters"),
        ("layers.*.q_proj", "layers.{0…2}.q_proj  3 × Linear 4 → 4 + bias"),  # globs, folded
        ("self.layers.*.q_proj", "layers.{0…2}.q_proj  3 × Linear"),
        ("q_proj", "layers.{0…2}.q_proj  3 × Linear"),  # the end of several
        ("h?ad", "Linear 4 → 2"),
    ],
)  # fmt: skip
def test_expressions_paths_and_globs(ask: Prompt, target: str, first: str) -> None:
    assert ask(f"modules {target}").startswith(first)


def test_parameters_at_and_below(ask: Prompt) -> None:
    def names(target: str) -> list[str]:
        return [line.split()[0] for line in ask(f"params {target}").splitlines()[:-1]]

    below = [
        f"layers.1.{each}" for each in ("q_proj.weight", "q_proj.bias", "norm.weight", "norm.bias")
    ]
    assert names("layers.1") == below == names("self.layers.1.*")
    assert names("head") == ["head.weight"] == names("head.weight")
    assert names("*.norm.bias") == [f"layers.{n}.norm.bias" for n in range(3)]
    assert names("self.layers[0].norm") == ["weight", "bias"]


def test_several_roots_are_told_apart() -> None:
    ask = Prompt(Owner(model=Model(), ema=Model()).stop())
    assert ask("modules").count("Model   92 parameters") == 2
    assert [line.split()[0] for line in ask("params head").splitlines()[:-1]] == [
        *("self.model.head.weight", "self.ema.head.weight"),
    ]
    assert ask("modules model.head").startswith("Linear 4 → 2   8 parameters")
    assert [line.split()[0] for line in ask("modules head").splitlines()] == [
        *("self.model.head", "self.ema.head"),
    ]
    listed = ask("linear-path")
    assert listed.startswith("8 linear layers")
    assert "self.ema.layers.{0…2}.q_proj    3 ×  4 → 4" in listed
    assert ask("linear-path ema.head").startswith("self.ema.head   4 → 2 · no bias")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("modules laers.1", "'laers.1' is no module path here; near: layers.1, layers.2"),
        ("params hed.weight", "'hed.weight' is no name among the parameters here; near: head.weight"),
        ("modules head -d 1", "'head -d 1' is no module path here; options come before the target"),
        ("modules -x", "modules has no option -x; it takes -d N, -t TYPE, --unfold, --skeleton"),
        ("modules -d x", "-d takes a whole number, not 'x'"),
        ("modules [1, 2]", "'[1, 2]' is no module path here: it is a list"),
        ("modules len(nope)", "'len(nope)' is no module path here, and as Python: NameError: name 'nope' is not defined"),
        ("linear-path layers.0.norm", "layers.0.norm is a LayerNorm, no linear layer"),
        ("linear-path *.norm", "none of the 3 modules that match is a linear layer"),
        ("linear-path head, nope", "INPUT 'nope': NameError: name 'nope' is not defined"),
        ("linear-path head, 3", "INPUT '3': expected a tensor, found int"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_one_sentence(ask: Prompt, line: str, sentence: str) -> None:
    assert ask(line) == f"*** {sentence}"


def test_options(ask: Prompt) -> None:
    assert "q_proj" not in ask("modules -d 1") and "q_proj" in ask("modules -d 2")
    assert ask("modules -t *Norm").splitlines()[1].startswith("layers.{0…2}.norm  3 × LayerNorm")
    unfolded = ask("modules --unfold")
    assert "layers.0  Block" in unfolded and "layers.2  Block" in unfolded and "{" not in unfolded
    assert "μ" in ask("params --stats head") and "μ" not in ask("params head")


def test_a_variable_of_the_commands_name() -> None:
    def function() -> FrameType:
        modules = {"key": nn.Linear(3, 2)}  # noqa: F841
        net = nn.Linear(5, 5)  # noqa: F841
        return sys._getframe()

    ask = Prompt(function())
    first, second, *_ = ask("modules").splitlines()
    assert first == "(modules is the command; !modules shows the variable)"
    assert second.startswith("Linear 5 → 5")
    assert ask("modules['key'].out_features") == "2" == ask("modules ['key'].out_features")
    assert ask("!modules").startswith("{'key': Linear(")
    assert ask("modules modules['key']").startswith("Linear 3 → 2")


# -- linear-path -----------------------------------------------------------------------------------


def worked_example() -> FrameType:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        layer.bias.copy_(torch.tensor([1.0, 2.0]))
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])  # noqa: F841
    return sys._getframe()


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split() if word.lstrip("-").replace(".", "").isdigit()]


def test_the_arithmetic_is_shown() -> None:
    said = Prompt(worked_example())("linear-path layer, x")
    assert said.startswith("layer   3 → 2 · bias · f32")
    head, _, table = said.partition("the numbers")
    for step in (
        "x     [2, 3]",
        "W     [2, 3]",
        "Wᵀ    [3, 2]",
        "x Wᵀ  [2, 2]",
        "b     [2]",
        "y     [2, 2]",
    ):
        assert step in head
    # x, Wᵀ, x Wᵀ, b and y stand beside each other, row by row.
    rows = [numbers(line) for line in table.splitlines()]
    assert [1, 2, 3, 1, 4, 14, 32, 1, 2, 15, 34] in rows
    assert [4, 5, 6, 2, 5, 32, 77, 33, 79] in rows


def test_without_input_the_branches_by_kind() -> None:
    said = Prompt(worked_example())("linear-path layer")
    assert "predicted for 2-D" in said and "the numbers" not in said


def state(layer: Any) -> tuple[object, ...]:
    registries = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
    return (
        torch.get_rng_state().tolist(),
        layer.training,
        [parameter.grad for parameter in layer.parameters()],
        [parameter._version for parameter in layer.parameters()],
        [sorted(vars(layer)[name]) for name in registries],
        sorted(vars(layer)),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
    )


def test_run_observes_and_leaves_no_trace(capfd: pytest.CaptureFixture[str]) -> None:
    frame = worked_example()
    layer, x = frame.f_locals["layer"], frame.f_locals["x"]
    before = state(layer)
    said = Prompt(frame)("linear-path --run layer, x")
    assert "observed" in said and "addmm" in said
    assert state(layer) == before and x.grad is None and x._version == 0
    assert capfd.readouterr() == ("", "")


def test_looking_leaves_no_trace(ask: Prompt) -> None:
    model = ask.dbg.curframe_locals["self"]
    before = state(model)
    for line in (
        "modules",
        "params --stats",
        "buffers",
        "locals",
        "args",
        "linear-path",
        "linear-path head, torch.ones(1, 4)",
    ):
        ask(line)
    assert state(model) == before


def test_input_goes_on_to_its_end() -> None:
    ask = Prompt(worked_example())
    assert "x     [1, 5, 3]" in ask("linear-path layer, torch.ones(1, 5, 3)")
    assert "x     [2, 3]" in ask("lp layer, x.clone().reshape(*(2, 3))")


# -- found by reviewers -------------------------------------------------------------------------


class Doubling(nn.Linear):
    def forward(self, x: Any) -> Any:
        return super().forward(x) * 2


def variables(**held: object) -> FrameType:
    locals().update(held)
    return Owner(**held).stop()


def test_a_frame_inside_a_linear_lists_it() -> None:
    said = Prompt(variables(layer=nn.Linear(3, 2)))("lp")
    assert said.startswith("1 linear layer") and "3 → 2" in said


def test_a_refused_input_has_no_result() -> None:
    frame = variables(layer=nn.Linear(3, 2), x=torch.ones(2, 3, dtype=torch.int64))
    said = Prompt(frame)("lp self.layer, self.x")
    assert "refused" in said and "the numbers" not in said
    assert "  y  " not in said and "x Wᵀ  [" not in said


def test_an_overridden_forward_is_not_said_to_agree() -> None:
    frame = variables(layer=Doubling(3, 2), x=torch.ones(2, 3))
    said = Prompt(frame)("lp --run self.layer, self.x")
    assert "the two agree" not in said
    assert "of F.linear; the layer's own forward may do more" in said


def test_what_a_hidden_parent_would_say_is_said() -> None:
    inner = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).half().eval().requires_grad_(False)
    ask = Prompt(variables(net=nn.Sequential(nn.Linear(2, 2), inner)))
    for line in ("modules -t Linear self.net", "modules 1.*"):
        rows = [row for row in ask(line).splitlines() if row.startswith("1.")]
        assert rows and all("f16" in row and "frozen" in row and "eval" in row for row in rows), (
            line
        )


def test_a_count_is_refused() -> None:
    said = Prompt(variables(layer=nn.Linear(3, 2)))("10modules")
    assert said == "*** modules takes no count before it"


@pytest.mark.parametrize("command", ["modules", "params", "linear-path"])
def test_a_target_is_evaluated_once(command: str) -> None:
    calls: list[int] = []

    def make() -> int:
        calls.append(1)
        return 3

    said = Prompt(variables(layer=nn.Linear(3, 2), make=make))(f"{command} self.make()")
    assert ": it is a int" in said and calls == [1]


def test_own_parameters_stand_beside_the_total() -> None:
    attention = nn.MultiheadAttention(4, 2)  # in_proj of its own, out_proj below it
    own = attention.in_proj_weight.numel() + attention.in_proj_bias.numel()
    ask = Prompt(variables(net=nn.Sequential(attention, nn.Linear(4, 4))))
    rows = ask("modules self.net").splitlines()
    (row,) = [row for row in rows if "MultiheadAttention" in row]
    assert f"own {own}" in row and f" {own + 20} " in row
    assert not any("own" in row for row in rows if "Linear" in row)
    assert f"own {own}" in ask("modules self.net[0]").splitlines()[0]
