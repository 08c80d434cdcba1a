"""What real transformers models, small by their config, are seen to do, and need in llama.cpp."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from modpdb.probes.checkpoint_files import open_checkpoint
from modpdb.probes.needs import Needs, judge, needs_of
from modpdb.probes.relations import Relation, find_relation, in_order

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "intermediate_size": 96,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FEW = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
IDENTICAL = Relation("identical", "")
LAYER = "model.layers.1."


@pytest.fixture
def needs(tmp_path: Path) -> Any:
    """`needs(name, arch, **config)`: of a model whose config transformers calls that."""

    def of(name: str, arch: str, ending: str = "ForCausalLM", **config: Any) -> Needs:
        transformers.utils.logging.disable_progress_bar()
        made = getattr(transformers, f"{name}Config")(**config)
        getattr(transformers, name + ending)(made).save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "config.json").read_text())
        found = needs_of(tmp_path, saved, open_checkpoint(tmp_path).tensors, arch)
        assert found.facts is not None and found.facts.failed == ""
        return found

    return of


def weight(needs: Needs, source: str, name: str) -> Any:
    return needs.need((f"{source}.weight",), f"blk.1.{name}.weight")


def test_norms_that_add_one_and_norms_that_do_not(needs: Any) -> None:
    gemma = needs("Gemma2", "gemma2", **SIZES, head_dim=16)
    need = weight(gemma, f"{LAYER}pre_feedforward_layernorm", "ffn_norm")
    assert (need.what, need.constant) == ("plus", 1.0)
    assert judge(need, Relation("plus", "+ 2", constant=2.0))[0] == "WRONG"


def test_layer_norms_with_bias(needs: Any) -> None:
    nemotron = needs("Nemotron", "nemotron", **SIZES)
    need = weight(nemotron, f"{LAYER}input_layernorm", "attn_norm")
    assert (need.what, need.words, need.why) == (
        "plus", "+ 1", "NemotronLayerNorm1P multiplies by 1 + weight",
    )  # fmt: skip
    bias = nemotron.need((f"{LAYER}input_layernorm.bias",), "blk.1.attn_norm.bias")
    assert (bias.what, bias.why) == ("copy", "NemotronLayerNorm1P adds it")


def test_norms_of_q_in_neox_and_a_router(needs: Any) -> None:
    qwen = needs("Qwen3Moe", "qwen3moe", **SIZES, head_dim=16, num_experts=3, num_experts_per_tok=2)
    assert weight(qwen, f"{LAYER}self_attn.q_norm", "attn_q_norm").what == "copy"
    assert weight(qwen, f"{LAYER}self_attn.q_proj", "attn_q").what == "copy"
    assert weight(qwen, f"{LAYER}mlp.gate", "ffn_gate_inp").why == "Qwen3MoeTopKRouter"


def test_experts_are_copied_in_their_order(needs: Any) -> None:
    mixtral = needs("Mixtral", "llama", **SIZES, num_local_experts=3)
    names = [f"{LAYER}block_sparse_moe.experts.{n}.w2.weight" for n in (0, 1, 2)]
    need = mixtral.need(tuple(names), "blk.1.ffn_down_exps.weight")
    stacked = Relation("stacked", "3 stacked")
    assert judge(need, stacked) == ("ok", "a plain copy of each of 3 experts, in their order")
    turned = mixtral.need(tuple(reversed(names)), "blk.1.ffn_down_exps.weight")
    assert judge(turned, stacked) == (
        "WRONG", "experts are stacked in the order 2, 1, 0; llama.cpp takes them by number",
    )  # fmt: skip
    one = mixtral.need((names[1],), "blk.1.ffn_down_exps.weight")
    assert judge(one, Relation("stacked", "number 1 of the 3"))[0] == "ok"
    assert judge(one, Relation("stacked", "number 2 of the 3")) == (
        "WRONG", "expert 1 stands at number 2 of the stacked",
    )  # fmt: skip


def test_gate_and_up_of_experts_mixed_up(needs: Any) -> None:
    mixtral = needs("Mixtral", "llama", **SIZES, num_local_experts=3)
    gate = f"{LAYER}block_sparse_moe.experts.0.w1.weight"
    assert mixtral.need((gate,), "blk.1.ffn_gate_exps.weight").what == "copy"
    need = mixtral.need((gate,), "blk.1.ffn_up_exps.weight")
    assert (need.what, need.words) == ("unknown", f"{gate} is written as ffn_up")


@pytest.mark.parametrize("interleaved", [True, False])
def test_latent_attention(interleaved: bool, needs: Any) -> None:
    deepseek = needs(
        "DeepseekV3", "deepseek2", **SIZES | {"num_key_value_heads": 4}, n_routed_experts=4,
        n_group=1, topk_group=1, first_k_dense_replace=1, moe_intermediate_size=32,
        q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=16,
        num_experts_per_tok=2, rope_interleave=interleaved,
    )  # fmt: skip
    for source, name in (("q_b_proj", "attn_q_b"), ("kv_a_proj_with_mqa", "attn_kv_a_mqa")):
        need = weight(deepseek, f"{LAYER}self_attn.{source}", name)
        assert need.what == ("copy" if interleaved else "unknown")


def test_fused_matrices(needs: Any) -> None:
    phi = needs("Phi3", "phi3", **SIZES)
    assert weight(phi, f"{LAYER}self_attn.qkv_proj", "attn_qkv").what == "copy"
    assert weight(phi, f"{LAYER}mlp.gate_up_proj", "ffn_up").what == "copy"
    part = weight(phi, f"{LAYER}self_attn.qkv_proj", "attn_q")
    assert (part.what, part.words) == (
        "unknown", "how the parts of qkv_proj become attn_q is not known here",
    )  # fmt: skip


def test_qkv_that_lie_head_by_head(needs: Any) -> None:
    neox = needs("GPTNeoX", "gptneox", **FEW)
    name = "gpt_neox.layers.1.attention.query_key_value.weight"
    need = neox.need((name,), "blk.1.attn_qkv.weight")
    source = torch.randn(192, 64)
    q, k, v = source.view(4, 3, 16, 64).unbind(1)
    target = torch.cat([part.reshape(64, 64) for part in (q, k, v)])
    assert need.order is not None
    relation = in_order(source, target, need.order)
    assert relation is not None
    assert judge(need, relation) == ("ok", "q, k and v of its 4 heads one after another")
    permuted = find_relation(source, source.flip(0))
    assert permuted is not None and judge(need, permuted)[0] == "WRONG"
    assert judge(need, IDENTICAL)[0] == "WRONG"


def test_conv1d_of_gpt2_is_transposed(needs: Any) -> None:
    gpt2 = needs("GPT2", "gpt2", "LMHeadModel", n_embd=64, n_layer=2, n_head=4, vocab_size=96)
    need = weight(gpt2, "transformer.h.1.mlp.c_fc", "ffn_up")
    assert judge(need, Relation("transposed", "transposed"))[0] == "ok"
    assert judge(need, IDENTICAL) == (
        "WRONG", "ffn_up of gpt2 needs to be transposed (Conv1D has (in, out), ggml multiplies by (out, in)); it was copied",
    )  # fmt: skip
    assert weight(gpt2, "transformer.h.1.attn.c_attn", "attn_qkv").function == "transposed"
    assert weight(gpt2, "transformer.h.1.ln_1", "attn_norm").what == "copy"
    assert gpt2.need(("transformer.wpe.weight",), "position_embd.weight").what == "copy"


@pytest.mark.parametrize(("name", "arch"), [("Glm", "chatglm"), ("Cohere", "command-r")])
def test_models_that_rotate_neighbours_are_copied(name: str, arch: str, needs: Any) -> None:
    found = needs(name, arch, **SIZES)
    need = weight(found, f"{LAYER}self_attn.q_proj", "attn_q")
    assert need.why == "apply_rotary_pos_emb of transformers, too, rotates neighbouring rows"
    assert judge(need, IDENTICAL)[0] == "ok"
    assert judge(need, Relation("rope", "rows permuted per head", heads=(4,)))[0] == "WRONG"


def test_the_scan_of_mamba(needs: Any) -> None:
    mamba = needs("Mamba", "mamba", hidden_size=64, num_hidden_layers=2, vocab_size=96)
    mixer = "backbone.layers.1.mixer."
    a = mamba.need((f"{mixer}A_log",), "blk.1.ssm_a")
    assert judge(a, Relation("negated exp", "negated exponential, -exp(x)"))[0] == "ok"
    assert judge(a, IDENTICAL) == (
        "WRONG", "ssm_a of mamba needs the negated exponential (the checkpoint has log(-A), the scan takes A); it was copied",
    )  # fmt: skip
    conv = weight(mamba, f"{mixer}conv1d", "ssm_conv1d")
    assert judge(conv, Relation("reshaped", "squeezed"))[0] == "ok"
    assert mamba.need((f"{mixer}dt_proj.bias",), "blk.1.ssm_dt.bias").what == "copy"


def test_a_layer_that_rotates_nothing(needs: Any) -> None:
    smol = needs("SmolLM3", "smollm3", **SIZES, no_rope_layers=[1, 0])
    rope = Relation("rope", "rows permuted per head", heads=(4,))
    rotated = smol.need(("model.layers.0.self_attn.q_proj.weight",), "blk.0.attn_q.weight")
    skipped = smol.need(("model.layers.1.self_attn.q_proj.weight",), "blk.1.attn_q.weight")
    assert judge(rotated, rope)[0] == judge(skipped, rope)[0] == "ok"
    assert (judge(rotated, IDENTICAL)[0], judge(skipped, IDENTICAL)[0]) == ("WRONG", "unjudged")


def test_partial_rope_in_another_order(needs: Any) -> None:
    """NeoX in the original, neighbours in the architecture, half of each head."""
    phi = needs("Phi", "llama", **SIZES, partial_rotary_factor=0.5)
    need = weight(phi, f"{LAYER}self_attn.k_proj", "attn_k")
    assert need.words == "the 8 rotated of the 16 rows of each head permuted"
    source = torch.randn(32, 64)
    heads = source.view(2, 16, 64)
    turned = heads[:, :8].view(2, 2, 4, 64).transpose(1, 2).reshape(2, 8, 64)
    target = torch.cat((turned, heads[:, 8:]), 1).reshape(32, 64)
    assert need.order is not None
    relation = in_order(source, target, need.order)
    assert relation is not None and judge(need, relation)[0] == "ok"
    assert relation.words == "rope: 8 of 16 rows permuted within 2 heads"
    assert in_order(source, source, need.order) is None
    assert judge(need, IDENTICAL)[0] == "WRONG"


def test_what_is_not_known_is_unjudged(needs: Any) -> None:
    qwen = needs("Qwen2", "qwen2", **SIZES)
    q = f"{LAYER}self_attn.q_proj.weight"
    for sources, name, words in (
        ((), "rope_freqs.weight", "of which tensors of the checkpoint it was made is not known"),
        ((q,), "blk.1.attn_k.weight", f"{q} is written as attn_k"),
        ((q,), "blk.0.attn_q.weight", f"{q} is written as a tensor of block 0"),
        ((q,), "blk.1.attn_x.weight", "in which order llama.cpp takes the rows of attn_x is not known"),
        (("model.layers.1.x.weight",), "blk.1.attn_q.weight", "has no parameter for model.layers.1.x.weight"),
    ):  # fmt: skip
        need = qwen.need(sources, name)
        assert judge(need, IDENTICAL)[0] == "unjudged"
        assert words in need.words


def test_lora_adapters_of_q(needs: Any) -> None:
    llama = needs("Llama", "llama", **SIZES)
    name = f"base_model.model.{LAYER}self_attn.q_proj.lora_%s.weight"
    a = llama.need((name % "A",), "blk.1.attn_q.weight.lora_a")
    b = llama.need((name % "B",), "blk.1.attn_q.weight.lora_b")
    assert (a.what, b.what, b.heads) == ("copy", "rope", 4)
