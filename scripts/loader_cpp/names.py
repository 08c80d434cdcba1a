"""What the loader's C++ calls things, and what they are called in the facts."""

from loader_cpp.expressions import UNKNOWN, names_in

# llama_model_loader's flags that decide what a file must hold.
FLAGS = {
    "TENSOR_NOT_REQUIRED": 1, "TENSOR_DUPLICATED": 2, "TENSOR_SKIP": 4,
    "TENSOR_SKIP_IF_VIRTUAL": 8, "TENSOR_ALLOW_RESHAPE": 16, "TENSOR_READ_LAZY": 32,
}  # fmt: skip
CONSTANTS = {
    "true": "True", "false": "False", "arch": "",
    "NULL": "False", "nullptr": "False", "LLAMA_MAX_LAYERS": "512", "LLAMA_MAX_EXPERTS": "512",
    "ml.load_mtp": "False",  # as llama.cpp loads a model unless asked for more
    "hparams.vocab_only": "False",
    "n_vocab": "n_vocab", "n_token_types": "n_token_types",
    "LLAMA_ROPE_SCALING_TYPE_NONE": "'none'", "LLAMA_ROPE_SCALING_TYPE_LINEAR": "'linear'",
    "LLAMA_ROPE_SCALING_TYPE_YARN": "'yarn'", "LLAMA_ROPE_SCALING_TYPE_LONGROPE": "'longrope'",
    **{name: str(value) for name, value in FLAGS.items()},
    **{f"llama_model_loader::{name}": str(value) for name, value in FLAGS.items()},
}  # fmt: skip
_MLA = "(n_embd_head_k_mla_impl != 0 and n_embd_head_v_mla_impl != 0)"
# What llama_hparams's functions give: by index, and without one.
FUNCTIONS = {
    "n_head": ("n_head_arr[{}]", "n_head"), "n_head_kv": ("n_head_kv_arr[{}]", "n_head_kv"),
    "n_ff": ("n_ff_arr[{}]", "n_ff"), "n_ff_exp": ("n_ff_exp_arr[{}]", "n_ff_exp"),
    "n_expert_used": ("n_expert_used_arr[{}]", "n_expert_used_arr[0]"),
    "n_embd_head_k": ("head_k[{}]", "n_embd_head_k"),
    "n_embd_head_v": ("head_v[{}]", "n_embd_head_v"),
    "n_embd_k_gqa": ("k_gqa[{}]", "n_embd_k_gqa"), "n_embd_v_gqa": ("v_gqa[{}]", "n_embd_v_gqa"),
    "n_rot": ("rot[{}]", "n_rot"), "is_recr": ("is_recr_impl[{}]", ""),
    "is_swa": ("is_swa_impl[{}]", ""), "n_layer": ("", "n_layer"),
    "n_embd_out": ("", "(n_embd_out_impl if n_embd_out_impl > 0 else n_embd)"),
    "is_mla": ("", _MLA),
    "n_embd_head_k_mla": ("", f"(n_embd_head_k_mla_impl if {_MLA} else n_embd_head_k)"),
    "n_embd_head_v_mla": ("", f"(n_embd_head_v_mla_impl if {_MLA} else n_embd_head_v)"),
    "n_gqa": ("", "(n_head // n_head_kv if n_head_kv else 0)"),
}  # fmt: skip
# By these names; `i` is a block.
DERIVED = {
    "n_layer": "n_layer_all - n_layer_nextn",
    "n_head": "n_head_arr[0]", "n_head_kv": "n_head_kv_arr[0]", "n_ff": "n_ff_arr[0]",
    "n_ff_exp": "n_ff_exp_arr[0]",
    "head_k": "n_embd_head_k_swa if is_swa_impl[i] else n_embd_head_k_full",
    "head_v": "n_embd_head_v_swa if is_swa_impl[i] else n_embd_head_v_full",
    "rot": "n_rot_swa if is_swa_impl[i] else n_rot_full",
    "n_embd_head_k": "head_k[0]", "n_embd_head_v": "head_v[0]", "n_rot": "rot[0]",
    "k_gqa": "head_k[i] * n_head_kv_arr[i]", "v_gqa": "head_v[i] * n_head_kv_arr[i]",
    "n_embd_k_gqa": "k_gqa[0]", "n_embd_v_gqa": "v_gqa[0]",
    "n_vocab": "length('tokenizer.ggml.tokens')",
    "n_token_types": "key('tokenizer.ggml.token_type_count', 0)",
}  # fmt: skip
# What probes/loader_facts.py knows without a definition.
KNOWN = {
    "i", UNKNOWN, "key", "key_at", "has", "has_key", "is_array", "length", "min", "max",
}  # fmt: skip
LOCAL_NAMES = {"n_embd_gqa": "n_embd_v_gqa"}


def field_of(name: str) -> str:
    """`posnet_n_embd` of `hparams.posnet.n_embd`."""
    return name.removeprefix("hparams.").replace(".", "_")


def fields_in(value: str) -> set[str]:
    """The fields that *value* mentions, those that a name is derived from as well."""
    found = names_in(value)
    rest = list(found)
    while rest:
        more = names_in(DERIVED.get(rest.pop(), "0")) - found
        found |= more
        rest += more
    return found
