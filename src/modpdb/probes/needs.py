"""What an architecture of llama.cpp needs of each tensor that is written: whether a plain copy of
the checkpoint's is right, or its rows must be permuted, or something added.

Two sides decide: what the original's modules do, seen by running them (modpdb.probes.model_facts),
and what llama.cpp's graph does (modpdb.probes.rope_facts, graph_facts). Where either is not known,
so is the need: nothing is a copy by default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from modpdb.probes.checkpoints import TensorEntry
from modpdb.probes.graph_facts import (
    LLAMA_CPP,
    NORMS_FOLDED,
    SCAN_COPIES,
    VECTORS,
    folded,
    joined,
    scanned,
    taken_as_is,
)
from modpdb.probes.judging import Need, Verdict, What, judge
from modpdb.probes.model_facts import ModelFacts, ParameterFacts, model_facts
from modpdb.probes.rope_facts import REMOTE_HALF, SOURCE, GraphRope, graph_rope
from modpdb.probes.rope_observed import Rotation
from modpdb.probes.row_orders import RowOrder
from modpdb.probes.skeleton import SkeletonError

__all__ = ["Need", "Needs", "Verdict", "What", "judge", "needs_of"]

_GGUF = re.compile(
    r"(?:(?:enc|dec)\.)?(?:blk\.(?P<block>\d+)\.)?(?P<role>.+?)(?:\.(?P<end>weight|bias))?"
    r"(?:\.(?P<lora>lora_a|lora_b))?"
)
_LORA = re.compile(r"^base_model\.model\.|\.lora_[AB]")
_EXPERT = re.compile(r"experts?\.(\d+)\.")
_BLOCK = re.compile(r"(?<![^.])(\d+)(?![^.])")
_PEERS = (  # HF's usual names, each with the role that it alone may have of those beside it
    {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v"},
    {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"},
    {"w1": "ffn_gate", "w3": "ffn_up", "w2": "ffn_down"},
)
_FUSED = re.compile(r"[^.]*(?:qkv|query_key_value|c_attn|W_pack|gate_up)[^.]*", re.IGNORECASE)
_SAME_OPERATIONS = {"MergeModulelist", "Concatenate", "Chunk", "Split", "SplitModulelist"}
"""Of transformers' loading: these join and part, and turn nothing round."""
_ROTATED = ("attn_q", "attn_k")
_LATENT = ("attn_q_b", "attn_kv_a_mqa")  # of latent attention: rotated rows among others


def needs_of(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Iterable[TensorEntry],
    arch: str,
    *,
    trust_remote_code: bool = False,
    slow: Callable[[], None] = lambda: None,
) -> Needs:
    """The needs of the model in *folder*, which is converted to *arch* (general.architecture).

    Its transformers model is built once, in a forked copy of the process, which takes seconds;
    *slow* is called once after one of them. Without it the needs know less, and say why.
    """
    try:
        facts = model_facts(folder, tensors, trust_remote_code=trust_remote_code, slow=slow)
    except SkeletonError as error:
        return Needs(config, arch, None, str(error))
    return Needs(config, arch, facts)


@dataclass(frozen=True, slots=True)
class Needs:
    """*config* is the HF config, *facts* what its model does, or None for the reason *lacking*."""

    config: Mapping[str, Any]
    arch: str
    facts: ModelFacts | None
    lacking: str = ""

    def need(self, sources: tuple[str, ...], gguf_name: str) -> Need:
        """What is needed of the tensor *gguf_name* that is made of *sources*, checkpoint names."""
        parsed = _GGUF.fullmatch(gguf_name)
        if not sources or parsed is None:
            return _unknown("of which tensors of the checkpoint it was made is not known")
        role, lora = parsed["role"], parsed["lora"]
        if self.arch == "clip":
            return _unknown("what the projectors of llama.cpp (clip.cpp) need is not known here")
        mixed_up = _mixed_up(sources, role, parsed["block"])
        if mixed_up and self.facts is not None:
            return _unknown(mixed_up)
        found = self._of_all(sources, role, parsed["end"] or "")
        if lora and (found.what not in ("copy", "rope") or role == "token_embd"):
            return _unknown(f"what a LoRA adapter of {role} needs is not known")
        if lora == "lora_a":
            found = _copied("lora_a multiplies what the matrix does", found.source)
        named = role.removeprefix("attn_") if role in _ROTATED else role
        return replace(found, subject=f"{named} of {self.arch}")

    def _of_all(self, sources: tuple[str, ...], role: str, end: str) -> Need:
        if len(sources) == 1:
            return self._of_one(sources[0], role, end)
        needs = [self._of_one(name, role, end) for name in sources]
        odd = next((need for need in needs if need.what != "copy"), None)
        if odd is not None:
            return odd if odd.what == "unknown" else _unknown("it is made of several tensors")
        experts = tuple(number for need in needs for number in need.experts)
        if len(experts) != len(sources):
            return _unknown(f"how the {len(sources)} tensors it is made of belong together")
        words = f"a plain copy of each of {len(experts):,} experts, in their order"
        return replace(needs[0], words=words, experts=experts)

    def _of_one(self, source: str, role: str, end: str) -> Need:
        if self.facts is None:
            return self._without_model(role)
        name = _LORA.sub("", source)
        loads = self.facts.loads.get(name)
        facts = self.facts.parameters.get(loads.name if loads else name)
        if facts is None:
            return _unknown(f"{self._transformers} has no parameter for {name}")
        if loads and not _SAME_OPERATIONS.issuperset(loads.by):
            return _unknown(f"transformers loads it by {', '.join(loads.by)}")
        expert = _EXPERT.search(name)
        need = self._of_parameter(facts, name, role, end)
        return need if expert is None else replace(need, experts=(int(expert[1]),))

    @property
    def _transformers(self) -> str:
        return f"transformers {self.facts.version}" if self.facts else "transformers"

    def _of_parameter(self, facts: ParameterFacts, name: str, role: str, end: str) -> Need:
        if facts.use == "norm":
            return self._of_norm(facts, role)
        state = self._of_state(facts, role, end)
        if state is not None:
            return state
        if VECTORS.get(role) == facts.role:
            return _copied(
                f"ggml uses {role} as {facts.around or facts.class_name} does", LLAMA_CPP
            )
        if facts.use in ("other", "convolution"):
            words = f"what llama.cpp needs of {facts.class_name}'s {facts.role} is not known here"
            return _unknown(facts.norm.words if facts.norm and facts.norm.words else words)
        does = folded(self.arch, role)
        if does:
            return _unknown(f"llama.cpp's own converter {does} for {self.arch}")
        if role == "attn_qkv":
            return self._of_joined(facts)
        fused = _FUSED.search(name)
        if fused and not (role == "ffn_up" and joined(facts.around)):
            return _unknown(f"how the parts of {fused[0]} become {role} is not known here")
        if not taken_as_is(self.arch, role, facts.around):
            return _unknown(f"in which order llama.cpp takes the rows of {role} is not known")
        if "transposed" in facts.use and end == "weight":
            return self._transposed(facts)
        if role in (*_ROTATED, *_LATENT):
            return self._rotated(facts, role)
        return _copied(facts.class_name, self._sources)

    @property
    def _sources(self) -> str:
        return f"{self._transformers}; {LLAMA_CPP}"

    # -- norms, functions, shapes ------------------------------------------------------------------

    def _of_norm(self, facts: ParameterFacts, role: str) -> Need:
        effect = facts.norm
        if effect is None or "norm" not in role:
            return _unknown(f"{facts.class_name} is a norm, and {role} is none in llama.cpp")
        if self.arch in NORMS_FOLDED:
            return _unknown(f"llama.cpp's own converter folds factors into norms of {self.arch}")
        if facts.rotation and role in ("attn_q_norm", "attn_k_norm"):
            rotated = self._rotated(facts, role)
            if rotated.what == "unknown":
                return rotated
            if rotated.what != "copy":
                return _unknown("its values belong to rows whose order RoPE changes")
        name = facts.class_name
        if facts.role == "bias":
            return _copied(f"{name} adds it", self._transformers)
        if effect.times != 1.0:
            words = f"{name} multiplies by {effect.plus:g} + {effect.times:g} · weight"
            return _unknown(words)
        if not effect.plus:
            found = _copied(f"{name} multiplies by weight", self._transformers)
            return replace(found, reshaped=role == "ssm_norm")  # by groups
        words = f"{'+' if effect.plus > 0 else '-'} {abs(effect.plus):g}"
        why = f"{name} multiplies by {effect.plus:g} + weight"
        return Need("plus", words, constant=effect.plus, source=self._transformers, why=why)

    def _of_state(self, facts: ParameterFacts, role: str, end: str) -> Need | None:
        """Of what a state space model has besides matrices; None if it is none of these."""
        if not scanned(self.arch):
            return None
        source = f"ggml_ssm_scan, {LLAMA_CPP}"
        if role == "ssm_a" and facts.role == "A_log":
            return Need(
                "function",
                "the negated exponential",
                source=source,
                function="negated exp",
                why="the checkpoint has log(-A), the scan takes A",
            )
        if role in SCAN_COPIES and (facts.use != "linear" or end == "bias"):
            why = f"{facts.class_name}'s {facts.role}, but for dimensions of 1"
            return replace(_copied(why, source), reshaped=True)
        return None

    def _transposed(self, facts: ParameterFacts) -> Need:
        why = f"{facts.class_name} has (in, out), ggml multiplies by (out, in)"
        return Need(
            "function", "to be transposed", source=self._sources, function="transposed", why=why
        )

    def _of_joined(self, facts: ParameterFacts) -> Need:
        """Of q, k and v (or gate and up) in one matrix."""
        together = joined(facts.around)
        if together is None:
            return _unknown(f"how q, k and v lie in {facts.around}'s one matrix is not known")
        if not together:
            return self._parted(facts)
        if facts.use == "transposed" and facts.role == "weight":
            return self._transposed(facts)
        rotated = self._rotated(facts, "attn_qkv")
        if rotated.what != "copy":
            return rotated if rotated.what == "unknown" else _unknown(rotated.words)
        return _copied(f"{facts.around} has q, k and v one after another, too", self._sources)

    def _parted(self, facts: ParameterFacts) -> Need:
        """Of q, k and v that lie head by head."""
        heads, rows = _heads(self.config, "attn_q"), facts.shape[0]
        if heads is None or rows % (3 * heads):
            return _unknown(f"how many heads {facts.around} has is not known")
        order = RowOrder("parts together", heads, rows // heads // 3, 0)
        words = f"q, k and v of its {heads:,} heads one after another"
        why = f"{facts.around} has them head by head"
        return Need("rope", words, source=self._sources, why=why, order=order)

    # -- RoPE --------------------------------------------------------------------------------------

    def _rotated(self, facts: ParameterFacts, role: str) -> Need:
        """Of rows that llama.cpp's graph rotates, or the original does."""
        rows = role.removeprefix("attn_")
        graph = graph_rope(self.arch, self.config)
        if graph.layout == "unknown":
            return _unknown(graph.words)
        if facts.rotation is None:
            return self._unrotated(facts, rows, graph)
        need = _turned(facts, facts.rotation, rows, graph, self._sources)
        if need.what == "rope" and (role in _LATENT or self.config.get("kv_lora_rank")):
            return _unknown(f"{need.why}; which rows of a latent head are rotated is not known")
        if facts.skipped and need.what == "rope":  # the same change to q and k changes nothing
            return replace(need, unrotated=True, why="this layer rotates neither q nor k")
        return need

    def _unrotated(self, facts: ParameterFacts, rows: str, graph: GraphRope) -> Need:
        if not facts.skipped:
            failed = self.facts.failed if self.facts else ""
            why = f": the model does not run on the meta device: {failed}" if failed else ""
            return _unknown(f"whether {facts.around} rotates {rows} is not known{why}")
        if graph.layout == "none":
            why = f"neither {facts.around} nor llama.cpp rotates it"
            return replace(_copied(why, self._sources), unrotated=True)
        return _unknown(f"{graph.words}, and {facts.around} was not seen to rotate {rows}")

    def _without_model(self, role: str) -> Need:
        """Without the transformers model: what is known of classes whose code is remote."""
        why = f"the original's modules are not known: {self.lacking}"
        names = self.config.get("architectures")
        name = names[0] if isinstance(names, list) and names else ""
        if role not in _ROTATED or not isinstance(name, str) or name not in REMOTE_HALF:
            return _unknown(why)
        heads = _heads(self.config, role)
        graph = graph_rope(self.arch, self.config)
        if heads is None or graph.layout != "interleaved":
            return _unknown(why)
        does = f"{name} rotates the halves of a head, {graph.words}"
        return _permuted(heads, does, False, SOURCE)


def _turned(
    facts: ParameterFacts, rotation: Rotation, rows: str, graph: GraphRope, source: str
) -> Need:
    """Of rows that the original rotates as *rotation* says."""
    if rotation.layout == "unknown":
        return _unknown(rotation.words)
    if graph.layout == "none":
        return _unknown(f"{graph.words}, and {facts.around} rotates {rows}")
    if rotation.size <= 2 or rotation.layout == graph.layout:
        how = "the halves of a head" if graph.layout == "half" else "neighbouring rows"
        return _copied(f"{rotation.function} of transformers, too, rotates {how}", source)
    back = graph.layout == "half"
    does = f"{rotation.function} rotates {'neighbouring rows' if back else 'the halves of a head'}"
    head_dim = facts.head_dim
    if head_dim is None or facts.shape[0] % head_dim:
        return _unknown(f"{does}, {graph.words}; how many heads there are is not known")
    if rotation.size != head_dim:
        words = f"the {rotation.size:,} rotated of the {head_dim:,} rows of each head permuted"
        need = Need("rope", words, source=source, back=back, why=f"{does}, {graph.words}")
    else:
        need = _permuted(facts.shape[0] // head_dim, f"{does}, {graph.words}", back, source)
    kind: Literal["to halves", "to pairs"] = "to halves" if back else "to pairs"
    order = RowOrder(kind, facts.shape[0] // head_dim, head_dim, rotation.size)
    return replace(need, order=order)


def _permuted(heads: int, why: str, back: bool, source: str) -> Need:
    kind = "NeoX" if back else "interleaved"
    words = f"its rows permuted for {kind} RoPE ({heads:,} head{'s' * (heads != 1)})"
    return Need("rope", words, heads=heads, source=source, back=back, why=why)


def _heads(config: Mapping[str, Any], role: str) -> int | None:
    """The heads of q or k that *config* names."""
    queries = config.get("num_attention_heads") or config.get("n_head")
    heads = queries if role == "attn_q" else config.get("num_key_value_heads") or queries
    return heads if type(heads) is int and heads > 0 else None


def _mixed_up(sources: Iterable[str], role: str, block: str | None) -> str:
    """Why a tensor of another layer or another part seems to be written under this name."""
    role = role.removesuffix("_exps").removesuffix("_shexp")
    for source in sources:
        number = _BLOCK.search(source)
        if block is not None and number is not None and int(number[1]) != int(block):
            return f"{source} is written as a tensor of block {block}"
        for names in _PEERS:
            for name, meant in names.items():
                own = f".{name}." in source
                if own and role in names.values() and role != meant:
                    return f"{source} is written as {role}"
    return ""


def _copied(why: str, source: str) -> Need:
    return Need("copy", "a plain copy", source=source, why=why)


def _unknown(why: str) -> Need:
    return Need("unknown", why)
