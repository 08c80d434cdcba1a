"""Where written tensors come from, collected from the calls of a converter made here."""

import gc
import random
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modpdb.probes.lazy import Made, leaves
from modpdb.probes.provenance import Provenance, Source, sources_of
from modpdb.probes.tensor_names import TensorNames
from modpdb.probes.tensor_ways import Unwritten, ways
from probes.test_lazy import LazyTorch, leaf

MAP = {
    "w": ("", "blk.0.w"), "norm": ("", "norm"), "a": ("", "A"), "b": ("", "B"),
    "l.experts": ("", "blk.0.exps"),
}  # fmt: skip


class Writer:
    """Takes tensors as GGUFWriter does."""

    def __init__(self, seen: Provenance) -> None:
        self.seen = seen
        self.kept: list[Any] = []

    def add_tensor(self, name: str, tensor: Any, raw_shape: Any = None, raw_dtype: Any = None):
        self.seen.adds(sys._getframe())
        self.kept.append(tensor)


class Base:
    """A converter: its tensors by name, as callables over what stands for them."""

    def __init__(self, seen: Provenance, tensors: dict[str, Any], eager: bool = False) -> None:
        self.seen = seen
        self.gguf_writer = Writer(seen)
        self.tensor_map = type("Map", (), {})()
        self.tensor_map.mapping = MAP
        self.hparams: dict[str, Any] = {}
        self.dir_model = "."
        self.eager = eager
        self.model_tensors = {
            name: (lambda data=data: data if eager else LazyTorch.from_eager(data))
            for name, data in tensors.items()
        }

    def get_tensors(self) -> Iterator[tuple[str, Any]]:
        for name, source in self.model_tensors.items():
            yield name, source()

    def modify_tensors(self, data_torch: Any, name: str, bid: Any) -> Iterator[tuple[str, Any]]:
        self.seen.modifies(sys._getframe())
        yield MAP.get(name, ("", name))[1], data_torch

    def prepare_tensors(self) -> None:
        self.seen.begins(sys._getframe())
        for name, data_torch in self.get_tensors():
            for new_name, data in self.modify_tensors(data_torch.float(), name, None):
                self.gguf_writer.add_tensor(new_name, data.numpy())


Modify = Callable[[Base, Any, str], Iterator[tuple[str, Any]]]


def converted(tensors: dict[str, Any], modify: Modify | None = None, **options: Any) -> Base:
    """A converter that has run; *modify* overrides modify_tensors."""
    cls = Base
    if modify is not None:

        class Converter(Base):
            def modify_tensors(self, data_torch: Any, name: str, bid: Any) -> Any:
                self.seen.modifies(sys._getframe())
                yield from modify(self, data_torch, name)

        cls = Converter
    model = cls(Provenance(), tensors, **options)
    model.prepare_tensors()
    return model


def test_one_to_one_with_its_history_and_places() -> None:
    def plus_one(model: Base, data: Any, name: str) -> Iterator[tuple[str, Any]]:
        yield from Base.modify_tensors(model, data + 1 if name == "norm" else data, name, None)

    seen = converted({"w": torch.ones(2, 3), "norm": torch.zeros(3)}, plus_one).seen
    assert list(seen.written) == ["blk.0.w", "norm"] and not seen.duplicates
    written = seen.written["norm"]
    assert written.sources == ("norm",) and not written.inferred
    assert (written.shape, written.dtype, written.type) == ((3,), "f32", "f32")
    assert isinstance(written.history, Made) and written.history.operation == "numpy"
    assert "+ 1" in str(written.history)
    assert sources_of(written) == (Source("norm", ""),)
    assert seen.sources_to == {"w": ["blk.0.w"], "norm": ["norm"]}
    # The innermost override, not the base's that it calls.
    assert "Converter.modify_tensors" in written.converter
    assert written.converter.startswith("test_provenance.py:")
    assert written.site.endswith("Base.prepare_tensors")


def test_stacked_split_and_dropped() -> None:
    held: list[Any] = []

    def modify(model: Base, data: Any, name: str) -> Iterator[tuple[str, Any]]:
        if name == "w":
            yield from (("q", data[:1]), ("k", data[1:]))
        elif name.startswith("l.experts."):
            held.append(data)
            if len(held) == 2:
                yield "blk.0.exps", torch.stack(held)

    two = {f"l.experts.{n}": torch.ones(2) for n in range(2)}
    seen = converted({"w": torch.ones(2, 3), **two, "lost": torch.ones(1)}, modify).seen
    assert seen.sources_to["w"] == ["q", "k"]
    assert seen.written["blk.0.exps"].sources == ("l.experts.0", "l.experts.1")
    assert "lost" in seen.converted and "lost" not in seen.sources_to


def test_without_a_graph_it_is_inferred() -> None:
    def modify(model: Base, data: Any, name: str) -> Iterator[tuple[str, Any]]:
        if name != "l.0.experts":
            yield ("blk.0.exps" if "experts" in name else name), data

    two = {f"l.{n}.experts": torch.ones(2) for n in range(2)}  # the map knows `l.experts`
    seen = converted({"w": torch.ones(2), **two}, modify, eager=True).seen
    stacked = seen.written["blk.0.exps"]
    assert stacked.sources == ("l.0.experts", "l.1.experts") and stacked.inferred
    assert seen.written["w"].sources == ("w",) and seen.written["w"].inferred
    assert seen.written["w"].history is None


def test_what_the_converter_makes_itself_has_no_source() -> None:
    class Frequencies(Base):
        def get_tensors(self) -> Iterator[tuple[str, Any]]:
            yield "rope_freqs.weight", torch.ones(4)
            yield from super().get_tensors()

    model = Frequencies(Provenance(), {"w": torch.ones(2)})
    model.prepare_tensors()
    written = model.seen.written["rope_freqs.weight"]
    assert written.sources == () and not written.inferred and written.history is None


def test_materialised_on_the_way() -> None:
    def modify(model: Base, data: Any, name: str) -> Iterator[tuple[str, Any]]:
        LazyTorch.to_eager(data)  # as .tolist() does
        yield name, data * 2

    seen = converted({"w": torch.ones(2)}, modify).seen
    assert seen.written["w"].sources == ("w",) and not seen.written["w"].inferred


def test_no_lazy_tensor_is_kept_alive_and_the_entry_stays() -> None:
    model = converted({"w": torch.ones(2, 3), "norm": torch.zeros(3)})
    alive = [weakref.ref(each) for each in model.gguf_writer.kept]
    alive += [weakref.ref(each) for each in gc.get_objects() if type(each) is LazyTorch]
    model.gguf_writer.kept.clear()
    gc.collect()
    assert not [each for each in alive if each() is not None]
    assert model.seen.written["norm"].sources == ("norm",)
    assert not model.seen._known and not model.seen._known._references
    (tensor, _) = [weakref.ref(each.__defaults__[0]) for each in model.model_tensors.values()]
    model.model_tensors.clear()
    gc.collect()
    assert tensor() is None  # nor is the checkpoint's


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_ids_that_are_used_again_do_not_mislead(seed: int, number: int) -> None:
    """Sources that are made when they are read, and are gone as soon as they are written or
    dropped: before mid 2025 no list holds what stands for them."""
    chance = random.Random(seed)

    class Old(Base):
        def get_tensors(self) -> Iterator[tuple[str, Any]]:
            for n in range(number):
                yield f"t{n}", leaf(torch.ones(2))

        def prepare_tensors(self) -> None:
            self.seen.begins(sys._getframe())
            stack: list[Any] = []
            for name, data_torch in self.get_tensors():
                for _, data in self.modify_tensors(data_torch.float(), name, None):
                    if chance.random() < 0.3:
                        continue
                    stack.append((name, data))
                if chance.random() < 0.5 and stack:
                    names = [each for each, _ in stack]
                    made = torch.stack([each for _, each in stack]).numpy()
                    stack.clear()
                    self.gguf_writer.add_tensor("+".join(names), made)
                    self.gguf_writer.kept.clear()
                    del made

    model = Old(Provenance(), {})
    del model.model_tensors
    model.prepare_tensors()
    for name, written in model.seen.written.items():
        assert written.sources == tuple(name.split("+")) and not written.inferred


def test_a_name_that_is_taken() -> None:
    model = converted({"w": torch.ones(2)})
    model.gguf_writer.add_tensor("blk.0.w", np.ones(3, np.float16))
    assert model.seen.written["blk.0.w"].sources == ("w",)
    (second,) = model.seen.duplicates
    assert second.shape == (3,) and second.type == "f16"


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_K])
def test_shape_of_what_is_quantised_is_in_elements(kind: gguf.GGMLQuantizationType) -> None:
    seen = Provenance()
    elements, nbytes = gguf.GGML_QUANT_SIZES[kind]
    Writer(seen).add_tensor("w", np.zeros((3, 2 * nbytes), np.uint8), raw_dtype=kind)
    assert seen.written["w"].shape == (3, 2 * elements) and seen.written["w"].dtype == "u8"
    assert seen.written["w"].type == {"Q8_0": "q8_0", "Q4_K": "q4_K"}[kind.name]


def test_another_conversion_takes_its_place() -> None:
    seen = Provenance()
    first, second = Base(seen, {"w": torch.ones(2)}), Base(seen, {"norm": torch.ones(2)})
    first.prepare_tensors()
    assert seen.is_of(first) and not seen.is_of(None)
    second.prepare_tensors()
    assert list(seen.written) == ["norm"] and seen.is_of(second) and not seen.is_of(first)


def test_ways_of_what_is_written_and_what_is_not() -> None:
    def modify(model: Base, data: Any, name: str) -> Iterator[tuple[str, Any]]:
        if name != "a":
            yield MAP[name][1], data

    seen = converted({"w": torch.ones(2), "a": torch.ones(1)}, modify).seen
    names = TensorNames(("w", "a", "b"), (("blk.0.w", "w"), ("A", "a")), (), True)
    found = ways(seen, names)
    assert [each.name for each in found.written] == ["blk.0.w"] and found.collected
    read, to_come = found.unwritten
    assert read.name == "a" and read.predicted == "A" and "Converter" in read.converter
    assert to_come == Unwritten("b", "", "")
    assert list(found.names()) == ["blk.0.w", "A", "b", "w", "a"]
    assert found.of("blk").written and not found.means_one("blk") and found.means_one("a")
    assert not ways(None, names).collected and len(ways(None, names).unwritten) == 3


def test_leaves_have_the_checkpoints_names() -> None:
    seen = converted({"a": torch.ones(2), "b": torch.ones(2)}).seen
    found = [leaf.name for each in seen.written.values() for leaf in leaves(each.history)]
    assert found == ["a", "b"]
