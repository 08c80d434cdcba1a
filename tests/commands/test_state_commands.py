"""`state`, `state against`, `skeleton` and `modules --skeleton` as they are typed."""

import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from at_prompt import Prompt
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from modpdb.prompt.completion import PromptCompleter

torch = pytest.importorskip("torch")
nn = torch.nn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(4, 4, bias=False)
        self.norm = nn.LayerNorm(4)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def stop(self, *args: object) -> FrameType:
        return sys._getframe()


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def ask(model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Prompt:
    """The prompt in a method of a Model, in an empty folder, piped."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.chdir(tmp_path)
    return Prompt(model.stop())


STATE = """\
Model   11 keys · 10 tensors, 1 further name of tied ones · 96 elements · 384 bytes · f32
embed.weight     [6, 4]       96 bytes  tied with head.weight
layers.{0…2}             3 ×
  q_proj.weight  [4, 4]       64 bytes
  norm.weight    [4]          16 bytes
  norm.bias      [4]          16 bytes
head.weight      [6, 4]       96 bytes  tied with embed.weight
not in it: 1 buffer registered with persistent=False
  scale  [1]  4 bytes"""


def test_state(ask: Prompt) -> None:
    assert ask("state") == ask("state self") == STATE
    assert ask("state --run").startswith(STATE)
    assert ask("state --run").endswith("observed, state_dict() run in a forked copy of the process: 11 keys, the same")  # fmt: skip
    assert "layers.2.norm.bias" in ask("state --unfold")


def test_a_part_of_it(ask: Prompt) -> None:
    expected = ["layers.1.q_proj.weight", "layers.1.norm.weight", "layers.1.norm.bias"]
    for target in ("layers.1", "self.layers[1]"):
        assert [line.split()[0] for line in ask(f"state {target}").splitlines()[1:]] == expected
    said = ask("state layers.*.norm")
    assert "layers.{0…2} " in said and "  norm.bias" in said and "q_proj" not in said
    assert ask("state layer.1") == "*** 'layer.1' is no key of a state dict here"


def saved(tensors: dict[str, Any], name: str = "model.safetensors") -> None:
    from safetensors.torch import save_file

    Path(name).parent.mkdir(exist_ok=True)
    save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, name)


def test_against(ask: Prompt, model: Model) -> None:
    tensors = {k: v for k, v in model.state_dict().items() if k != "head.weight"}
    tensors = {k.replace("norm", "ln"): v for k, v in tensors.items()}
    tensors["layers.0.q_proj.weight"] = torch.zeros(4, 5)
    tensors["layers.1.q_proj.weight"] = torch.zeros(4, 4, dtype=torch.bfloat16)
    tensors["strange"] = torch.zeros(2)
    saved(tensors, "ckpt/model.safetensors")
    said = ask("state against ckpt")
    verdict = "6 missing, 7 unexpected, 1 of another shape, 1 tied, 3 match (1 of another dtype)"
    assert said.splitlines()[:2] == [
        verdict,
        "11 keys of Model, 11 tensors of model.safetensors in ckpt",
    ]
    assert "  6 ×  ln → norm  such as layers.0.ln.bias" in said
    assert "layers.0.q_proj.weight  module [4, 4]  checkpoint [4, 5]" in said
    assert "strange  [2]  f32" in said and "head.weight  is embed.weight" in said
    assert ask("state self against ckpt/model.safetensors --unfold").startswith(verdict)


def test_against_the_same(ask: Prompt, model: Model) -> None:
    saved(dict(model.state_dict()))
    assert ask("state against model.safetensors").splitlines() == [
        "11 match",
        "11 keys of Model, 11 tensors of model.safetensors in .",
    ]
    assert ask("state layers.1 against .").startswith("3 match\n3 keys of Model, 3 tensors")
    assert ask("state self.layers[1] against .").startswith("3 match\n3 keys of Block, 3 tensors")


def test_keys_are_the_modules_own_where_the_frame_holds_several(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The name of a variable is no part of a key."""
    monkeypatch.chdir(tmp_path)
    saved(dict(model.state_dict()))

    def stop(m: Model, other: nn.Module) -> FrameType:
        return sys._getframe()

    prompt = Prompt(stop(model, nn.Linear(2, 2)))
    assert prompt("state m against .").startswith("11 match\n")
    assert prompt("state m.layers[1] against .").startswith("3 match\n")
    assert prompt("state m.layers.1 against .").startswith("3 match\n")
    assert prompt("state layers.1.norm against .").startswith("2 match\n")
    assert prompt("state other").splitlines()[1].split()[0] == "weight"
    assert "\nother.weight " in prompt("state")


def test_the_home_folder(ask: Prompt, model: Model) -> None:
    Path(os.environ["HOME"], "deep").mkdir()
    saved(dict(model.state_dict()), os.path.join(os.environ["HOME"], "deep", "model.safetensors"))
    assert ask("state against ~/deep").startswith("11 match")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("state against", "against needs a path: state [TARGET] against PATH"),
        ("state against x.gguf", "x.gguf: a GGUF file's names are those of llama.cpp, no module's"),
        ("state against none", "none: there is no such file or folder"),
        ("state against . --nope", "state has no option --nope; it takes --run, --unfold"),
        ("state --nope", "state has no option --nope; it takes --run, --unfold"),
        ("state against .", ".: no model*.safetensors and no pytorch_model*.bin file"),
        ("skeleton", "no conversion is under way here: skeleton PATH takes a checkpoint's folder"),
        ("skeleton .", ".: no config.json, which describes the model"),
        ("modules --skeleton none", "none: no config.json, which describes the model"),
    ],
)
def test_what_cannot_be_done(ask: Prompt, line: str, said: str) -> None:
    assert ask(line) == f"*** {said}"


def test_names_out_of_a_checkpoint_are_escaped(ask: Prompt) -> None:
    saved({"\x1b[31mred": torch.zeros(1), "[bold]x": torch.zeros(1)})
    said = ask("state against .")
    assert "\\x1b[31mred" in said and "\x1b" not in said and "[bold]x" in said


def test_state_dict_that_raises(ask: Prompt, model: Model) -> None:
    def fails(*arguments: object) -> None:
        raise RuntimeError("[red]no\x1b")

    model.register_state_dict_post_hook(fails)
    said = ask("state --run")
    assert "raises RuntimeError: [red]no\\x1b" in said and "layers.{0…2}" in said
    assert "may add, rename or drop keys when state_dict() runs" in said


def test_paths_complete(ask: Prompt) -> None:
    Path("ckpt").mkdir()
    Path("ckpt/model.safetensors").touch()
    Path("ckpt/.hidden").touch()
    completer = PromptCompleter(ask.dbg)

    def offered(text: str) -> list[str]:
        found = completer.get_completions(Document(text), CompleteEvent())
        return [each.text for each in found]

    assert offered("state self against ck") == ["ckpt/"]
    assert offered("state against ckpt/") == offered("skeleton ckpt/") == ["ckpt/model.safetensors"]
    assert offered("state against ckpt/.") == ["ckpt/.hidden"]
    assert offered("state against nothere/") == []
    assert "layers.0.norm" in offered("state lay")


def test_a_skeleton_is_built_once(
    ask: Prompt, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modpdb.probes import skeleton as probe
    from modpdb.probes.modules import module_tree

    built = []

    def build(folder: Path, tensors: object, **options: object) -> probe.Skeleton:
        built.append((folder, options["trust_remote_code"]))
        return probe.Skeleton(module_tree(model), "Model", "5", None, ())

    monkeypatch.setattr(probe, "build_skeleton", build)
    Path("config.json").touch()
    for line in ("skeleton .", "skeleton", "modules --skeleton -d 1 .", "skeleton . --trust-remote-code"):  # fmt: skip
        ask(line)
    assert built == [(Path("."), False), (Path("."), True)]
    assert "layers.{0…2}" in ask("modules --skeleton .")
