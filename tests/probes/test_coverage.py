"""Coverage: what is there against what the loader needs, on plain data."""

import types

import pytest

from modpdb.probes.coverage import coverage
from modpdb.probes.gguf_contents import Array

LLAMA = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 128,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 160,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-6,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": Array("str", 96, ("a",)),
}
BLOCK = {
    "attn_norm": (64,), "attn_q": (64, 64), "attn_k": (64, 32), "attn_v": (64, 32),
    "attn_output": (64, 64), "ffn_norm": (64,), "ffn_gate": (64, 160), "ffn_up": (64, 160),
    "ffn_down": (160, 64),
}  # fmt: skip
TENSORS = {
    "token_embd.weight": (64, 96),
    "output_norm.weight": (64,),
    "output.weight": (64, 96),
    **{f"blk.{b}.{name}.weight": ne for b in range(2) for name, ne in BLOCK.items()},
}


def llama(without=(), tensors=None, metadata=None, **known):
    there = {name: ne for name, ne in (TENSORS | (tensors or {})).items() if name not in without}
    keys = {key: value for key, value in (LLAMA | (metadata or {})).items() if value is not None}
    return coverage("llama", there.items(), keys, **known)


def kinds(found):
    return [(each.kind, each.name) for each in found.findings]


def test_all_there_is_complete():
    found = llama()
    assert found.complete
    assert (found.required, found.present) == (20, 20)
    assert (found.required_keys, found.present_keys) == (6, 6)
    assert "blk.0.attn_output.bias" in found.absent
    assert not found.findings


@pytest.mark.parametrize("name", [name for name in TENSORS if name != "output.weight"])
def test_any_required_tensor_that_is_not_there_is_missing(name):
    found = llama(without=[name])
    assert kinds(found) == [("missing", name)]
    assert found.findings[0].needed == TENSORS[name]
    assert not found.complete
    assert (found.required, found.present) == (20, 19)


@pytest.mark.parametrize("name", TENSORS)
def test_any_shape_that_is_not_the_metadata_s_is_wrong(name):
    ne = (TENSORS[name][0] + 1, *TENSORS[name][1:])
    (finding,) = llama(tensors={name: ne}).findings
    assert (finding.kind, finding.name, finding.ne) == ("shape", name, ne)
    assert finding.needed == TENSORS[name]


def test_a_wrong_shape_names_the_key_that_decides_it():
    (finding,) = llama(tensors={"token_embd.weight": (64, 97)}).findings
    assert finding.words == "tokenizer.ggml.tokens has 96"
    found = llama(metadata={"llama.feed_forward_length": 161})
    assert {each.words for each in found.findings} == {"feed_forward_length is 161"}
    assert len(found.findings) == 6


def test_dimensions_of_one_at_the_end_are_none_to_ggml():
    assert llama(tensors={"output_norm.weight": (64, 1, 1)}).complete
    assert not llama(tensors={"output_norm.weight": (1, 64)}).complete


@pytest.mark.parametrize(
    "key",
    ["block_count", "context_length", "embedding_length", "attention.layer_norm_rms_epsilon"],
)
def test_a_key_that_the_loader_requires(key):
    found = llama(metadata={f"llama.{key}": None})
    (finding,) = [each for each in found.findings if each.kind == "key"]
    assert finding.name == f"llama.{key}"
    assert finding.remark.startswith("the converter takes it from ")
    assert not found.complete


def test_keys_of_the_tokenizer():
    assert kinds(llama(metadata={"tokenizer.ggml.model": "gpt2"})) == [
        ("key", "tokenizer.ggml.merges")
    ]
    bpe = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": Array("str", 1, ("a b",))}
    assert llama(metadata=bpe).complete
    none = {"tokenizer.ggml.model": None, "tokenizer.ggml.tokens": None}
    assert ("key", "tokenizer.ggml.model") in kinds(llama(metadata=none))
    without = {"tokenizer.ggml.model": "none", "tokenizer.ggml.tokens": None}
    assert llama(metadata=without | {"llama.vocab_size": 96}).complete


def test_the_number_of_blocks_may_be_known_before_the_metadata_has_it():
    found = llama(without=["blk.1.attn_q.weight"], metadata={"llama.block_count": None}, blocks=2)
    assert kinds(found) == [("missing", "blk.1.attn_q.weight"), ("key", "llama.block_count")]


def test_no_output_weight_is_right_where_the_source_is_tied():
    tied = llama(without=["output.weight"], tied=True)
    assert tied.complete and not tied.findings
    assert kinds(llama(without=["output.weight"], tied=False)) == [("missing", "output.weight")]
    unsaid = llama(without=["output.weight"])
    assert kinds(unsaid) == [("note", "output.weight")]
    assert unsaid.complete


def test_a_tensor_that_no_loader_asks_for():
    found = llama(tensors={"blk.0.attn_sinks.weight": (4,)})
    assert kinds(found) == [("unexpected", "blk.0.attn_sinks.weight")]
    found = llama(tensors={"blk.2.attn_norm.weight": (64,)})
    assert kinds(found) == [("unexpected", "blk.2.attn_norm.weight")]


def test_scales_beside_a_weight_are_expected():
    assert llama(tensors={"blk.0.attn_q.scale": (1,)}).complete


def test_experts_instead_of_a_dense_block():
    found = llama(metadata={"llama.expert_count": 4, "llama.expert_used_count": 2})
    assert ("missing", "blk.0.ffn_gate_inp.weight") in kinds(found)
    unexpected = [each for each in found.findings if each.kind == "unexpected"]
    assert len(unexpected) == 6
    assert {each.remark for each in unexpected} == {"it would if n_expert == 0"}


def test_q_k_and_v_in_one_are_as_good():
    fused = {f"blk.{b}.attn_qkv.weight": (64, 128) for b in range(2)}
    apart = [f"blk.{b}.attn_{each}.weight" for b in range(2) for each in "qkv"]
    assert llama(without=apart, tensors=fused).complete
    assert not llama(without=apart).complete


def test_metadata_at_which_the_loader_stops():
    found = llama(metadata={"llama.rope.dimension_count": 8})
    (finding,) = found.findings
    assert finding.kind == "refused"
    assert "llama.rope.dimension_count" in finding.name


def test_numbers_by_block():
    by_block = {"llama.attention.head_count_kv": Array("i32", 2, (2, 4))}
    assert llama(metadata=by_block).complete  # this loader takes the first
    openelm = {key.replace("llama.", "openelm."): value for key, value in LLAMA.items()}
    openelm |= {
        "openelm.attention.head_count": Array("i32", 2, (4, 2)),
        "openelm.attention.head_count_kv": Array("i32", 2, (2, 1)),
        "openelm.attention.key_length": 16,
        "openelm.attention.value_length": 16,
        "openelm.feed_forward_length": Array("i32", 2, (160, 96)),
    }
    found = coverage("openelm", [("blk.1.ffn_up.weight", (64, 160))], openelm)
    assert ("shape", "blk.1.ffn_up.weight") in kinds(found)
    (needed,) = [each.needed for each in found.findings if each.name == "blk.1.attn_qkv.weight"]
    assert needed == (64, 64)


def test_a_conflict_that_cannot_be_told_is_not_judged():
    found = llama(metadata={"llama.feed_forward_length": Array("i32", 2, ())})
    assert {each.kind for each in found.unjudged} == {"doubtful"}
    assert len(found.unjudged) == 6
    assert not found.findings and not found.complete


def test_an_architecture_in_no_table_is_never_complete():
    found = coverage("made-up", TENSORS.items(), LLAMA)
    assert not found.source and not found.complete and not found.findings
    some = {name: ne for name, ne in TENSORS.items() if name != "blk.1.attn_q.weight"}
    found = coverage("made-up", some.items(), LLAMA | {"made-up.block_count": 2})
    assert kinds(found) == [("doubtful", "blk.1.attn_q.weight")]
    assert found.findings[0].remark == "in 1 of 2"


def test_gguf_s_table_says_what_there_may_be():
    gguf = types.SimpleNamespace(
        MODEL_ARCH_NAMES={1: "made-up"},
        MODEL_TENSORS={1: [10, 11]},
        TENSOR_NAMES={10: "token_embd", 11: "blk.{bid}.attn_q"},
    )
    there = [("token_embd.weight", (1,)), ("blk.0.attn_q.bias", (1,)), ("blk.0.other", (1,))]
    assert kinds(coverage("made-up", there, {}, gguf)) == [("doubtful", "blk.0.other")]


@pytest.mark.parametrize(
    "gguf",
    [
        None,
        3,
        types.SimpleNamespace(),
        types.SimpleNamespace(MODEL_ARCH_NAMES=[], MODEL_TENSORS={}, TENSOR_NAMES={}),
        types.SimpleNamespace(MODEL_ARCH_NAMES={1: 2}, MODEL_TENSORS={1: "x"}, TENSOR_NAMES={}),
        types.SimpleNamespace(
            MODEL_ARCH_NAMES={1: "llama"}, MODEL_TENSORS={1: [object()]}, TENSOR_NAMES={}
        ),
    ],
)
def test_a_module_that_is_not_as_gguf_is_no_help_and_no_harm(gguf):
    assert coverage("llama", TENSORS.items(), LLAMA, gguf).complete
    assert not coverage("made-up", TENSORS.items(), LLAMA, gguf).complete


@pytest.mark.parametrize(
    "value", [-1, 0, 10**18, "many", 2.5, None, True, Array("str", 2, ("a", "b")), object()]
)
@pytest.mark.parametrize("key", ["block_count", "embedding_length", "attention.head_count"])
def test_metadata_that_cannot_be_true_is_not_complete(key, value):
    found = llama(metadata={f"llama.{key}": value})
    assert not found.complete


def test_dropped_tensors_are_told_and_change_no_verdict():
    found = llama(dropped=["model.rotary_emb.inv_freq"])
    assert kinds(found) == [("dropped", "model.rotary_emb.inv_freq")]
    assert found.complete


def test_an_adapter_is_not_judged():
    assert not llama(metadata={"general.type": "adapter"}).source
