"""Any value in one line, whatever it is."""

import argparse
import collections
import dataclasses
import enum
import functools
import io
import os
import sys
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gguf.lazy import LazyNumpyTensor
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from modpdb.probes.values import LIMIT, frame_locals, one_line


class Colour(enum.IntEnum):
    RED = 1


class Point(NamedTuple):
    x: int
    weight: torch.Tensor


@dataclasses.dataclass(slots=True)
class Slotted:
    weight: torch.Tensor
    name: str


@dataclasses.dataclass
class Plain:
    weight: torch.Tensor


class Loud:
    """Prints, and then is no repr at all."""

    def __repr__(self) -> str:
        print("out")
        print("err", file=sys.stderr)
        raise SystemExit(3)

    def __len__(self) -> int:
        raise RuntimeError

    @property
    def __class__(self) -> type:
        raise RuntimeError

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class NoString:
    def __repr__(self) -> Any:
        return 3


class Nothing:
    def __init__(self) -> None:
        self.a = self.b = 1


ONES = torch.ones(1000)


CASES: list[tuple[Any, str]] = [
    (torch.zeros(2, 3, dtype=torch.bfloat16), "Tensor [2, 3] bf16"),
    (torch.tensor(0.5), "Tensor [] f32 = 0.5"),
    (torch.zeros(2, requires_grad=True), "Tensor [2] f32 requires_grad"),
    (nn.Parameter(torch.zeros(2)), "Parameter [2] f32"),
    (nn.Parameter(torch.zeros(2), requires_grad=False), "Parameter [2] f32 frozen"),
    (torch.zeros(2, device="meta"), "Tensor [2] f32 meta"),
    (torch.ones(3).to_sparse(), "Tensor [3] f32 sparse_coo"),
    (nn.LazyLinear(2).weight, "UninitializedParameter uninitialised f32"),
    (np.zeros((2, 3), np.float16), "ndarray [2, 3] f16"),
    (np.float64(1), "np.float64(1.0)"),
    (nn.Linear(3, 2), "Linear 8 parameters"),
    ([ONES, nn.Linear(3, 2), 3], "[Tensor [1000] f32, Linear module, 3]"),
    ({"a": ONES}, "{'a': Tensor [1000] f32}"),
    ({"a": ONES}.items(), "dict_items [('a', Tensor [1000] f32)]"),
    (collections.OrderedDict(a=1), "OrderedDict {'a': 1}"),
    (collections.deque([1, 2]), "deque [1, 2]"),
    (list(range(9)), "[0, 1, 2, 3, 4, 5, … 3 more]"),
    ((1,), "(1,)"),
    ([[[[[1]]]]], "[[[[… 1]]]]"),
    (Point(1, ONES), "Point (x=1, weight=Tensor [1000] f32)"),
    (Slotted(ONES, "q"), "Slotted(weight=Tensor [1000] f32, name='q')"),
    (Plain(ONES), "Plain(weight=Tensor [1000] f32)"),
    (argparse.Namespace(a=ONES), "Namespace (a=Tensor [1000] f32)"),
    (SimpleNamespace(a=1), "SimpleNamespace (a=1)"),
    (
        functools.partial(len, ONES),
        "partial of builtin_function_or_method len(Tensor [1000] f32)",
    ),
    (Colour.RED, "Colour.RED"),
    (True, "True"),
    (None, "None"),
    (10**6000, "int of 19,932 bits"),
    ("a\n\x1b[31m", r"'a\n\x1b[31m'"),
    ("x" * 500, "'" + "x" * 120 + "'… 500 characters"),
    (bytearray(b"q"), "bytearray bytearray(b'q')"),
    (PurePosixPath("/x"), "PurePosixPath '/x'"),
    (os.path.join, "function posixpath.join"),
    (nn.Linear, "class torch.nn.modules.linear.Linear"),
    (os, "module os"),
    (Nothing(), "Nothing object with 2 attributes"),
    (Loud(), "(cannot be shown: SystemExit)"),
    (NoString(), "(cannot be shown: TypeError)"),
    ([Loud()], "[(cannot be shown: SystemExit)]"),
]


# By number: pytest itself asks a parameter for its class.
@pytest.mark.parametrize("case", range(len(CASES)), ids=[line[:30] for _, line in CASES])
def test_one_line(case: int) -> None:
    value, line = CASES[case]
    assert one_line(value) == line


def test_foreign_reprs_do_not_print(capfd: pytest.CaptureFixture[str]) -> None:
    one_line(Loud())
    assert capfd.readouterr() == ("", "")


def test_interrupt_is_not_swallowed() -> None:
    class Slow:
        def __repr__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one_line(Slow())


def test_lazy_tensors_are_not_materialised() -> None:
    def load(_: object) -> np.ndarray:
        raise AssertionError("materialised")

    meta = LazyNumpyTensor.meta_with_dtype_and_shape(np.float16, (4, 3))
    lazy = LazyNumpyTensor(meta=meta, args=(1,), func=load)
    assert one_line(lazy) == "LazyNumpyTensor [4, 3] f16 lazy"
    assert one_line({"w": [lazy]}) == "{'w': [LazyNumpyTensor [4, 3] f16 lazy]}"
    lazy._data = np.zeros((4, 3), np.float16)
    assert one_line(lazy) == "LazyNumpyTensor [4, 3] f16 lazy, materialised"


def test_lazy_torch_tensors_by_their_meta() -> None:
    class LazyTorchTensor:
        def __init__(self) -> None:
            self._meta = torch.empty(4, 3, dtype=torch.bfloat16, device="meta")
            self._func, self._data = len, None

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    assert one_line(LazyTorchTensor()) == "LazyTorchTensor [4, 3] bf16 lazy"


def test_lora_and_chunked_tensors() -> None:
    class LoraTorchTensor:
        _lora_A, _lora_B = None, None

        def __init__(self) -> None:
            self._lora_A, self._lora_B = torch.zeros(2, 8), torch.zeros(4, 2)

    class LazyChunkedTensor:
        def __init__(self) -> None:
            self._chunks, self.shape, self.dtype = [], (8, 4), np.dtype(np.float32)

    assert one_line(LoraTorchTensor()) == "LoraTorchTensor A [2, 8] f32 · B [4, 2] f32"
    assert one_line(LazyChunkedTensor()) == "LazyChunkedTensor [8, 4] f32 lazy"


def test_it_contains_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert one_line(loop) == "[[[[… 1]]]]"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=30,
    ),
    st.integers(10, 300),
)
def test_one_line_of_at_most_the_limit(value: Any, limit: int) -> None:
    line = one_line(value, limit)
    assert len(line) <= limit
    assert "\n" not in line


@given(st.none() | st.booleans() | st.integers() | st.text(max_size=50) | st.binary(max_size=50))
def test_short_values_are_their_repr(value: Any) -> None:
    assert one_line(value, 10_000) == repr(value)


def test_frame_locals() -> None:
    variables = {
        "__name__": "x",
        "__pdb_convenience_variables": {},
        "__class__": Loud,
        "os": os,
        "join": os.path.join,
        "Linear": nn.Linear,
        "layer": nn.Linear(3, 2),
        "x": ONES,
        "name": "q_proj",
        "loud": Loud(),
    }
    found = frame_locals(variables)
    assert [(v.name, v.kind) for v in found] == [
        ("layer", "module"),
        ("x", "tensor"),
        ("name", "value"),
        ("loud", "value"),
        ("join", "code"),
        ("Linear", "code"),
        ("os", "import"),
        ("__name__", "dunder"),
    ]
    assert [(v.type, v.line) for v in found[:4]] == [
        ("Linear", "8 parameters"),
        ("Tensor", "[1000] f32"),
        ("str", "'q_proj'"),
        ("Loud", "(cannot be shown: SystemExit)"),
    ]
    assert all(len(v.line) <= LIMIT for v in found)


def test_open_files_stay_where_they_are() -> None:
    stream = io.StringIO("abc")
    one_line(stream)
    assert stream.tell() == 0
