"""What the probes find in the real conversion, and that they leave it as it was."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from safetensors import safe_open

# Runs the script given to it; at each stage, looks at all there is and notes what was found.
LOOKING = """
import json, runpy, sys
from modpdb.probes.checkpoints import checkpoint_tree
from modpdb.probes.conversion import (find_conversion)
from modpdb.probes.conversion_tensors import (conversion_checkpoint, gguf_name)
from modpdb.probes.values import frame_locals

notes, script = sys.argv[1:3]
sys.argv = sys.argv[2:]
sys.path.insert(0, script.rpartition("/")[0])
stages = {"__init__", "prepare_tensors", "modify_tensors"}
found = {}

def look(frame, event, argument):
    name = frame.f_code.co_name
    if event != "call" or name not in stages or name in found:
        return
    if not hasattr(type(frame.f_locals.get("self")), "model_arch"):
        return  # of the many other classes' __init__
    frames, each = [], frame
    while each is not None:
        frames.append(each.f_locals)
        each = each.f_back
    conversion = find_conversion(frames)
    if conversion is None or conversion.model is not frame.f_locals["self"]:
        return
    checkpoint = conversion_checkpoint(conversion)
    found[name] = {
        "class": conversion.class_name,
        "arch": conversion.arch,
        "listed": checkpoint.from_model_tensors,
        "problems": checkpoint.problems,
        "elements": checkpoint_tree(checkpoint).root.facts.parameters,
        "tensors": {t.name: [t.dtype, t.shape, t.file] for t in checkpoint.tensors},
        "q": gguf_name(conversion, "model.layers.0.self_attn.q_proj.weight"),
        "locals": {v.name: [v.type, v.line] for v in frame_locals(frame.f_locals)},
    }
    found[name]["q"] = found[name]["q"] and found[name]["q"].name

sys.setprofile(look)
runpy.run_path(script, run_name="__main__")
sys.setprofile(None)
json.dump(found, open(notes, "w"))
"""

Run = Callable[..., "CompletedProcess[str]"]


def converted(run: Run, tree: Path, checkpoint: Path, out: Path, *before: str) -> str:
    script = [str(tree / "convert_hf_to_gguf.py"), str(checkpoint), "--outfile", str(out)]
    done = run([*before, *script, "--outtype", "bf16"], timeout=300)
    assert done.returncode == 0, done.stderr
    return hashlib.sha256(out.read_bytes()).hexdigest()


@pytest.mark.conversion
@pytest.mark.parametrize("tree", ["llama_cpp", "llama_cpp_single_file"])
def test_the_real_conversion(
    tree: str, request: pytest.FixtureRequest, plain_run: Run, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(tree)
    checkpoint = request.getfixturevalue("gemma3_checkpoint")
    notes = tmp_path / "notes.json"
    plain = converted(plain_run, folder, checkpoint, tmp_path / "plain.gguf")
    watched = converted(
        plain_run, folder, checkpoint, tmp_path / "watched.gguf", "-c", LOOKING, str(notes)
    )
    assert watched == plain
    found = json.loads(notes.read_text())
    assert set(found) == {"__init__", "prepare_tensors", "modify_tensors"}
    with safe_open(checkpoint / "model.safetensors", framework="numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    for stage in found.values():
        check_stage(stage, shapes)
    lazy_type, lazy_line = found["modify_tensors"]["locals"]["data_torch"]
    assert lazy_type == "LazyTorchTensor"
    assert lazy_line.endswith(" lazy")
    assert found["prepare_tensors"]["q"] == "blk.0.attn_q.weight"
    assert found["__init__"]["q"] is None  # there is no name map yet
    assert found["prepare_tensors"]["listed"] is (tree == "llama_cpp")


def check_stage(stage: dict[str, Any], shapes: dict[str, list[int]]) -> None:
    assert (stage["class"], stage["arch"]) == ("Gemma3Model", "GEMMA3")
    assert stage["problems"] == []
    assert {name: shape for name, (_, shape, _) in stage["tensors"].items()} == shapes
    assert {(dtype, file) for dtype, _, file in stage["tensors"].values()} == {
        ("bf16", "model.safetensors")
    }
    assert stage["elements"] > 0
