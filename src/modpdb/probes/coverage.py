"""What is written against what the architecture needs: tensors, their shapes, metadata keys.

Two sources, each named where it speaks. The loader's own facts (loader_facts) say what is required,
what is optional and which shape is expected; gguf's `MODEL_TENSORS`, from the script's own module,
says what an architecture may contain, and is all there is for one that the loader's facts do not
have. Plain data in, plain data out: what is looked at may be a live writer, a dry run's result or
a file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from modpdb.probes.coverage_findings import Coverage, Finding
from modpdb.probes.coverage_shapes import Rows, needed_shape, wrong_shapes
from modpdb.probes.gguf_contents import BLOCKS, GGUFContents
from modpdb.probes.gguf_table import gguf_tensors, not_in_all_blocks
from modpdb.probes.loader_facts import (
    NOT_REQUIRED,
    UNKNOWN,
    ArchitectureFacts,
    Expressions,
    TensorRow,
    architecture_facts,
)

# Where the converter takes a required key from, if it has it: conversion/base.py, TextModel's
# set_gguf_parameters, llama-cpp-python 0.3.36; the key is left out where the config has none.
_FROM = {
    "context_length": "max_position_embeddings, n_ctx, …",
    "embedding_length": "hidden_size, n_embd, dim, …",
    "block_count": "num_hidden_layers, n_layers, …",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps, norm_eps",
    "attention.layer_norm_epsilon": "layer_norm_eps, layer_norm_epsilon, norm_epsilon",
}


@dataclass(slots=True)
class _Asked:
    """Tensors by name, as the rows of the facts ask for them."""

    rows: dict[str, Rows] = field(default_factory=dict)
    uncertain: set[str] = field(default_factory=set)  # under a condition that is not known
    not_wanted: dict[str, str] = field(default_factory=dict)  # the condition does not hold
    unnamed: bool = False
    uncounted: set[str] = field(default_factory=set)  # numbers of blocks that are not known


def coverage(
    arch: str,
    written: Iterable[tuple[str, tuple[int, ...] | None]],
    metadata: Mapping[str, object],
    gguf_module: object = None,
    *,
    blocks: int | None = None,
    tied: bool | None = None,
    dropped: Collection[str] = (),
) -> Coverage:
    """Of *arch*, by its name in `general.architecture`: tensors *written*, (name, ne), and
    *metadata*, whose values are numbers, bools, str or gguf_contents.Array.

    *gguf_module* is the script's gguf, None for none. *blocks* is the number of blocks for as long
    as the metadata does not have it. *tied* says whether the source has tied embeddings, None where
    that is not known. *dropped* are source tensors of which is known that nothing was made.
    """
    tensors = dict(written)
    findings = [Finding("dropped", name, "nothing was made of it") for name in dropped]
    adapter = metadata.get("general.type") == "adapter"  # which no table speaks of
    facts = None if adapter else architecture_facts(arch)
    if facts is None:
        return _by_gguf(arch, tensors, gguf_module, blocks, metadata, findings)
    held = dict(metadata)
    if blocks is not None:
        held.setdefault(f"{arch}.block_count", blocks)
    expressions = Expressions(arch, facts.definitions, held, tensors.keys())
    keys, required_keys = _keys(facts, expressions, metadata)
    asked = _asked(facts, expressions, tensors)
    missing, present, absent, unjudged = _missing(facts, expressions, asked, tensors, tied)
    shapes, more = wrong_shapes(expressions, asked.rows, asked.uncertain, tensors)
    unexpected, unsure = _unexpected(arch, facts, asked, tensors, gguf_module)
    refused = _refused(facts, expressions)
    findings = [*missing, *shapes, *unexpected, *keys, *refused, *findings]
    required = present + sum(each.kind == "missing" for each in missing)
    return Coverage(
        arch,
        facts.source,
        tuple(findings),
        required,
        present,
        required_keys,
        required_keys - sum(each.kind == "key" for each in keys),
        tuple(absent),
        (*unjudged, *more, *unsure),
    )


def contents_coverage(
    found: GGUFContents, gguf_module: object = None, **known: Any
) -> Coverage | None:
    """Of what a writer or a file holds; None where it has no architecture. *known* as for
    `coverage`."""
    if not found.architecture:
        return None
    written = [(each.name, each.ne) for each in found.tensors]
    metadata = {each.key: each.value for each in found.metadata}
    return coverage(found.architecture, written, metadata, gguf_module, **known)


def so_far(found: Coverage, unfinished: str) -> Coverage:
    """What can be said while *unfinished* is still to come: metadata is written last, and decides
    what is needed. So neither what is missing nor what is optional; only what no loader wants."""
    kinds = ("unexpected", "dropped")
    findings = tuple(
        each
        for each in found.findings
        if each.kind in kinds and not each.remark.startswith("it would if")
    )
    return replace(found, findings=findings, absent=(), unjudged=(), unfinished=unfinished)


# -- keys --------------------------------------------------------------------------------------


def _keys(
    facts: ArchitectureFacts, expressions: Expressions, metadata: Mapping[str, object]
) -> tuple[list[Finding], int]:
    """Required keys that are not there, and how many are required."""
    findings: dict[str, Finding] = {}
    required = set()
    for key, condition in facts.keys:
        full = expressions.full_key(key)
        needed = expressions.value(condition, 0)
        if needed is UNKNOWN and full not in metadata and _answerable(condition, metadata):
            words = "whether the loader requires it"
            findings.setdefault(full, Finding("doubtful", full, words, remark=condition))
        elif needed is not UNKNOWN and needed:
            required.add(full)
            if full not in metadata:
                remark = f"the converter takes it from {_FROM[key]}" if key in _FROM else ""
                words = "the loader stops without it"
                findings[full] = Finding("key", full, words, remark=remark)
    return list(findings.values()), len(required)


def _answerable(condition: str, metadata: Mapping[str, object]) -> bool:
    """Not one that waits for `tokenizer.ggml.model`, which is asked for by itself."""
    return "tokenizer.ggml.model" not in condition or "tokenizer.ggml.model" in metadata


def _refused(facts: ArchitectureFacts, expressions: Expressions) -> list[Finding]:
    found = []
    for condition in facts.refused:
        if expressions.value(condition, 0) is UNKNOWN or not expressions.value(condition, 0):
            continue
        keys = expressions.mentioned(condition)
        found.append(Finding("refused", ", ".join(keys), f"the loader stops where {condition}"))
    return found


# -- tensors -----------------------------------------------------------------------------------


def _asked(facts: ArchitectureFacts, expressions: Expressions, tensors: Collection[str]) -> _Asked:
    found = _Asked()
    for row in facts.tensors:
        count = expressions.value(row.count) if row.count else 1
        if type(count) is not int or count > BLOCKS:
            # What is asked for is not known; what is there is expected.
            found.uncounted.add(row.count)
            pattern = _pattern(row.name)
            for name in filter(pattern.fullmatch, tensors):
                found.uncertain.add(name)
                found.rows.setdefault(name, [])
            continue
        for block in range(count):
            _one_asked(found, row, block if row.count else None, expressions)
    return found


def _one_asked(found: _Asked, row: TensorRow, block: int | None, expressions: Expressions) -> None:
    wanted = expressions.value(row.condition, block)
    if wanted is not UNKNOWN and not wanted:
        name = expressions.filled(row.name, block)
        if name is not None:
            found.not_wanted.setdefault(name, row.condition)
        return
    name = None if row.name == "unknown" else expressions.filled(row.name, block)
    if name is None:
        found.unnamed = True
        return
    found.rows.setdefault(name, []).append((row, block))
    if wanted is UNKNOWN:
        found.uncertain.add(name)


def _pattern(name: str) -> re.Pattern[str]:
    parts = re.split(r"\{[^{}]+\}", name)
    return re.compile(r"\d+".join(map(re.escape, parts)))


def _missing(
    facts: ArchitectureFacts,
    expressions: Expressions,
    asked: _Asked,
    tensors: Collection[str],
    tied: bool | None,
) -> tuple[list[Finding], int, list[str], list[Finding]]:
    """Required tensors that are not there, how many are, the optional ones that are not, and those
    of which it is not known."""
    missing: list[Finding] = []
    absent: list[str] = []
    unjudged: list[Finding] = []
    present = 0
    for name, rows in asked.rows.items():
        needs = [_needed(row, block, expressions) for row, block in rows]
        needed = True in needs and name not in asked.uncertain
        if name in tensors:
            present += needed
        elif needed:
            row, block = rows[needs.index(True)]
            missing.append(_lack(name, row, block, expressions))
        elif UNKNOWN in needs or (True in needs and name in asked.uncertain):
            row, _ = rows[0]
            condition = row.condition if name in asked.uncertain else row.flags
            words = "whether the loader requires it"
            unjudged.append(Finding("doubtful", name, words, remark=_readable(condition)))
        elif name in facts.instead:
            missing += _instead(name, facts.instead[name], tied)
            absent += [name] if tied is not False else []
        else:
            absent.append(name)
    unjudged += [
        Finding("doubtful", count, "how many blocks there are") for count in sorted(asked.uncounted)
    ]
    return missing, present, absent, unjudged


def _needed(row: TensorRow, block: int | None, expressions: Expressions) -> Any:
    flags = expressions.value(row.flags, block)
    return UNKNOWN if type(flags) is not int else not flags & NOT_REQUIRED


def _lack(name: str, row: TensorRow, block: int | None, expressions: Expressions) -> Finding:
    shape = needed_shape(row, block, expressions)
    condition = "" if row.condition == "True" else f"as {_readable(row.condition)}"
    return Finding("missing", name, "the loader requires it", None, shape, condition)


def _readable(condition: str) -> str:
    """Without what is said of each block by its number."""
    return condition.replace("blk.{i}.", "")


def _instead(name: str, other: str, tied: bool | None) -> list[Finding]:
    if tied is False:
        words = f"the loader takes {other} instead, but the source is not tied"
        return [Finding("missing", name, words)]
    if tied is None:
        words = (
            f"not there; the loader takes {other}: right only if the source's embeddings are tied"
        )
        return [Finding("note", name, words)]
    return []


def _unexpected(
    arch: str,
    facts: ArchitectureFacts,
    asked: _Asked,
    tensors: Collection[str],
    gguf_module: object,
) -> tuple[list[Finding], list[Finding]]:
    """Tensors that no row asks for: the loader counts them, and stops at the wrong number."""
    found: list[Finding] = []
    unsure: list[Finding] = []
    sidecars = [_pattern(each) for each in facts.sidecars]
    may_contain = gguf_tensors(gguf_module, arch)
    for name in tensors:
        if name in asked.rows or any(each.fullmatch(name) for each in sidecars):
            continue
        if asked.unnamed:
            unsure.append(Finding("doubtful", name, "whether the loader asks for it"))
            continue
        remark = ""
        if name in asked.not_wanted:
            remark = f"it would if {_readable(asked.not_wanted[name])}"
        elif may_contain and not any(each.fullmatch(name) for each in may_contain):
            remark = f"nor has gguf.MODEL_TENSORS it for {arch}"
        words = "the loader does not ask for it, and stops at a wrong number of tensors"
        found.append(Finding("unexpected", name, words, remark=remark))
    return found, unsure


# -- without the loader's facts --------------------------------------------------------------


def _by_gguf(
    arch: str,
    tensors: Mapping[str, tuple[int, ...] | None],
    gguf_module: object,
    blocks: int | None,
    metadata: Mapping[str, object],
    findings: list[Finding],
) -> Coverage:
    """Of an architecture that no loader's facts are known of: what can be said all the same."""
    may_contain = gguf_tensors(gguf_module, arch)
    found: list[Finding] = []
    if may_contain:
        found += [
            Finding("doubtful", name, "gguf.MODEL_TENSORS does not have it for the architecture")
            for name in tensors
            if not any(each.fullmatch(name) for each in may_contain)
        ]
    count = metadata.get(f"{arch}.block_count", blocks)
    if type(count) is int and 0 < count <= BLOCKS:
        found += [
            Finding("doubtful", name, "not in every block", remark=f"in {there} of {count}")
            for name, there in not_in_all_blocks(tensors, count)
        ]
    return Coverage(arch, "", (*found, *findings))
