"""`run-model`: which model it runs, what it binds, and that all else stays as it was."""

import io
import random
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from modpdb import ModPdb  # noqa: E402

OUT: dict[str, Any] = {}


@pytest.fixture(scope="module")
def llama() -> Any:
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=48,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture
def at_model(llama: Any):
    """Runs a function that holds a small Llama under the debugger, with commands typed there."""

    def script() -> None:
        model = llama
        ids = torch.tensor([[4, 5, 6]])
        words = "some words"
        OUT["ran on"] = (model, ids, words)

    def run(*commands: str, function: Any = script) -> str:
        stdin = io.StringIO("".join(f"{line}\n" for line in commands))
        dbg = ModPdb(stdin=stdin, stdout=io.StringIO(), nosigint=True, readrc=False)
        dbg.runcall(function)
        return dbg.stdout.getvalue()

    return run


def keep(name: str, expression: str) -> str:
    return f"import sys; sys.modules['{__name__}'].OUT['{name}'] = {expression}"


def state() -> tuple[Any, ...]:
    return (
        random.getstate(),
        torch.random.get_rng_state().numpy().tobytes(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    )


def marks(model: Any) -> list[tuple[Any, ...]]:
    """What could be left different on each module."""
    return [
        (name, module.training, list(vars(module)), len(module._forward_hooks))
        for name, module in model.named_modules()
    ]


def test_the_held_model_is_run_and_nothing_else_changes(at_model, llama) -> None:
    before, marked = state(), marks(llama)
    weights = {name: each.clone() for name, each in llama.state_dict().items()}
    torch.set_default_dtype(torch.float64)
    try:
        said = at_model("n", "run-model 4 5 6", keep("logits", "_out.logits"), "c")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert state() == before and marks(llama) == marked
    assert all(torch.equal(each, weights[name]) for name, each in llama.state_dict().items())
    assert all(parameter.grad is None for parameter in llama.parameters())
    with torch.no_grad():
        logits = llama(torch.tensor([[4, 5, 6]])).logits
    assert torch.equal(OUT["logits"], logits) and not OUT["logits"].requires_grad
    assert "model    LlamaForCausalLM  " in said and "tokens   3: 4, 5, 6\n" in said
    assert "logits   [1, 3, 48] f32\n" in said
    first, chance = logits[0, -1].argmax().item(), logits[0, -1].softmax(-1).max().item()
    assert f"next     {100 * chance:.1f} %  {first:>2}  " in said
    assert "forward  " in said and "bound in this frame: _inputs, _out\n" in said


def test_the_same_under_inference_mode(at_model, llama) -> None:
    def script() -> None:
        with torch.inference_mode():
            model = llama
            OUT["mode"] = model, torch.is_inference_mode_enabled()

    said = at_model("n", "n", "run-model 4", "p _out.logits.is_inference()", "c", function=script)
    assert "(ModPdb) False\n" in said and OUT["mode"][1] is True


def test_breakpoints_stop_in_it_and_the_time_is_not_told(at_model) -> None:
    said = at_model("n", "b LlamaMLP.forward, x.shape[1] == 2", "run-model 4 5 6", "run-model 4 5",
                    "p tuple(x.shape)", "c", "c", "clear 1", "c")  # fmt: skip
    stopped = said[said.index("((ModPdb)) (1, 2, 16)") :]
    assert "forward  " in said[: said.index("((ModPdb))")] and "forward  " not in stopped
    assert "logits  [1, 2, 48] f32\n" in stopped


def test_q_gives_the_run_up(at_model) -> None:
    said = at_model("n", "b LlamaMLP.forward", "run-model 4 5", "q", "clear 1", "p 'on'", "c")
    assert "((ModPdb)) the model's run was given up\n" in said and "'on'\n" in said
    assert "logits" not in said


def test_an_exception_is_looked_at_in_the_model(at_model, llama) -> None:
    layer = llama.model.layers[1].mlp
    weight = layer.down_proj.weight
    layer.down_proj.weight = torch.nn.Parameter(torch.zeros(16, 31))
    try:
        said = at_model("n", "run-model 4 5", "up", "p type(self).__name__", "q", "p 'on'", "c")
    finally:
        layer.down_proj.weight = weight
    assert "*** RuntimeError: mat1 and mat2 shapes cannot be multiplied" in said
    assert "((ModPdb)) 'LlamaMLP'\n" in said and "(ModPdb) 'on'\n" in said
    assert "given up" not in said


def test_inside_a_layer_the_whole_model_is_run(at_model, llama) -> None:
    def script() -> None:
        llama(torch.tensor([[1, 2]]))

    said = at_model("b LlamaMLP.forward", "c", "clear 1", "run-model 7", "c", function=script)
    assert "model    LlamaForCausalLM" in said and "tokens   1: 7\n" in said


def test_a_model_that_was_built_is_kept_whatever_becomes_of_its_run(
    at_model, llama, tmp_path
) -> None:
    llama.save_pretrained(tmp_path)
    config = llama.config._name_or_path
    said = at_model("n", f"run-model --from {tmp_path} 48", "p _model is model",
                    f"run-model --from {tmp_path} --dtype bf16 5", "c")  # fmt: skip
    assert "bound in this frame: _model\n" in said and "embedding's 48\n" in said
    assert "(ModPdb) False\n" in said and "logits   [1, 1, 48] bf16" in said
    assert llama.config._name_or_path == config


@pytest.mark.parametrize("typed", ["ids", "ids[0].tolist()", "4 5 6", "[4, 5, 6]"])
def test_ids_as_typed_or_in_a_variable(at_model, typed: str) -> None:
    bound = [f"given = {typed}"] if "tolist" in typed else []
    name = "given" if bound else typed
    said = at_model("n", "n", "n", *bound, f"run-model {name}", "c")
    assert "tokens   3: 4, 5, 6\n" in said


def test_a_model_in_training_mode_is_said_and_left_there(at_model, llama) -> None:
    llama.train()
    try:
        said = at_model("n", "run-model 1", "c")
        assert llama.training
    finally:
        llama.eval()
    assert "in training mode" in said


def test_what_cannot_be_is_one_sentence(at_model, tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    said = at_model(
        "n",
        "run-model words",
        "run-model 48",
        "run-model --dtype int8 1",
        "run-model --dtype bf16 1",
        f"run-model --from {tmp_path}/no 1",
        f"run-model --from {tmp_path} 1",
        "run-model --fast 1",
        "run-model --from",
        "c",
    )
    answers = [part for part in said.split("(ModPdb) ") if part.startswith("***")]
    assert [answer.count("\n") for answer in answers] == [1] * 8
    for answer, sentence in zip(
        answers,
        (
            "no tokenizer is held by the frames; give token ids: run-model 1 2 3",
            "token id 48 is none of the embedding's 48",
            "--dtype takes f32, f16, bf16, not 'int8'",
            "the folder of the model that is held is not known, to build it anew",
            "/no' is no folder; expected one with a checkpoint's files",
            "no model*.safetensors",
            "run-model has no option --fast; it takes --from DIR, --dtype f32|f16|bf16",
            "--from needs a value: --from DIR",
        ),
        strict=True,
    ):
        assert sentence in answer


class Hostile:
    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(f"asked for {name}")

    def __eq__(self, other: object) -> bool:
        raise SystemExit("compared")

    def __bool__(self) -> bool:
        raise SystemExit("asked whether true")

    __hash__ = None  # type: ignore[assignment]


def test_hostile_objects_are_not_asked(at_model) -> None:
    def method(self: Any, ids: Any) -> None:
        OUT["done"] = True

    said = at_model("s", "s", "run-model", "run-model ids", "c",
                    function=lambda: method(Hostile(), Hostile()))  # fmt: skip
    assert said.count("*** no checkpoint is being converted here and no transformers model is") == 2
    assert "SystemExit" not in said
