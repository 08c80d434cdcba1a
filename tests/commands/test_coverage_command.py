"""`coverage` as it is typed: at a writer, on files, and on what is neither."""

import sys
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from at_prompt import Prompt

np = pytest.importorskip("numpy")
gguf = pytest.importorskip("gguf")

HOSTILE = "blk.0.[bold]\x1b[31mred[/bold].weight"


@pytest.fixture(autouse=True)
def wide(isolated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # the paths of tests are long


def writer(path: Path | None = None, arch: str = "llama", **tensors: Any) -> gguf.GGUFWriter:
    """A llama of one block without its attn_q; *tensors* by name, a shape each."""
    made = gguf.GGUFWriter(path, arch)
    made.add_block_count(1)
    made.add_context_length(128)
    made.add_embedding_length(8)
    made.add_feed_forward_length(16)
    made.add_head_count(2)
    made.add_layer_norm_rms_eps(1e-6)
    made.add_tokenizer_model("llama")
    made.add_token_list(["a", "b", "c"])
    shapes = {
        "token_embd.weight": (3, 8), "output_norm.weight": (8,), "output.weight": (3, 8),
        "blk.0.attn_norm.weight": (8,), "blk.0.attn_k.weight": (8, 8),
        "blk.0.attn_v.weight": (8, 8), "blk.0.attn_output.weight": (8, 8),
        "blk.0.ffn_norm.weight": (8,), "blk.0.ffn_gate.weight": (16, 8),
        "blk.0.ffn_up.weight": (16, 8), "blk.0.ffn_down.weight": (8, 16),
    }  # fmt: skip
    for name, shape in (shapes | tensors).items():
        made.add_tensor(name, np.zeros(shape, np.float32))
    return made


def file(path: Path, made: gguf.GGUFWriter) -> Path:
    made.write_header_to_file(path)
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return path


def write_header_to_file(made: Any) -> FrameType:
    """A frame as the script's, when all is there and nothing written."""
    return sys._getframe()


def set_gguf_parameters(made: Any) -> FrameType:
    return sys._getframe()


def prepare_tensors(made: Any) -> FrameType:
    return sys._getframe()


WHOLE = {"blk.0.attn_q.weight": (8, 8)}


def test_a_writer_that_has_all() -> None:
    said = Prompt(write_header_to_file(writer(**WHOLE)))("coverage").splitlines()
    assert said == [
        "complete: 11 of 11 tensors that llama needs, 6 keys   llama · made (GGUFWriter)",
        "by llama.cpp's loader (llama-cpp-python 0.3.36) · 9 optional tensors absent",
    ]


def test_a_file_that_lacks_one(tmp_path: Path) -> None:
    path = file(tmp_path / "x.gguf", writer())
    said = Prompt()(f"coverage {path}").splitlines()
    assert said == [
        f"1 tensor missing   llama · {path}",
        "missing: the loader requires it",
        "  blk.0.attn_q.weight  [8, 8]  as attn_qkv.weight is not there",
        "there: 10 of 11 tensors that llama needs, 6 keys",
        "by llama.cpp's loader (llama-cpp-python 0.3.36) · 9 optional tensors absent",
    ]
    assert Prompt()(f"coverage --unfold {path}").splitlines() == said


def test_while_the_conversion_goes_on() -> None:
    made = writer(**{HOSTILE: (1,)})
    for frame, to_come in (
        (prepare_tensors(made), "tensors and metadata are"),
        (set_gguf_parameters(made), "the metadata is"),
    ):
        said = Prompt(frame)("coverage")
        assert said.startswith(f"so far 1 unexpected tensor: {to_come} still to come")
        assert said.endswith("`ahead` looks at all that will be written")
        assert "\x1b" not in said and "blk.0.[bold]\\x1b[31mred[/bold].weight" in said


def test_an_architecture_that_no_loader_knows(tmp_path: Path) -> None:
    path = file(tmp_path / "x.gguf", writer(arch="made[bold]\x1bup", **WHOLE))
    said = Prompt()(f"coverage {path}")
    assert said.startswith("not known: made[bold]\\x1bup is in no table of what the loader needs")
    assert "complete" not in said and "\x1b" not in said


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("coverage", "*** coverage needs a FILE before the program has stopped"),
        ("coverage none.gguf", "*** none.gguf: there is no such file or folder"),
        ("coverage a b", "*** coverage takes one FILE.gguf, not a b"),
        ("coverage {path} b", "*** coverage takes one FILE.gguf, not b"),
        ("coverage {path}", "*** {path}"),
    ],
)
def test_what_it_cannot_do(typed: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"no GGUF at all")
    said = Prompt()(typed.format(path=path))
    assert said.startswith(says.format(path=path)) and len(said.splitlines()) == 1


def test_what_is_no_whole_model(tmp_path: Path) -> None:
    shard = writer(**WHOLE)
    shard.add_uint16("split.count", 2)
    shard.add_int32("split.tensors.count", 40)
    said = Prompt()(f"coverage {file(tmp_path / 'shard.gguf', shard)}")
    assert "is a shard with 12 of 40 tensors" in said
    adapter = writer()
    adapter.add_type("adapter")
    assert "is an adapter" in Prompt()(f"coverage {file(tmp_path / 'lora.gguf', adapter)}")
    without = gguf.GGUFWriter(None, "x")
    without.kv_data = [{}]
    said = Prompt(write_header_to_file(without))("coverage")
    assert said.startswith("*** made has no general.architecture")


def test_where_there_is_no_writer() -> None:
    assert "no GGUF writer here" in Prompt(write_header_to_file(3))("coverage")


class Hostile:
    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"asked for {name}")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    def __bool__(self) -> bool:
        raise AssertionError("asked whether it is true")

    __hash__ = object.__hash__


def test_hostile_values_in_a_writer_and_a_gguf_module(monkeypatch: pytest.MonkeyPatch) -> None:
    made = writer(**WHOLE)
    value = gguf.GGUFWriter(None, "x").kv_data[0]["general.architecture"]
    made.kv_data[0]["llama.block_count"] = type(value)(Hostile(), value.type)
    made.kv_data[0][Hostile()] = Hostile()
    table = {Hostile(): Hostile()}
    module = SimpleNamespace(MODEL_ARCH_NAMES=table, MODEL_TENSORS=table, TENSOR_NAMES=table)
    for each in (module, Hostile()):
        monkeypatch.setitem(sys.modules, "gguf", each)  # type: ignore[arg-type]
        said = Prompt(write_header_to_file(made))("coverage")
        assert "AssertionError" not in said and "complete:" not in said
        assert "how many blocks there are" in said
