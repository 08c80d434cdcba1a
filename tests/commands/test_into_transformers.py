"""`into` and `step` through transformers' models, made small by config."""

import re

import pytest

pytest.importorskip("transformers")

SCRIPT = """\
import torch
from transformers import (
    Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, MixtralConfig,
    MixtralForCausalLM, T5Config, T5ForConditionalGeneration,
)
sizes = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
             num_attention_heads=2, num_key_value_heads=1)
ids = torch.tensor([[1, 2, 3]])
models = [
    Gemma3ForCausalLM(Gemma3TextConfig(**sizes, head_dim=4)),
    LlamaForCausalLM(LlamaConfig(**sizes)),
    MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=4)),
    T5ForConditionalGeneration(T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)),
]
def run(model):
    extra = {"decoder_input_ids": ids} if "T5" in type(model).__name__ else {}
    with torch.no_grad():
        return model(ids, **extra)
for model in models:
    model.eval()
    names = {id(module): name for name, module in model.named_modules()}
    hooks = [
        module.register_forward_pre_hook(
            lambda module, args: print("called", names[id(module)], type(module).__name__)
        )
        for module in model.modules()
    ]
    run(model)
    for hook in hooks:
        hook.remove()
breakpoint()
for model in models:
    run(model)
"""
MOST = 200  # modules called, in all models


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    from conftest import run_python

    folder = tmp_path_factory.mktemp("into")
    (folder / "script.py").write_text(SCRIPT)
    typed = "c\ntbreak run\nc\nn\nn\ns\nw\n" + "into\n" * MOST
    done = run_python(["-m", "modpdb", "script.py"], typed, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return done.stdout


def test_into_meets_every_module_in_the_order_that_hooks_see(said: str) -> None:
    called = re.findall(r"called (\S*) (\w+)$", said, re.MULTILINE)
    stopped = re.findall(r"^(?:(\S+)  )?(\w+)\.forward\n-> (?!@)", said, re.MULTILINE)
    assert len(called) < MOST and stopped == called
    assert {"MixtralExperts", "Gemma3Attention", "LlamaRMSNorm", "T5LayerCrossAttention"} <= {
        name for _, name in called
    }


def test_step_goes_from_a_models_call_to_its_forward(said: str) -> None:
    answers = said.split("(ModPdb) ")
    line, where = answers[6:8]
    assert "3 frames hidden" in line
    assert "\nGemma3ForCausalLM.forward\n-> outputs: BaseModelOutputWithPast" in line
    assert re.findall(r"\(\d+\)([\w<>]+)\(\)\n", where) == ["<module>", "run", "forward"]
