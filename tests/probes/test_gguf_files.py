"""GGUF headers as gguf writes them, and cut short or lying."""

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from modpdb.probes.files import CheckpointError
from modpdb.probes.gguf_contents import GGML_TYPES, Array, GGUFTensor, KeyValue
from modpdb.probes.gguf_files import read_gguf
from modpdb.probes.writer import writer_contents


def filled(path: Path | None = None, **options: Any) -> gguf.GGUFWriter:
    """A writer with every type of metadata and several of tensors."""
    writer = gguf.GGUFWriter(path, "llama", **options)
    kinds = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
    for number, kind in enumerate(kinds):
        getattr(writer, f"add_{kind}")(f"test.{kind}", number)
    writer.add_float32("test.float32", 1e-6)
    writer.add_float64("test.float64", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "two\nlines \x1b[31m ✓")
    writer.add_array("test.tokens", [f"token {number}" for number in range(3000)])
    writer.add_array("test.scores", [0.5] * 20)
    writer.add_array("test.types", [gguf.TokenType.NORMAL] * 9)
    writer.add_array("test.bools", [True, False])
    writer.add_tensor("blk.0.w", np.zeros((3, 64), np.float32))
    writer.add_tensor("blk.0.h", np.zeros((5,), np.float16))
    data = gguf.quants.quantize(np.zeros((3, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.q", data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    return writer


def written(path: Path, **options: Any) -> Path:
    writer = filled(path, **options)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("order", [gguf.GGUFEndian.LITTLE, gguf.GGUFEndian.BIG])
def test_a_file_is_what_was_in_the_writer(tmp_path: Path, order: gguf.GGUFEndian) -> None:
    held = writer_contents(filled(endianess=order), "writer")
    found = read_gguf(written(tmp_path / "x.gguf", endianess=order))
    assert (found.problems, found.architecture) == ((), "llama")
    assert found.tensors == held.tensors
    for mine, theirs in zip(found.metadata, held.metadata, strict=True):
        if mine.key == "test.float32":
            assert mine.value == np.float32(1e-6) and theirs.value == 1e-6
        else:
            assert mine == theirs
    assert ("big-endian" in found.details) == (order is gguf.GGUFEndian.BIG)


def test_what_is_kept(tmp_path: Path) -> None:
    found = read_gguf(written(tmp_path / "x.gguf"))
    values = {each.key: each for each in found.metadata}
    assert values["test.tokens"] == KeyValue(
        "test.tokens", "arr[str]", Array("str", 3000, tuple(f"token {n}" for n in range(8)))
    )
    assert values["test.types"].value == Array("i32", 9, (1,) * 9)  # may be one a block
    assert values["test.bool"].value is True
    assert found.tensors[2] == GGUFTensor("blk.0.q", "q8_0", (64, 3), 204)


def test_the_table_of_types_is_ggufs() -> None:
    theirs = {
        int(kind): (kind.name.lower(), *gguf.GGML_QUANT_SIZES[kind])
        for kind in gguf.GGMLQuantizationType
    }
    theirs.pop(gguf.GGMLQuantizationType.Q8_1)  # never in a file; 36 bytes or 40 by gguf's version
    ours = {number: (name.lower(), *sizes) for number, (name, *sizes) in GGML_TYPES.items()}
    assert {number: ours.get(number) for number in theirs} == theirs


def test_every_way_to_cut_it_short(tmp_path: Path) -> None:
    path = written(tmp_path / "x.gguf")
    whole = path.read_bytes()
    header = whole.index(b"blk.0.q") + 7 + 4 + 2 * 8 + 4 + 8
    places = [*range(700), *range(700, header, 997), *range(header - 130, header)]
    for length in places:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as raised:
            read_gguf(path)
        assert str(raised.value).startswith(f"{path}: ")
    for length in (header, len(whole) - 300, len(whole) - 33):
        path.write_bytes(whole[:length])
        (problem,) = read_gguf(path).problems
        assert f"cut short: 'blk.0.q' ends at byte {len(whole) - 20:,}" in problem
        assert f"the file has {length:,}" in problem
    path.write_bytes(whole)
    assert read_gguf(path).problems == ()


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def head(tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def tensor(name: str, ne: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<{len(ne)}Q", *ne)
    return text(name) + struct.pack("<I", len(ne)) + sizes + struct.pack("<IQ", kind, offset)


LIES = [
    (b"GGML" + bytes(20), "begins with b'GGML', expected b'GGUF'"),
    (head(version=1), "of version 1, expected 2 or 3"),
    (head(keys=1 << 62), "said to have 4,611,686,018,427,387,904 keys"),
    (head(tensors=9), "said to have 9 tensors, at least 216 bytes, but 0 follow"),
    (head(keys=1) + struct.pack("<Q", 1 << 60) + bytes(40), "a key has 1,152,921,504,606,846,976"),
    (head(keys=1) + text("k") + struct.pack("<I", 99) + bytes(9), "'k' has the type 99"),
    (head(keys=1) + text("k") + struct.pack("<IIQ", 9, 8, 1 << 50), "1,125,899,906,842,624 strings"),
    (head(keys=1) + text("k") + struct.pack("<IIQ", 9, 4, 1 << 62), "items of 'k', at least"),
    (head(keys=1) + text("k") + struct.pack("<IIQ", 9, 8, 1) + text("ab")[:-1], "cut short in a"),
    (head(keys=1) + text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9 + bytes(90), "nested more than 4"),
    (head(keys=2) + (text("k") + struct.pack("<IB", 0, 1)) * 2, "the key 'k' twice"),
    (head(2) + tensor("t") * 2 + bytes(99), "the tensor 't' twice"),
    (head(1) + tensor("t", (1,) * 5), "'t' has 5 dimensions, expected up to 4"),
    (head(1) + tensor("t", (33,), kind=8), "'t' has rows of 33 elements, expected multiples of 32"),
    (head(keys=1) + text("general.alignment") + struct.pack("<II", 4, 3), "'general.alignment' is 3, expected a power"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "error"), LIES)
def test_lies(tmp_path: Path, content: bytes, error: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=error) as raised:
        read_gguf(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(path) in str(raised.value) and peak < 5_000_000


def test_places_of_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(head(2) + tensor("a", (16,)) + tensor("b", (16,), offset=32) + bytes(200))
    assert "'b' begins at byte 32 of the data, but 'a' ends at 64" in read_gguf(path).problems[0]
    path.write_bytes(head(1) + tensor("a", (4,), offset=3) + bytes(200))
    assert "expected a multiple of 32" in read_gguf(path).problems[0]
    path.write_bytes(head(1) + tensor("a", ((1 << 63) - 1,) * 4) + bytes(200))
    assert "a number of 2" in read_gguf(path).problems[0]


def test_types_of_tomorrow(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(head(1) + tensor("a", kind=999) + bytes(99))
    (found,) = read_gguf(path).tensors
    assert (found.dtype, found.nbytes) == ("type 999", None)


def test_shards_of_a_writer() -> None:
    writer = filled(split_max_tensors=2)
    found = writer_contents(writer, "w")
    assert found.shards == 2
    assert [each.shard for each in found.tensors] == [0, 0, 1]
    assert found.details == ("not written yet",)
