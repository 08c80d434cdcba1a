"""24,000 damaged files: each is read, or gives one sentence that names it; nothing else."""

import io
import json
import random
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from modpdb.probes.files import CheckpointError
from modpdb.probes.gguf_files import read_gguf
from modpdb.probes.hparams import folder_hparams
from modpdb.probes.pickled_files import read_pickled
from modpdb.probes.safetensors_files import read_header

# pickletools warns of escapes in a string that is no Python.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

MUTATIONS = 5_000  # of each kind of file
EXAMPLES = 1_000
SLOW = 2.0  # seconds that no file may take
ODD = (0, 1, 0x7F, 0x80, 0xFF, ord("["), ord("{"), ord('"'), ord("\\"), ord("."), 0x1B)

Read = Callable[[Path], object]


def safetensors_file() -> bytes:
    tensors = {f"layers.{n}.w": torch.zeros(2, n + 1) for n in range(4)}
    return save(tensors, {"format": "pt", "note": "[bold]x[/bold]"})


def gguf_file(folder: Path) -> bytes:
    writer = gguf.GGUFWriter(folder / "seed.gguf", "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_float32("llama.rope.freq_base", 1e4)
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", "def"] * 5)
    writer.add_array("tokenizer.ggml.scores", [0.5] * 15)
    writer.add_tensor("blk.0.w", np.zeros((2, 4), np.float32))
    writer.add_tensor("blk.1.w", np.zeros((2, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return (folder / "seed.gguf").read_bytes()


def pickle_of(zipped: bool) -> bytes:
    file = io.BytesIO()
    tensors = {"a": torch.zeros(2, 3), "b": torch.nn.Parameter(torch.ones(4)), "epoch": 3}
    torch.save({"model": tensors}, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def mutated(chance: random.Random, content: bytes) -> bytes:
    """*content* with bytes changed, taken out, put in twice or cut off, one or several times."""
    found = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
        at = chance.randrange(len(found) or 1)
        length = chance.choice((1, 1, 2, 4, 8, 64))
        match chance.randrange(6):
            case 0:
                found[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                found[at : at + length] = bytes(chance.choice(ODD) for _ in range(length))
            case 2:
                found[at : at + 8] = chance.choice((0, 1, 2**31, 2**40, 2**63, 2**64 - 1)).to_bytes(
                    8, "little"
                )
            case 3:
                del found[at : at + length]
            case 4:
                found[at:at] = found[at : at + length]
            case _:
                del found[at:]
    return bytes(found)


def check(read: Read, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    began = time.monotonic()
    try:
        read(path)
    except CheckpointError as error:
        said = str(error)
        assert said.startswith(str(path)) and len(said) < 1_000
    assert time.monotonic() - began < SLOW


@pytest.mark.parametrize("kind", ["safetensors", "gguf", "zip", "old pickle"])
def test_damaged_files(kind: str, tmp_path: Path) -> None:
    seeds: dict[str, tuple[Read, bytes]] = {
        "safetensors": (read_header, safetensors_file()),
        "gguf": (read_gguf, gguf_file(tmp_path)),
        "zip": (read_pickled, pickle_of(zipped=True)),
        "old pickle": (read_pickled, pickle_of(zipped=False)),
    }
    read, seed = seeds[kind]
    read_before = tmp_path / "x"
    check(read, read_before, seed)
    chance = random.Random(kind)
    if kind == "safetensors":  # mutations in the header alone, its length told right
        header = seed[8 : 8 + int.from_bytes(seed[:8], "little")]
        for _ in range(MUTATIONS // 2):
            new = mutated(chance, header)
            check(read, read_before, len(new).to_bytes(8, "little") + new + bytes(100))
        for _ in range(MUTATIONS // 2):
            check(read, read_before, mutated(chance, seed[: len(header) + 40]))
        return
    if kind == "zip":  # in the pickle alone, in an archive that is whole
        pickled = zipfile.ZipFile(io.BytesIO(seed)).read("archive/data.pkl")
        for _ in range(MUTATIONS // 2):
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("archive/data.pkl", mutated(chance, pickled))
                archive.writestr("archive/data/0", bytes(24))
                archive.writestr("archive/data/1", bytes(16))
            check(read, read_before, file.getvalue())
    for _ in range(MUTATIONS // 2 if kind == "zip" else MUTATIONS):
        check(read, read_before, mutated(chance, seed))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F4", "", "\x1b[31m"]) | json_values,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 40), min_size=2, max_size=2) | json_values,
    }
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.text(max_size=6), entries | json_values, max_size=4), st.integers(0, 60))
def test_any_header(
    tmp_path_factory: pytest.TempPathFactory, listed: dict[str, object], data: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    header = json.dumps(listed).encode()
    check(read_header, path, len(header).to_bytes(8, "little") + header + bytes(data))


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=120), st.sampled_from([b"", b"GGUF\3\0\0\0", b"\x80\x02", b"PK\3\4"]))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, tail: bytes, head: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    for read in (read_gguf, read_pickled, folder_hparams):
        check(read, path, head + tail)
