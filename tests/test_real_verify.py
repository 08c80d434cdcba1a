"""verify: what the real scripts write, judged from the shell and at the prompt."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import run_python
from derived import Tensors, derived, lora_adapter

pytestmark = pytest.mark.conversion

WIDE = {"COLUMNS": "160"}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Converts a checkpoint by the script of a tree, once; returns the file."""
    known: dict[tuple[Path, Path, str], Path] = {}

    def convert(tree: Path, checkpoint: Path, outtype: str) -> Path:
        key = tree, checkpoint, outtype
        if key not in known:
            out = tmp_path_factory.mktemp("converted") / f"{checkpoint.name}-{outtype}.gguf"
            script = tree / "convert_hf_to_gguf.py"
            done = run_python([script, checkpoint, "--outfile", out, "--outtype", outtype])
            assert done.returncode == 0, done.stderr
            known[key] = out
        return known[key]

    return convert


@pytest.fixture
def verify(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """`modpdb verify …` in this process, where torch and transformers are imported once."""
    for name in ("torch", "gguf", "transformers"):
        pytest.importorskip(name)
    from modpdb.programs.verify import main

    monkeypatch.setenv("COLUMNS", "160")

    def run(*args: str | Path) -> Any:
        status = main([str(each) for each in args])
        said = capsys.readouterr()
        return SimpleNamespace(returncode=status, stdout=said.out, stderr=said.err)

    return run


@pytest.fixture(scope="module")
def renamed(llama_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return derived(
        llama_checkpoint, tmp_path_factory.mktemp("derived") / "renamed", {}, without_its_name
    )


@pytest.fixture
def shell(plain_run, llama_cpp: Path) -> Callable[..., Any]:
    """`modpdb verify …`, with the gguf package of the newest tree."""

    def run(*args: str | Path, env: Mapping[str, str] = WIDE) -> Any:
        path = os.pathsep.join([str(llama_cpp / "gguf-py"), os.environ.get("PYTHONPATH", "")])
        return plain_run(["-m", "modpdb", "verify", *args], env={"PYTHONPATH": path, **env})

    return run


@pytest.mark.parametrize(
    ("tree", "model", "outtype", "tensors", "rows"),
    [
        ("llama_cpp", "gemma3", "f32", 54, ["attn_norm.weight +bf16 → f32 +\\+ 1\n", "lossless"]),
        (
            "llama_cpp",
            "llama",
            "q8_0",
            39,
            ["attn_q.weight .*rope: rows permuted within 4", "within 2"],
        ),
        ("llama_cpp_single_file", "llama", "f16", 39, ["attn_k.weight .*rope: .* within 2 heads"]),
        ("llama_cpp", "mixtral", "f16", 43, ["ffn_gate_exps.weight +bf16 → f16 +4 stacked, "]),
        (
            "llama_cpp",
            "qwen2",
            "bf16",
            50,
            ["attn_q.bias +bf16 → f32 +lossless", "attn_q.weight +bf16 +ident"],
        ),
        ("llama_cpp", "phi3", "q8_0", 27, ["attn_qkv.weight +bf16 → q8_0 +off by up to"]),
    ],
)
def test_whole_files(
    verify, converted, request, tree: str, model: str, outtype: str, tensors: int, rows: list[str]
) -> None:
    checkpoint = request.getfixturevalue(f"{model}_checkpoint")
    file = converted(request.getfixturevalue(tree), checkpoint, outtype)
    done = verify(checkpoint, file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{tensors} tensors: {tensors} ok\n{file}")
    for row in rows:
        assert re.search(row, done.stdout), done.stdout


def of_float16(tensors: Tensors) -> Tensors:
    """With tied embeddings that are stored twice."""
    made = {name: each.half() for name, each in tensors.items()}
    return {**made, "lm_head.weight": made["model.embed_tokens.weight"].clone()}


def without_its_name(tensors: Tensors) -> Tensors:
    """q under a name that the map knows and LlamaModel.modify_tensors does not permute."""
    old, new = re.compile(r"^model\.(layers\.\d+)\.self_attn\.q_proj"), r"\1.attention.wq"
    return {old.sub(new, name): each for name, each in tensors.items()}


def test_float16_is_not_upcast(verify, converted, llama_cpp, gemma3_checkpoint, tmp_path) -> None:
    checkpoint = derived(gemma3_checkpoint, tmp_path / "half", {}, of_float16)
    done = verify(checkpoint, converted(llama_cpp, checkpoint, "f16"))
    assert done.returncode == 0, done.stdout
    assert re.search(r"attn_norm.weight +f16 → f32 +\+ 1 in f16\n", done.stdout)


def test_a_lost_permutation(shell, verify, converted, llama_cpp, renamed, tmp_path) -> None:
    checkpoint = renamed
    file, report = converted(llama_cpp, checkpoint, "q8_0"), tmp_path / "report.json"
    done = shell(checkpoint, file, "--json", report)
    assert done.returncode == 1 and "39 tensors: 35 ok, 4 WRONG" in done.stdout
    flat = " ".join(done.stdout.split())
    assert "needs its rows permuted" in flat and "(4 heads); it was copied" in flat
    assert re.search(
        r"\n  blk\.\{0…3\}\.attn_q\.weight  4 ×  bf16 → q8_0  off by up to", done.stdout
    )
    told = json.loads(report.read_text())
    assert told["counts"] == {"ok": 35, "WRONG": 4, "unjudged": 0, "unexplained": 0}
    whole = verify(checkpoint, file, "--all").stdout
    assert len(re.findall(r"\nok +blk\.\d\.", whole)) == 32 and "× each" not in whole


def test_at_the_prompt(modpdb_run, converted, llama_cpp, renamed, tmp_path) -> None:
    script, out = llama_cpp / "convert_hf_to_gguf.py", tmp_path / "o"
    plain = converted(llama_cpp, renamed, "q8_0")
    line = [script, renamed, "--outtype", "q8_0", "--outfile"]
    typed = "verify\nc\nverify\nverify blk.0.attn_k\nverify nothing*\nverify layers.1.attention.wq\nverify --unfold *norm*\n"
    typed += f"b *.close, self.__class__.__name__ == 'GGUFWriter'\nc\nverify {out}\nc\n"
    typed = typed.replace(str(out), f"{out}.gguf")
    done = modpdb_run(["--stop=init", "--stop=params", *line, f"{out}.gguf"], typed, env=WIDE)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert "*** no GGUF writer here or in the callers" in said
    assert said.count("39 tensors: 35 ok, 4 WRONG") == 2
    assert re.search(r"decided at conversion/llama\.py:\d+ LlamaModel\.modify_tensors", said)
    assert "1 tensor of 39: 1 WRONG" in said  # by the checkpoint's name
    assert "1 tensor of 39: 1 ok" in said and "'nothing*' is no written tensor" in said
    assert re.search(r"\nok  blk\.0\.attn_norm\.weight", said)
    digests = {hashlib.sha256(f.read_bytes()).hexdigest() for f in (plain, tmp_path / "o.gguf")}
    assert len(digests) == 1


def test_a_lora_adapter(verify, plain_run, llama_cpp, llama_checkpoint, tmp_path) -> None:
    pytest.importorskip("torch")
    sizes = {"self_attn.q_proj": (64, 64), "self_attn.v_proj": (32, 64)}
    adapter, out = lora_adapter(tmp_path / "adapter", sizes), tmp_path / "o.gguf"
    script = llama_cpp / "convert_lora_to_gguf.py"
    done = plain_run([script, adapter, "--base", llama_checkpoint, "--outfile", out])
    assert done.returncode == 0, done.stderr
    done = verify(adapter, out, "--base", llama_checkpoint)
    assert done.returncode == 0 and "8 tensors: 8 ok" in done.stdout
    assert re.search(r"attn_q\.weight\.lora_b .*rope: rows permuted within 4 heads", done.stdout)
    done = verify(adapter, out)
    assert done.returncode == 2 and "8 unjudged" in done.stdout


def packed(tensors: Tensors) -> Tensors:
    """q, k and v of Baichuan: one weight, of which as many heads are each."""
    import torch

    made = dict(tensors)
    for name in [name for name in tensors if "q_proj" in name]:
        k, v = (made.pop(name.replace("q_proj", each)) for each in ("k_proj", "v_proj"))
        parts = [made.pop(name), torch.cat([k, k * 0.5]), torch.cat([v, v * 0.5])]
        made[name.replace("q_proj", "W_pack")] = torch.cat(parts)
    return made


def test_a_fused_weight_that_is_split(
    verify, converted, llama_cpp_single_file, llama_checkpoint, tmp_path
) -> None:
    config = {
        "architectures": ["BaichuanForCausalLM"],
        "model_type": "baichuan",
        "num_key_value_heads": 4,
    }
    checkpoint = derived(llama_checkpoint, tmp_path / "baichuan", config, packed)
    done = verify(checkpoint, converted(llama_cpp_single_file, checkpoint, "q8_0"), "--all")
    assert done.returncode == 2 and "39 unjudged" in done.stdout  # its modules are not known
    flat = " ".join(done.stdout.split())
    for name, rows in (("attn_q", "rope: rows 0:64"), ("attn_k", "rope: rows 64:128")):
        assert f"blk.3.{name}.weight bf16 → q8_0 {rows} of the 192, rows permuted within 4" in flat
    assert "blk.3.attn_v.weight bf16 → q8_0 rows 128:192 of the 192" in flat


def test_any_changed_bit_of_a_real_file_is_found(
    converted, llama_cpp, llama_checkpoint, gemma3_checkpoint, tmp_path
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("gguf")
    from modpdb.probes.checkpoint_files import open_checkpoint
    from modpdb.probes.comparing import comparing, judge_of, name_map
    from modpdb.probes.verification import verify
    from modpdb.probes.written_tensors import WrittenFile

    prepared = []
    for checkpoint, outtype in ((llama_checkpoint, "q8_0"), (gemma3_checkpoint, "f32")):
        file, found = converted(llama_cpp, checkpoint, outtype), open_checkpoint(checkpoint)
        written = WrittenFile(file)
        mapping = name_map(written.contents)
        by = judge_of(checkpoint, None, found, mapping, written.contents.architecture)
        against = comparing(found, mapping, by.judge, order=by.order)
        assert verify(written, against).count("ok") == len(written.contents.tensors)
        prepared.append((file, written, against))

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def changed(data: st.DataObject) -> None:
        file, written, against = data.draw(st.sampled_from(prepared))
        tensor = data.draw(st.sampled_from(written.contents.tensors))
        bit = data.draw(st.integers(0, 8 * tensor.nbytes - 1))
        bytes_ = bytearray(file.read_bytes())
        (place,) = (each[tensor.name] for each in written.places if tensor.name in each)
        bytes_[place + bit // 8] ^= 1 << bit % 8
        broken = tmp_path / "broken.gguf"
        broken.write_bytes(bytes_)
        found = verify(WrittenFile(broken), against, lambda name: name == tensor.name)
        assert found.count("ok") == 0, (tensor, bit)

    changed()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{model}", "{tmp}/none.gguf"], "none.gguf: No such file"),
        (["{tmp}/none", "{tmp}/x.gguf"], "there is no such file or folder"),
        (["{model}", "{model}/config.json"], "expected b'GGUF'"),
        (["{model}"], "the following arguments are required: FILE.gguf"),
        (["--al2", "{model}", "x.gguf"], "unrecognized arguments: --al2"),
    ],
)
def test_bad_input_is_one_sentence(shell, llama_checkpoint, tmp_path, arguments, sentence) -> None:
    done = shell(*(each.format(model=llama_checkpoint, tmp=tmp_path) for each in arguments))
    assert done.returncode == 2 and sentence in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


def test_without_gguf_it_says_what_to_install(
    plain_run, converted, llama_cpp, llama_checkpoint, tmp_path
) -> None:
    (tmp_path / "gguf.py").write_text("raise ImportError('none here')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    file = converted(llama_cpp, llama_checkpoint, "q8_0")
    line = ["-m", "modpdb", "verify", llama_checkpoint, file]
    done = plain_run(line, env={"PYTHONPATH": path})
    assert done.returncode == 2
    assert "needs the package gguf" in done.stderr and "pip install gguf" in done.stderr
