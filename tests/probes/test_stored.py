"""A tensor of a safetensors file by its header."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modpdb.probes.checkpoints import CheckpointError, read_header
from modpdb.probes.stored import stored_tensor

DTYPES = ("bool", "uint8", "int64", "float16", "bfloat16", "float32", "float64", "float8_e4m3fn")


def test_every_dtype_as_it_was_saved(tmp_path: Path) -> None:
    saved = {name: torch.tensor([[0, 1], [1, 1]]).to(getattr(torch, name)) for name in DTYPES}
    saved |= {"empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5)}
    path = tmp_path / "a.safetensors"
    save_file(saved, path)
    before = path.read_bytes()
    for entry in read_header(path):
        found = stored_tensor(path, entry)
        assert found.dtype is saved[entry.name].dtype and found.shape == saved[entry.name].shape
        assert torch.equal(found.double(), saved[entry.name].double())
        found.zero_()
    assert path.read_bytes() == before


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.ones(2)}, path)
    (entry,) = read_header(path)
    with pytest.raises(CheckpointError, match="the header has no 'v'"):
        stored_tensor(path, entry._replace(name="v"))
    with pytest.raises(CheckpointError, match="the dtype f4, unknown here"):
        stored_tensor(path, entry._replace(dtype="f4"))
    with pytest.raises(CheckpointError, match="No such file"):
        stored_tensor(tmp_path / "b.safetensors", entry)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="lies at bytes 0 to 8 of the data, which has 4"):
        stored_tensor(path, entry)
