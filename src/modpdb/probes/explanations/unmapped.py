"""`Can not map tensor`: names that the name map has no GGUF name for, and what they may be."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modpdb.probes._static import class_attribute, mro, namespace
from modpdb.probes.conversion import SUFFIXES, Conversion, mapped_name, name_mapping
from modpdb.probes.explanations.explanation import (
    Ahead,
    Caught,
    Cause,
    Explanation,
    Row,
    Step,
    Table,
    held,
    in_quotes,
    raised,
)
from modpdb.probes.explanations.guesses import Guess, Missing, guesses_for
from modpdb.probes.explanations.sizes import tensors_of
from modpdb.probes.explanations.slots import slots_of
from modpdb.probes.tensor_names import base_name

_LISTED = 2_000  # names that are explained
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
class _Found:
    """A reason that explains *names*, the sure ones first."""

    cause: Cause
    names: tuple[str, ...]
    words: Mapping[str, str]  # of a name, where there is more to say than the cause
    steps: tuple[Step, ...]


def unmapped(caught: Caught) -> Explanation | None:
    """Why names are not mapped, all of those that are known, and what to change for each."""
    if not raised(caught, ValueError) or not caught.message.startswith("Can not map tensor"):
        return None
    frame, conversion = caught.frame("map_tensor_name"), caught.conversion
    name: Any = frame.variables.get("name") if frame is not None else None
    name = name if type(name) is str else in_quotes(caught.message)
    if conversion is None or frame is None or not name:
        return None
    entries = {each.name: each for each in tensors_of(conversion)}
    if conversion.adapter is not None:
        entries = {base_name(key): each for key, each in entries.items()}
    mapping = name_mapping(conversion)
    ahead = caught.ahead
    if ahead is None or not ahead.exact:
        ahead = _by_name_map(mapping, entries, name, ahead.why if ahead is not None else "")
    names = list(dict.fromkeys([name, *ahead.unmapped]))[:_LISTED]
    shapes = {
        each: None if conversion.adapter else entries[each].shape if each in entries else None
        for each in names
    }
    taken = {made for each in entries if each not in names and (made := mapped_name(mapping, each))}
    found = list(_reasons(conversion, mapping, names, taken, entries))
    explained = {each for reason in found for each in reason.names}
    rest = [Missing(each, shapes[each]) for each in names if each not in explained]
    guesses = guesses_for(rest, slots_of(conversion), mapping, taken)
    return _explained(caught, name, names, found, guesses, shapes, ahead)


def _by_name_map(mapping: dict[str, Any], names: Iterable[str], at: str, why: str) -> Ahead:
    """The names from *at* on that the map has nothing for."""
    listed = list(names)
    rest = listed[listed.index(at) :] if at in listed else listed
    found = tuple(each for each in rest if mapped_name(mapping, each) is None)
    return Ahead(found, False, f"by the name map alone ({why})" if why else "by the name map alone")


def _explained(
    caught: Caught,
    name: str,
    names: list[str],
    found: list[_Found],
    guesses: list[Guess],
    shapes: Mapping[str, tuple[int, ...] | None],
    ahead: Ahead,
) -> Explanation:
    others = len(names) - 1
    says = f"the name map has no GGUF name for {name}"
    made_from = _made_from(caught, name)
    says += f", which the converter made of {made_from}" if made_from else ""
    if others:
        says += f"; {others:,} more {'name' if others == 1 else 'names'} to come {'has' if others == 1 else 'have'} none"
    causes = [reason.cause for reason in found]
    causes += _guessed(caught, guesses)
    rows = [
        Row(each, ("", reason.words.get(each, ""))) for reason in found for each in reason.names
    ]
    rows += [
        Row(each, (_shape(shapes[each]), guess.words)) for guess in guesses for each in guess.names
    ]
    order = {each: number for number, each in enumerate(names)}
    rows.sort(key=lambda row: order[row.name])
    guessed = any(each.slot for each in guesses)
    head = "names without a GGUF name" + (", → what it may be" if guessed else "")
    steps = [step for reason in found for step in reason.steps]
    steps += _to_paste([each for each in guesses if each.slot])
    return Explanation(
        "unmapped",
        says,
        tuple(causes),
        (Table(head, tuple(rows), brief=True),),
        tuple(steps),
        _asked_by(caught),
        "" if ahead.exact else f"{ahead.why}: a converter may still rename, split or drop names",
    )


def _guessed(caught: Caught, guesses: list[Guess]) -> list[Cause]:
    arch = caught.conversion.arch if caught.conversion is not None else ""
    fitting = sum(len(each.names) for each in guesses if each.slot)
    other = sum(len(each.names) for each in guesses if not each.slot)
    causes = []
    if fitting:
        causes.append(
            Cause(
                f"tensor_mapping.py lacks {_names(fitting)}; {arch} has free tensors of such shapes",
                guess=True,
            )
        )
    if other:
        causes.append(
            Cause(
                f"{_names(other)} {'is' if other == 1 else 'are'} like no tensor of {arch} that is "
                "free: the model is of another architecture, or the converter must drop them",
                guess=True,
            )
        )
    return causes


def _names(number: int) -> str:
    return "1 name" if number == 1 else f"{number:,} names"


def _shape(dims: tuple[int, ...] | None) -> str:
    return "" if dims is None else "[" + ", ".join(map(str, dims)) + "]"


def _asked_by(caught: Caught) -> str:
    asking = next((f for f in caught.frames if f.function != "map_tensor_name"), None)
    return asking.place if asking is not None else ""


def _made_from(caught: Caught, name: str) -> str:
    """The tensor of the loop, where that is another."""
    loop = caught.frame("prepare_tensors")
    source = loop.variables.get("name") if loop is not None else None
    return source if type(source) is str and source != name else ""


# -- reasons that are more than a likeness ----------------------------------------------------------------


def _reasons(
    conversion: Conversion,
    mapping: dict[str, Any],
    names: list[str],
    taken: set[str],
    entries: Iterable[str],
) -> Iterator[_Found]:
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
                yield _Found(found.cause, new, found.words, found.steps)


def _quantised(conversion: Conversion, names: list[str]) -> Iterator[_Found]:
    found = {each: kind for each in names if (kind := _QUANTISED.get(each.rpartition(".")[2]))}
    if not found:
        return
    config = (conversion.hparams if conversion.hparams is not None else {}).get(
        "quantization_config"
    )
    method = config.get("quant_method") if type(config) is dict else None
    kinds = ", ".join(dict.fromkeys(each for some in found.values() for each in some.split(", ")))
    words = f"this is a quantised checkpoint ({kinds})"
    if type(method) is str:
        words += f"; quantization_config says {method}"
        todo = f"and this version of the script does not dequantise {method}"
    else:
        words += "; the config has no quantization_config, by which the converter would know to dequantise it"
        todo = ""
    words += f", {todo}" if todo else ""
    steps = (
        Step("convert the checkpoint that it was quantised from"),
        Step("or a newer llama.cpp: dequant_model of conversion/base.py lists what it can undo")
        if type(method) is str
        else Step(
            "see whether the original config.json has a quantization_config", ("hparams *quant*",)
        ),
    )
    yield _Found(Cause(words), tuple(found), {}, steps)


def _prefixed(
    conversion: Conversion,
    mapping: dict[str, Any],
    names: list[str],
    taken: set[str],
    entries: Iterable[str],
) -> Iterator[_Found]:
    """Names that the map has behind other first parts: `model.` lost, `encoder.` added."""
    ends = _by_ends(mapping)
    left = {each for each in names}
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
        yield _Found(cause, tuple(found), words, (_rename(conversion, tuple(found), old, new),))


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
    starts = (
        "model.",
        "transformer.",
        "language_model.",
        "model.language_model.",
        "encoder.",
        "decoder.",
    )
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
        condition, value = f'name.startswith("{old}")', f'"{new}" + name.removeprefix("{old}")'
    else:
        what = (
            f'"{first[0]}"'
            if len(first) == 1
            else f"({', '.join(f'{chr(34)}{each}{chr(34)}' for each in first)})"
        )
        condition, value = f"name.startswith({what})", f'"{new}" + name'
    owner, file, line = _override(conversion)
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


def _override(conversion: Conversion) -> tuple[str, str, int]:
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


def _beyond(conversion: Conversion, mapping: dict[str, Any], names: list[str]) -> Iterator[_Found]:
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
        f"the config counts {count} blocks, 0 to {count - 1}, and the checkpoint has them up to {last}"
    )
    guess = Cause(
        "they are MTP layers (num_nextn_predict_layers), or num_hidden_layers is wrong", guess=True
    )
    step = Step(
        f"if num_hidden_layers is wrong, in config.json; {guess.words}",
        (f'  "num_hidden_layers": {last + 1},',),
    )
    yield _Found(cause, tuple(found), {}, (step,))


def _bid(name: str) -> int | None:
    """The first number of a name, as the converter takes it."""
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)


def _other_suffix(mapping: dict[str, Any], names: list[str]) -> Iterator[_Found]:
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
        paste = (
            f'if name.endswith(".{last}"):',
            f'    name = name.removesuffix(".{last}") + ".{meant or "weight"}"',
        )
        yield _Found(
            cause,
            tuple(some),
            dict.fromkeys(some, words),
            (Step("if so, first lines of modify_tensors", paste),),
        )


def _not_listed(conversion: Conversion, names: list[str]) -> Iterator[_Found]:
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
            f"tensor_mapping.py knows it as MODEL_TENSOR.{member}, which MODEL_TENSORS[MODEL_ARCH.{arch}] "
            "does not list"
        )
        file, line = _constants_line(arch)
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
        yield _Found(cause, tuple(some), {}, steps)


def _all_keys(conversion: Conversion) -> dict[str, str]:
    """Every key of TensorNameMap's tables, whatever the architecture, with its MODEL_TENSOR."""
    cls = type(held(conversion.model, "tensor_map"))
    tables = [class_attribute(cls, "mappings_cfg"), class_attribute(cls, "block_mappings_cfg")]
    by_arch = class_attribute(cls, "arch_block_mappings_cfg")
    tables += list(by_arch.values()) if type(by_arch) is dict else []
    found: dict[str, str] = {}
    from modpdb.probes.explanations.slots import member_name

    for table in tables:
        for member, keys in table.items() if type(table) is dict else ():
            for key in keys if type(keys) is tuple else ():
                if type(key) is str:
                    found.setdefault(key, member_name(member))
    return found


def _split(name: str) -> tuple[str, str]:
    suffix = next((each for each in SUFFIXES if name.endswith(each)), "")
    return name.removesuffix(suffix), suffix


# -- where to write it ------------------------------------------------------------------------------------


def _to_paste(guesses: list[Guess]) -> list[Step]:
    """One step for all lines that tensor_mapping.py is to have."""
    lines = _mapping_lines() if guesses else {}
    placed = sorted((lines.get(each.slot, 0), each.slot, each.key) for each in guesses)
    paste = tuple(
        f'"{key}",  # {f"line {line}, " if line else ""}MODEL_TENSOR.{slot}'
        for line, slot, key in placed
    )
    words = "if so, below these lines"
    return [Step(words, paste, _file_of("gguf.tensor_mapping"))] if guesses else []


def _file_of(module: str) -> str:
    found: Any = vars(sys.modules[module]).get("__file__") if module in sys.modules else None
    return found if type(found) is str else ""


def _mapping_lines() -> dict[str, int]:
    """The line of each MODEL_TENSOR's key in tensor_mapping.py: the block's where it has two."""
    found: dict[str, int] = {}
    for node in ast.walk(_tree("gguf.tensor_mapping")):
        for key in node.keys if isinstance(node, ast.Dict) else ():
            if isinstance(key, ast.Attribute) and isinstance(key.value, ast.Name):
                if key.value.id == "MODEL_TENSOR":
                    found.setdefault(key.attr, key.lineno)
    return found


def _constants_line(arch: str) -> tuple[str, int]:
    """Where MODEL_TENSORS[MODEL_ARCH.arch] begins in constants.py: `MODEL_ARCH.X: [`."""
    for node in ast.walk(_tree("gguf.constants")):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if (
                    isinstance(key, ast.Attribute)
                    and key.attr == arch
                    and isinstance(value, ast.List)
                ):
                    return _file_of("gguf.constants"), value.lineno + 1
    return _file_of("gguf.constants"), 0


def _tree(module: str) -> ast.AST:
    try:
        return ast.parse(Path(_file_of(module)).read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ast.Module([], [])
