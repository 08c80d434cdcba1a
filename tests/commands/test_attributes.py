"""hooks, attr, internals and params --untracked as they are typed."""

import functools

import pytest

torch = pytest.importorskip("torch")

from test_targets import Model, Owner, Prompt, piped  # noqa: E402, F401

nn = torch.nn


@pytest.fixture
def ask() -> Prompt:
    return Prompt(Model().stop())


def watch(*args: object) -> None:
    """A hook."""


def test_hooks_are_folded_by_layer() -> None:
    model = Model()
    for layer in model.layers:
        layer.norm.register_forward_hook(functools.partial(watch, 1), with_kwargs=True)
    ask = Prompt(model.stop())
    line = watch.__code__.co_firstlineno
    head, owner, hook = ask("hooks").splitlines()
    assert head == "3 hooks on Model and 11 modules below it, in the order they run"
    assert owner == "self.layers.{0…2}.norm  3 × LayerNorm"
    assert hook.startswith("  forward hook  watch  in a partial · with_kwargs  ")
    assert hook.endswith(f"test_attributes.py:{line}")
    assert ask("hooks *.norm").startswith("3 hooks on 3 × LayerNorm, in the order they run")
    assert ask("hooks head") == "no hooks on Linear; none for all modules"


def test_attr_takes_an_expression_or_a_path(ask: Prompt) -> None:
    first = "Parameter [4, 4] f32, in _parameters of Linear"
    for target in ("self.layers[0].q_proj.weight", "layers.0.q_proj.weight", "0.q_proj.weight"):
        assert ask(f"attr {target}").startswith(f"{target}   {first}")
    assert ask("attr layers").startswith("layers   ModuleList 84 parameters, in _modules of Model")
    assert ask("attr args.count").startswith("args.count   a method_descriptor, in tuple")


def test_attr_evaluates_what_stands_before_the_name_only() -> None:
    class Counting:
        calls = 0

        @property
        def itself(self) -> "Counting":
            Counting.calls += 1
            return self

    ask = Prompt(Owner(thing=Counting()).stop())
    said = ask("attr self.thing.itself.itself")
    assert Counting.calls == 1
    assert said.startswith("self.thing.itself.itself   property of Counting, not run")


def test_attr_of_a_shadowed_parameter(ask: Prompt) -> None:
    vars(ask.dbg.curframe_locals["self"].head)["weight"] = torch.ones(2, 4)
    said = ask("attr self.head.weight")
    assert "2  instance __dict__                found      Tensor [2, 4] f32" in said
    assert "3  Module.__getattr__: _parameters  hidden     Parameter [2, 4] f32" in said
    assert "  Parameter                              → _parameters['weight'] · taken out of" in said
    untracked = ask("params --untracked head")
    assert untracked.startswith("1 tensor that parameters(), state_dict() and .to() miss")
    assert "hides _parameters['weight'], which no read gives: del self.__dict__" in untracked


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("attr", "attr takes EXPR.NAME, as in `attr self.weight`, and there is none"),
        ("attr self.layers[0]", "attr takes EXPR.NAME, as in `attr self.weight`, not 'self.layers[0]'"),
        ("attr laers.0.x", "'laers.0' is no module path here; near: layers.0, layers.2"),
        ("attr q_proj.x", "3 modules are meant, attr takes one: layers.0.q_proj, layers.1.q_proj, layers.2.q_proj"),
        ("attr nope().x", "'nope()' is no module path here, and as Python: NameError: name 'nope' is not defined"),
        ("params --untracked --stats", "--stats reads what is registered, --untracked lists what is not"),
        ("hooks laers", "'laers' is no module path here; near: layers, layers.2"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_one_sentence(ask: Prompt, line: str, sentence: str) -> None:
    assert ask(line) == f"*** {sentence}"


def test_internals(ask: Prompt) -> None:
    said = ask("internals head").splitlines()
    assert said[0] == "head  Linear   1 of nn.Module.__init__'s 17 attributes changed"
    assert said[2] == "  _parameters                     2  weight [2, 4] f32, bias None"
    assert said[-2] == "values: in_features = 4, out_features = 2"
    assert said[-1].endswith("10 names empty, as torch left them")
    half = Prompt(Owner(half=nn.Module.__new__(nn.Linear)).stop())
    assert half("internals").startswith(
        "self.half  Linear   before super().__init__(): none of its 17 attributes is there"
    )


def test_untracked(ask: Prompt) -> None:
    model = ask.dbg.curframe_locals["self"]
    assert ask("params --untracked").startswith("nothing untracked was found in 12 modules")
    for layer in model.layers:
        layer.experts = [nn.Linear(2, 2), nn.Linear(2, 2)]
    said = ask("params --untracked")
    assert "self.layers.{0…2}.experts[{0…1}]  6 × Linear 6 parameters" in said
    assert "self.experts = nn.ModuleList(…)" in said
    assert (
        ask("params --untracked layers.1")
        .splitlines()[1]
        .startswith("layers.1.experts[{0…1}]  2 ×")
    )


def test_stats_guess_the_initialisation(ask: Prompt) -> None:
    said = ask("params --stats layers.0.norm")
    assert "weight  [4]  f32  16 bytes  all 1 · looks like ones_" in said
    assert "init: too few values" in ask("params --stats head")


def test_names_are_escaped() -> None:
    model = nn.Module()
    model.register_module("\x1b[31mred", nn.Linear(1, 1))
    vars(model)["\x1b[31mblue"] = torch.ones(1)
    ask = Prompt(Owner(model=model).stop())
    for line in ("hooks", "internals", "params --untracked", "attr self.model.\x1b[31mred"):
        assert "\x1b" not in ask(line)
