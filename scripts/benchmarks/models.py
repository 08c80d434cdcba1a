"""Models on the meta device: every module and shape of the big ones, and no memory."""

from __future__ import annotations

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM


def llama_405b() -> nn.Module:
    """Llama 3.1 405B: 126 layers, 1,645 modules."""
    config = LlamaConfig(
        hidden_size=16_384,
        intermediate_size=53_248,
        num_hidden_layers=126,
        num_attention_heads=128,
        num_key_value_heads=8,
        vocab_size=128_256,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def mixture_of_experts() -> nn.Module:
    """The 58 expert layers of DeepSeek-V3, as checkpoints name them: 60,440 modules.

    transformers 5 joins the experts of a layer to one tensor; code that comes with checkpoints,
    which converters must read, has a module for each.
    """
    with torch.device("meta"):
        return nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(129_280, 7_168),
                "layers": nn.ModuleList([Block() for _ in range(58)]),
                "norm": nn.RMSNorm(7_168),
            }
        )


class Block(nn.Module):
    """Attention with compressed keys and values, then experts."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = Attention()
        self.mlp = Experts()
        self.input_layernorm = nn.RMSNorm(7_168)
        self.post_attention_layernorm = nn.RMSNorm(7_168)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_a_proj = nn.Linear(7_168, 1_536, bias=False)
        self.q_a_layernorm = nn.RMSNorm(1_536)
        self.q_b_proj = nn.Linear(1_536, 24_576, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(7_168, 576, bias=False)
        self.kv_a_layernorm = nn.RMSNorm(512)
        self.kv_b_proj = nn.Linear(512, 32_768, bias=False)
        self.o_proj = nn.Linear(16_384, 7_168, bias=False)


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(7_168, 256, bias=False)
        self.experts = nn.ModuleList([Expert() for _ in range(256)])
        self.shared_experts = Expert()


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(7_168, 2_048, bias=False)
        self.up_proj = nn.Linear(7_168, 2_048, bias=False)
        self.down_proj = nn.Linear(2_048, 7_168, bias=False)
