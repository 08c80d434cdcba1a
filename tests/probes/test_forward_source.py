"""The calls that a source makes, read and not run."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modpdb.probes.forward_source import read_calls
from modpdb.probes.source_calls import Called
from modpdb.probes.source_names import MISSING


def flat(calls: tuple[Called, ...]) -> list[str]:
    """Operators and module paths in order, those of helpers where they are called."""
    found = []
    for each in calls:
        if each.inner:
            found += flat(each.inner)
        elif each.kind == "module":
            found.append(each.path)
        else:
            found.append(each.operator.removeprefix("aten::") or each.kind)
    return found


def read(function, *args, **kwargs):
    reading = read_calls(function, MISSING, (args, kwargs))
    assert not reading.problem
    return reading.calls


X = torch.zeros(2, 3)


class Block(nn.Module):
    flag = False

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
        self.scale = nn.Parameter(torch.ones(3))
        self.size = 3
        self.extra = None

    @property
    def computed(self):
        raise AssertionError("a property was run")

    def helper(self, y):
        return torch.tanh(y) * self.scale

    def forward(self, x, cache=None):
        n = self.size * 2 + 1
        if self.flag:
            x = x.exp()
        if self.extra is not None:
            x = self.extra(x)
        if cache is not None:
            x = cache.update(x)
        for at, layer in enumerate(self.layers[:n]):
            x = layer(x, at)
        x = self.inner(self.helper(x)).view(-1)
        chosen = self.pick()
        self.computed(x)
        return chosen(x) + x @ x

    def pick(self):
        return max


def test_the_calls_of_a_forward_in_the_order_of_evaluation():
    calls = read_calls(Block.forward, Block(), ((X,), {})).calls
    assert flat(calls) == [
        *("layers.0", "layers.1", "layers.2", "tanh", "mul", "inner", "view"),
        *("run time", "run time", "matmul", "add"),
    ]
    loop = next(each for each in calls if each.path == "layers.0")
    assert loop.under == ("for at, layer in enumerate(self.layers[:n])",)
    computed, chosen = [each for each in calls if each.kind == "run time"]
    assert computed.text == "self.computed(x)"
    assert chosen.means.endswith("self.pick()")


def test_what_attributes_and_arguments_decide_is_followed():
    block = Block()
    block.flag = True
    block.extra = nn.Dropout()
    assert flat(read_calls(Block.forward, block, ((X,), {})).calls)[:2] == ["exp", "extra"]
    without = read_calls(Block.forward, block).calls  # whether there is a cache is not known
    asked = next(each for each in without if "cache" in each.text)
    assert asked.under == ("if cache is not None",) and asked.kind == "run time"


def test_lines_are_those_of_the_file():
    first = Block.forward.__code__.co_firstlineno
    calls = read_calls(Block.forward, Block()).calls
    inside = next(each for each in calls if each.path == "inner")
    assert inside.line == first + 10


def helper(q, k=None):
    if k is not None:
        q = q - k
    return q.neg()


def operators(x, y):
    a = x + 1
    b = 1 - a
    b *= 2
    c = -b if x.dim() > 1 else ~b
    d = [each.abs() for each in (x, y)]
    z = helper(c) @ helper(y, k=b)
    return (z < 1) & (z == 2), d, x[0].float(), x.shape[0] * 3, len(d) + 1


def test_syntax_becomes_operators():
    assert flat(read(operators, X, X)) == [
        *("add", "rsub", "mul_", "neg", "bitwise_not", "run time", "neg", "sub", "neg", "matmul"),
        *("lt", "eq", "__and__", "to"),
    ]


def test_without_arguments_it_is_guessed_by_the_name():
    def guessed(a, b: torch.Tensor, c: "torch.Tensor | None", d: int, e: dict):
        return a.neg(), b.neg(), c.neg(), d * 2, e.copy(), e.get(1)

    found = read_calls(guessed).calls
    assert [(each.operator, each.certainty) for each in found] == [
        ("aten::neg", "guessed"),
        ("aten::neg", "read"),
        ("aten::neg", "read"),
    ]


def test_functions_of_torch_are_read_down_to_the_builtin():
    def through(x):
        return F.layer_norm(x, (3,)), F.linear(x, x), torch.rsqrt(x), F.dropout(x, 0.5, True)

    layer_norm, linear, rsqrt, dropout = read(through, X)
    assert layer_norm.kind == "function" and flat((layer_norm,)) == ["layer_norm"]
    assert layer_norm.source.file.endswith("functional.py")
    assert [linear.operator, rsqrt.operator] == ["aten::linear", "aten::rsqrt"]
    assert flat((dropout,)) == ["dropout"]  # through torch._VF


class Scaled(nn.Embedding):
    def forward(self, ids):
        return super().forward(ids) * 2.0


def test_super_is_the_next_class():
    calls = read_calls(Scaled.forward, Scaled(4, 3), ((torch.zeros(1).long(),), {})).calls
    assert flat(calls) == ["embedding", "mul"]


def test_decorators_are_looked_through():
    class Decorated(nn.Module):
        @torch.no_grad()
        def forward(self, x):
            return x.exp()

    assert flat(read_calls(Decorated.forward, Decorated(), ((X,), {})).calls) == ["exp"]


def test_a_local_assigned_in_a_branch_decides_nothing():
    def unsure(x, flag):
        why = ""
        if flag:
            why = "flag"
        elif x is None:
            why = "none"
        if not why:
            x = x.exp()
        return x.neg()

    assert flat(read_calls(unsure).calls) == ["exp", "neg"]


def test_a_local_assigned_further_down_a_loop_decides_nothing():
    def looped(x):
        first = None
        for _ in range(3):
            x = x.exp() if first is None else x.neg()
            first = 1
        return x

    assert flat(read(looped, X)) == ["exp", "neg"]


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (len, "a builtin_function_or_method has no Python source"),
        (lambda x: x + 1, "no source of test_a_source"),
        (eval("lambda x: x"), "no source of <lambda>"),
    ],
)
def test_a_source_that_is_not_found_is_said(function, problem):
    reading = read_calls(function)
    assert reading.calls == () and reading.problem.startswith(problem.partition(" test_")[0])


def test_a_file_that_has_changed_is_not_read(tmp_path):
    file = tmp_path / "changing.py"
    file.write_text("def forward(x):\n    return x.exp()\n")
    space: dict = {}
    exec(compile(file.read_text(), str(file), "exec"), space)
    file.write_text("# nothing\n\n\n")
    assert read_calls(space["forward"]).problem == "no source of forward is found"


def test_hostile_attributes_are_not_asked():
    class Trap:
        def __getattribute__(self, name):
            raise AssertionError(name)

        __eq__ = __bool__ = __len__ = __call__ = __getattribute__  # type: ignore[assignment]

    class Hostile(nn.Module):
        def __getattr__(self, name):
            raise AssertionError(name)

        def forward(self, x):
            if self.trap and self.trap == x and self.nothing > 1:
                x = self.trap.a.b(x)
            return self.trap(x) + self.missing(x)

    module = Hostile()
    vars(module)["trap"] = Trap()
    found = read_calls(Hostile.forward, module, ((X,), {})).calls
    assert found  # and nothing was raised


def test_deep_nesting_is_a_sentence(tmp_path):
    file = tmp_path / "deep.py"
    file.write_text("def forward(x):\n    return " + "(" * 80 + "x" + "+ 1)" * 80 + "\n")
    space: dict = {}
    exec(compile(file.read_text(), str(file), "exec"), space)
    with contextlib.suppress(RecursionError):
        assert len(read_calls(space["forward"]).calls) in (0, 80)
