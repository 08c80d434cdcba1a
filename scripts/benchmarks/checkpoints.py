"""`ckpt`, from the files to the text on the screen, beside reading and parsing the headers."""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from benchmarks.measuring import BenchError, Measured, interleaved, timed

SHARDS, TENSORS = 200, 60_000
WIDTH = {"COLUMNS": "80"}


@patch.dict(os.environ, WIDTH)
def checkpoint_of_shards(
    repetitions: int, *, shards: int = SHARDS, tensors: int = TENSORS
) -> Measured:
    """A mixture of experts. Raises BenchError where what is printed is not all of it, folded."""
    with tempfile.TemporaryDirectory(prefix="modpdb-bench-") as name:
        folder = Path(name)
        make(folder, shards, tensors)
        printed = checkpoint_printed(folder)
        if f"{tensors:,} tensors" not in printed or printed.count("\n") > 40:
            raise BenchError(f"`ckpt` does not show {tensors:,} tensors, folded:\n{printed}")
        return interleaved(
            repetitions,
            timed(lambda: checkpoint_printed(folder)),
            timed(lambda: parsed(folder)),
            {"safetensors": timed(lambda: opened(folder))},
        )


def checkpoint_printed(folder: Path) -> str:
    """What `ckpt FOLDER` does: the headers, their view, and the view's text."""
    from modpdb.collector import collector_paused
    from modpdb.probes.checkpoint_files import open_checkpoint
    from modpdb.views.checkpoint import checkpoint
    from modpdb.views.console import print_to

    printed = io.StringIO()
    with collector_paused():
        found = open_checkpoint(folder)
        print_to(printed, [checkpoint("", found, len(found.tensors))], color=False)
    return printed.getvalue()


def parsed(folder: Path) -> list[dict[str, object]]:
    """The headers and the index, read and parsed by json, and nothing made of them."""
    found = [json.loads((folder / "model.safetensors.index.json").read_bytes())]
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            found.append(json.loads(file.read(int.from_bytes(file.read(8), "little"))))
    return found


def opened(folder: Path) -> list[tuple[str, str, list[int]]]:
    """The same by safetensors' own reader: names, dtypes, shapes."""
    from safetensors import safe_open

    found = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                part = file.get_slice(name)
                found.append((name, part.get_dtype(), part.get_shape()))
    return found


def names(tensors: int) -> Iterator[tuple[str, list[int]]]:
    """A mixture of 58 layers, with shapes, and as many more as are left of *tensors*."""
    yield "model.embed_tokens.weight", [129_280, 7_168]
    experts = (tensors - 1) // 58 // 3 - 1
    for layer in range(58):
        block = f"model.layers.{layer}"
        yield f"{block}.input_layernorm.weight", [7_168]
        yield f"{block}.self_attn.o_proj.weight", [7_168, 16_384]
        yield f"{block}.mlp.gate.weight", [experts, 7_168]
        for expert in range(experts):
            place = f"{block}.mlp.experts.{expert}"
            yield f"{place}.gate_proj.weight", [2_048, 7_168]
            yield f"{place}.up_proj.weight", [2_048, 7_168]
            yield f"{place}.down_proj.weight", [7_168, 2_048]
    for number in range(tensors - 1 - 58 * 3 * (experts + 1)):
        yield f"model.visual.{number}.norm.weight", [7_168]


def make(folder: Path, shards: int, tensors: int) -> None:
    """Files with headers and holes for data."""
    every = list(names(tensors))
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, shape in every[shard * tensors // shards : (shard + 1) * tensors // shards]:
            begin, end = end, end + 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
            weight_map[name] = file
        text = json.dumps(header, separators=(",", ":")).encode()
        with open(folder / file, "wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            out.truncate(8 + len(text) + end)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
