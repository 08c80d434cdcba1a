"""Which rows of q and k llama.cpp's RoPE rotates with each other, by architecture.

The facts are those of `llama_model_rope_type` in llama.cpp's src/llama-model.cpp, as of
llama-cpp-python 0.3.36. M-RoPE pairs as NeoX does (`ggml_rope_multi` in ggml.h).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Layout = Literal["interleaved", "half", "none", "unknown"]
"""Row i of a head is rotated with i + 1 (GGML_ROPE_TYPE_NORMAL, GPT-J), or with i + half of the
rotated rows (GGML_ROPE_TYPE_NEOX)."""

SOURCE = "llama_model_rope_type, llama.cpp of llama-cpp-python 0.3.36"


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


NONE = _names(
    """
    clip gpt2 gptj mpt refact bloom mamba mamba2 jamba jina-bert-v2 t5 t5encoder jais
    rwkv6 rwkv6qwen2 rwkv7 arwkv7 wavtokenizer-dec nemotron_h nemotron_h_moe kimi-linear
    kimi-k3 glm5-next
    """
)
INTERLEAVED = _names(
    """
    llama llada llama4 deci baichuan starcoder internlm2 minicpm xverse command-r
    cohere2 cohere2moe olmo arctic deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4
    muse-glimmer plm chatglm granite granitemoe granitehybrid graniteswitch granite_swa
    chameleon bailingmoe neo-bert smollm3 arcee ernie4_5 ernie4_5-moe mistral3 eagle3
    mistral4 llama-embed maincoder glm-dsa dots3note nanbeige pockettts hy_v4
    """
)
HALF = _names(
    """
    falcon falcon-h1 grok dbrx bert jina-bert-v3 modern-bert nomic-bert nomic-bert-moe
    eurobert stablelm bitnet qwen qwen2 dream qwen2moe qwen3 qwen3moe llada-moe rnd1
    olmo2 olmoe phi2 phi3 phimoe plamo plamo2 plamo3 gemma gemma2 gemma3 gemma3n gemma4
    gemma4-assistant gemma-embedding starcoder2 openelm gptneox codeshell orion nemotron
    exaone exaone4 exaone-moe minicpm3 bailingmoe2 dots1 hunyuan-moe jais2 gpt-oss
    hunyuan-dense hy_v3 lfm2 lfm2moe smallthinker seed_oss grovemoe apertus minimax-01
    minimax-m2 minimax-m3 cogvlm pangu-embedded afmoe laguna qwen3next mimo2 step35
    spark2_5 talkie mellum maple hrm_text
    """
)
MROPE = _names(
    """
    qwen2vl paddleocr qwen3vl qwen3vlmoe qwen35 qwen35moe qwen4exp qwen3tts
    """
)
WITH_SECTIONS: Mapping[str, Layout] = {
    "bailingmoe3": "interleaved",
    "glm4": "interleaved",
    "glm4moe": "half",
    "hunyuan_vl": "half",
}
"""M-RoPE where the file's `rope.dimension_sections` say so, which a converter takes from
`mrope_section` of the config; else this."""
NO_POSITIONS = frozenset({"bert", "starcoder"})
"""The graph rotates nothing, whatever the function says (src/models/bert.cpp, starcoder.cpp)."""
BY_METADATA = frozenset({"dflash"})

REMOTE_HALF = _names(
    """
    BaichuanForCausalLM BaiChuanForCausalLM XverseForCausalLM InternLM2ForCausalLM
    MiniCPMForCausalLM DeepseekForCausalLM BailingMoeForCausalLM DeciLMForCausalLM
    LLaDAModelLM
    """
)
"""Classes whose code lies with the checkpoint and rotates halves: llama.cpp's own converter
(conversion/, same version) permutes q and k of these."""


@dataclass(frozen=True, slots=True)
class GraphRope:
    """What llama.cpp rotates; *words* name it, or say why it is not known."""

    layout: Layout
    words: str


def graph_rope(arch: str, config: Mapping[str, Any]) -> GraphRope:
    """What the architecture *arch* of llama.cpp rotates, for a model of this HF *config*."""
    if arch in NONE or arch in NO_POSITIONS:
        return GraphRope("none", f"{arch} has no RoPE in llama.cpp")
    if arch in INTERLEAVED:
        return GraphRope("interleaved", f"{arch} rotates neighbouring rows (interleaved RoPE)")
    if arch in HALF:
        return GraphRope("half", f"{arch} rotates the halves of a head (NeoX RoPE)")
    if arch in MROPE:
        return GraphRope("half", f"{arch} rotates the halves of a head (M-RoPE)")
    if arch in WITH_SECTIONS:
        if _mentions(config, "mrope_section"):
            return GraphRope("half", f"{arch} with mrope_section rotates the halves of a head")
        kind = WITH_SECTIONS[arch]
        words = "neighbouring rows" if kind == "interleaved" else "the halves of a head"
        return GraphRope(kind, f"{arch} without mrope_section rotates {words}")
    if arch in BY_METADATA:
        return GraphRope("unknown", f"what {arch} rotates depends on the file's metadata")
    return GraphRope("unknown", f"which RoPE llama.cpp uses for {arch} is not known here")


def _mentions(config: object, key: str) -> bool:
    """Whether *key* has a value anywhere in *config*."""
    if isinstance(config, Mapping):
        return bool(config.get(key)) or any(_mentions(each, key) for each in config.values())
    return False
