"""What architectures need of tensors, from real transformers models, and the judging of it."""

import json
import subprocess
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modpdb.probes import rope_facts
from modpdb.probes.checkpoint_files import open_checkpoint
from modpdb.probes.needs import Need, Needs, judge, needs_of
from modpdb.probes.relations import Kind, Relation
from modpdb.probes.rope_facts import graph_rope

transformers = pytest.importorskip("transformers")
assert transformers.LlamaForCausalLM  # imported here, it need not be in each forked copy

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
        assert judge(need, IDENTICAL) == (
            "WRONG",
            f"{name[:-7].removeprefix('blk.1.')} of gemma3 needs + 1 "
            "(Gemma3RMSNorm multiplies by 1 + weight); it was copied",
        )
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


# -- judging ---------------------------------------------------------------------------------------

NEEDS = {
    "copy": Need("copy", "a plain copy"),
    "rope": Need("rope", "its rows permuted", heads=4),
    "back": Need("rope", "its rows permuted", heads=4, back=True),
    "plus": Need("plus", "+ 1", constant=1.0),
    "exp": Need("function", "the negated exponential", function="negated exp"),
    "transposed": Need("function", "to be transposed", function="transposed"),
    "unknown": Need("unknown", "nobody knows"),
}
FULFILLED = {
    "copy": [IDENTICAL],
    "rope": [rope(4), rope(2, 4)],
    "back": [rope(4, back=True)],
    "plus": [PLUS_ONE],
    "exp": [Relation("negated exp", "-exp(x)")],
    "transposed": [Relation("transposed", "transposed")],
    "unknown": [],
}
some_relation = st.builds(
    Relation,
    st.sampled_from(get_args(Kind)),
    st.sampled_from(["", "squeezed", "number 1 of the 2", "rows permuted back per head"]),
    exact=st.booleans(),
    heads=st.sampled_from([(), (2,), (4,), (1, 2, 4)]),
    constant=st.sampled_from([None, 0.0, 1.0, 2.0]),
)


def fulfils(name: str, relation: Relation) -> bool:
    kinds = {"copy": "identical", "plus": "plus", "exp": "negated exp", "transposed": "transposed"}
    if name in ("rope", "back"):
        turned_back = "back" in relation.words
        return relation.kind == "rope" and 4 in relation.heads and turned_back == (name == "back")
    return relation.kind == kinds.get(name) and (name != "plus" or relation.constant == 1.0)


@given(st.sampled_from(list(NEEDS)), st.lists(some_relation, max_size=3))
def test_nothing_but_what_is_needed_is_ok(name: str, held: list[Relation]) -> None:
    verdict, reason = judge(NEEDS[name], *held)
    assert reason
    assert (verdict == "ok") == any(each.exact and fulfils(name, each) for each in held)
    if name == "unknown" or not held:
        assert verdict == "unjudged"


@pytest.mark.parametrize("name", NEEDS)
def test_what_is_needed_is_ok_and_another_needs_relation_is_wrong(name: str) -> None:
    for relation in FULFILLED[name]:
        assert judge(NEEDS[name], relation) == ("ok", NEEDS[name].words)
        for other in NEEDS:
            if other not in (name, "unknown") and relation not in FULFILLED[other]:
                assert judge(NEEDS[other], relation)[0] == "WRONG"


def test_what_holds_within_rounding_only_is_unjudged() -> None:
    near = Relation("plus", "+ 1", exact=False, constant=1.0)
    assert judge(NEEDS["plus"], near) == ("unjudged", "+ 1; no closer than rounding")


# -- the table of architectures --------------------------------------------------------------------

ALL = {
    "NONE": rope_facts.NONE,
    "INTERLEAVED": rope_facts.INTERLEAVED,
    "HALF": rope_facts.HALF,
    "MROPE": rope_facts.MROPE,
    "WITH_SECTIONS": frozenset(rope_facts.WITH_SECTIONS),
    "BY_METADATA": rope_facts.BY_METADATA,
}


def test_the_table_names_every_architecture_of_llama_cpp_once(llama_cpp: Path) -> None:
    for (one, names), (other, others) in combinations(ALL.items(), 2):
        assert not names & others, (one, other)
    constants = (llama_cpp / "gguf-py" / "gguf" / "constants.py").read_text()
    table = constants.partition("MODEL_ARCH_NAMES:")[2].partition("\n}")[0]
    known = {line.split('"')[1] for line in table.splitlines() if line.count('"') == 2}
    named = frozenset().union(*ALL.values())
    assert len(known) > 130
    assert known == named


@pytest.mark.parametrize(
    ("arch", "config", "layout"),
    [
        ("llama", {}, "interleaved"),
        ("qwen2", {}, "half"),
        ("qwen2vl", {}, "half"),
        ("gpt2", {}, "none"),
        ("bert", {}, "none"),
        ("glm4", {}, "interleaved"),
        ("glm4", {"rope_parameters": {"mrope_section": [8, 12, 12]}}, "half"),
        ("glm4", {"text_config": {"rope_scaling": {"mrope_section": [8, 12, 12]}}}, "half"),
        ("dflash", {}, "unknown"),
        ("no-such", {}, "unknown"),
    ],
)
def test_what_llama_cpp_rotates(arch: str, config: dict[str, Any], layout: str) -> None:
    found = graph_rope(arch, config)
    assert found.layout == layout and found.words.startswith(("which", "what", arch))


# -- without the original's modules ----------------------------------------------------------------


def remote(folder: Path, **config: Any) -> Needs:
    (folder / "config.json").write_text(json.dumps(config))
    return needs_of(folder, config, (), config["arch"])


def test_remote_code_is_known_to_rotate_halves_and_nothing_more(tmp_path: Path) -> None:
    needs = remote(
        tmp_path,
        arch="xverse",
        architectures=["XverseForCausalLM"],
        model_type="xverse",
        auto_map={"AutoModelForCausalLM": "modeling_xverse.XverseForCausalLM"},
        num_attention_heads=4,
    )
    q = needs.need((f"{ATTENTION}q_proj.weight",), "blk.1.attn_q.weight")
    assert (q.what, q.heads) == ("rope", 4)
    assert judge(q, IDENTICAL)[0] == "WRONG"
    norm = needs.need(("model.norm.weight",), "output_norm.weight")
    verdict, reason = judge(norm, IDENTICAL)
    assert verdict == "unjudged" and "XverseForCausalLM is code that lies with the" in reason


def test_a_config_that_transformers_does_not_know(tmp_path: Path) -> None:
    needs = remote(tmp_path, arch="llama", architectures=["NobodysModel"], model_type="nobodys")
    q = needs.need((f"{ATTENTION}q_proj.weight",), "blk.1.attn_q.weight")
    verdict, reason = judge(q, IDENTICAL)
    assert verdict == "unjudged" and "the original's modules are not known" in reason


@pytest.mark.parametrize("architectures", [None, [], [{}], 7, ["XverseForCausalLM"]])
@pytest.mark.parametrize("heads", [None, "4", -1, 0, [4]])
def test_a_config_that_makes_no_sense(architectures: Any, heads: Any) -> None:
    config = {"architectures": architectures, "num_attention_heads": heads}
    needs = Needs(config, "xverse", None, "no model")
    q = needs.need((f"{ATTENTION}q_proj.weight",), "blk.1.attn_q.weight")
    assert judge(q, IDENTICAL)[0] == "unjudged"


# -- llama.cpp's own converter ---------------------------------------------------------------------


@pytest.mark.conversion
def test_nothing_that_llama_cpp_converts_is_wrong(
    llama_cpp: Path, tmp_path: Path, plain_run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    script = Path(__file__).with_name("needs_of_conversion.py")
    done = plain_run([script, llama_cpp, tmp_path], timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 18
    for name, each in found.items():
        assert each["reasons"] == [], name
        assert each["counts"]["ok"] >= 15, name
