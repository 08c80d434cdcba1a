"""Likely renames: one systematic change is one line, ambiguity is no guess, time is bounded."""

import random
import string
import time
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from modpdb.probes.checkpoints import TensorEntry
from modpdb.probes.registered import TensorRow
from modpdb.probes.renames import Edit, Rename, Shape, edits_between, likely_renames
from modpdb.probes.state_against import state_against
from modpdb.probes.tensors import TensorFacts

Names = dict[str, Shape]


def llama(layers: int = 4, experts: int = 0) -> Names:
    names: Names = {"model.embed_tokens.weight": (96, 8), "model.norm.weight": (8,)}
    for i in range(layers):
        at = f"model.layers.{i}."
        names |= {f"{at}self_attn.{k}_proj.weight": (8, 8) for k in "qo"}
        names |= {f"{at}self_attn.{k}_proj.weight": (4, 8) for k in "kv"}
        names |= {f"{at}mlp.{k}_proj.weight": (20, 8) for k in ("gate", "up")}
        names[f"{at}mlp.down_proj.weight"] = (8, 20)
        names |= {f"{at}{k}_layernorm.weight": (8,) for k in ("input", "post_attention")}
        for e in range(experts):
            names |= {f"{at}moe.experts.{e}.w{k}.weight": (20, 8) for k in (1, 3)}
            names[f"{at}moe.experts.{e}.w2.weight"] = (8, 20)
    return names | {"lm_head.weight": (96, 8)}


def bert(layers: int = 2) -> Names:
    names: Names = {"bert.embeddings.word_embeddings.weight": (96, 8)}
    for i in range(layers):
        at = f"bert.encoder.layer.{i}."
        for k in ("attention.self.query", "attention.self.key", "attention.self.value"):
            names |= {f"{at}{k}.weight": (8, 8), f"{at}{k}.bias": (8,)}
        for k in ("attention.output.dense", "output.dense"):
            names |= {f"{at}{k}.weight": (8, 8), f"{at}{k}.bias": (8,)}
        for k in ("attention.output.LayerNorm", "output.LayerNorm"):
            names |= {f"{at}{k}.weight": (8,), f"{at}{k}.bias": (8,)}
    return names


def t5(blocks: int = 3) -> Names:
    names: Names = {"shared.weight": (96, 8)}
    for side, cross in (("encoder", 0), ("decoder", 1)):
        for i in range(blocks):
            for k in "qkvo":
                names[f"{side}.block.{i}.layer.0.SelfAttention.{k}.weight"] = (8, 8)
                if cross:
                    names[f"{side}.block.{i}.layer.1.EncDecAttention.{k}.weight"] = (8, 8)
            names[f"{side}.block.{i}.layer.{1 + cross}.DenseReluDense.wi.weight"] = (20, 8)
            names[f"{side}.block.{i}.layer.{1 + cross}.DenseReluDense.wo.weight"] = (8, 20)
            for j in range(2 + cross):
                names[f"{side}.block.{i}.layer.{j}.layer_norm.weight"] = (8,)
    return names


def renamed(old: Names, new: Names) -> tuple[dict[str, str], Counter[Edit]]:
    """What is found where *old* is the checkpoint: names, and how many each edit explains."""
    checkpoint = {name: shape for name, shape in old.items() if name not in new}
    module = {name: shape for name, shape in new.items() if name not in old}
    found = likely_renames(checkpoint, module)
    return {each.old: each.new for each in found}, Counter(e for each in found for e in each.edits)


def changed(names: Names, change: Callable[[str], str]) -> tuple[Names, dict[str, str]]:
    """*names* after *change*, and which names are new, with what they were."""
    old = {change(name): shape for name, shape in names.items()}
    assert len(old) == len(names)
    return old, {change(name): name for name in names if change(name) != name}


# -- one systematic change -------------------------------------------------------------------------

MODELS = {"llama": llama(), "mixtral": llama(2, 3), "bert": bert(), "t5": t5()}
words = st.text(string.ascii_lowercase, min_size=4, max_size=6)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.lists(words, min_size=1, max_size=3), st.data())
def test_any_systematic_change_is_one_rule(model: str, new: list[str], data: st.DataObject) -> None:
    names = MODELS[model]
    known = {part for name in names for part in name.split(".")}
    assume(known.isdisjoint(new))
    parts = data.draw(st.sampled_from(sorted(names))).split(".")
    start = data.draw(st.integers(0, len(parts) - 1))
    run = parts[start : start + data.draw(st.integers(1, 3))]
    assume(not any(part.isdecimal() for part in run))

    def change(name: str) -> str:
        padded = f".{name}.".replace(f".{'.'.join(run)}.", f".{'.'.join(new)}.", 1)
        return padded[1:-1]

    old, truth = changed(names, change)
    # A single name whose last part changes too has nothing left to be known by.
    patterns = {tuple("#" if p.isdecimal() else p for p in n.split(".")) for n in truth.values()}
    assume(len(patterns) > 1 or all(a.split(".")[-1] == b.split(".")[-1] for a, b in truth.items()))
    found, edits = renamed(old, names)
    assert found == truth
    assert len(edits) == 1


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.lists(words, min_size=1, max_size=3), st.booleans())
def test_a_prefix_is_one_rule(model: str, prefix: list[str], lost: bool) -> None:
    names, start = MODELS[model], ".".join(prefix) + "."
    with_prefix = {start + name: shape for name, shape in names.items()}
    if lost:
        found, edits = renamed(with_prefix, names)
        assert edits == {Edit(start, "", True): len(names)}
    else:
        found, edits = renamed(names, with_prefix)
        assert edits == {Edit("", start, True): len(names)}
    assert len(found) == len(names)


def test_a_numbered_prefix() -> None:
    names = {f"0.auto_model.{name}": shape for name, shape in llama().items()}
    assert renamed(names, llama())[1] == {Edit("0.auto_model.", "", True): len(names)}


# -- several changes at once -----------------------------------------------------------------------


def test_prefix_and_tensorflow_names() -> None:
    def change(name: str) -> str:
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        return name.replace("LayerNorm.bias", "LayerNorm.beta").removeprefix("bert.")

    old, truth = changed(bert(), change)
    found, edits = renamed(old, bert())
    assert found == truth
    assert edits == {
        Edit("", "bert.", True): len(truth),
        Edit("gamma", "weight"): 4,
        Edit("beta", "bias"): 4,
    }


def test_two_substitutions() -> None:
    def change(name: str) -> str:
        return name.replace("self_attn", "attention.self").replace("layers", "blocks")

    old, truth = changed(llama(), change)
    found, edits = renamed(old, llama())
    assert found == truth and len(edits) == 2


def test_part_of_a_model() -> None:
    old = {n.replace("model.", "m."): s for n, s in llama(3).items()}
    found, edits = renamed(old, llama(4))
    assert len(found) == len(llama(3)) - 1 and set(edits) == {Edit("m", "model")}


def test_a_rule_finds_what_has_another_shape() -> None:
    old = {n.replace("mlp", "ffn"): s for n, s in llama().items()}
    odd = "model.layers.1.ffn.up_proj.weight"
    old[odd] = (8, 20)
    assert renamed(old, llama())[0][odd] == "model.layers.1.mlp.up_proj.weight"


# -- no guess --------------------------------------------------------------------------------------


def test_equal_shapes_that_could_be_either() -> None:
    # Llama's own names: attention_norm is input_layernorm, w1 is gate_proj, and no name says so.
    old: Names = {}
    new: Names = {}
    for i in range(2):
        old |= {f"layers.{i}.{k}.weight": (8,) for k in ("attention_norm", "ffn_norm")}
        new |= {f"layers.{i}.{k}_layernorm.weight": (8,) for k in ("input", "post_attention")}
    assert likely_renames(old, new) == []


def test_made_up_names_that_could_be_either() -> None:
    old = {f"norm{i}.{k}": (8,) for i in "abc" for k in ("one", "two")}
    new = {f"norm{i}.{k}": (8,) for i in "abc" for k in ("three", "four")}
    assert likely_renames(old, new) == []


def test_other_shapes() -> None:
    assert likely_renames({"a.weight": (2, 3)}, {"b.weight": (3, 3)}) == []
    assert likely_renames({}, {"b.weight": (3, 3)}) == []


def test_alone_with_its_shape() -> None:
    (found,) = likely_renames({"output.weight": (96, 8)}, {"lm_head.weight": (96, 8)})
    assert found == Rename("output.weight", "lm_head.weight", (Edit("output", "lm_head"),))


def test_without_shapes_names_alone_decide() -> None:
    old = dict.fromkeys((f"x.{name}" for name in llama()), None)
    assert len(likely_renames(old, llama())) == len(old)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text("ab.01", max_size=8), st.tuples(st.integers(0, 2)), max_size=8),
    st.dictionaries(st.text("ab.01", max_size=8), st.tuples(st.integers(0, 2)), max_size=8),
)
def test_each_name_once_whatever_the_names(old: Names, new: Names) -> None:
    found = likely_renames(old, new)
    assert len({each.old for each in found}) == len({each.new for each in found}) == len(found)
    assert all(each.old in old and each.new in new and each.edits for each in found)


def test_edits_between_names_known_to_be_the_same() -> None:
    assert edits_between("a.b.c", "x.a.b.d") == (Edit("", "x.", True), Edit("c", "d"))
    assert edits_between("a.c", "a.b.c") == (Edit("c", "b.c"),)


# -- 60,000 names ----------------------------------------------------------------------------------


def made_up(number: int) -> Names:
    pick = random.Random(number)
    return {".".join("".join(pick.choices("abcdef", k=6)) for _ in range(5)): (8, 8) for _ in range(60_000)}  # fmt: skip


@pytest.mark.parametrize("kind", ["experts", "nothing in common"])
def test_sixty_thousand_names(kind: str) -> None:
    if kind == "experts":
        new = llama(78, 256)
        old = {f"x.{n.replace('experts', 'exp')}": s for n, s in new.items()}
        expected = len(old)
    else:
        old, new, expected = made_up(1), made_up(2), 0
    assert len(old) > 59_000
    rows = [TensorRow(n, TensorFacts(s, "f32", "cpu", False, 0, 0)) for n, s in new.items()]
    tensors = [TensorEntry(n, "f32", s, 0, "") for n, s in old.items()]
    start = time.process_time()
    found = state_against(rows, tensors)
    assert time.process_time() - start < 10  # 1.3 s on an idle machine; quadratic would be hours
    assert len(found.renamed) == expected
