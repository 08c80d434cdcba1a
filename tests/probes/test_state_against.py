"""A state dict beside a checkpoint: counted as a strict load_state_dict counts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from modpdb.probes.checkpoint_files import open_checkpoint
from modpdb.probes.checkpoints import Checkpoint, CheckpointError, TensorEntry
from modpdb.probes.renames import Edit
from modpdb.probes.state import state_of
from modpdb.probes.state_against import Against, state_against
from modpdb.probes.tensors import short_dtype


def entries(tensors: dict[str, torch.Tensor]) -> list[TensorEntry]:
    return [
        TensorEntry(name, short_dtype(str(t.dtype)), tuple(t.shape), t.nbytes, "x")
        for name, t in tensors.items()
    ]


def compared(model: nn.Module, tensors: dict[str, torch.Tensor]) -> Against:
    state = state_of(model)
    return state_against(state.rows, entries(tensors), [row.name for row in state.left_out])


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 6)
        self.norm = nn.LayerNorm(4)
        self.register_buffer("scratch", torch.ones(5), persistent=False)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight


def test_the_same() -> None:
    model = Model()
    found = compared(model, model.state_dict())
    assert found.same == found.keys == found.tensors == len(model.state_dict())
    assert not (found.missing or found.unexpected or found.other_shape or found.other_dtype)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_missing_and_unexpected_are_load_state_dicts(data: st.DataObject) -> None:
    model = Model()
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in data.draw(st.sets(st.sampled_from(sorted(tensors)))):
        tensor = tensors.pop(name)
        for new in data.draw(st.lists(st.sampled_from(["x", "y.z"]), max_size=2, unique=True)):
            tensors[f"{name}.{new}"] = tensor
    result = model.load_state_dict(tensors, strict=False)
    found = compared(model, tensors)
    assert {each.name for each in (*found.missing, *found.tied)} == set(result.missing_keys)
    assert {each.name for each in found.unexpected} == set(result.unexpected_keys)
    assert found.same + len(result.missing_keys) == len(model.state_dict())


def test_a_tied_key_is_no_error() -> None:
    model = Model()
    tensors = {k: v for k, v in model.state_dict().items() if k != "head.weight"}
    found = compared(model, tensors)
    assert found.missing == ()
    assert [(each.name, each.tied) for each in found.tied] == [("head.weight", "embed.weight")]


def test_tied_by_a_name_that_is_renamed() -> None:
    model = Model()
    tensors = {f"m.{k}": v for k, v in model.state_dict().items() if k != "head.weight"}
    found = compared(model, tensors)
    assert [each.name for each in found.tied] == ["head.weight"]
    assert [rule.edit for rule in found.rules] == [Edit("m.", "", True)]


def test_shapes_and_dtypes() -> None:
    model = Model()
    tensors = dict(model.state_dict())
    tensors["layers.0.up.weight"] = tensors["layers.0.up.weight"].T
    tensors["layers.1.up.weight"] = torch.zeros(7, 7)
    tensors["layers.2.up.weight"] = tensors["layers.2.up.weight"].bfloat16()
    found = compared(model, tensors)
    assert [(e.name, e.transposed) for e in found.other_shape] == [
        ("layers.0.up.weight", True),
        ("layers.1.up.weight", False),
    ]
    assert [(e.dtype, e.file_dtype) for e in found.other_dtype] == [("f32", "bf16")]
    assert found.same == found.keys - 3


def test_a_buffer_that_is_not_persistent_is_said() -> None:
    model = Model()
    found = compared(model, {**model.state_dict(), "layers.0.scratch": torch.ones(5)})
    assert [each.name for each in found.unexpected] == ["layers.0.scratch"]
    assert found.left_out == {"layers.0.scratch"}


def test_numbered_parts_are_one_rule() -> None:
    model = Model()
    tensors = {k.replace("layers.", "layer_"): v for k, v in model.state_dict().items()}
    found = compared(model, tensors)
    assert [(rule.edit, len(rule.tensors)) for rule in found.rules] == [
        (Edit("layer_#", "layers.#"), 12)
    ]


def test_unknown_shapes_are_not_said_to_differ() -> None:
    model = Model()
    listed = [TensorEntry(name, None, None, None, "x") for name in model.state_dict()]
    found = state_against(state_of(model).rows, listed)
    assert found.same == found.keys == found.unsized


# -- files -----------------------------------------------------------------------------------------


def opened(path: Path) -> dict[str, Any]:
    return {each.name: (each.dtype, each.shape) for each in open_checkpoint(path).tensors}


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


EXPECTED = {"a.weight": ("f32", (2, 3)), "b": ("bf16", (4,))}


def test_safetensors_as_file_and_folder(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    assert opened(tmp_path) == opened(tmp_path / "model.safetensors") == EXPECTED


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_pickles(
    tmp_path: Path, tensors: dict[str, torch.Tensor], zipped: bool, nested: bool
) -> None:
    saved = {"epoch": 3, "state_dict": tensors} if nested else tensors
    path = tmp_path / "pytorch_model.bin"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    assert opened(path) == opened(tmp_path) == EXPECTED


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    witness = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (witness,)

    torch.save({"a": torch.zeros(1), "b": Evil()}, tmp_path / "x.pt")
    found = open_checkpoint(tmp_path / "x.pt")
    assert not witness.exists()
    assert [tensor.name for tensor in found.tensors] == ["a"]
    assert len(found.problems) == 1 and "it was not run" in found.problems[0]


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    for name, said in (
        ("none", "there is no such file or folder"),
        ("x.txt", "expected a model folder"),
        ("x.pt", r"x\.pt: "),
        ("x.safetensors", "expected at least 8"),
    ):
        if name != "none":
            (tmp_path / name).write_bytes(b"123")
        with pytest.raises(CheckpointError, match=said) as raised:
            open_checkpoint(tmp_path / name)
        assert str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="a list without tensors by name"):
        open_checkpoint(tmp_path / "list.pt")


def test_a_broken_pickle_in_a_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"123")
    found: Checkpoint = open_checkpoint(tmp_path)
    assert found.tensors == () and len(found.problems) == 1
