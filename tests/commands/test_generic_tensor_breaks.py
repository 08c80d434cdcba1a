"""`break-tensor` in scripts that no preset knows: where libraries read and write tensors by name."""

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

SCRIPT = """\
import torch
from torch import nn
from safetensors.torch import load_file, save_file
from safetensors import safe_open
net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
save_file(net.state_dict(), "a.safetensors")
save_file({"other": torch.ones(1)}, "b.safetensors")
load_file("b.safetensors")
with safe_open("a.safetensors", "pt") as file:
    file.get_tensor("0.weight")
net.load_state_dict(load_file("a.safetensors"))
torch.save(net.state_dict(), "a.bin")
torch.save([1, 2], "list.bin")
print("done")
"""


def test_where_libraries_handle_it(modpdb_run, tmp_path: Path) -> None:
    (tmp_path / "convert.py").write_text(SCRIPT)
    typed = (
        "break-tensor 0.weight\nbreak-tensor *.running_mean\nbreak-tensor nothing\nb\nc\np sorted(tensors)[0]\nc\np filename\nc\n"
        "p prefix, state_dict[prefix + 'weight'].shape\nc\np type(self).__name__\nc\np type(obj)\nc\n"
    )
    done = modpdb_run(["convert.py"], typed, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("done\n")
    assert "Breakpoint 1 at @0.weight, where it can be seen (help break-tensor)\n" in done.stdout
    functions = re.findall(r"\] > \S+\(\d+\)(\w+)\(\)$", done.stdout, re.MULTILINE)
    assert functions == [
        *("save_file", "load_file", "_load_from_state_dict", "_load_from_state_dict", "save")
    ]
    says = re.findall(r"^tensor (\S+) (.*)$", done.stdout, re.MULTILINE)
    assert says == [
        ("0.weight", "is about to be written, with the rest of its file"),
        ("1.running_mean", "is about to be written, with the rest of its file"),
        ("0.weight", "is in the file about to be read"),
        ("1.running_mean", "is in the file about to be read"),
        ("0.weight", "is about to be put into its module"),
        ("1.running_mean", "is about to be put into its module"),
        ("0.weight", "is about to be written, with the rest of its file"),
        ("1.running_mean", "is about to be written, with the rest of its file"),
    ]
    assert "(ModPdb) 'a.safetensors'\n" in done.stdout  # not b.safetensors
    assert "('0.', torch.Size([3, 4]))" in done.stdout and "'BatchNorm1d'" in done.stdout
    assert done.stderr == (
        "modpdb: breakpoint 3 at @nothing: no tensor of that name came after it was set\n"
    )


def test_from_pretrained(modpdb_run, llama_checkpoint: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    if int(transformers.__version__.partition(".")[0]) < 5:
        pytest.skip("before 5 transformers puts parameters in by other means")
    (tmp_path / "s.py").write_text(
        "import sys\nfrom transformers import LlamaForCausalLM\n"
        "LlamaForCausalLM.from_pretrained(sys.argv[1])\nprint('done')\n"
    )
    typed = "break-tensor model.layers.1.mlp.up_proj\nc\np target_name\nc\n"
    done = modpdb_run(["s.py", llama_checkpoint], typed, cwd=tmp_path)
    assert "(ModPdb) 'model.layers.1.mlp.up_proj.weight'\n" in done.stdout
    assert done.stdout.count("\ntensor ") == 1 and done.returncode == 0
