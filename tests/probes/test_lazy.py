"""gguf's lazy tensors, looked at without being materialised."""

import random

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modpdb.probes import lazy
from modpdb.probes.lazy import Leaf, Made, cost, evaluate, history, is_lazy, leaf_names, leaves
from modpdb.probes.tensor_like import TooMuch, kind, shape_and_dtype, values
from modpdb.probes.tensors import NoStatistics


class LazyTorch(gguf.LazyBase):
    """As LazyTorchTensor of llama.cpp's converter."""

    _tensor_type = torch.Tensor

    @classmethod
    def meta_with_dtype_and_shape(cls, dtype, shape):
        return torch.empty(size=shape, dtype=dtype, device="meta")

    def numpy(self):
        return gguf.LazyNumpyTensor(
            meta=gguf.LazyNumpyTensor.meta_with_dtype_and_shape(np.float32, self.shape),
            args=(self,),
            func=(lambda s: s.numpy()),
        )

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return cls._wrap_fn(func)(*args, **(kwargs or {}))


class Stored:
    """What stands at the beginning of a graph."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.read = 0


def leaf(tensor: torch.Tensor) -> LazyTorch:
    def load(stored: Stored) -> torch.Tensor:
        stored.read += 1
        return stored.tensor

    meta = LazyTorch.meta_with_dtype_and_shape(tensor.dtype, tensor.shape)
    return LazyTorch(meta=meta, args=(Stored(tensor),), func=load)


def nodes(tensor: gguf.LazyBase) -> list[gguf.LazyBase]:
    return lazy._in_order(tensor)


def untouched(tensor: gguf.LazyBase) -> list[tuple]:
    return [(id(n), n._data is None, n._args, id(n._args)) for n in nodes(tensor)]


def steps(origin: Leaf | Made) -> list[str]:
    found = []
    while isinstance(origin, Made):
        found.append(origin.operation)
        (origin,) = origin.inputs
    return found[::-1]


def test_history_names_every_step() -> None:
    source = leaf(torch.arange(12.0).reshape(4, 3).bfloat16())
    made = (source.float().reshape(3, 4).permute(1, 0)[:2] + 1).T
    found = history(made, {id(source._args[0]): "model.norm.weight"})
    assert steps(found) == ["float", "reshape(3, 4)", "permute(1, 0)", "[:2]", "+ 1", "T"]
    assert [*leaves(found)] == [Leaf("", "model.norm.weight", (4, 3), "bf16")]
    quantised = gguf.quants.quantize(
        leaf(torch.ones(2, 32)).numpy(), gguf.GGMLQuantizationType.Q8_0
    )
    assert steps(history(quantised, {})) == ["numpy", "quantize Q8_0"]
    half = leaf(torch.ones(2)).numpy().astype(np.float16)
    assert steps(history(half, {})) == ["numpy", "astype(f16)"]


def test_history_of_several_sources() -> None:
    sources = [leaf(torch.full((2, 2), float(i))) for i in range(3)]
    stacked = torch.stack([each.float() for each in sources], dim=0)
    found = history(
        stacked, {id(each._args[0]): f"experts.{i}.w" for i, each in enumerate(sources)}
    )
    assert isinstance(found, Made) and found.operation == "stack(dim=0)"
    assert [each.name for each in leaves(found)] == [f"experts.{i}.w" for i in range(3)]
    first, second = leaf(torch.arange(4.0)).split(2)
    assert steps(history(second, {})) == ["split(2)[1]"]
    assert evaluate(second).tolist() == [2.0, 3.0]
    assert evaluate(first).tolist() == [0.0, 1.0]


OPERATIONS = {
    "float": lambda t: t.float(),
    "half": lambda t: t.to(torch.float16),
    "plus": lambda t: t + 1,
    "turned": lambda t: t.permute(1, 0),
    "wide": lambda t: torch.cat([t, t], dim=0),
    "halved": lambda t: t[: max(1, t.shape[0] // 2)],
    "abs": lambda t: abs(t),
    "sum": lambda t: t + t.sum(0),
    "chunk": lambda t: t.chunk(2, 0)[0],
}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(sorted(OPERATIONS)), max_size=7), st.integers(0, 99))
def test_looking_gives_the_values_and_leaves_the_graph(names: list[str], seed: int) -> None:
    tensor = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)).bfloat16()
    before = tensor.clone()
    made = leaf(tensor)
    for name in names:
        made = OPERATIONS[name](made)
    state = untouched(made)
    history(made, {}), cost(made)
    found, again = evaluate(made), evaluate(made)
    assert untouched(made) == state and torch.equal(tensor, before)
    assert torch.equal(found, again)
    assert torch.equal(found, LazyTorch.to_eager(made))


def test_what_is_in_memory_is_not_written_to() -> None:
    data = torch.zeros(3)
    made = LazyTorch.from_eager(data)
    made += 1
    assert [evaluate(made).tolist() for _ in range(3)] == [[1.0] * 3] * 3
    assert data.tolist() == [0.0] * 3
    beside = torch.zeros(3)
    made = LazyTorch._wrap_fn(lambda a, b: b.add_(a))(leaf(torch.ones(3)), beside.to("meta"))
    made._args = (made._args[0], beside)
    assert [evaluate(made).tolist() for _ in range(2)] == [[1.0] * 3] * 2
    assert beside.tolist() == [0.0] * 3


def test_a_source_is_read_once_however_often_it_is_used() -> None:
    source = leaf(torch.ones(4))
    evaluate(source.float() + source.half() * source)
    assert source._args[0].read == 1


def test_a_graph_deeper_than_pythons_stack() -> None:
    made = leaf(torch.zeros(2))
    for _ in range(3000):
        made = made + 1
    assert evaluate(made).tolist() == [3000.0, 3000.0]
    assert len(steps(history(made, {}))) == 3000
    assert cost(made).held == 16  # no more than two results at a time


def test_cost_and_the_budget() -> None:
    source = leaf(torch.zeros(256, dtype=torch.bfloat16))
    made = torch.stack([source.float() + i for i in range(4)])
    assert cost(made).read == 512
    assert cost(made).held == 1024 * 8 + 0
    assert isinstance(values(made, budget=5000), TooMuch)
    assert values(made, budget=5000, force=True).shape == (4, 256)
    assert all(node._data is None for node in nodes(made))


def test_what_cannot_be_computed_says_why() -> None:
    def fail(stored: Stored) -> torch.Tensor:
        raise OSError("the file is gone")

    broken = leaf(torch.ones(2))
    broken._func = fail
    with pytest.raises(NoStatistics, match=r"^it cannot be computed: OSError: the file is gone$"):
        values(broken + 1)


def test_names_are_found_by_what_the_callables_have_bound() -> None:
    stored = Stored(torch.ones(1))
    tensors = {"a": lambda data=stored: data, "b": print, 3: lambda x=stored: x}
    assert leaf_names(tensors) == {id(stored): "a"}
    assert leaf_names(None) == {}


def test_what_is_lazy() -> None:
    assert is_lazy(leaf(torch.ones(1))) and kind(leaf(torch.ones(1))) == "lazy"
    assert not is_lazy(torch.ones(1)) and not is_lazy(object()) and not is_lazy(LazyTorch)
    assert shape_and_dtype(leaf(torch.ones(2, 3))) == ((2, 3), "f32", 24)
    assert shape_and_dtype(leaf(torch.ones(2, 3)).numpy()) == ((2, 3), "f32", 24)


def test_random_state_is_left() -> None:
    state, python = torch.get_rng_state(), random.getstate()
    evaluate(leaf(torch.ones(3)) + 1)
    assert torch.equal(state, torch.get_rng_state()) and python == random.getstate()
