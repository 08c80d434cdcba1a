"""What a writer holds, of whatever is put into it, and nobody is asked."""

from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest

from modpdb.probes.gguf_contents import Array
from modpdb.probes.writer import find_writer, is_writer, writer_contents, written_names


class Tokens(list):
    def __iter__(self) -> Any:
        raise AssertionError("asked")

    __len__ = __bool__ = __getitem__ = __eq__ = __iter__


class Odd:
    def __repr__(self) -> str:
        raise AssertionError("asked")

    __len__ = __iter__ = __eq__ = __bool__ = __str__ = __repr__


def value_of(value: Any, kind: gguf.GGUFValueType, sub: gguf.GGUFValueType | None = None) -> Any:
    writer = gguf.GGUFWriter(None, "llama")
    writer.kv_data[0]["k"] = gguf.gguf_writer.GGUFValue(value, kind, sub)
    return writer_contents(writer, "w").metadata[-1]


@pytest.mark.parametrize(
    ("value", "sub", "kind", "expected"),
    [
        (Tokens(["a", "b"]), None, "arr[str]", Array("str", 2, ("a", "b"))),
        ([gguf.TokenType.NORMAL] * 3, None, "arr[i32]", Array("i32", 3, (1, 1, 1))),
        (range(10), None, "arr[i32]", Array("i32", 10, tuple(range(10)))),  # may be one a block
        (range(600), None, "arr[i32]", Array("i32", 600, tuple(range(8)))),
        (b"ab", None, "arr[u8]", Array("u8", 2, (97, 98))),
        ([1, 2], gguf.GGUFValueType.UINT32, "arr[u32]", Array("u32", 2, (1, 2))),
        ([np.float32(0.5)], None, "arr[float32]", Array("float32", 1, (0.5,))),
        ([], None, "arr[NoneType]", Array("NoneType", 0, ())),
        (Odd(), None, "arr[?]", "Odd"),
        ([Odd()], None, "arr[Odd]", Array("Odd", 1, ("Odd",))),
    ],
)
def test_arrays(value: Any, sub: Any, kind: str, expected: Any) -> None:
    found = value_of(value, gguf.GGUFValueType.ARRAY, sub)
    assert (found.type, found.value) == (kind, expected)


def test_scalars() -> None:
    kinds = gguf.GGUFValueType
    assert value_of(np.int64(3), kinds.UINT32).value == 3
    assert value_of(b"\xff", kinds.STRING).value == "\udcff"
    assert value_of(Odd(), kinds.STRING).value == "Odd"
    assert value_of(gguf.LlamaFileType.MOSTLY_Q8_0, kinds.UINT32).value == 7


def test_a_writer_of_early_2024_held_one_dict() -> None:
    value = SimpleNamespace(value=4, type=gguf.GGUFValueType.UINT32)
    info = SimpleNamespace(shape=(2, 3), dtype=gguf.GGMLQuantizationType.Q4_K, nbytes=24)
    old = SimpleNamespace(kv_data={"k": value}, tensors={"t": info}, state=None)
    found = writer_contents(old, "w")
    assert [(kv.key, kv.type, kv.value) for kv in found.metadata] == [("k", "u32", 4)]
    assert found.tensors == (("t", "q4_K", (3, 2), 24, 0),)
    assert written_names(old) == {"t"}


def test_where_it_is_found() -> None:
    writer = gguf.GGUFWriter(None, "llama")
    assert is_writer(writer) and not is_writer(Odd())
    model = SimpleNamespace(gguf_writer=writer)
    assert find_writer([{"x": Odd()}, {"self": model}]) == ("self.gguf_writer", writer)
    assert find_writer([{"out": writer, "self": model}]) == ("out", writer)
    assert find_writer([{"x": 1}]) is None
