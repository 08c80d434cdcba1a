"""A checkpoint's model, built and run: which class, which weights, what is refused."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from modpdb.probes import memory  # noqa: E402
from modpdb.probes.model_run import describe_run  # noqa: E402
from modpdb.programs import model as program  # noqa: E402
from modpdb.programs.model import Build, ModelError  # noqa: E402

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 48,
}


def mixture() -> Any:
    config = transformers.MixtralConfig(**SMALL, num_local_experts=4)
    return transformers.MixtralForCausalLM(config)


def encoder_decoder() -> Any:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    config = transformers.T5Config(**sizes, vocab_size=48, decoder_start_token_id=0)
    return transformers.T5ForConditionalGeneration(config)


def body() -> Any:
    return transformers.LlamaModel(transformers.LlamaConfig(**SMALL))


def bert() -> Any:
    sizes = {name: size for name, size in SMALL.items() if name != "num_key_value_heads"}
    return transformers.BertForMaskedLM(transformers.BertConfig(**sizes))


@pytest.fixture
def saved(tmp_path: Path):
    """Saves a made model and returns its folder."""

    def save(make: Any, **config: Any) -> Path:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            make().save_pretrained(tmp_path / "model")
        file = tmp_path / "model" / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
        return tmp_path / "model"

    return save


def built(build: Build) -> Any:
    return program.load_model(build, program.read_config(build))


def ran(folder: Path, ids: list[int]) -> Any:
    build = Build(folder)
    model = built(build)
    tokenizer, ids = program.tokenize(build, ids)
    inputs = program.inputs_of(model, ids)
    outputs = program.forward(model, inputs)
    return describe_run(model, tokenizer, inputs, outputs, ids, default="")


@pytest.mark.parametrize(
    ("make", "output", "shape"),
    [
        (mixture, "logits", (1, 3, 48)),
        (encoder_decoder, "logits", (1, 1, 48)),
        (body, "last_hidden_state", (1, 3, 16)),
        (bert, "logits", (1, 3, 48)),
    ],
)
def test_each_kind_of_model_runs_as_it_does_by_hand(saved, make, output: str, shape) -> None:
    folder = saved(make)
    run = ran(folder, [5, 6, 7])
    assert (run.model, run.output, run.shape) == (type(make()).__name__, output, shape)
    assert run.tokens == tuple(type(run.tokens[0])(each, None) for each in (5, 6, 7))
    by_hand = type(make()).from_pretrained(folder).eval()
    assert run.parameters == sum(each.numel() for each in by_hand.parameters())
    if make in (body, bert):  # no next token is what they put out
        assert run.next == ()
        return
    inputs = {"input_ids": torch.tensor([[5, 6, 7]])}
    if make is encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor([[0]])
        assert [token.id for token in run.decoder] == [0]
    with torch.no_grad():
        last = by_hand(**inputs).logits[0, -1]
    likeliest = last.argsort(descending=True)[:5].tolist()
    assert [each.token.id for each in run.next] == likeliest
    assert run.next[0].logit == last.max().item()
    assert run.next[0].probability == pytest.approx(last.softmax(-1).max().item())


def test_nan_is_said_and_tells_no_token(saved) -> None:
    folder = saved(mixture)
    model = built(Build(folder))
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    inputs = program.inputs_of(model, [1])
    outputs = program.forward(model, inputs)
    run = describe_run(model, None, inputs, outputs, [1], default="")
    assert (run.bad, run.width, run.next) == (1, 48, ())


def test_dtype_and_mode(saved) -> None:
    folder = saved(mixture)
    with torch.inference_mode():
        model = built(Build(folder, dtype="bf16"))
    assert model.dtype == torch.bfloat16 and not model.training
    assert not model.lm_head.weight.is_inference()
    assert built(Build(folder)).dtype == torch.float32


def test_the_code_of_a_checkpoint_runs_only_when_asked(saved, tmp_path, monkeypatch) -> None:
    cache = "transformers.dynamic_module_utils.HF_MODULES_CACHE"
    monkeypatch.setattr(cache, str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = saved(
        body,
        architectures=["TheirModel"],
        model_type="theirs",
        auto_map={"AutoConfig": "theirs.TheirConfig", "AutoModelForCausalLM": "theirs.TheirModel"},
    )
    ran_it = tmp_path / "ran"
    (folder / "theirs.py").write_text(
        f"open({str(ran_it)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class TheirConfig(LlamaConfig):\n    model_type = 'theirs'\n"
        "class TheirModel(LlamaForCausalLM):\n    config_class = TheirConfig\n"
    )
    with pytest.raises(ModelError, match="--trust-remote-code runs it"):
        program.read_config(Build(folder))
    assert not ran_it.exists()
    assert type(built(Build(folder, trust=True))).__name__ == "TheirModel"
    assert ran_it.exists()


def test_code_beside_a_known_class_is_not_needed(saved) -> None:
    folder = saved(mixture, auto_map={"AutoModelForCausalLM": "theirs.TheirModel"})
    (folder / "theirs.py").write_text("raise SystemExit('ran')\n")
    assert type(built(Build(folder))).__name__ == "MixtralForCausalLM"


def test_an_architecture_must_be_a_model_class(saved) -> None:
    folder = saved(mixture, architectures=["pipeline"])
    assert type(built(Build(folder))).__name__ == "MixtralForCausalLM"


def test_a_pickle_is_read_only_when_asked_and_then_weights_only(saved) -> None:
    folder = saved(mixture)
    state = mixture().state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"are a pickle \(pytorch_model.bin\); --pickle reads it"):
        built(Build(folder))
    loaded = built(Build(folder, pickle=True))
    assert torch.equal(loaded.lm_head.weight, state["lm_head.weight"])

    class Evil:
        def __reduce__(self) -> Any:
            return (sys.exit, ("ran",))

    torch.save({"lm_head.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="the weights of"):
        built(Build(folder, pickle=True))


def test_a_model_larger_than_memory_is_refused(saved, monkeypatch) -> None:
    folder = saved(mixture)
    stored = (folder / "model.safetensors").stat().st_size
    monkeypatch.setattr(memory, "free_memory", lambda device: stored // 2)
    with pytest.raises(
        ModelError, match=r"the model needs [\d.]+ KiB, and .* are free on cpu; --f"
    ):
        built(Build(folder))
    built(Build(folder, force=True))
    monkeypatch.setattr(memory, "free_memory", lambda device: stored - stored // 4)
    with pytest.raises(ModelError):
        built(Build(folder))
    built(Build(folder, dtype="bf16"))  # half of it
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    built(Build(folder))


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there(saved, device: str) -> None:
    with pytest.raises(ModelError, match=f"no device '{device}' can be used here: "):
        built(Build(saved(mixture), device=device))


def test_options_may_stand_anywhere(saved) -> None:
    folder = str(saved(mixture))
    options = program.parsed([folder, "--dtype", "f32", "Hello", "--force", "you"])
    assert (options.prompt, options.dtype, options.force) == ("Hello you", "f32", True)


def test_free_memory_is_that_of_the_system() -> None:
    free = memory.free_memory()
    if free is None:
        assert not Path("/proc/meminfo").exists()
    else:
        assert 0 < free < 1 << 50
    assert memory.free_memory("meta") is None


def test_no_tokenizer_is_made_up(saved) -> None:
    """transformers makes a T5 tokenizer without a vocabulary out of no file at all."""
    build = Build(saved(encoder_decoder))
    assert program.tokenize(build, [5, 6]) == (None, [5, 6])
    with pytest.raises(ModelError, match="no file of a tokenizer in"):
        program.tokenize(build, "Hello")


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        ([48], "token id 48 is none of the embedding's 48"),
        ([-1], "token id -1 is none"),
        ([], "the prompt has no tokens"),
    ],
)
def test_ids_that_cannot_be_are_refused(ids: list[int], sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        program.inputs_of(mixture(), ids)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", program.DEFAULT_PROMPT),
        ("Hello you", "Hello you"),
        ("1 2 3", [1, 2, 3]),
        ("[1,2, 3]", [1, 2, 3]),
        ("7", [7]),
        ("-1 2", "-1 2"),
        ("1 two", "1 two"),
    ],
)
def test_prompts_and_ids(text: str, meant: object) -> None:
    assert program.prompt_in(text) == meant


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no folder"):
        program.check_folder(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        program.check_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"the config of .* cannot be read: "):
        program.read_config(Build(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match=r"no model\*\.safetensors"):
        built(Build(tmp_path))
