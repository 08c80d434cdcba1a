"""Files of torch.save: read as torch.load(weights_only=True) reads them, and never run."""

import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from modpdb.probes.checkpoint_files import open_checkpoint
from modpdb.probes.checkpoints import read_checkpoint, read_file
from modpdb.probes.files import CheckpointError
from modpdb.probes.pickled_files import read_pickled
from modpdb.probes.tensors import short_dtype


def state() -> dict[str, torch.Tensor]:
    weight = torch.zeros(8, 4)
    return OrderedDict(
        {
            "a.weight": weight,
            "transposed": weight.t(),
            "part": weight[2:, 1:3],
            "bf16": torch.zeros(3, dtype=torch.bfloat16),
            "f8": torch.zeros(3, 2).to(torch.float8_e4m3fn),
            "u16": torch.zeros(5, dtype=torch.uint16),
            "complex": torch.zeros(2, dtype=torch.complex64),
            "scalar": torch.tensor(1),
            "bool": torch.tensor([True]),
            "empty": torch.zeros(0, 4),
            "parameter": torch.nn.Parameter(torch.ones(2)),
            "expanded": torch.zeros(1).expand(5, 5),
        }
    )


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_as_torch_reads_it(tmp_path: Path, zipped: bool, protocol: int) -> None:
    path = tmp_path / "pytorch_model.bin"
    saved = state()
    if not zipped:
        del saved["u16"], saved["f8"]  # torch does not read them in its own old format
    torch.save(saved, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    loaded = torch.load(path, weights_only=protocol == 2)  # it refuses 4, ours though the file is
    found = read_pickled(path)
    assert [(each.name, each.dtype, each.shape, each.nbytes) for each in found.tensors] == [
        (name, short_dtype(str(tensor.dtype)), tuple(tensor.shape), tensor.nbytes)
        for name, tensor in loaded.items()
    ]
    assert found.shared == (("a.weight", "transposed", "part"),)
    assert found.imports == ()
    assert read_checkpoint(tmp_path).tensors == found.tensors


def test_a_trainers_file(tmp_path: Path) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]}
    whole = {"model": state(), "optimizer": optimizer, "epoch": 3}
    torch.save(whole, tmp_path / "last.pt")
    found = read_pickled(tmp_path / "last.pt")
    assert found.inside == "model"
    assert len(found.tensors) == len(state())


def test_without_bytes_in_the_file(tmp_path: Path) -> None:
    tensors = {"meta": torch.empty(3, 3, device="meta"), "sparse": torch.eye(3).to_sparse()}
    torch.save(tensors, tmp_path / "x.pt")
    found = read_pickled(tmp_path / "x.pt").tensors
    assert [(each.shape, each.nbytes) for each in found] == [((3, 3), None), ((3, 3), None)]


class Evil:
    """Runs a shell command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_is_run(tmp_path: Path, zipped: bool) -> None:
    command = f"touch {tmp_path / 'ran'}"
    path = tmp_path / "evil.bin"
    evil = {"a": torch.ones(2), "b": Evil(command)}
    torch.save(evil, path, _use_new_zipfile_serialization=zipped)
    (problem,) = read_file(path).problems
    assert problem.endswith("would import 'posix.system', which no tensor needs; it was not run")
    torch.save(Evil(command), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"would import 'posix\.system' if it were run"):
        read_pickled(path)
    path.write_bytes(pickle.dumps(Evil(command)))
    with pytest.raises(CheckpointError, match=r"not a file of torch\.save"):
        read_pickled(path)
    assert not (tmp_path / "ran").exists()


def archive(path: Path, content: bytes, **records: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", content)
        for key, data in records.items():
            file.writestr(f"x/data/{key[1:]}", data)
    return path


def pushed(value: object) -> bytes:
    """The instructions that leave *value* on the stack."""
    return pickle.dumps(value, protocol=2)[2:-1]


def tensor_pickle(elements: int = 4, offset: int = 0, size: Any = (2, 2)) -> bytes:
    """What torch.save writes of {"w": a tensor}, by hand."""
    storage = b"(" + pushed("storage") + b"ctorch\nFloatStorage\n"
    storage += pushed("0") + pushed("cpu") + pushed(elements) + b"tQ"
    arguments = b"(" + storage + pushed(offset) + pushed(size) + pushed((2, 1)) + b"\x89t"
    return b"\x80\x02}" + pushed("w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


@pytest.mark.parametrize(
    ("content", "records", "error"),
    [
        (tensor_pickle(), {"_0": bytes(16)}, None),
        (tensor_pickle(), {"_0": bytes(15)}, "'w' has 15 bytes in data/0, expected 16"),
        (tensor_pickle(offset=1), {"_0": bytes(16)}, "'w' reaches to element 5 of its storage"),
        (tensor_pickle(size=(-1, 2)), {"_0": bytes(16)}, r"a tensor has the sizes \(-1, 2\)"),
        (tensor_pickle(1 << 70), {"_0": bytes(16)}, "'w' has 16 bytes in data/0, expected"),
        (tensor_pickle(), {"_1": bytes(16)}, "'w' has no record data/0"),
        (b"\x80\x02}.", {}, "a dict without tensors by name"),
        (b"", {}, "pickle exhausted before seeing STOP"),
        (b"\x80\x02\x82\x01.", {}, "instruction EXT1 at byte 2"),
        (b"0.", {}, "not a file of torch.save"),
        (b"\x80\x04\x96" + struct.pack("<Q", 1 << 40) + b".", {}, "expected 1099511627776 bytes"),
        (b"\x80\x02" + b"(" * 10 + b"t" * 11 + b".", {}, "not a file of torch.save"),
    ],
)
def test_lies(tmp_path: Path, content: bytes, records: dict[str, bytes], error: str | None) -> None:
    path = archive(tmp_path / "x.bin", content, **records)
    if error is None:
        assert read_pickled(path).tensors[0].shape == (2, 2)
        return
    with pytest.raises(CheckpointError, match=error) as raised:
        read_pickled(path)
    assert str(path) in str(raised.value)


def test_keys_that_take_forever_to_hash(tmp_path: Path) -> None:
    doubled = b"\x80\x02}N\x85" + b"q\x00h\x00\x86" * 200 + b"K\x01s."
    with pytest.raises(CheckpointError, match="a dict without tensors"):
        read_pickled(archive(tmp_path / "x.bin", doubled))


def test_a_pickle_that_grows_when_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.bin", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", bytes(101_000_000))
    with pytest.raises(CheckpointError, match=r"data\.pkl has 101,000,000 bytes, expected up to"):
        read_pickled(tmp_path / "x.bin")


def test_a_path_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"expected a model folder, or a file that ends in"):
        open_checkpoint(tmp_path / "x.onnx")
    with pytest.raises(CheckpointError, match="there is no such file or folder"):
        open_checkpoint(tmp_path / "none.bin")
    torch.save(state(), tmp_path / "adapter_model.bin")
    assert len(open_checkpoint(tmp_path).tensors) == len(state())
