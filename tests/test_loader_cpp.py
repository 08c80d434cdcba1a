"""scripts/loader_cpp: C++ expressions and statements, as far as llama.cpp's loader has them."""

import pytest

from loader_cpp.expressions import NotUnderstood, parse, simple
from loader_cpp.functions import Sources, matching, statements
from loader_cpp.walk import Architecture


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("n_embd", "name"),
        ("hparams.n_head(i)", "call"),
        ("(int64_t) n_ff * 2", "binary"),
        ("static_cast<uint32_t>(i) < hparams.n_layer_dense_lead", "binary"),
        ("a ? b : c", "choice"),
        ("{n_embd, n_ff}", "list"),
        ("!layer.wqkv", "unary"),
        ("arr[i]", "index"),
    ],
)
def test_expressions(text: str, kind: str) -> None:
    assert parse(text).kind == kind


@pytest.mark.parametrize("text", ["", "a b", "a ? b", "(a", "[&](int i) { return i; }"])
def test_what_is_no_expression(text: str) -> None:
    with pytest.raises(NotUnderstood):
        parse(text)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("1 + 2", "3"),
        ("not (n == 0)", "n != 0"),
        ("(n > 0) and True", "n > 0"),
        ("n and False", "False"),
        ("unknown * 2", "unknown"),
        ("a if True else b", "a"),
        ("a if n else a", "a"),
        ("(1 if n else 0) & 4", "0"),
        ("(5 if n else 0) & 4", "4 if n else 0"),
    ],
)
def test_simple(text: str, result: str) -> None:
    assert simple(text) == result


def test_statements() -> None:
    found = statements("int a = 1; if (a) { b(); } else if (c) d(); for (;;) { e(); } try { f(); }")
    assert [each.kind for each in found] == ["do", "if", "for", "do"]
    assert found[1].other[0].kind == "if"
    assert matching('f("(", g())', 1) == 10


LOADER = """
void llama_model_base::load_hparams(llama_model_loader & ml) {
    ml.get_key(LLM_KV_BLOCK_COUNT, hparams.n_layer_all);
    ml.get_key(LLM_KV_EXPERTS, hparams.n_expert, false); // optional
    load_arch_hparams(ml);
}
llama_model * make(llm_arch arch) { switch (arch) {
    case LLM_ARCH_TINY:
        return new llama_model_tiny(params);
} }
"""
MODEL = """
void llama_model_tiny::load_arch_hparams(llama_model_loader & ml) {
    ml.get_key(LLM_KV_WIDTH, hparams.n_embd);
    if (hparams.n_expert == 0) { ml.get_key(LLM_KV_SCALE, hparams.f_scale); }
}
void llama_model_tiny::load_arch_tensors(llama_model_loader &) {
    LLAMA_LOAD_LOCALS;
    if (n_embd == 3) { throw std::runtime_error("no"); }
    for (int i = 0; i < n_layer_all; ++i) {
        layer.a = create_tensor(tn(LLM_TENSOR_A, "weight", i), {n_embd, 2*n_embd}, TENSOR_NOT_REQUIRED);
        if (!layer.a) {
            layer.b = create_tensor(tn(LLM_TENSOR_B, "bias", i), {mystery()}, 0);
        }
    }
}
"""


def test_an_architecture(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "models").mkdir()
    names = {"ARCH_TINY": "tiny", "KV_BLOCK_COUNT": "%s.block_count", "KV_WIDTH": "%s.width"}
    names |= {"KV_EXPERTS": "%s.experts", "KV_SCALE": "scale.all"}
    names |= {"TENSOR_A": "blk.%d.a", "TENSOR_B": "blk.%d.b"}
    table = "".join(f'{{ LLM_{symbol}, "{name}" }},\n' for symbol, name in names.items())
    (tmp_path / "llama-arch.cpp").write_text(table)
    (tmp_path / "llama-model.cpp").write_text(LOADER)
    (tmp_path / "models/tiny.cpp").write_text(MODEL)
    (tmp_path / "models/models.h").write_text("")
    (tmp_path / "llama-hparams.h").write_text("    uint32_t n_expert = 0;\n")
    (tmp_path / "llama-model.h").write_text(
        "#define LLAMA_LOAD_LOCALS \\\n const int64_t n_embd = hparams.n_embd; \\\n"
        " const int n_layer_all = hparams.n_layer_all;\n\n"
    )
    sources = Sources(tmp_path)
    tiny = Architecture(sources, "tiny", sources.classes["LLM_ARCH_TINY"])
    assert tiny.keys == [
        ["block_count", "True"], ["width", "True"], ["scale.all", "n_expert == 0"]
    ]  # fmt: skip
    assert tiny.refused == ["n_embd == 3"]
    assert tiny.tensors == [
        ["blk.{i}.a.weight", ["n_embd", "2 * n_embd"], 1, "", "n_layer_all"],
        ["blk.{i}.b.bias", ["unknown"], 0, "not has('blk.{i}.a.weight')", "n_layer_all"],
    ]
    assert tiny.needed()["n_expert"] == "key('experts', 0)"
    assert not tiny.left_out
