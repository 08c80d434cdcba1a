"""What `tensor` knows of everything that is a tensor in some way."""

import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modpdb.probes import pairs
from modpdb.probes.compare import compare
from modpdb.probes.heat_map import heat_map
from modpdb.probes.tensor_like import kind, shape_and_dtype, values
from modpdb.probes.tensor_summary import How, Memory, summarise
from modpdb.probes.tensors import NoStatistics, statistics


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "bool", "int8",
                                   "uint8", "uint16", "uint32", "uint64", "int64", "float16",
                                   "bfloat16", "float64", "complex64"])  # fmt: skip
def test_every_dtype(dtype: str) -> None:
    tensor = torch.ones(2, 3).to(getattr(torch, dtype))
    found = summarise("t", tensor)
    assert found.statistics is not None and found.statistics.elements == 6
    assert found.statistics.minimum == found.statistics.maximum == 1.0
    assert len(found.first) == 4 and len(found.last) == 2 and complex(found.first[0]) == 1


def test_what_has_no_dense_values() -> None:
    sparse = torch.eye(3).to_sparse()
    for tensor in (sparse, sparse.to_sparse_csr()):
        found = summarise("s", tensor)
        assert found.of == "the 3 stored values" and found.statistics.elements == 3
        assert found.memory is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.tensor([0.5, -1.0]), 0.5, 0, torch.qint8)
    found = summarise("q", quantised)
    assert (found.of, found.statistics.minimum) == ("dequantised values", -1.0)
    meta = summarise("m", torch.empty(2, device="meta"))
    assert meta.no_statistics == "on the meta device" and meta.words == ("meta",)
    uninitialised = summarise("u", torch.nn.LazyLinear(3).weight)
    assert uninitialised.shape is None and uninitialised.no_statistics == "uninitialised"


def test_a_subclass_is_read_and_none_of_its_code_run() -> None:
    class Hostile(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            raise AssertionError("run")

        @property
        def shape(self):
            raise AssertionError("run")

        def stride(self):
            raise AssertionError("run")

        __repr__ = __eq__ = __len__ = __bool__ = shape

    tensor = torch.arange(6.0).as_subclass(Hostile)
    found = summarise("h", tensor, [("other", tensor)])
    assert found.class_name == "Hostile" and found.statistics.mean == 2.5
    assert found.same == ("other",)


def test_memory_and_what_shares_it() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    array = base.numpy()
    neighbours = [("base", base), ("array", array), ("row", base[1]), ("other", torch.ones(3)),
                  ("view", base.T[1:]), ("number", 3), ("again", base.T[1:])]  # fmt: skip
    view = neighbours[4][1]
    found = summarise("view", view, neighbours)
    assert found.memory == Memory((1, 4), False, 1, 48)
    assert (found.same, found.shared) == ((), ("base", "array", "row", "again"))
    part = summarise("part", array[1:, ::2], neighbours)
    assert part.memory == Memory((4, 2), False, 4, 48)
    assert part.shared == ("base", "array", "row", "view", "again")


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=3), st.sampled_from(["<f4", ">f4", "i8", "?", "u2", "c8"]),
       st.booleans(), st.booleans())  # fmt: skip
def test_numpy_arrays(shape: list[int], dtype: str, turned: bool, locked: bool) -> None:
    array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    if turned and array.ndim:
        array = array[::-1].T
    array.flags.writeable = not locked
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, plain = summarise("a", array), values(array)
    assert shape_and_dtype(array)[0] == array.shape and tuple(plain.shape) == array.shape
    assert np.array_equal(plain.numpy(), array)
    assert found.statistics.elements == array.size


def test_arrays_that_torch_has_no_dtype_for() -> None:
    for array in (
        np.array(["a"]),
        np.array([object()]),
        np.zeros(2, "f4,i4"),
        np.zeros(2, "M8[s]"),
    ):
        found = summarise("a", array)
        assert found.statistics is None and "which torch does not have" in found.no_statistics


def test_without_torch_an_array_has_its_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    found = summarise("a", np.zeros((2, 3)))
    assert (found.shape, found.dtype, found.nbytes) == ((2, 3), "f64", 48)
    assert "torch" in found.no_statistics


def test_a_chunked_tensor_is_read_a_chunk_at_a_time() -> None:
    import gguf

    chunked = gguf.LazyBase.__module__ and sys.modules["gguf.lazy"]
    make = getattr(chunked, "LazyChunkedTensor", None)
    loaded: list[int] = []

    def load(number: int):
        loaded.append(number)
        return np.full((2, 3), number, np.float32)

    parts = [lambda i=i: load(i) for i in range(4)]
    if make is None:  # a gguf of before 2026 on PyPI

        class make:
            def __init__(self, chunks, shape, dtype):
                self._chunks, self.shape, self.dtype = chunks, shape, np.dtype(dtype)

    tensor = make(parts, (8, 3), np.float32)
    found = summarise("c", tensor)
    assert loaded == [0, 1, 2, 3]
    assert found.statistics.elements == 24 and found.statistics.mean == 1.5
    assert (found.shape, found.dtype, found.nbytes) == ((8, 3), "f32", 96)


def test_lora_pairs_and_safetensors_slices(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    class LoraTorchTensor:
        def __init__(self, a, b) -> None:
            self._lora_A, self._lora_B = a, b

    found = summarise("l", LoraTorchTensor(torch.ones(2, 7), torch.zeros(5, 2)))
    assert found.shape == (5, 7) and [part.name for part in found.parts] == ["A", "B"]
    assert found.parts[0].statistics.mean == 1.0
    save_file({"w": torch.arange(12.0).reshape(3, 4), "s": torch.tensor(2.0)}, tmp_path / "a")
    with safe_open(tmp_path / "a", "pt") as file:
        found = summarise("w", file.get_slice("w"))
        assert (found.shape, found.dtype, found.statistics.maximum) == ((3, 4), "f32", 11.0)
        assert summarise("s", file.get_slice("s")).statistics.mean == 2.0
        assert torch.equal(values(file.get_slice("w")), torch.arange(12.0).reshape(3, 4))


def test_norms_of_rows_and_columns() -> None:
    matrix = torch.tensor([[3e30, 4e30], [0.0, 1e30]])
    found = summarise("m", matrix)
    assert found.rows.greatest == pytest.approx(5e30) and found.rows.at == 0
    assert found.columns.least == pytest.approx(3e30)
    assert summarise("n", torch.tensor([[1.0, math.nan], [1.0, 2.0]])).rows is None
    assert summarise("v", torch.ones(3)).rows is None


def test_ctrl_c_before_and_while_reading() -> None:
    def interrupt(what: str, done: int, of: int) -> None:
        raise KeyboardInterrupt

    found = summarise("t", torch.ones(5), (), How(watch=interrupt))
    assert found.statistics.partial and found.rows is None


def test_looking_changes_nothing() -> None:
    tensor = torch.randn(64, 64, requires_grad=True)
    state, version = torch.get_rng_state(), tensor._version
    summarise("t", tensor), heat_map(tensor, statistics(tensor))
    compare(("t", tensor), ("u", tensor.T))
    assert tensor._version == version and tensor.grad is None and torch.is_grad_enabled()
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    "value", [3, "text", [torch.ones(2)], torch.nn.Linear(2, 2), torch, torch.Tensor]
)
def test_what_is_no_tensor(value: object) -> None:
    assert kind(value) == ""


# -- compare -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(0, 1 << 30), st.sampled_from([1e-6, 1e-3, 0.1, 1.0]))
def test_the_distance_is_numpys(size: int, seed: int, noise: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(size, generator=generator)
    b = a + noise * torch.randn(size, generator=generator)
    found = compare(("a", a), ("b", b)).distance
    x, y = a.double().numpy(), b.double().numpy()
    assert found.max_abs == np.abs(x - y).max() and found.where == (np.abs(x - y).argmax(),)
    assert found.unequal == (x != y).sum()
    if size > 1:
        assert found.nmse == pytest.approx(((x - y) ** 2).mean() / x.var(), rel=1e-9)
        assert found.cosine == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)), rel=1e-9)


def test_equal_identical_and_not() -> None:
    a = torch.tensor([1.0, math.nan, math.inf])
    assert compare(("a", a), ("b", a.clone())).identical
    other = compare(("a", a), ("b", a.double()))
    assert other.equal and not other.identical and other.relation.kind == "identical"
    changed = compare(("a", a), ("b", torch.tensor([1.0, 2.0, -math.inf])))
    assert changed.distance.unequal == changed.distance.not_finite == 2
    assert changed.distance.first == (1,) and changed.distance.max_abs == 0.0
    shapes = compare(("a", torch.randn(3)), ("b", torch.randn(4)))
    assert shapes.distance is None and shapes.relation is None and not shapes.no_numbers
    backwards = compare(("a", torch.arange(3.0)), ("b", torch.arange(5.0)))
    assert backwards.relation is not None


def test_where_in_a_large_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "CHUNK", 500)
    a = torch.zeros(3, 70, 70)
    b = a.clone()
    b[2, 5, 9], b[1, 69, 0] = 3.0, -1.0
    found = compare(("a", a), ("b", b)).distance
    assert (found.where, found.first, found.values) == ((2, 5, 9), (1, 69, 0), (0.0, 3.0))
    assert found.nmse is None and found.cosine is None


def test_what_cannot_be_compared_is_said() -> None:
    meta = torch.empty(3, device="meta")
    assert "meta" in compare(("a", meta), ("b", torch.ones(3))).no_numbers
    empty = compare(("a", torch.zeros(0)), ("b", torch.zeros(0)))
    assert empty.identical
    assert compare(("a", torch.eye(3).to_sparse()), ("b", torch.eye(3))).identical


def test_the_heat_map_keeps_outliers() -> None:
    tensor = torch.zeros(1000, 300)
    tensor[777, 123] = -9.0
    heat = heat_map(tensor, statistics(tensor))
    assert (len(heat.cells), len(heat.cells[0]), heat.shape) == (256, 256, (1000, 300))
    assert [value for row in heat.cells for value in row if value] == [-9.0]
    with pytest.raises(NoStatistics):
        heat_map(torch.eye(2).to_sparse(), statistics(torch.eye(2)))
