#!/usr/bin/env python3
"""Writes down what llama.cpp's loader needs: src/modpdb/probes/loader_facts.json.

Of each architecture: the metadata keys that are read as required, the tensors that are made, with
their shapes, and under which conditions. They are taken from the C++ of `load_hparams`,
`load_arch_hparams` and `load_arch_tensors`, which is gone through symbolically, statement by
statement: `if`s become conditions, loops over blocks an index `i`, hyperparameters expressions of
metadata keys. What cannot be followed (a loop within a loop, a call that is not known here) is
written down as not known, never left out and never guessed.

To redo it for another version:

    pip download --no-deps --no-binary :all: llama-cpp-python==VERSION; unpack vendor/llama.cpp/src
    python scripts/loader_facts.py FOLDER/vendor/llama.cpp/src VERSION

Needs the standard library only. The expressions are Python's, for probes/loader_facts.py.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from loader_cpp.functions import Sources
from loader_cpp.walk import Architecture

FACTS = Path(__file__).resolve().parent.parent / "src/modpdb/probes/loader_facts.json"
# Vision and audio projectors, which tools/mtmd loads.
NOT_LOADED_HERE = {"clip"}
# llama-vocab.cpp's load(), which is no table: by hand.
_BPE = "key('tokenizer.ggml.model') in ('gpt2', 'hybriddna', 'whitespace', 'gemma4')"
_NO_VOCABULARY = "key('tokenizer.ggml.model') in ('none', 'no_vocab')"
TOKENIZER = [
    ["tokenizer.ggml.model", "True"],
    ["tokenizer.ggml.tokens", f"not ({_NO_VOCABULARY})"],
    ["tokenizer.ggml.merges", f"{_BPE} and key('tokenizer.ggml.pre', '') != 'kimi-k2'"],
]
VOCABULARY = f"key('vocab_size', 0) if {_NO_VOCABULARY} else length('tokenizer.ggml.tokens')"
_LINE = 100  # characters, beyond which a value is spread over lines


def facts(sources: Sources, version: str) -> dict[str, Any]:
    """The whole file: what all architectures have in common, and what each has of its own."""
    read = {
        arch: Architecture(sources, arch, sources.classes[symbol])
        for symbol, arch in sources.architectures.items()
        if symbol in sources.classes and arch not in NOT_LOADED_HERE
    }
    for arch, each in read.items():
        if each.left_out:
            raise SystemExit(f"{arch}: tensors were not come by: {', '.join(each.left_out)}")
        each.definitions["n_vocab"] = VOCABULARY
    definitions = most_common([each.needed() for each in read.values()])
    keys = in_all([each.keys for each in read.values()])
    refused = in_all([each.refused for each in read.values()])
    return {
        "source": f"llama.cpp's loader, as of llama-cpp-python {version}",
        "general": sources.general,
        "definitions": definitions,
        "keys": keys + TOKENIZER,
        "refused": refused,
        "sidecars": sources.sidecars,
        "architectures": {
            arch: {
                "definitions": {
                    name: text
                    for name, text in sorted(each.needed().items())
                    if definitions.get(name) != text
                },
                "keys": [row for row in each.keys if row not in keys],
                "refused": [row for row in each.refused if row not in refused],
                "instead": each.instead,
                "tensors": each.tensors,
            }
            for arch, each in sorted(read.items())
        },
    }


def most_common(found: list[dict[str, str]]) -> dict[str, str]:
    """Of each name what most architectures have; an architecture has what differs itself."""
    counts: dict[str, Counter[str]] = {}
    for each in found:
        for name, text in each.items():
            counts.setdefault(name, Counter())[text] += 1
    return {name: counter.most_common(1)[0][0] for name, counter in sorted(counts.items())}


def in_all(found: list[list[Any]]) -> list[Any]:
    first, *rest = found
    return [row for row in first if all(row in each for each in rest)]


def written(value: Any, indent: str = "") -> str:
    """JSON with a fact to a line, so that what a later version changes can be read."""
    text = json.dumps(value, ensure_ascii=False)
    row = isinstance(value, list) and all(not isinstance(each, list) for each in value)
    row = row or (isinstance(value, list) and isinstance(value[0], str))
    if len(indent) + len(text) <= _LINE or row or not isinstance(value, dict | list):
        return text
    inside = indent + " "
    if isinstance(value, list):
        lines = [inside + written(each, inside) for each in value]
        return "[\n" + ",\n".join(lines) + f"\n{indent}]"
    lines = [f"{inside}{json.dumps(key)}: {written(each, inside)}" for key, each in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes down what llama.cpp's loader needs.")
    parser.add_argument("source", type=Path, help="llama.cpp's folder src")
    parser.add_argument("version", help="of llama-cpp-python, to say where the facts are from")
    parser.add_argument("--output", type=Path, default=FACTS)
    args = parser.parse_args()
    found = facts(Sources(args.source), args.version)
    args.output.write_text(written(found) + "\n", "utf-8")
    rows = [row for arch in found["architectures"].values() for row in arch["tensors"]]
    unknown = sum("unknown" in json.dumps(row) for row in rows)
    print(f"{len(found['architectures'])} architectures, {len(rows)} rows, {unknown} with unknowns")
    return 0


if __name__ == "__main__":
    sys.exit(main())
