"""Names that are not mapped for a reason: quantised, another prefix or suffix, a block too many."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from modpdb.probes._static import class_attribute, mro, namespace
from modpdb.probes.conversion import SUFFIXES, Conversion, mapped_name
from modpdb.probes.explanations.explanation import Cause, Step, held, quoted
from modpdb.probes.explanations.mapping_files import constants_line
from modpdb.probes.explanations.slots import member_name

# What stands in the place of, or beside, `.weight` in quantised checkpoints.
_QUANTISED = {
    "qweight": "GPTQ, AWQ", "qzeros": "GPTQ, AWQ", "g_idx": "GPTQ",
    "scales": "GPTQ, AWQ, MLX", "biases": "MLX", "weight_scale_inv": "fp8 in blocks",
    "weight_scale": "fp8, int8 or fp4 (compressed-tensors, ModelOpt)", "input_scale": "fp8 or fp4",
    "weight_scale_2": "NVFP4", "weight_packed": "compressed-tensors",
    "weight_shape": "compressed-tensors", "weight_zero_point": "compressed-tensors",
    "weight_global_scale": "NVFP4", "input_global_scale": "NVFP4", "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes", "nested_absmax": "bitsandbytes", "SCB": "bitsandbytes int8",
    "weight_format": "bitsandbytes int8", "k_scale": "fp8 key-value cache",
    "v_scale": "fp8 key-value cache",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason that explains *names*, or fits them."""

    cause: Cause
    names: tuple[str, ...]
    words: Mapping[str, str]  # of a name, where there is more to say than the cause
    steps: tuple[Step, ...]
    label: str = ""  # the cause in a word, where there are several


def reasons_for(
    conversion: Conversion,
    mapping: dict[str, Any],
    names: list[str],
    taken: set[str],
    entries: Iterable[str],
) -> Iterator[Reason]:
    """Why *names* are not mapped, each name once. *taken*: GGUF names that others of *entries*,
    the names of the checkpoint, become."""
    left = list(names)
    reasons = (
        _quantised(conversion, left),
        _prefixed(conversion, mapping, left, taken, entries),
        _beyond(conversion, mapping, left),
        _other_suffix(mapping, left),
        _not_listed(conversion, left),
    )
    for reason in reasons:
        for found in reason:
            new = tuple(each for each in found.names if each in left)
            if new:
                left[:] = [each for each in left if each not in new]
                yield replace(found, names=new)


def _quantised(conversion: Conversion, names: list[str]) -> Iterator[Reason]:
    found = {each: kind for each in names if (kind := _QUANTISED.get(each.rpartition(".")[2]))}
    if not found:
        return
    config = (conversion.hparams if conversion.hparams is not None else {}).get(
        "quantization_config"
    )
    method = config.get("quant_method") if type(config) is dict else None
    kinds = ", ".join(dict.fromkeys(each for some in found.values() for each in some.split(", ")))
    words = f"this is a quantised checkpoint ({kinds}); "
    if type(method) is str:
        words += f"this version of the script does not dequantise {method}, its quant_method"
    else:
        words += "its config has no quantization_config, so that nothing is dequantised"
    alone = type(method) is not str and len({each.rpartition(".")[2] for each in found}) == 1
    steps = (
        Step("convert the checkpoint that it was quantised from"),
        Step("or a newer llama.cpp: dequant_model of conversion/base.py lists what it can undo")
        if type(method) is str
        else Step(
            "or copy quantization_config of the original's config.json into this one (older GPTQ "
            "has it in quantize_config.json): the script dequantises what it names"
        ),
    )
    yield Reason(Cause(words, guess=alone), tuple(found), {}, steps, "quantised")


def _prefixed(
    conversion: Conversion,
    mapping: dict[str, Any],
    names: list[str],
    taken: set[str],
    entries: Iterable[str],
) -> Iterator[Reason]:
    """Names that the map has behind other first parts: `model.` lost, `encoder.` added."""
    ends = _by_ends(mapping)
    left = set(names)
    used = Counter(start for each in entries if each not in left for start in _starts(each))
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for each in names:
        stem, suffix = _split(each)
        ways = {
            (old, new): made
            for old, new in _other_starts(stem, mapping, ends)
            if (made := f"{mapping[new + stem[len(old) :]][1]}{suffix}") not in taken
        }
        if ways:
            way = max(ways, key=lambda way: used[way[1]])  # as the mapped names begin
            groups.setdefault(way, {})[each] = ways[way]
    for (old, new), found in sorted(groups.items(), key=lambda item: -len(item[1])):
        many = "the name is" if len(found) == 1 else f"{len(found):,} names are"
        lost = f"{old} stands where the map has {new or 'nothing'}" if old else f"{new} is lost"
        cause = Cause(f"{lost}: changed so, {many} mapped, to GGUF names that are free", guess=True)
        words = {each: f"→ {_numbered(name)}" for each, name in found.items()}
        yield Reason(cause, tuple(found), words, (_rename(conversion, tuple(found), old, new),))


def _starts(name: str) -> Iterator[str]:
    """`model.`, `model.layers.`: what a name begins with, up to its first number."""
    parts = name.split(".")
    for end in range(1, min(len(parts), 4)):
        if parts[end - 1].isdecimal():
            return
        yield ".".join(parts[:end]) + "."


def _numbered(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "N", name, count=1)


def _by_ends(mapping: dict[str, Any]) -> dict[str, str]:
    """The start that the map has before each end of two parts or more; the commonest start."""
    starts = ("model.", "transformer.", "language_model.", "encoder.", "decoder.")
    found: dict[str, str] = {}
    for start in reversed(starts):
        for key in mapping:
            if type(key) is str and key.startswith(start):
                found[key[len(start) :]] = start
    return found


def _other_starts(
    stem: str, mapping: dict[str, Any], ends: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """(old start, new start) of each way in which the map would have *stem*."""
    parts = stem.split(".")
    for cut in range(min(len(parts), 5)):
        old, rest = ".".join(parts[:cut]), ".".join(parts[cut:])
        if any(part.isdecimal() for part in parts[:cut]):
            return
        old += "." if old else ""
        if cut and rest in mapping:
            yield old, ""
        if rest in ends and ends[rest] != old and (cut == 0 or "." in rest):
            yield old, ends[rest]


def _rename(conversion: Conversion, names: tuple[str, ...], old: str, new: str) -> Step:
    """A line for modify_tensors that gives the names their prefix."""
    first = list(dict.fromkeys(f"{each.split('.')[0]}." for each in names))
    if old:
        condition, value = (
            f"name.startswith({quoted(old)})",
            f"{quoted(new)} + name.removeprefix({quoted(old)})",
        )
    else:
        one_of = quoted(first[0]) if len(first) == 1 else f"({', '.join(map(quoted, first))})"
        condition, value = f"name.startswith({one_of})", f"{quoted(new)} + name"
    owner, file, line = override(conversion)
    if not file:
        return Step(
            f"in {conversion.class_name}",
            (
                "def modify_tensors(self, data_torch, name, bid):",
                f"    if {condition}:",
                f"        name = {value}",
                "    yield from super().modify_tensors(data_torch, name, bid)",
            ),
        )
    return Step(
        f"if so, first lines of {owner}.modify_tensors",
        (f"if {condition}:", f"    name = {value}"),
        file,
        line,
    )


def override(conversion: Conversion) -> tuple[str, str, int]:
    """The class nearest to the converter's with a modify_tensors, but not the base's."""
    for base in mro(type(conversion.model)):
        found = namespace(base).get("modify_tensors")
        code = getattr(found, "__code__", None)
        if (
            code is not None
            and "map_tensor_name" not in namespace(base)
            and base.__name__ != "LoraModel"
        ):
            return base.__name__, code.co_filename, code.co_firstlineno + 1
    return "", "", 0


def _beyond(conversion: Conversion, mapping: dict[str, Any], names: list[str]) -> Iterator[Reason]:
    """Blocks that the config does not count: MTP's, or a wrong num_hidden_layers."""
    count = held(conversion.model, "block_count")
    if type(count) is not int:
        return
    found = [
        each
        for each in names
        if (bid := _bid(each)) is not None
        and bid >= count
        and mapped_name(mapping, re.sub(rf"(?<=\.){bid}(?=\.)", "0", each, count=1)) is not None
    ]
    if not found:
        return
    last = max(_bid(each) or 0 for each in found)
    cause = Cause(
        f"the config counts {count} blocks, 0 to {count - 1}, and the checkpoint has them up to "
        f"{last}"
    )
    step = Step(
        "in config.json, unless the rest are MTP layers (num_nextn_predict_layers)",
        (f'  "num_hidden_layers": {last + 1},',),
    )
    yield Reason(cause, tuple(found), {}, (step,), "block not counted")


def _bid(name: str) -> int | None:
    """The first number of a name, as the converter takes it."""
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)


def _other_suffix(mapping: dict[str, Any], names: list[str]) -> Iterator[Reason]:
    groups: dict[str, list[str]] = {}
    for each in names:
        stem, _, last = each.rpartition(".")
        if stem in mapping and f".{last}" not in SUFFIXES:
            groups.setdefault(last, []).append(each)
    for last, some in groups.items():
        meant = {"gamma": "weight", "beta": "bias"}.get(last)
        words = f"→ {_numbered(mapping[some[0].rpartition('.')[0]][1])}.{meant or '?'}"
        cause = Cause(
            f"the map has the name without .{last}: only {' and '.join(SUFFIXES)} are taken off",
            guess=meant is None,
        )
        dotted = quoted(f".{last}")
        paste = (
            f"if name.endswith({dotted}):",
            f'    name = name.removesuffix({dotted}) + ".{meant or "weight"}"',
        )
        yield Reason(
            cause,
            tuple(some),
            dict.fromkeys(some, words),
            (Step("if so, first lines of modify_tensors", paste),),
        )


def _not_listed(conversion: Conversion, names: list[str]) -> Iterator[Reason]:
    """Names that tensor_mapping.py has, of tensors that the architecture's list has not."""
    known = _all_keys(conversion)
    groups: dict[str, list[str]] = {}
    for each in names:
        bid = _bid(each)
        stem = _split(each)[0]
        key = stem if bid is None else re.sub(rf"(?<=\.){bid}(?=\.|$)", "{bid}", stem, count=1)
        if key in known:
            groups.setdefault(known[key], []).append(each)
    arch = conversion.arch
    for member, some in groups.items():
        cause = Cause(
            f"tensor_mapping.py knows it as MODEL_TENSOR.{member}, which "
            f"MODEL_TENSORS[MODEL_ARCH.{arch}] does not list"
        )
        file, line = constants_line(arch)
        steps = (
            Step(
                f"if {arch} has it: in its list (llama.cpp's loader must read it, too)",
                (f"        MODEL_TENSOR.{member},",),
                file,
                line,
            ),
            Step(
                "else the checkpoint is of another architecture: see what its config says",
                ("hparams architectures",),
            ),
        )
        yield Reason(cause, tuple(some), {}, steps, f"not of {arch}")


def _all_keys(conversion: Conversion) -> dict[str, str]:
    """Every key of TensorNameMap's tables, whatever the architecture, with its MODEL_TENSOR."""
    cls = type(held(conversion.model, "tensor_map"))
    tables = [class_attribute(cls, "mappings_cfg"), class_attribute(cls, "block_mappings_cfg")]
    by_arch = class_attribute(cls, "arch_block_mappings_cfg")
    tables += list(by_arch.values()) if type(by_arch) is dict else []
    found: dict[str, str] = {}
    for table in tables:
        for member, keys in table.items() if type(table) is dict else ():
            for key in keys if type(keys) is tuple else ():
                if type(key) is str:
                    found.setdefault(key, member_name(member))
    return found


def _split(name: str) -> tuple[str, str]:
    suffix = next((each for each in SUFFIXES if name.endswith(each)), "")
    return name.removesuffix(suffix), suffix
