"""Headers that lie, or are large: each one sentence, in bounded memory; and safetensors' own."""

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model

from modpdb.probes.checkpoints import Shared, read_checkpoint, read_file
from modpdb.probes.files import CheckpointError, shown
from modpdb.probes.safetensors_files import read_header, read_whole_header


def written(path: Path, header: bytes, data: int = 0) -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with open(path, "r+b") as file:
        file.truncate(8 + len(header) + data)
    return path


def listed(**entries: tuple[str, list[int], list[int]]) -> bytes:
    keys = ("dtype", "shape", "data_offsets")
    whole = {name: dict(zip(keys, each, strict=True)) for name, each in entries.items()}
    return json.dumps(whole).encode()


def test_entries_that_share_bytes(tmp_path: Path) -> None:
    header = listed(a=("F32", [2], [0, 8]), b=("F32", [2], [4, 12]))
    with pytest.raises(CheckpointError, match="'b' begins at byte 4, but 'a' ends at 8"):
        read_header(written(tmp_path / "m", header, 12))


def test_order_and_empty_tensors_are_free(tmp_path: Path) -> None:
    header = listed(b=("F32", [2], [4, 12]), a=("F32", [1], [0, 4]), c=("F32", [0], [4, 4]))
    found = read_header(written(tmp_path / "m", header, 12))
    assert [(each.name, each.nbytes) for each in found] == [("a", 4), ("b", 8), ("c", 0)]


def test_true_is_no_size_even_where_1_was(tmp_path: Path) -> None:
    header = listed(a=("F32", [1, 2], [0, 8]), b=("F32", [True, 2], [8, 16]))
    with pytest.raises(CheckpointError, match=r"'b' has the shape \[True, 2\]"):
        read_header(written(tmp_path / "m", header, 16))


def test_unknown_dtypes_are_shown_as_they_are(tmp_path: Path) -> None:
    header = listed(a=("F2_NEW", [8], [0, 2]), b=("\x1b[31m", [1], [2, 4]))
    found = read_header(written(tmp_path / "m", header, 4))
    assert [(each.dtype, each.nbytes) for each in found] == [("f2_new", 2), ("\x1b[31m", 2)]


def test_hidden_duplicates(tmp_path: Path) -> None:
    """A key that is there twice is found however it is spelt."""
    header = b'{"a":3,"\\u0061":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    with pytest.raises(CheckpointError, match="'a' twice"):
        read_header(written(tmp_path / "m", header, 1))
    header = b'{"__metadata__":{"k":"v","k":"w"}}'
    with pytest.raises(CheckpointError, match="'k' twice"):
        read_header(written(tmp_path / "m", header))


@pytest.mark.parametrize("value", [b"[],", b'"a",', b"1,", b'{"a":{}},'])
def test_much_json_is_refused_before_it_is_parsed(tmp_path: Path, value: bytes) -> None:
    header = b'{"a":[' + value * (40_000_000 // len(value)) + b"1]}"
    path = written(tmp_path / "m", header)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"about .* values, expected up to 4,000,000"):
        read_header(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.1 * len(header)  # no objects were made of it


def test_pipes_and_devices_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_header(tmp_path / "model.safetensors")
    assert "not a regular file" in read_checkpoint(tmp_path).problems[0]
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_header(tmp_path)


def test_what_save_model_left_out(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    save_model(model, str(tmp_path / "model.safetensors"))
    (found,) = read_file(tmp_path / "model.safetensors").shared
    assert found == Shared(("a.weight", "b.weight"), "model.safetensors", ("b.weight",))
    assert read_whole_header(tmp_path / "model.safetensors").metadata == {"b.weight": "a.weight"}


def indexed(folder: Path, weight_map: Any) -> None:
    save_file({"a": torch.zeros(2)}, folder / "model-1.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))


def test_an_index_and_files_that_differ(tmp_path: Path) -> None:
    indexed(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    (problem,) = read_checkpoint(tmp_path).problems
    assert problem == f"{tmp_path}/model-2.safetensors: No such file or directory"
    indexed(tmp_path, {"a": "model-1.safetensors", "b": "model-1.safetensors"})
    (problem,) = read_checkpoint(tmp_path).problems
    assert problem.endswith("the index names 2 tensors, the files have 1: 'b' is in no file")


@pytest.mark.parametrize(
    "weight_map", [3, [], {"a": 3}, {"a": "../x"}, {"a": "/etc/passwd"}, {"a": ["x"]}]
)
def test_a_bad_index(tmp_path: Path, weight_map: Any) -> None:
    indexed(tmp_path, weight_map)
    with pytest.raises(CheckpointError, match="'weight_map' is no map"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "3", "\0"])
def test_an_index_that_is_no_object(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="the index is"):
        read_checkpoint(tmp_path)


def test_names_with_a_nul_are_no_files(tmp_path: Path) -> None:
    indexed(tmp_path, {"a": "x\0y"})
    assert "null byte" in read_checkpoint(tmp_path).problems[0]


def test_what_is_shown_is_short() -> None:
    deep: Any = 0
    for _ in range(64):
        deep = (deep, deep)  # 2 ** 64 parts
    assert len(shown(deep)) < 100 and len(shown("x" * 10**6)) < 100
