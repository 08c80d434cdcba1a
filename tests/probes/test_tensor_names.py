"""Which names a glob of tensors means, and what is said of none."""

import pytest

from modpdb.probes.tensor_names import TensorNames, meets, name_matcher, of_adapter

CHECKPOINT = tuple(
    f"model.layers.{layer}.{rest}"
    for layer in range(12)
    for rest in ("self_attn.q_proj.weight", "self_attn.q_proj.bias", "mlp.experts.0.w1.weight")
)
PREDICTED = tuple(
    (f"blk.{layer}.attn_q.{kind}", f"model.layers.{layer}.self_attn.q_proj.{kind}")
    for layer in range(12)
    for kind in ("weight", "bias")
)
POSSIBLE = tuple(f"blk.{layer}.{rest}" for layer in range(12) for rest in ("attn_q", "ffn_up_exps"))
NAMES = TensorNames(CHECKPOINT, PREDICTED, POSSIBLE, True)


@pytest.mark.parametrize(
    ("glob", "name", "meant"),
    [
        ("blk.0.attn_q.weight", "blk.0.attn_q.weight", True),
        ("blk.0.attn_q", "blk.0.attn_q.weight", True),
        ("blk.0.attn_q", "blk.0.attn_q.bias", True),
        ("blk.0.attn_q", "blk.0.attn_q.scale", False),
        ("blk.0.attn_q", "blk.0.attn_q_norm.weight", False),
        ("blk.*.attn_q", "blk.11.attn_q.weight", True),
        ("blk.?.attn_q*", "blk.11.attn_q.weight", False),
        ("blk.[01].attn_q*", "blk.1.attn_q.weight", True),
        ("blk.0.attn_q", "blk.0.attn_q.weight.lora_a", True),
        ("blk.0.attn_q.weight", "blk.0.attn_q.weight.lora_b", True),
        ("*.lora_a", "blk.0.attn_q.weight.lora_b", False),
        ("attn_q", "blk.0.attn_q.weight", False),
        ("BLK.0.attn_q", "blk.0.attn_q.weight", False),
        ("blk.0.attn_q.weight", "blk.0.attn_q", False),
    ],
)
def test_names_meant(glob: str, name: str, meant: bool) -> None:
    assert name_matcher(glob)(name) is meant


def test_both_sides_and_what_the_map_may_give() -> None:
    found = meets(NAMES, "blk.1.*")
    assert found.checkpoint == () and found.near == ()
    assert [gguf for gguf, _ in found.predicted] == ["blk.1.attn_q.weight", "blk.1.attn_q.bias"]
    assert found.possible == ("blk.1.ffn_up_exps",)  # attn_q is predicted already
    assert meets(NAMES, "blk.1.ffn_up_exps.weight").possible == ("blk.1.ffn_up_exps",)
    found = meets(NAMES, "model.layers.3.*q_proj")
    assert found.checkpoint == CHECKPOINT[9:11] and found.predicted == found.possible == ()


def test_none_is_said_with_the_nearest_that_differ_in_more_than_numbers() -> None:
    assert meets(NAMES, "model.layers.7.self_attn.qproj.weight").near == (
        "model.layers.7.self_attn.q_proj.weight",
        "model.layers.7.self_attn.q_proj.bias",
    )
    assert "blk.3.attn_q.weight" in meets(NAMES, "blk.3.atn_q.weight").near
    assert meets(NAMES, "zzz").near == ()


def test_a_name_that_is_a_pattern_of_itself_stays_literal() -> None:
    names = TensorNames(("a\x1b[2J.weight", "x" * 3000), (), (), False)
    assert meets(names, "a\x1b*").checkpoint == ("a\x1b[2J.weight",)
    assert meets(names, "y*").near == ()


@pytest.mark.parametrize("suffix", [".lora_A.weight", ".lora_B.weight", ".lora_embedding_A"])
def test_of_an_adapter_only_what_it_changes_in_halves(suffix: str) -> None:
    keys = [f"base_model.model.model.layers.1.self_attn.q_proj{suffix}"]
    names = of_adapter(NAMES, keys)
    assert set(names.checkpoint) == {
        f"model.layers.1.self_attn.q_proj.{k}" for k in ("weight", "bias")
    }
    assert (
        "blk.1.attn_q.weight.lora_a",
        "model.layers.1.self_attn.q_proj.weight",
    ) in names.predicted
    assert names.possible == ()
