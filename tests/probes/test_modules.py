"""module_tree and folding: totals, every odd kind of module, and nothing changed by looking."""

import gc
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from modpdb.probes.modules import module_tree, parameter_count
from modpdb.probes.tree import ModuleNode, ModuleTree, folds, walk


def nodes(module: nn.Module) -> dict[str, ModuleNode]:
    return {node.path: node for node in walk(module_tree(module).root)}


def flags(module: nn.Module) -> dict[str, tuple[str, ...]]:
    return {path: node.facts.flags for path, node in nodes(module).items() if node.facts.flags}


def unfolded(node: ModuleNode) -> Iterator[str]:
    """The paths that the folded tree stands for, written out again."""
    yield node.path
    for fold in folds(node.children):
        inside = [path.removeprefix(fold.node.path) for path in unfolded(fold.node)]
        for member in fold.members:
            yield from (member.path + rest for rest in inside)


class Block(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width)


# -- totals and sizes ----------------------------------------------------------------------------


def test_counts_and_bytes_own_and_below() -> None:
    found = nodes(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4, bias=False).to(torch.bfloat16)))
    root = found[""].facts
    assert (root.parameters, root.parameter_bytes) == (3 * 2 + 2 + 2 * 4, 4 * 8 + 2 * 8)
    assert (root.own_parameters, root.own_bytes) == (0, 0)
    assert (found["0"].facts.own_parameters, found["0"].facts.own_bytes) == (8, 32)
    assert (root.dtypes, root.devices) == (("bf16", "f32"), ("cpu",))


def test_dtypes_by_bytes_most_first() -> None:
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(30, 20, bias=False).half())
    assert module_tree(model).dtypes == (("f16", 1200), ("f32", 24))


@pytest.mark.parametrize(
    ("module", "detail"),
    [
        (nn.Linear(640, 1024), "640 → 1,024 + bias"),
        (nn.Linear(640, 1024, bias=False), "640 → 1,024"),
        (nn.Embedding(262_144, 4), "262,144 × 4"),
        (nn.Conv2d(3, 64, (3, 5)), "3 → 64, kernel 3×5 + bias"),
        (nn.RMSNorm(640), "640"),
        (nn.LayerNorm(8), "weight [8] · bias [8]"),
        (nn.ReLU(), ""),
    ],
)
def test_detail(module: nn.Module, detail: str) -> None:
    assert module_tree(module).root.facts.detail == detail


def test_weight_that_is_not_what_the_sizes_say() -> None:
    layer = nn.Linear(4, 4, bias=False)
    layer.weight = nn.Parameter(torch.zeros(8, 1))  # as bitsandbytes packs it
    assert module_tree(layer).root.facts.detail == "4 → 4, weight [8, 1]"


def test_buffers_are_counted_apart() -> None:
    root = module_tree(nn.BatchNorm1d(4)).root.facts
    assert (root.parameters, root.parameter_bytes, root.buffer_bytes) == (8, 32, 4 * 4 * 2 + 8)


# -- tied, shared, cyclic ------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight


def test_tied_parameter_is_counted_once_and_named() -> None:
    tree = module_tree(Tied())
    assert (tree.root.facts.parameters, tree.root.facts.parameter_bytes) == (40, 160)
    (tied,) = tree.tied
    assert (tied.names, tied.elements, tied.nbytes) == (("embed.weight", "head.weight"), 40, 160)
    embed, head = tree.root.children
    assert (embed.ties[0].other, head.ties[0].other) == ("head.weight", "embed.weight")
    assert embed.facts.parameters == head.facts.parameters == 40


def test_one_module_under_two_names() -> None:
    shared = nn.Sequential(nn.Linear(3, 3))
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(shared, nn.ReLU())})
    found = nodes(model)
    assert (found["a.0"].same_as, found["b.0"].same_as) == (None, "a.0")
    assert found["b.0"].children == ()
    assert [found[path].facts.parameters for path in ("", "a", "b", "b.0")] == [12, 12, 12, 12]


def test_a_shared_module_among_modules_like_it() -> None:
    alike = [nn.Sequential(nn.Linear(3, 3)) for _ in range(3)]
    model = nn.ModuleDict({"blocks": nn.ModuleList(alike), "again": nn.Sequential(alike[1][0])})
    assert module_tree(model).root.facts.parameters == 36


def test_cycle_ends_where_it_closes() -> None:
    inner = nn.Linear(2, 2)
    model = nn.Sequential(inner)
    inner.back = model
    found = nodes(model)
    assert found["0.back"].same_as == ""
    assert found[""].facts.parameters == sum(p.numel() for p in model.parameters()) == 6


def test_deep_tree_needs_no_recursion() -> None:
    model: nn.Module = nn.Linear(1, 1)
    for _ in range(3000):
        above = nn.Module()
        above._modules["x"] = model
        model = above
    assert module_tree(model).modules == 3001


# -- cases a module view must survive ------------------------------------------------------------


def test_registered_as_none() -> None:
    model = nn.Linear(2, 2)
    model.register_parameter("gone", None)
    model.register_buffer("missing", None)
    model.register_module("later", None)
    tree = module_tree(model)
    assert (tree.root.facts.parameters, tree.root.children) == (6, ())


def test_lazy_layer() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(2, 2))
    found = nodes(model)
    assert found["0"].facts.class_name == "LazyLinear"
    assert found["0"].facts.detail == "? → 4 + bias"
    assert "uninitialised" in found["0"].facts.flags
    assert found[""].facts.parameters == 6


class Counted(nn.Module):
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        type(self).calls += 1
        return x


def test_parametrized_weight_is_not_computed() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    parametrize.register_parametrization(model[0], "weight", Counted())
    calls = Counted.calls
    found = nodes(model)
    assert Counted.calls == calls
    assert found["0"].facts.class_name == "ParametrizedLinear"
    assert found["0"].facts.flags == ("parametrized",)
    assert found["0.parametrizations.weight"].facts.own_parameters == 9


def test_orthogonal_parametrization() -> None:
    model = parametrizations.orthogonal(nn.Linear(4, 4))
    assert parameter_count(model) == sum(p.numel() for p in model.parameters())


def test_compiled() -> None:
    model = torch.compile(nn.Sequential(nn.Linear(3, 2)).eval())
    tree = module_tree(model)
    assert (tree.root.facts.class_name, tree.root.facts.flags) == ("OptimizedModule", ("compiled",))
    assert tree.training is False
    assert [node.path for node in walk(tree.root)] == ["", "_orig_mod", "_orig_mod.0"]
    in_place = nn.Linear(2, 2)
    in_place.compile()
    assert flags(in_place) == {"": ("compiled",)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript() -> None:
    tree = module_tree(torch.jit.script(nn.Sequential(nn.Linear(3, 2), nn.ReLU()).eval()))
    assert tree.training is False
    assert tree.root.facts.flags == ("scripted",)
    assert [node.facts.class_name for node in walk(tree.root)] == ["Sequential", "Linear", "ReLU"]
    assert tree.root.facts.parameters == 8


@pytest.mark.filterwarnings("ignore")
def test_dynamically_quantised() -> None:
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 2)), {nn.Linear})
    found = nodes(model)
    assert found["0"].facts.detail == "3 → 2"
    assert {"quantised", "packed weights"} <= set(found["0"].facts.flags)
    assert found[""].facts.parameters == 0


def test_functional_call_puts_plain_tensors_among_the_parameters() -> None:
    seen = []

    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(flags(self))
            return self.layer(x)

    model = Looking()
    torch.func.functional_call(model, {"layer.weight": torch.ones(2, 2)}, torch.ones(1, 2))
    assert seen == [{"layer": ("plain tensors",)}]


@pytest.fixture
def one_rank() -> Iterator[torch.distributed.device_mesh.DeviceMesh]:
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    from torch.distributed import HashStore, destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh

    init_process_group("gloo", rank=0, world_size=1, store=HashStore())
    yield init_device_mesh("cpu", (1,))
    destroy_process_group()


def test_fsdp2(one_rank: torch.distributed.device_mesh.DeviceMesh) -> None:
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(nn.Linear(4, 2))
    fully_shard(model[0], mesh=one_rank)
    found = nodes(model)
    assert found["0"].facts.class_name == "FSDPLinear"
    assert "sharded" in found["0"].facts.flags
    assert found[""].facts.parameters == 10


def test_before_super_init() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            pass

    tree = module_tree(Half())
    assert (tree.root.facts.flags, tree.training) == (("before super().__init__()",), None)


def test_meta_device() -> None:
    with torch.device("meta"):
        root = module_tree(nn.Linear(3, 2)).root.facts
    assert (root.devices, root.parameters, root.parameter_bytes) == (("meta",), 8, 32)


def test_extra_state_is_not_asked_for() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> object:
            raise AssertionError("asked")

    assert module_tree(Extra(2, 2)).root.facts.parameters == 6


def test_frozen_training_and_hooks() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    model[1].eval()
    model[2].register_forward_pre_hook(lambda *_: None)
    model[3].forward = lambda x: x
    assert flags(model) == {
        "": ("partly frozen",),
        "0": ("frozen",),
        "1": ("eval",),
        "2": ("hooked",),
        "3": ("forward replaced",),
    }


class Hostile(nn.Module):
    """Whatever is asked of it raises."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)

    def __getattribute__(self, name: str) -> object:
        if name in ("_modules", "_parameters", "__dict__", "training") and Hostile.armed:
            raise RuntimeError(name)
        return super().__getattribute__(name)

    def __repr__(self) -> str:
        raise SystemExit(3)

    def __len__(self) -> int:
        raise RuntimeError

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def __hash__(self) -> int:
        raise RuntimeError

    @property
    def __class__(self) -> type:
        if Hostile.armed:
            raise RuntimeError
        return Hostile

    armed = False


def test_hostile_module() -> None:
    model = nn.Sequential(Hostile(), nn.Linear(2, 2))
    Hostile.armed = True
    try:
        found = nodes(model)
    finally:
        Hostile.armed = False
    assert found["0"].facts.class_name == "Hostile"
    assert found[""].facts.parameters == 12


def test_tensor_subclass_is_not_asked() -> None:
    class Loud(torch.Tensor):
        @classmethod
        def __torch_function__(cls, *args: object, **kwargs: object) -> object:
            raise AssertionError("asked")

    model = nn.Module()
    with torch._C.DisableTorchFunctionSubclass():
        loud = torch.zeros(2, 3).as_subclass(Loud)
    model._parameters["p"] = loud
    assert module_tree(model).root.facts.parameters == 6


def test_looking_changes_nothing() -> None:
    model = nn.Sequential(Block(), Tied(), nn.BatchNorm1d(3), nn.Dropout().eval())
    model[0].register_forward_hook(lambda *_: None)
    before = _all_there_is(model)
    module_tree(model)
    parameter_count(model)
    assert _all_there_is(model) == before
    assert gc.isenabled()


def _all_there_is(model: nn.Module) -> object:
    return (
        {name: tensor.tolist() for name, tensor in model.state_dict().items()},
        {name: (id(each), each._version) for name, each in model.named_parameters()},
        [(list(m.__dict__), m.training, len(m._forward_hooks)) for m in model.modules()],
        [p.grad for p in model.parameters()],
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
    )


# -- folding -------------------------------------------------------------------------------------


def folded_numbers(*blocks: nn.Module) -> list[tuple[int, ...]]:
    return [fold.numbers for fold in folds(module_tree(nn.ModuleList(blocks)).root.children)]


def test_only_what_is_identical_is_joined() -> None:
    assert folded_numbers(*(Block() for _ in range(26))) == [tuple(range(26))]
    assert folded_numbers(Block(), Block(5), Block(), Block(5)) == [(0, 2), (1, 3)]
    assert folded_numbers(Block(), Block().half(), Block()) == [(0, 2), ()]
    assert folded_numbers(Block(), Block().requires_grad_(False)) == [(), ()]
    assert folded_numbers(Block(), Block().eval()) == [(), ()]
    assert folded_numbers(nn.Linear(2, 3), nn.Linear(3, 2)) == [(), ()]
    assert folded_numbers(nn.Linear(2, 2), nn.Linear(2, 2, device="meta")) == [(), ()]


def test_blocks_tied_alike_are_joined() -> None:
    outside, blocks = nn.Linear(4, 4), [nn.Sequential(nn.Linear(4, 4)) for _ in range(4)]
    for block in blocks:
        block[0].weight = outside.weight
    tree = module_tree(nn.ModuleDict({"outside": outside, "blocks": nn.ModuleList(blocks)}))
    (fold,) = folds(tree.root.children[1].children)
    assert fold.numbers == (0, 1, 2, 3)


def test_names_that_are_no_plain_numbers_are_not_joined() -> None:
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("00", "1", "²", "١", "a")})
    assert [fold.numbers for fold in folds(module_tree(model).root.children)] == [()] * 5


def leaves() -> st.SearchStrategy[nn.Module]:
    width = st.integers(1, 3)
    return st.one_of(
        st.builds(nn.Linear, width, width, st.booleans()),
        st.builds(nn.LayerNorm, width),
        st.builds(nn.ReLU),
    )


def trees() -> st.SearchStrategy[nn.Module]:
    return st.recursive(
        leaves(),
        lambda inner: st.one_of(
            st.lists(inner, max_size=5).map(nn.ModuleList),
            st.tuples(inner, st.integers(1, 4)).map(lambda two: nn.Sequential(*[two[0]] * two[1])),
            st.lists(inner, max_size=4).map(lambda many: nn.Sequential(*many)),
        ),
        max_leaves=12,
    )


@settings(max_examples=60, deadline=None)
@given(trees(), st.data())
def test_totals_and_unfolding(model: nn.Module, data: st.DataObject) -> None:
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if len(layers) > 1 and data.draw(st.booleans()):
        first, second = data.draw(st.permutations(layers))[:2]
        second.weight = first.weight
    tree: ModuleTree = module_tree(model)
    assert tree.root.facts.parameters == sum(p.numel() for p in model.parameters())
    assert tree.root.facts.parameter_bytes == sum(p.nbytes for p in model.parameters())
    for node in walk(tree.root):
        below = model.get_submodule(node.path)
        assert node.facts.parameters == sum(p.numel() for p in below.parameters())
    assert parameter_count(model) == tree.root.facts.parameters
    paths = [node.path for node in walk(tree.root)]
    assert Counter(unfolded(tree.root)) == Counter(paths)
    assert set(paths) >= {name for name, _ in model.named_modules()}
