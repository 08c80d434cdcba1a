"""linear-path's probes: the way of a layer, kinds of layers, and nothing left behind."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from modpdb.probes.builtins import kernels, linear_builtin, linear_cpp, source_of
from modpdb.probes.linear import linear_path, linears, predict
from modpdb.probes.linear_branch import Op, version_of
from modpdb.probes.linear_checkpoint import checkpoint_linear_path
from modpdb.probes.profiling import observe

pytestmark = pytest.mark.skipif(
    version_of(torch.__version__) != (2, 13), reason="the rules were measured on torch 2.13"
)

MODES = {
    "grad": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}


def names(ops: tuple[Op, ...]) -> list[str]:
    return [op.name for op in ops]


def example() -> tuple[nn.Linear, torch.Tensor]:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
        layer.bias.copy_(torch.tensor([1.0, 2]))
    return layer, torch.tensor([[1.0, 2, 3], [4, 5, 6]])


# -- observing leaves nothing behind -------------------------------------------------------------


@pytest.mark.parametrize("mode", sorted(MODES))
def test_nothing_is_left_behind(mode):
    layer, x = example()
    layer.eval()
    fired: list[str] = []
    layer.register_forward_pre_hook(lambda *_: fired.append("pre"))
    layer.register_forward_hook(lambda *_: fired.append("forward"))
    layer.register_full_backward_hook(lambda *_: fired.append("backward"))
    layer.weight.register_hook(lambda grad: fired.append("tensor"))
    x.requires_grad_()
    before = (dict(vars(layer)), list(layer._forward_hooks), torch.get_rng_state())
    versions = [each._version for each in (x, layer.weight, layer.bias)]
    with MODES[mode]():
        seen = observe(layer, x)
        linear_path(layer, "l", x, owner=nn.Sequential(layer))
    assert seen.ops
    assert fired == []
    assert vars(layer) == before[0] and list(layer._forward_hooks) == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert [each.grad for each in (x, layer.weight, layer.bias)] == [None, None, None]
    assert [each._version for each in (x, layer.weight, layer.bias)] == versions
    assert x.requires_grad and layer.weight.requires_grad and not layer.training
    assert not torch.autograd._profiler_enabled()


def test_observing_prints_nothing(capfd):
    observe(*example())
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_input_is_made_up_when_none_is_given():
    layer = nn.Linear(4, 5, dtype=torch.bfloat16)
    seen = observe(layer)
    assert seen.made_up
    assert (seen.x.shape, seen.x.dtype) == ((1, 4), "bfloat16")
    assert names(seen.ops) == ["t", "addmm"]


def test_an_error_is_an_observation():
    seen = observe(nn.Linear(4, 5), torch.zeros(2, 3))
    assert seen.error.startswith("RuntimeError: mat1 and mat2") and "\n" not in seen.error
    assert not observe(nn.Linear(4, 5), [1, 2]).ran


def test_a_profiler_already_on_is_left_alone():
    from torch.autograd.profiler_legacy import profile

    layer, x = example()
    with profile() as outer:
        seen = observe(layer, x)
    assert not seen.ran and "profiler" in seen.error
    assert [event.name for event in outer.function_events] == []


def test_interception_is_not_known():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watcher(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.calls += 1
            return func(*args, **(kwargs or {}))

    layer, x = example()
    with Watcher() as watcher:
        path, seen = linear_path(layer, "l", x), observe(layer, x)
    assert path.native.branch.certainty == "not known"
    assert path.arithmetic is None
    assert not seen.ran and "TorchDispatchMode" in seen.error
    assert watcher.calls == 0


# -- the way -------------------------------------------------------------------------------------


def test_the_example_to_the_number():
    layer, x = example()
    path = linear_path(layer, "head", x, owner=nn.Sequential(layer))
    assert path.held_in == "_modules['0'] of Sequential"
    assert path.kind == "Linear"
    assert [(step.name, step.shape) for step in path.steps] == [
        ("x", (2, 3)),
        ("W", (2, 3)),
        ("Wᵀ", (3, 2)),
        ("x Wᵀ", (2, 2)),
        ("b", (2,)),
        ("y", (2, 2)),
    ]
    numbers = path.arithmetic
    assert numbers.x == ((1, 2, 3), (4, 5, 6))
    assert numbers.weight_t == ((1, 4), (2, 5), (3, 6))
    assert numbers.product == ((14, 32), (32, 77))
    assert numbers.bias == (1, 2)
    assert numbers.y == ((15, 34), (33, 79))
    assert torch.equal(torch.tensor(numbers.y), layer(x).detach())


@pytest.mark.parametrize("shape", [(3,), (2, 2, 3), (8, 3), (1, 2, 1, 3)])
def test_arithmetic_flattens_the_batch(shape):
    layer, _ = example()
    x = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    found = linear_path(layer, "l", x).arithmetic
    assert torch.equal(torch.tensor(found.y), layer(x).detach().reshape(-1, 2))


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(9, 2), torch.zeros(2, 9)),
        (nn.Linear(3, 2), torch.zeros(9, 3)),
        (nn.Linear(3, 2), torch.zeros(2, 4)),
        (nn.Linear(3, 2), torch.zeros(0, 3)),
        (nn.Linear(3, 2, device="meta"), torch.zeros(2, 3)),
    ],
)
def test_no_arithmetic_where_it_does_not_fit(layer, x):
    assert linear_path(layer, "l", x).arithmetic is None


def test_builtin_is_checked_live(monkeypatch):
    found = linear_builtin()
    assert found.is_target is (F.linear is torch._C._nn.linear) is True
    assert found.type_name == "builtin_function_or_method"
    assert found.library == torch._C.__file__
    assert found.doc[0] == "linear(input, weight, bias=None) -> Tensor"
    assert found.source_error.startswith("TypeError")

    def replacement(input, weight, bias=None):
        raise AssertionError("never called")

    monkeypatch.setattr(F, "linear", replacement)
    found = linear_builtin()
    assert not found.is_target and not found.source_error
    assert found.source == source_of(replacement)
    assert found.source.file == __file__


def test_cpp_source_is_at_this_torch_s_commit(monkeypatch):
    found = linear_cpp()
    assert found.commit == torch.version.git_version
    assert f"/blob/{found.commit}/{found.path}" in found.url
    monkeypatch.setattr(torch.version, "git_version", "Unknown")
    assert linear_cpp().url == ""


def test_kernels_are_the_dispatcher_s():
    assert [(row.key, row.kind) for row in kernels("aten::linear", "cpu", autocast=True)] == [
        ("AutocastCPU", "kernel"),
        ("AutogradCPU", "math kernel"),
        ("CPU", "math kernel"),
    ]
    assert kernels("aten::linear", "cuda")[-1].key == "CUDA"
    assert not kernels("aten::linear", "cpu")[0].place.startswith("/")
    assert kernels("aten::no_such_operator", "cpu") == ()


def test_without_an_input_by_kind():
    layer = nn.Linear(4, 5, bias=False)
    kinds = dict(linear_path(layer).native.branches)
    assert names(kinds["2-D"].ops) == ["t", "matmul"]
    x = torch.zeros(3, 2, 4).transpose(0, 1)
    assert kinds["3-D transposed"] == predict(layer, x)
    assert [step.shape for step in linear_path(layer).steps][-1] == ("…", 5)


# -- kinds of layers -----------------------------------------------------------------------------


class Doubled(nn.Linear):
    def forward(self, x):
        raise AssertionError("linear-path runs no code of the model")


def test_subclass_with_its_own_forward():
    layer = Doubled(4, 5)
    path = linear_path(layer, "l", torch.zeros(2, 4))
    assert (path.kind, path.forward_is) == ("subclass", "overridden")
    assert path.forward.name == "Doubled.forward" and path.forward.file == __file__
    assert path.classes[-1] == "torch.nn.modules.linear.Linear"
    assert observe(layer, torch.zeros(2, 4)).ran.startswith("F.linear")


def test_subclass_without_its_own_forward():
    layer = nn.MultiheadAttention(4, 2).out_proj
    path = linear_path(layer)
    assert (path.kind, path.forward_is) == ("subclass", "nn.Linear's")


def test_forward_set_on_the_instance():
    layer = nn.Linear(4, 5)
    layer.forward = lambda x: x
    assert linear_path(layer).forward_is == "set on the instance"


def test_parametrized_weight_is_not_computed():
    layer = parametrizations.spectral_norm(nn.Linear(4, 5))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    path = linear_path(layer, "l", torch.zeros(2, 4))
    seen = observe(layer, torch.zeros(2, 4))
    assert path.kind == "parametrized" and path.weight.place == "property"
    assert "_SpectralNorm" in path.weight.note and "original [5, 4]" in path.weight.note
    assert path.native.branch.certainty == "not known" and path.arithmetic is None
    assert (path.in_features, path.out_features) == (4, 5)
    assert not seen.ran and "not run" in seen.error
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_dynamically_quantised():
    layer = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 5)))[0]
    path = linear_path(layer, "l", torch.zeros(2, 4))
    assert path.kind == "dynamically quantised" and path.weight.place == "method"
    assert path.native.operator == "quantized::linear_dynamic" and path.native.cpp is None
    assert path.native.branch.certainty == "not known"
    assert path.native.kernels[-1].place.startswith("aten/src/ATen/native/quantized/cpu/")
    assert (path.in_features, path.out_features) == (4, 5)
    seen = observe(layer, torch.zeros(2, 4))
    assert seen.ops[0].name == "quantized::linear_dynamic" and not seen.error


def test_hooks_in_the_order_of_the_call():
    layer, order = nn.Linear(4, 5), []
    layer.register_forward_hook(lambda *_: order.append("forward hook"))
    layer.register_forward_pre_hook(lambda *_: order.append("forward pre-hook"))

    def everywhere(*_):
        order.append("global")

    handle = nn.modules.module.register_module_forward_pre_hook(everywhere)
    try:
        path = linear_path(layer)
        assert [hook.kind for hook in path.hooks] == [
            "forward pre-hook",
            "forward pre-hook",
            "forward hook",
        ]
        assert [hook.everywhere for hook in path.hooks] == [True, False, False]
        assert path.hooks[0].function == source_of(everywhere)
        assert not path.fast_path and order == []
        layer(torch.zeros(2, 4))
        assert order == ["global", "forward pre-hook", "forward hook"]
    finally:
        handle.remove()
    assert linear_path(nn.Linear(4, 5)).fast_path


def test_lazy():
    layer = nn.LazyLinear(5)
    path = linear_path(layer, "l", torch.zeros(2, 4))
    assert path.kind == "lazy" and path.weight.tensor is None
    assert (path.in_features, path.out_features) == (None, 5)
    assert path.hooks[0].function.name.endswith("_infer_parameters")
    assert not observe(layer).ran
    assert layer.has_uninitialized_params()


def test_compiled():
    path = linear_path(torch.compile(nn.Linear(4, 5)), "l", torch.zeros(2, 4))
    assert (path.kind, path.forward_is) == ("compiled", "compiled")
    assert path.native.branch.certainty == "not known"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted():
    layer = torch.jit.script(nn.Linear(4, 5))
    path = linear_path(layer, "l", torch.zeros(2, 4))
    assert (path.kind, path.forward_is) == ("scripted", "scripted")
    assert path.weight.tensor.shape == (5, 4) and not path.weight.note
    assert observe(layer, torch.zeros(2, 4)).ops


def test_functional_call():
    found = []

    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(4, 5)

        def forward(self, x):
            found.append(linear_path(self.l, "l", x, owner=self))
            return self.l(x)

    module = Looks()
    torch.func.functional_call(module, {"l.weight": torch.zeros(5, 4)}, torch.zeros(2, 4))
    assert "functional_call" in found[0].weight.note and not found[0].bias.note
    assert found[0].native.branch.certainty == "predicted"


def test_refuses_what_is_no_linear():
    with pytest.raises(TypeError, match="LayerNorm is no linear"):
        linear_path(nn.LayerNorm(4))
    with pytest.raises(TypeError, match="the input is a list"):
        linear_path(nn.Linear(4, 5), "l", [1.0])


# -- lists and checkpoints -----------------------------------------------------------------------


def test_linears():
    root = nn.Module()
    root.layers = nn.ModuleList(nn.ModuleDict({"q": nn.Linear(4, 4)}) for _ in range(2))
    root.norm = nn.LayerNorm(4)
    root.head = nn.Linear(4, 9, bias=False, dtype=torch.float16)
    root.again = root.head
    root.normed = parametrizations.weight_norm(nn.Linear(4, 5))
    root.me = None
    rows = linears(root, "model")
    assert [row.path for row in rows] == [
        "model.layers.0.q",
        "model.layers.1.q",
        "model.head",
        "model.again",
        "model.normed",
    ]
    head, again, normed = rows[2:]
    assert (head.in_features, head.out_features, head.bias, head.dtype) == (4, 9, False, "float16")
    assert again.shared_with == "model.head" and not head.shared_with
    assert normed.kind == "parametrized" and normed.dtype == ""


def test_linears_survives_a_cycle_and_an_unfinished_module():
    root = nn.Sequential(nn.Linear(4, 5))
    root._modules["up"] = root
    root._modules["unfinished"] = nn.Linear.__new__(nn.Linear)
    assert [row.path for row in linears(root)] == ["0", "unfinished"]


def test_checkpoint_linear():
    found = checkpoint_linear_path(
        "l.q_proj.weight",
        [1024, 640],
        "bfloat16",
        "a.safetensors",
        "blk.0.attn_q.weight",
        [640, 1024],
    )
    assert found.role == "linear" and found.reversed_only and not found.observed
    assert [(step.name, step.shape, step.ne) for step in found.steps] == [
        ("x", ("…", 640), (640, "…")),
        ("W", (1024, 640), (640, 1024)),
        ("x Wᵀ", ("…", 1024), (1024, "…")),
        ("y", ("…", 1024), (1024, "…")),
    ]


@pytest.mark.parametrize(
    ("shape", "gguf_name", "role"),
    [
        ((9, 4), "token_embd.weight", "lookup"),
        ((9, 4), None, "linear"),
        ((8, 9, 4), "blk.0.ffn_up_exps.weight", "stack"),
        ((4,), "output_norm.weight", "other"),
        ((), None, "other"),
    ],
)
def test_checkpoint_roles(shape, gguf_name, role):
    found = checkpoint_linear_path("x.weight", shape, "float32", "a.safetensors", gguf_name)
    assert found.role == role and found.ne == shape[::-1]
    assert bool(found.steps) == (role == "linear")
