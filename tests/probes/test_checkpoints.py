"""Checkpoints by their headers, and conversions found in frames."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from modpdb.probes.checkpoints import (
    Checkpoint,
    CheckpointError,
    TensorEntry,
    checkpoint_tree,
    parts_of,
    read_checkpoint,
    read_header,
    tensor_rows,
)
from modpdb.probes.conversion import find_conversion
from modpdb.probes.conversion_tensors import (
    GGUFName,
    conversion_checkpoint,
    conversion_tensor,
    gguf_name,
)
from modpdb.probes.tree import folds, walk


def written(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    size = len(header) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + header + data)
    return path


def entry(**changed: Any) -> bytes:
    whole = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changed}
    return json.dumps({"x": whole}).encode()


# -- headers -------------------------------------------------------------------------------------


def test_header_is_what_was_saved(tmp_path: Path) -> None:
    saved = {
        "b.weight": torch.zeros(2, 3, dtype=torch.bfloat16),
        "a": torch.zeros((), dtype=torch.int64),
        "e": torch.zeros(0, 4),
        "f": torch.zeros(3, dtype=torch.float8_e4m3fn),
    }
    save_file(saved, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = read_header(tmp_path / "model.safetensors")
    assert [(t.name, t.dtype, t.shape, t.nbytes) for t in found] == [
        ("a", "i64", (), 8),
        ("b.weight", "bf16", (2, 3), 12),
        ("e", "f32", (0, 4), 0),
        ("f", "f8_e4m3", (3,), 3),
    ]
    assert {t.file for t in found} == {"model.safetensors"}


@pytest.mark.parametrize(
    ("header", "data", "length", "error"),
    [
        (b"", b"", 200_000_000, "said to have 200,000,000 bytes, expected up to 100,000,000"),
        (b"{}", b"", 50, "said to have 50 bytes, but 2 follow"),
        (b"{]", b"", None, "not JSON"),
        (b"\xff\xfe", b"", None, "not JSON"),
        (b"[" * 10_000, b"", None, "not JSON"),
        (b"[]", b"", None, "a JSON list, not an object"),
        (b'{"x": 1.5}', b"", None, "the header has the number 1.5, expected integers"),
        (b'{"x": NaN}', b"", None, "the header has the number NaN, expected integers"),
        (entry()[:-1] + b"," + entry()[1:], b"12345678", None, "the header has 'x' twice"),
        (
            entry(dtype="F16", shape=[4])[:-2] + b', "shape": [4]}}',
            b"12345678",
            None,
            "'shape' twice",
        ),
        (b'{"x": 3, ' + entry()[1:], b"12345678", None, "the header has 'x' twice"),
        (entry(shape={}, data_offsets=[0, 4]), b"1234", None, "'x' has .* expected dtype, shape"),
        (entry(shape=[1 << 63]), b"12345678", None, "'x' has the shape"),
        (entry(data_offsets=[0, 10**4000]), b"12345678", None, "a number of 13,288 bits"),
        (b'{"x": 3}', b"", None, "'x' has 3, expected dtype, shape and two data_offsets"),
        (entry(shape=[-2]), b"", None, r"'x' has the shape \[-2\]"),
        (entry(shape=[True]), b"", None, "'x' has the shape"),
        (entry(), b"1234", None, "'x' lies at bytes 0 to 8 of the data, which has 4"),
        (entry(data_offsets=[8, 0]), b"12345678", None, "'x' lies at bytes 8 to 0"),
        (entry(shape=[3]), b"12345678", None, "'x' has 8 bytes, expected 12 for F32"),
    ],
)
def test_broken_header(
    tmp_path: Path, header: bytes, data: bytes, length: int | None, error: str
) -> None:
    path = written(tmp_path / "bad.safetensors", header, data, length)
    with pytest.raises(CheckpointError, match=error) as raised:
        read_header(path)
    assert str(path) in str(raised.value)


def test_short_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"123")
    with pytest.raises(CheckpointError, match="3 bytes, expected at least 8"):
        read_header(tmp_path / "short")
    with pytest.raises(CheckpointError, match="No such file"):
        read_header(tmp_path / "none")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_give_tensors_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, framed: bool
) -> None:
    path = tmp_path_factory.mktemp("any") / "x.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content if framed else content)
    try:
        assert isinstance(read_header(path), list)
    except CheckpointError as error:
        assert str(path) in str(error)


# -- which files ---------------------------------------------------------------------------------


def folder_with(folder: Path, *names: str, index: dict[str, str] | None = None) -> Path:
    for number, name in enumerate(names):
        if name.endswith(".safetensors"):
            save_file({f"t{number}": torch.zeros(2)}, folder / name)
        else:
            (folder / name).write_bytes(b"")
    if index is not None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def test_model_files_and_not_consolidated_ones(tmp_path: Path) -> None:
    folder_with(tmp_path, "model-2.safetensors", "model-1.safetensors", "consolidated.safetensors")
    assert parts_of(tmp_path).files == ("model-1.safetensors", "model-2.safetensors")
    assert parts_of(tmp_path, mistral=True).files == ("consolidated.safetensors",)


def test_index_chooses_where_the_converter_obeys_it(tmp_path: Path) -> None:
    folder_with(
        tmp_path, "model-1.safetensors", "model-old.safetensors", index={"t": "model-1.safetensors"}
    )
    assert parts_of(tmp_path).files == ("model-1.safetensors",)
    both = ("model-1.safetensors", "model-old.safetensors")
    assert parts_of(tmp_path, obey_index=False).files == both


def test_index_may_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder_with(tmp_path, "model.safetensors", index={"t": "../secret"})
    with pytest.raises(CheckpointError, match="'weight_map' is no map"):
        parts_of(tmp_path)


def test_pickles_are_not_executed(tmp_path: Path) -> None:
    folder_with(tmp_path, "pytorch_model.bin")
    found = read_checkpoint(tmp_path)
    assert (found.files, found.tensors) == (("pytorch_model.bin",), ())
    assert "pytorch_model.bin: not a file of torch.save" in found.problems[0]
    (tmp_path / "pytorch_model.bin.index.json").write_text(
        json.dumps({"weight_map": {"a.weight": "pytorch_model.bin"}})
    )
    found = read_checkpoint(tmp_path)
    assert found.tensors == (TensorEntry("a.weight", None, None, None, "pytorch_model.bin"),)
    assert checkpoint_tree(found).root.children[0].facts.flags == ("shape not known",)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model\*.safetensors"):
        read_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="No such file"):
        read_checkpoint(tmp_path / "none")


def test_one_broken_file_is_a_problem_among_the_others(tmp_path: Path) -> None:
    folder_with(tmp_path, "model-1.safetensors")
    (tmp_path / "model-2.safetensors").write_bytes(b"1234")
    found = read_checkpoint(tmp_path)
    assert len(found.tensors) == 1
    assert "model-2.safetensors: 4 bytes" in found.problems[0]


# -- the tree ------------------------------------------------------------------------------------


def checkpoint(**shapes: tuple[int, ...]) -> Checkpoint:
    tensors = [
        TensorEntry(name.replace("__", "."), "bf16", shape, 2, "f")
        for name, shape in shapes.items()
    ]
    return Checkpoint("folder", ("f",), tuple(tensors))


def test_tree_of_names() -> None:
    tree = checkpoint_tree(
        checkpoint(l__10__w=(4,), l__0__w=(4,), l__2__w=(5,), l__1__w=(4,), norm__weight=(4,))
    )
    assert tree.root.facts.parameters == 21
    assert tree.source is not None
    assert tree.source.tensors == 5
    layers = tree.root.children[0]
    assert layers.facts.container
    assert [fold.numbers for fold in folds(layers.children)] == [(0, 1, 10), ()]
    assert layers.children[0].facts.detail == "w [4]"


@given(st.lists(st.text(".0aä\n", min_size=0, max_size=6), unique=True, max_size=12))
def test_any_names_give_a_tree(names: list[str]) -> None:
    tensors = tuple(TensorEntry(name, "f32", (2, 3), 24, "f") for name in names)
    tree = checkpoint_tree(Checkpoint("", (), tensors), "model")
    assert tree.root.facts.parameters == 6 * len(names)
    assert sum(node.facts.own_parameters for node in walk(tree.root)) == 6 * len(names)


def test_a_name_of_many_dots() -> None:
    tensors = (TensorEntry("." * 100_000, "f32", (1,), 4, "f"),)
    assert checkpoint_tree(Checkpoint("", (), tensors)).root.facts.parameters == 1


def test_rows_have_the_file() -> None:
    (row,) = tensor_rows(checkpoint(a__weight=(2, 3)).tensors)
    assert (row.name, row.file) == ("a.weight", "f")
    assert row.facts is not None
    assert (row.facts.shape, row.facts.dtype) == ((2, 3), "bf16")


# -- conversions ---------------------------------------------------------------------------------


class Arch:
    def __init__(self) -> None:
        self._name_ = "GEMMA3"


class Base:
    """What a converter's class has, without a conversion."""

    model_arch = Arch()

    def index_tensors(self) -> None:
        raise AssertionError("called")


class LocalTensor:
    def __init__(self, path: Path) -> None:
        self.dtype, self.shape = "BF16", (4, 3)
        self.data_range = SimpleNamespace(filename=path, offset=8, size=24)


def never(data: object = None) -> None:
    raise AssertionError("called")


def converting(tmp_path: Path) -> Base:
    model = Base()
    model.dir_model = tmp_path
    local = LocalTensor(tmp_path / "model.safetensors")
    tensor = torch.zeros(2, 2, dtype=torch.float16)
    model.model_tensors = {
        "model.layers.0.self_attn.q_proj.weight": lambda data=local: never(data),
        "eager": lambda data=tensor: never(data),
        "t0": lambda w=never: never(w),
    }
    model.tensor_map = SimpleNamespace(
        mapping={"model.layers.0.self_attn.q_proj": ("ATTN_Q", "blk.0.attn_q")}
    )
    return model


def test_no_conversion() -> None:
    assert find_conversion([{"x": 1, "self": object(), "Base": Base}, {}]) is None


def test_in_init_the_folder_is_a_local(tmp_path: Path) -> None:
    folder_with(tmp_path, "model.safetensors")
    found = find_conversion([{"self": Base(), "args": ()}, {"dir_model": tmp_path}])
    assert found is not None
    assert (found.class_name, found.arch, found.dir_model) == ("Base", "GEMMA3", tmp_path)
    assert [t.name for t in conversion_checkpoint(found).tensors] == ["t0"]


def test_in_main_before_the_object_is_made(tmp_path: Path) -> None:
    folder_with(tmp_path, "model.safetensors")
    frame = {"args": None, "dir_model": tmp_path, "model_class": Base}
    found = find_conversion([frame])
    assert found is not None
    assert (found.model, found.class_name) == (None, "Base")
    assert len(conversion_checkpoint(found).tensors) == 1


def test_names_of_model_tensors_and_what_their_callables_hold(tmp_path: Path) -> None:
    folder_with(tmp_path, "model.safetensors")
    found = find_conversion([{"self": converting(tmp_path)}])
    assert found is not None
    listed = conversion_checkpoint(found)
    assert listed.from_model_tensors
    assert listed.tensors == (
        TensorEntry(
            "model.layers.0.self_attn.q_proj.weight", "bf16", (4, 3), 24, "model.safetensors"
        ),
        TensorEntry("eager", "f16", (2, 2), 8, ""),
        TensorEntry("t0", "f32", (2,), 8, "model.safetensors", derived=True),
    )


def test_gguf_name_by_the_name_map(tmp_path: Path) -> None:
    found = find_conversion([{"self": converting(tmp_path)}])
    assert found is not None
    name = "model.layers.0.self_attn.q_proj.weight"
    assert gguf_name(found, name) == GGUFName("blk.0.attn_q.weight", (3, 4))
    assert gguf_name(found, "model.layers.0.self_attn.q_proj.scale") is None
    assert conversion_tensor(found, "nope") is None


def test_older_converters_read_what_they_have_chosen(tmp_path: Path) -> None:
    folder_with(tmp_path, "model-1.safetensors", "model-2.safetensors")
    model = SimpleNamespace(
        hparams={}, gguf_writer=None, dir_model=tmp_path, part_names=["model-2.safetensors"]
    )
    found = find_conversion([{"self": model}])
    assert found is not None
    assert [t.name for t in conversion_checkpoint(found).tensors] == ["t1"]
