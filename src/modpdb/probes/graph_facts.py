"""Which tensors llama.cpp's graphs take as the checkpoint has them, apart from RoPE and norms.

Read in the graphs (src/models) and the converter (conversion/) of llama.cpp as of llama-cpp-python
0.3.36.
"""

from __future__ import annotations

from collections.abc import Mapping

LLAMA_CPP = "llama.cpp of llama-cpp-python 0.3.36"


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


PLAIN = _names(
    """
    token_embd token_types output attn_q attn_k attn_v attn_output attn_gate attn_q_a
    attn_q_b attn_kv_a_mqa ffn_gate ffn_up ffn_down ffn_gate_inp ffn_gate_exps
    ffn_up_exps ffn_down_exps ffn_gate_shexp ffn_up_shexp ffn_down_shexp
    ffn_gate_inp_shexp attn_o attn_rel_b cross_attn_q cross_attn_k cross_attn_v cross_attn_o
    cross_attn_rel_b
    """
)
"""Matrices that ggml multiplies by row for row as torch does (`ggml_mul_mat`, `ggml_mul_mat_id`,
`ggml_get_rows`), by their names in a GGUF file; q and k but for RoPE."""

VECTORS = {"exp_probs_b": "e_score_correction_bias", "attn_sinks": "sinks"}
"""What ggml adds to the experts' probabilities, or takes into the softmax, as the original does:
the role in a GGUF file, the HF parameter's or buffer's name."""

_POSITIONS = _names("GPT2Model GPTBigCodeModel BertEmbeddings")
"""HF modules whose learned positions begin with position 0."""

NORMS_FOLDED = frozenset({"dots3note"})
"""Architectures whose norms take in factors of the config in the converter."""
_SCANNED = _names("mamba mamba2 jamba granitehybrid nemotron_h nemotron_h_moe")
_SCAN_MATRICES = frozenset({"ssm_in", "ssm_x", "ssm_dt", "ssm_out"})
SCAN_COPIES = frozenset({"ssm_conv1d", "ssm_d", "ssm_dt"})
"""Of architectures with `ggml_ssm_scan`: taken as they are, but for their shape."""

_OUTPUT = frozenset({"output"})
_LINEAR_ATTENTION = _names("attn_qkv attn_gate ssm_in ssm_ba ssm_out ssm_conv1d")
_FOLDED: Mapping[str, tuple[str, frozenset[str] | None]] = {
    "bailingmoe": ("normalises norm_head's output", _OUTPUT),
    "bitnet": ("quantises the weights", None),
    "dots3note": ("folds factors of the config into weights", None),
    "falcon-h1": ("folds multipliers of the config into weights", None),
    "grok": ("joins and rescales some weights", None),
    "jais": ("folds embeddings_scale and width_scale into weights", None),
    "pockettts": ("computes several tensors", None),
    "qwen3next": ("reorders the projections of linear attention", _LINEAR_ATTENTION),
    "qwen35": ("reorders the heads of linear attention", _LINEAR_ATTENTION),
    "qwen35moe": ("reorders the heads of linear attention", _LINEAR_ATTENTION),
    "qwen3tts": ("computes several tensors", None),
    "rwkv6": ("rescales weights by layer", None),
    "rwkv6qwen2": ("computes several tensors", None),
    "rwkv7": ("computes several tensors", None),
    "arwkv7": ("computes several tensors", None),
    "talkie": ("folds signs into weights", None),
    "wavtokenizer-dec": ("computes several tensors", None),
}

_CONTIGUOUS = _names(
    """
    Phi3Attention GPT2Attention MptAttention DbrxAttention Phi3MLP GlmMLP Glm4MLP Glm4vTextMLP
    """
)
_PER_HEAD = frozenset({"GPTNeoXAttention", "BloomAttention"})


def folded(arch: str, role: str) -> str:
    """What else llama.cpp's converter does to the matrix *role* of *arch*, "" for nothing."""
    does, roles = _FOLDED.get(arch, ("", frozenset()))
    return does if roles is None or role in roles else ""


def taken_as_is(arch: str, role: str, around: str) -> bool:
    """Whether llama.cpp uses the matrix *role* of *arch* as torch does the original's, which lies
    in an HF module of class *around*."""
    if role == "position_embd":
        return around in _POSITIONS
    return role in PLAIN or (role in _SCAN_MATRICES and arch in _SCANNED)


def scanned(arch: str) -> bool:
    """Whether *arch* has a state space model that `ggml_ssm_scan` computes."""
    return arch in _SCANNED


def joined(class_name: str) -> bool | None:
    """Whether q, k and v (or gate and up) of one matrix of an HF module of *class_name* lie one
    after another, as llama.cpp takes them; False head by head; None is not known."""
    if class_name in _CONTIGUOUS:
        return True
    return False if class_name in _PER_HEAD else None
