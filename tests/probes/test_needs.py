"""What architectures need of tensors, from real transformers models, and the judging of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from modpdb.probes.checkpoint_files import open_checkpoint
from modpdb.probes.needs import Needs, judge, needs_of
from modpdb.probes.relations import Relation

IDENTICAL = Relation("identical", "")
PLUS_ONE = Relation("plus", "+ 1", constant=1.0)


def rope(*heads: int, back: bool = False) -> Relation:
    return Relation(
        "rope", "rows permuted back per head" if back else "rows permuted per head", heads=heads
    )


def of(folder: Path, arch: str, **options: Any) -> Needs:
    config = json.loads((folder / "config.json").read_text())
    return needs_of(folder, config, open_checkpoint(folder).tensors, arch, **options)


@pytest.fixture(scope="module")
def llama(llama_checkpoint: Path) -> Needs:
    return of(llama_checkpoint, "llama")


ATTENTION = "model.layers.1.self_attn."


def test_q_and_k_of_llama_are_permuted_by_their_own_heads(llama: Needs) -> None:
    q = llama.need((f"{ATTENTION}q_proj.weight",), "blk.1.attn_q.weight")
    k = llama.need((f"{ATTENTION}k_proj.weight",), "blk.1.attn_k.weight")
    assert (q.what, q.heads, k.what, k.heads) == ("rope", 4, "rope", 2)
    assert judge(q, rope(4))[0] == judge(k, rope(1, 2))[0] == "ok"
    assert judge(q, IDENTICAL) == (
        "WRONG",
        "q of llama needs its rows permuted for interleaved RoPE (4 heads); it was copied",
    )
    assert judge(k, rope(4)) == (
        "WRONG",
        "k of llama needs its rows permuted for interleaved RoPE (2 heads); it was permuted within 4 heads",
    )
    assert judge(q, rope(4, back=True))[0] == "WRONG"
    assert judge(q, IDENTICAL, rope(2, 4))[0] == "ok", "of several that hold one is enough"


def test_the_rest_of_llama_is_copied(llama: Needs) -> None:
    for source, name in (
        (f"{ATTENTION}v_proj.weight", "blk.1.attn_v.weight"),
        (f"{ATTENTION}o_proj.weight", "blk.1.attn_output.weight"),
        ("model.layers.1.mlp.up_proj.weight", "blk.1.ffn_up.weight"),
        ("model.layers.1.input_layernorm.weight", "blk.1.attn_norm.weight"),
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("lm_head.weight", "output.weight"),
    ):
        need = llama.need((source,), name)
        assert need.what == "copy", name
        assert judge(need, IDENTICAL)[0] == "ok"
        assert judge(need, rope(4))[0] == judge(need, PLUS_ONE)[0] == "WRONG"


def test_gemma_norms_are_seen_to_add_one(gemma3_checkpoint: Path) -> None:
    needs = of(gemma3_checkpoint, "gemma3")
    for source, name in (
        ("model.layers.1.input_layernorm.weight", "blk.1.attn_norm.weight"),
        (f"{ATTENTION}q_norm.weight", "blk.1.attn_q_norm.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ):
        need = needs.need((source,), name)
        assert (need.what, need.constant) == ("plus", 1.0)
        assert need.why == "Gemma3RMSNorm multiplies by 1 + weight"
        assert judge(need, PLUS_ONE)[0] == "ok"
        assert judge(need, IDENTICAL)[0] == "WRONG"
    q = needs.need((f"{ATTENTION}q_proj.weight",), "blk.1.attn_q.weight")
    assert judge(q, IDENTICAL)[0] == "ok" and judge(q, rope(4))[0] == "WRONG"


def test_neox_rows_and_biases_stay_where_they_are(qwen2_checkpoint: Path) -> None:
    needs = of(qwen2_checkpoint, "qwen2")
    for end in ("weight", "bias"):
        need = needs.need((f"{ATTENTION}k_proj.{end}",), f"blk.1.attn_k.{end}")
        assert judge(need, IDENTICAL)[0] == "ok"
        assert judge(need, rope(2)) == (
            "WRONG",
            "k of qwen2 needs a plain copy; what was done is rows permuted per head",
        )
