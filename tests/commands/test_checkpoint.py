"""ckpt, hparams and gguf as they are typed: on files, on what frames hold, on a small converter."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from at_prompt import Prompt

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
gguf = pytest.importorskip("gguf")
safe_open = pytest.importorskip("safetensors").safe_open
save_file = pytest.importorskip("safetensors.torch").save_file

MARKUP = "layers.0.[bold]\x1b[31mred[/bold].weight"


@pytest.fixture(autouse=True)
def wide(isolated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # the paths of tests are long


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint of two shards with three layers."""
    folder = tmp_path / "my model"
    folder.mkdir()
    first = {"embed.weight": torch.zeros(8, 4)}
    first |= {f"layers.{n}.w": torch.zeros(4, 4, dtype=torch.bfloat16) for n in range(2)}
    second = {"layers.2.w": torch.zeros(4, 4, dtype=torch.bfloat16), MARKUP: torch.zeros(2)}
    save_file(first, folder / "model-00001-of-00002.safetensors")
    save_file(second, folder / "model-00002-of-00002.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"hidden_size": 4, "layer_types": ["a", "a", "b"], "rope": {"theta": 1e4}})
    )
    return folder


# -- files ---------------------------------------------------------------------------------------


def test_a_folder_before_the_program_has_stopped(model: Path) -> None:
    said = Prompt()(f'ckpt "{model}"').splitlines()
    assert said[0] == "5 tensors · 82 elements · 232 bytes · f32 136 bytes, bf16 96 bytes"
    assert said[1].startswith(f"2 files in {model}: model-00001-of-00002.safetensors, ")
    assert [line.split() for line in said if line.startswith("layers.{")] == [
        ["layers.{0…2}.w", "bf16", "3", "×", "[4,", "4]", "32", "bytes", "2", "files"]
    ]
    assert "\x1b" not in "\n".join(said) and "layers.0.[bold]\\x1b[31mred[/bold].weight" in said[-1]


def test_filters(model: Path) -> None:
    ask = Prompt()

    def rows(line: str) -> list[str]:
        said = ask(line.replace("M", f"'{model}'"))
        return [each.split()[0] for each in said.splitlines()[1:] if " in /" not in each]

    assert rows("ckpt M --dtype BF16 --unfold") == [f"layers.{n}.w" for n in range(3)]
    assert rows("ckpt M --file *-00002-* layers.*.w") == ["layers.2.w"]
    assert rows("ckpt --dtype=f32 M embed") == ["embed.weight"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("ckpt", "*** ckpt needs a PATH before the program has stopped: ckpt PATH [GLOB]"),
        ("gguf", "*** gguf needs a FILE before the program has stopped: gguf FILE.gguf"),
        ("hparams", "*** hparams needs a PATH before the program has stopped: hparams PATH"),
        ("ckpt M nothing", "*** 'nothing' is no tensor of the checkpoint here"),
        ("ckpt M --dtype f16", "*** no tensor has the dtype f16; there is bf16, f32"),
        ("ckpt M --file x", "*** no tensor is in a file x; `ckpt` names the files"),
        ("ckpt M embed --dtype bf16", "*** no tensor fits all of these"),
        ("ckpt M a b", "*** ckpt takes one GLOB, not 2: a b"),
        ("ckpt no/such/folder", "*** no/such/folder: there is no such file or folder"),
        ("ckpt 'x", '*** "\'x" cannot be split into words: No closing quotation'),
        ("ckpt M --all", "*** ckpt has no option --all; it takes --dtype D, --file F, --shared"),
        ("ckpt M --dtype", "*** --dtype needs a value: --dtype D"),
        ("gguf M", "*** M: not a regular file"),
        ("hparams M heads", "*** 'heads' is no key of the config here"),
    ],
)
def test_one_sentence(model: Path, line: str, error: str) -> None:
    said = Prompt()(line.replace("M", f"'{model}'"))
    assert said.startswith(error.replace("M", str(model))) and "\n" not in said


def test_damaged_files_are_one_line_among_the_others(model: Path) -> None:
    broken = model / "model-00002-of-00002.safetensors"
    broken.write_bytes(broken.read_bytes()[:40])
    said = Prompt()(f"ckpt '{model}'")
    assert said.count("problem: ") == 1
    words = " ".join(said.split())
    assert "00002-of-00002.safetensors: the header is said to have" in words
    assert "bytes, but 32 follow" in words and "layers.{0…1}.w" in said


def test_hparams_of_a_folder(model: Path) -> None:
    said = Prompt()(f"hparams '{model}'")
    assert said.splitlines() == [
        f"{model}/config.json   3 keys",
        "hidden_size  4",
        "layer_types  [a ×2, b] 3 items",
        "rope",
        "  theta      10000.0",
    ]
    assert Prompt()(f"hparams '{model}' the").splitlines()[1:] == ["rope.theta  10000.0"]


def test_a_gguf_file(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_float32("llama.epsilon", 1e-6)
    writer.add_token_list([f"t{n}" for n in range(500)])
    writer.add_string("tokenizer.chat_template", "line one {{ x }}\nline two\x1b " + "y" * 100)
    for n in range(3):
        writer.add_tensor(f"blk.{n}.w", np.zeros((2, 4), np.float32))
        writer.add_tensor(f"blk.{n}.b", np.zeros(4, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ask = Prompt()
    said = ask(f"gguf {tmp_path / 'x.gguf'}").splitlines()
    assert said[0].endswith("x.gguf   llama · GGUF 3")
    assert [" ".join(line.split()) for line in said[1:6]] == [
        "4 keys",
        "general.architecture str 'llama'",
        "llama.epsilon f32 1e-06",
        "tokenizer.ggml.tokens arr[str] 500 × ['t0', 't1', 't2', …]",
        f"tokenizer.chat_template str 'line one {{{{ x }}}}\\nline two\\x1b {'y' * 33}…' 127 characters",
    ]
    assert [" ".join(line.split()) for line in said[-4:]] == [
        "6 tensors · 36 elements · 120 bytes · f32 96 bytes, f16 24 bytes",
        "blk.{0…2} 3 × each 40 bytes",
        "w f32 [4, 2] 32 bytes",
        "b f16 [4] 8 bytes",
    ]
    whole = ask(f"gguf {tmp_path / 'x.gguf'} kv *chat_template").splitlines()
    assert whole[-2:] == ["line one {{ x }}", f"line two\\x1b {'y' * 100}"]
    assert "6 tensors" not in ask(f"gguf {tmp_path / 'x.gguf'} kv")
    assert "4 keys" not in ask(f"gguf {tmp_path / 'x.gguf'} tensors --unfold")
    listed = ask(f"ckpt {tmp_path / 'x.gguf'} blk.1")
    assert "[2, 4]" in listed and "2 tensors of 6" in listed  # torch's order


# -- what frames hold ------------------------------------------------------------------------------


def test_dicts_of_tensors_and_open_files(model: Path) -> None:
    def stop() -> FrameType:
        weight = torch.zeros(3)
        state = {"a": weight, "b": weight, "c": np.zeros(2, np.float16)}  # noqa: F841
        mixed, empty = {"a": weight, "n": 1}, {}  # noqa: F841
        file = safe_open(model / "model-00001-of-00002.safetensors", "pt")  # noqa: F841
        return sys._getframe()

    ask = Prompt(stop())
    said = ask("ckpt")
    assert [line for line in said.splitlines() if len(line.split()) == 1] == ["state", "file"]
    assert "c  f16  [2]   4 bytes" in said and "layers.{0…1}.w" in said
    assert "a = b" in ask("ckpt --shared") and "file: no tensor has several" in ask("ckpt --shared")
    assert "state" not in ask("ckpt embed") and "file" not in ask("ckpt a")


def test_the_path_may_be_a_variable(model: Path) -> None:
    def stop() -> FrameType:
        folder, text = model, str(model)  # noqa: F841
        return sys._getframe()

    ask = Prompt(stop())
    assert ask("ckpt folder") == ask("ckpt text") == ask(f"ckpt '{model}'")


def test_nothing_here() -> None:
    ask = Prompt(sys._getframe())
    assert "no conversion, no dict of tensors" in ask("ckpt")
    assert "no conversion here" in ask("hparams") and "no GGUF writer here" in ask("gguf")


CONFIG = {"hidden_size": 4, "dropout": 0.0, "nested": {"heads": 2, "unused": [1, 1]}}


class Converter:
    """What a converter has, in the smallest form."""

    model_arch = SimpleNamespace(_name_="LLAMA")

    def __init__(self, folder: Path) -> None:
        self.dir_model = folder
        self.hparams = CONFIG
        self.gguf_writer = gguf.GGUFWriter(None, "llama")
        names = ["embed.weight", "layers.0.w", "layers.1.w", "layers.2.w"]
        tensor = torch.zeros(4, 4)
        self.model_tensors = {name: lambda data=tensor: data for name in names}
        mapping = {"embed": (1, "token_embd")}
        mapping |= {f"layers.{n}.w": (2, f"blk.{n}.w") for n in range(2)}
        self.tensor_map = SimpleNamespace(mapping=mapping)

    def set_gguf_parameters(self) -> None:
        self.gguf_writer.add_uint32("llama.heads", self.hparams["nested"]["heads"])
        self.gguf_writer.add_uint32("llama.size", self.hparams["hidden_size"])

    def prepare_tensors(self, look: Callable[[str], None]) -> None:
        for name, data in self.model_tensors.items():
            data_torch = data()
            look(name)
            if name != "layers.0.w":
                self.gguf_writer.add_tensor(self.renamed(name), data_torch.numpy())

    def renamed(self, name: str) -> str:
        return name.replace("layers", "blk").replace("embed", "token_embd")


def test_how_far_each_has_come(model: Path) -> None:
    said: dict[str, str] = {}

    def look(name: str) -> None:
        said[name] = Prompt(sys._getframe(1))("ckpt --unfold")

    converter = Converter(model)
    converter.prepare_tensors(look)
    first = said["embed.weight"].splitlines()
    assert first[0] == "Converter → LLAMA"
    assert "tensors are being converted: embed.weight" in first
    assert "0 of 4 read · 3 in the name map · the writer holds 0 tensors" in first
    assert first[-4].startswith("at hand  embed.weight") and first[-3].startswith("         layers")
    last = said["layers.2.w"].splitlines()
    assert "3 of 4 read · 3 in the name map · the writer holds 2 tensors" in last
    assert [line.split()[0] for line in last[-4:]] == ["held", "read", "held", "at"]

    def after(self: Any) -> FrameType:
        return sys._getframe()

    done = Prompt(after(converter))("ckpt")
    assert "the tensors have been converted" in done and "4 of 4 read" in done


def test_hparams_and_gguf_of_a_converter(model: Path) -> None:
    converter = Converter(model)
    converter.set_gguf_parameters()

    def stop(self: Any) -> FrameType:
        return sys._getframe()

    ask = Prompt(stop(converter))
    assert [" ".join(line.split()) for line in ask("hparams").splitlines()] == [
        "Converter.hparams 4 keys",
        "hidden_size 4 Converter.set_gguf_parameters",
        "nested Converter.set_gguf_parameters",
        "heads 2 Converter.set_gguf_parameters",
        "unused [1 ×2]",
        "named by no function of Converter or its bases: a hint, no proof",
        "dropout 0.0",
    ]
    shadowed, said = ask("gguf").split("\n", 1)
    assert shadowed == "(gguf is the command; !gguf shows the variable)"
    assert said.startswith("self.gguf_writer (GGUFWriter)   llama · not written yet")
    assert "llama.heads           u32  2" in said and said.endswith("0 tensors")
    assert "1 key of 3" in ask("gguf kv llama.size")
    assert ask("gguf kv nothing").startswith("*** 'nothing' is no key here")
