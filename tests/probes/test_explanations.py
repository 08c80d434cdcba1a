"""What explanations are made of: guesses by shape and name, numbers that shapes show, sources."""

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from modpdb.probes.conversion import Conversion
from modpdb.probes.explanations import explanation_of, slots, tokenizers
from modpdb.probes.explanations.architecture import read_sources
from modpdb.probes.explanations.explanation import Caught, Explanation, Frame, chain, quoted, typed
from modpdb.probes.explanations.guesses import Missing, guesses_for
from modpdb.probes.explanations.sizes import shown_number
from modpdb.probes.explanations.slots import Slot
from modpdb.probes.gguf_contents import Array
from modpdb.probes.safetensors_files import TensorEntry

SLOTS = (
    Slot("ATTN_Q", "blk.{bid}.attn_q", ((".weight", (64, 64)),)),
    Slot("ATTN_K", "blk.{bid}.attn_k", ((".weight", (32, 64)), (".bias", (32,)))),
    Slot("ATTN_OUT", "blk.{bid}.attn_output", ((".weight", (64, 64)),)),
    Slot("FFN_UP", "blk.{bid}.ffn_up", ((".weight", (160, 64)),)),
    Slot("FFN_GATE", "blk.{bid}.ffn_gate", ((".weight", (160, 64)),)),
    Slot("ROPE", "blk.{bid}.rope", ()),
    Slot("OUTPUT", "output", ((".weight", (384, 64)),)),
)
ENTRIES = [
    TensorEntry("model.embed_tokens.weight", "bf16", (384, 64), 49152, "model.safetensors"),
    TensorEntry("model.layers.0.self_attn.q_proj.weight", "bf16", (128, 64), 1, "m"),
    TensorEntry("model.layers.3.self_attn.k_proj.weight", "bf16", (32, 64), 1, "m"),
    TensorEntry("model.layers.3.mlp.experts.7.down_proj.weight", "bf16", (64, 160), 1, "m"),
]


def guessed(*missing: Missing, taken: frozenset[str] = frozenset()) -> dict[str, str]:
    found = guesses_for(missing, SLOTS, {}, set(taken))
    return {name: guess.slot for guess in found for name in guess.names}


def test_the_shape_decides_and_the_name_between_equals() -> None:
    up = Missing("h.0.mlp.up.weight", (160, 64))
    gate = Missing("h.0.mlp.gate.weight", (160, 64))
    key = Missing("h.0.mlp.gateway.weight", (32, 64))
    assert guessed(up, gate, key) == {
        up.name: "FFN_UP",
        gate.name: "FFN_GATE",
        key.name: "ATTN_K",
    }


def test_a_slot_that_is_taken_is_not_given() -> None:
    query = Missing("h.1.query.weight", (32, 64))
    assert guessed(query) == {query.name: "ATTN_K"}
    assert guessed(query, taken=frozenset({"blk.1.attn_k.weight"})) == {query.name: ""}
    assert guessed(query, taken=frozenset({"blk.0.attn_k.weight"})) == {query.name: "ATTN_K"}


def test_a_bias_has_the_rows_of_its_weight() -> None:
    assert guessed(Missing("h.0.k.bias", (32,))) == {"h.0.k.bias": "ATTN_K"}
    assert guessed(Missing("h.0.k.bias", (31,))) == {"h.0.k.bias": ""}


def test_what_is_in_no_block_is_not_put_into_one() -> None:
    assert guessed(Missing("head.weight", (384, 64))) == {"head.weight": "OUTPUT"}
    assert guessed(Missing("head.weight", (64, 64))) == {"head.weight": ""}


names = st.from_regex(
    r"[a-z]{1,6}(\.[0-9]{1,2})?(\.[a-z_]{1,9}){1,3}(\.weight|\.bias)?", fullmatch=True
)
shapes = st.sampled_from([None, (64,), (64, 64), (32, 64), (160, 64), (384, 64)])


@given(st.dictionaries(names, shapes, max_size=12), st.sets(st.sampled_from(SLOTS)))
def test_every_name_once_and_no_slot_twice(missing: dict[str, Any], full: set[Slot]) -> None:
    taken = {slot.name(str(bid), ".weight") for slot in full for bid in range(100)}
    given_ = [Missing(name, shape) for name, shape in missing.items()]
    found = guesses_for(given_, SLOTS, {}, taken)
    assert sorted(name for guess in found for name in guess.names) == sorted(missing)
    for guess in found:
        slot = next((each for each in SLOTS if each.member == guess.slot), None)
        if slot is None:
            continue
        for name in guess.names:
            suffix = next((end for end in (".weight", ".bias") if name.endswith(end)), "")
            bid = next((part for part in name.split(".") if part.isdecimal()), "")
            assert slot.name(bid, suffix) not in taken
            assert slot.fits(missing[name], suffix) is not False
    for slot in SLOTS:
        of_it = [each for each in found if each.slot == slot.member]
        assert sum(each.names[0].endswith(".weight") for each in of_it) <= 1


def test_numbers_that_shapes_show() -> None:
    config = {"num_attention_heads": 4}
    shown = {key: shown_number([key], ENTRIES, config) for key in (
        "num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size", "head_dim",
        "num_key_value_heads", "num_local_experts", "rope_theta",
    )}  # fmt: skip
    values = {key: each.value if each else None for key, each in shown.items()}
    assert values == {
        "num_hidden_layers": 4, "hidden_size": 64, "vocab_size": 384, "intermediate_size": 160,
        "head_dim": 32, "num_key_value_heads": 1, "num_local_experts": 8, "rope_theta": None,
    }  # fmt: skip
    assert shown_number(["num_attention_heads"], ENTRIES, {}) is None
    assert shown_number(["n_head"], ENTRIES, {"head_dim": 32}).value == 4  # type: ignore[union-attr]
    assert shown_number(["head_dim"], ENTRIES, {"num_attention_heads": 3}) is None


def test_sources_are_read_and_not_run(tmp_path: Path) -> None:
    package = tmp_path / "conversion"
    package.mkdir()
    (package / "__init__.py").write_text('raise SystemExit\nTEXT_MODEL_MAP: dict = {"A": "a"}\n')
    (package / "a.py").write_text('@Base.register("A", "B")\nclass AModel:\n    pass\n1 / 0\n')
    (package / "broken.py").write_text("class (\n")
    found = read_sources(tmp_path / "convert_hf_to_gguf.py")
    assert [(each.name, each.class_name, each.line) for each in found.registered] == [
        ("A", "AModel", 2),
        ("B", "AModel", 2),
    ]
    assert found.maps["TEXT_MODEL_MAP"][0] == {"A": "a"} and found.base == "Base"


def test_what_is_pasted_is_a_literal() -> None:
    name = 'x"); import os  # \n\x1b[31m'
    assert eval(quoted(name)) == name and "\n" not in quoted(name)
    assert typed("b", "@model.layers.0.weight") == ("b @model.layers.0.weight",)
    assert typed("b", "x;;!print(1)") == ()


def test_only_what_was_raised_from_counts() -> None:
    first, second, third = ValueError(1), KeyError(2), SystemExit(1)
    second.__context__ = first
    assert list(chain(second)) == [second]
    second.__cause__ = first
    first.__cause__ = second
    assert list(chain(second)) == [second, first]
    third.__context__ = first
    assert list(chain(third)) == [third, first, second]


def missing(keys: list[str], config: dict[str, Any]) -> Explanation:
    """What is said where find_hparam found none of *keys* in *config*."""

    class Converter:
        pass

    converter = Converter()
    vars(converter)["hparams"] = config
    error = KeyError(f"could not find any of: {keys}")
    inner = Frame("find_hparam", "M.find_hparam", "base.py", 1, {"keys": keys, "self": converter})
    asking = Frame("__init__", "M.__init__", "base.py", 9, {"self": converter})
    conversion = Conversion(converter, "M", "LLAMA", None, False, True)
    found = explanation_of([Caught(error, (inner, asking), conversion)])
    assert found is not None and found.kind == "missing hparam"
    return found


def test_a_number_of_an_encoder_comes_last() -> None:
    nested = {"vision_config": {"n_layer": 9}, "text_config": {"n_layer": 4}}
    found = missing(["n_layer", "n_layers"], nested)
    assert "text_config.n_layer" in found.causes[0].words
    assert found.steps[0].paste == ('  "n_layer": 4,',)
    assert "a guess" in found.steps[0].words  # no tensor shows it


def test_keys_of_nearly_the_name_may_be_lists() -> None:
    found = missing(["layer_typez"], {"layer_types": ["a", "b"], "x": {"layer_type": []}})
    assert {row.name for row in found.tables[0].rows} == {"layer_types", "x.layer_type"}
    assert found.causes[0].guess


def test_nothing_near() -> None:
    found = missing(["n_layer"], {})
    assert found.causes[0].guess and found.tables == ()


# -- how a tokenizer splits ----------------------------------------------------------------------

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = {"type": "ByteLevel", "use_regex": False}


def split(regex: str, **more: object) -> dict[str, object]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", **more}


def splits_as(folder: Path, *steps: dict[str, object], **model: object) -> str:
    top = {"type": "Sequence", "pretokenizers": steps} if len(steps) > 1 else steps[0]
    found = {"pre_tokenizer": top, "model": {"type": "BPE", **model}}
    (folder / "tokenizer.json").write_text(json.dumps(found))
    return tokenizers._splits(folder)[1]


def test_a_pre_tokenizer_is_named_by_all_of_its_steps(tmp_path: Path) -> None:
    """By src/llama-vocab.cpp: what it splits at, and whether tokens are left whole."""
    llama3 = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
    digits = {"type": "Digits", "individual_digits": True}
    assert splits_as(tmp_path, {"type": "ByteLevel"}) == "gpt-2"
    assert splits_as(tmp_path, digits, {"type": "ByteLevel"}) == "starcoder"
    assert splits_as(tmp_path, split(QWEN2), BYTES) == "qwen2"
    assert splits_as(tmp_path, split(llama3), BYTES, ignore_merges=True) == "llama-bpe"
    assert splits_as(tmp_path, split(llama3), BYTES) == "dbrx"


def test_what_differs_in_a_step_has_no_name(tmp_path: Path) -> None:
    punctuation = {"type": "Punctuation", "behavior": "Contiguous"}
    assert splits_as(tmp_path, punctuation, {"type": "ByteLevel"}) == ""
    assert splits_as(tmp_path, split(QWEN2), {"type": "ByteLevel"}) == ""
    assert splits_as(tmp_path, split(QWEN2, invert=True), BYTES) == ""
    assert splits_as(tmp_path, split(QWEN2, behavior="Removed"), BYTES) == ""
    assert splits_as(tmp_path, split(QWEN2), BYTES, ignore_merges=True) == ""
    assert splits_as(tmp_path, {"type": "Digits", "individual_digits": False}) == ""


# -- shapes by the loader's facts ------------------------------------------------------------------


def shapes_of(arch: str, config: dict[str, int], **metadata: object) -> dict[str, set[object]]:
    full = {f"{arch}.{key}": value for key, value in metadata.items()}
    return {name: set(found) for name, found in slots._shapes(arch, config, full).items()}


CONFIG = {
    "num_hidden_layers": 2, "hidden_size": 64, "vocab_size": 384, "intermediate_size": 160,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


def test_shapes_are_the_loader_s_by_the_config_s_numbers() -> None:
    found = shapes_of("llama", CONFIG)
    assert found["token_embd"] == {(".weight", (384, 64))}
    assert found["blk.{bid}.attn_k"] == {(".weight", (32, 64)), (".bias", (32,))}
    assert found["blk.{bid}.ffn_down"] == {(".weight", (64, 160)), (".bias", (64,))}
    wide = shapes_of("gemma3", CONFIG | {"head_dim": 32})
    assert wide["blk.{bid}.attn_q"] >= {(".weight", (128, 64))}
    assert wide["blk.{bid}.attn_q_norm"] == {(".weight", (32,))}
    assert shapes_of("phi3", CONFIG)["blk.{bid}.ffn_up"] == {(".weight", (320, 64))}


def test_metadata_that_is_known_stands_above_the_config() -> None:
    found = shapes_of("llama", CONFIG, feed_forward_length=96)
    assert found["blk.{bid}.ffn_up"] >= {(".weight", (96, 64))}


def test_blocks_may_differ_in_their_sizes() -> None:
    sizes = Array("INT32", 2, (96, 160))
    found = shapes_of("gemma4", CONFIG, feed_forward_length=sizes)
    assert found["blk.{bid}.ffn_up"] >= {(".weight", (96, 64)), (".weight", (160, 64))}


def test_a_number_that_is_not_known_makes_no_shape() -> None:
    down = shapes_of("llama", {"hidden_size": 64})["blk.{bid}.ffn_norm"]
    assert down == {(".weight", (64,))}
    slot = Slot("TOKEN_EMBD", "token_embd", tuple(slots._shapes("llama", {}, {})["token_embd"]))
    assert slot.fits((384, 64), ".weight") is None
    assert shapes_of("an architecture of nobody's", CONFIG) == {}
