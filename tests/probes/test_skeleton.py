"""The model of a checkpoint's config on the meta device, and where its tensors go."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from modpdb.probes.checkpoint_files import open_checkpoint
from modpdb.probes.skeleton import Skeleton, SkeletonError, build_skeleton
from modpdb.probes.skeleton_names import Names
from modpdb.probes.tree import walk

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 32}
SMALL |= {"intermediate_size": 24, "num_key_value_heads": 1}
T5 = {"d_model": 16, "d_ff": 24, "num_layers": 2, "num_heads": 2, "d_kv": 8, "vocab_size": 32}


def models() -> dict[str, Any]:
    return {
        "llama": transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)),
        "gemma3": transformers.Gemma3ForCausalLM(
            transformers.Gemma3TextConfig(**SMALL, head_dim=8)
        ),
        "mixtral": transformers.MixtralForCausalLM(
            transformers.MixtralConfig(**SMALL, num_local_experts=3)
        ),
        "t5": transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)),
    }


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved as transformers saves them: under the names of the original checkpoints."""
    transformers.utils.logging.disable_progress_bar()
    folders = {}
    for name, model in models().items():
        folders[name] = tmp_path_factory.mktemp(name)
        model.bfloat16().save_pretrained(folders[name])
    return folders


def built(folder: Path, **options: Any) -> Skeleton:
    return build_skeleton(folder, open_checkpoint(folder).tensors, **options)


def names_of(folder: Path) -> Names:
    names = built(folder).names
    assert names is not None and names.problems == ()
    return names


def changed_config(folder: Path, copy: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text()) | changes
    (copy / "config.json").write_text(json.dumps(config))
    for file in folder.glob("*.safetensors"):
        os.link(file, copy / file.name)
    return copy


@pytest.mark.parametrize("kind", ["llama", "gemma3", "mixtral", "t5"])
def test_tree_and_names_are_those_of_from_pretrained(
    kind: str, checkpoints: dict[str, Path]
) -> None:
    folder = checkpoints[kind]
    found = built(folder)
    loaded = getattr(transformers, found.class_name).from_pretrained(folder)
    assert [n.path for n in walk(found.tree.root)] == [n for n, _ in loaded.named_modules()]
    assert found.tree.root.facts.parameters == sum(p.numel() for p in loaded.parameters())
    assert found.tree.dtypes[0][0] == "bf16" and found.tree.root.facts.devices == ("meta",)
    names = found.names
    assert names is not None and names.problems == ()
    stored = {each.name for each in open_checkpoint(folder).tensors}
    assert {source for each in names.loads for source in each.sources} == stored
    assert not any(each.other_shape for each in names.loads)
    state = loaded.state_dict()
    assert {n.name for n in (*names.loads, *names.parameters)} == set(state)
    assert all(each.made == tuple(state[each.name].shape) for each in names.loads)
    assert all(each.why.startswith("tied with ") for each in names.parameters)


def test_experts_are_stacked(checkpoints: dict[str, Path]) -> None:
    loads = {each.name: each for each in names_of(checkpoints["mixtral"]).loads}
    fused = loads["model.layers.1.mlp.experts.gate_up_proj"]
    assert fused.sources == tuple(
        f"model.layers.1.block_sparse_moe.experts.{i}.w{k}.weight" for i in range(3) for k in (1, 3)
    )
    assert fused.by == ("MergeModulelist", "Concatenate") and fused.made == (3, 48, 16)
    gate = loads["model.layers.0.mlp.gate.weight"]
    assert gate.renamed and gate.sources == ("model.layers.0.block_sparse_moe.gate.weight",)


def test_a_prefix_more_or_less_is_found(checkpoints: dict[str, Path]) -> None:
    tensors = open_checkpoint(checkpoints["llama"]).tensors
    base = [
        type(t)(t.name.removeprefix("model."), t.dtype, t.shape, t.nbytes, t.file) for t in tensors
    ]
    names = build_skeleton(checkpoints["llama"], base).names
    assert names is not None and not names.tensors and not names.parameters
    assert [(rule.edit.old, rule.edit.new) for rule in names.rules] == [("", "model.")]


def test_what_is_alone(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = changed_config(
        checkpoints["llama"], tmp_path, num_hidden_layers=1, attention_bias=True
    )
    names = names_of(folder)
    assert {each.name.split(".")[-1] for each in names.parameters} == {"bias"}
    assert {each.name.split(".")[2] for each in names.tensors} == {"1"}


def test_another_shape(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    names = names_of(changed_config(checkpoints["llama"], tmp_path, vocab_size=40))
    wrong = {each.name: (each.shape, each.made) for each in names.loads if each.other_shape}
    assert wrong["model.embed_tokens.weight"] == ((40, 16), (32, 16))


def test_a_stack_that_cannot_be_made(checkpoints: dict[str, Path]) -> None:
    tensors = [
        t if ".experts.1.w1" not in t.name else type(t)(t.name, t.dtype, (5, 5), 50, t.file)
        for t in open_checkpoint(checkpoints["mixtral"]).tensors
    ]
    names = build_skeleton(checkpoints["mixtral"], tensors).names
    assert names is not None and len(names.problems) == 2
    assert names.problems[0].startswith("model.layers.0.mlp.experts.gate_up_proj: MergeModulelist")


def test_a_config_alone(checkpoints: dict[str, Path]) -> None:
    found = build_skeleton(checkpoints["t5"], [])
    assert found.names is None and found.class_name == "T5ForConditionalGeneration"


def test_a_quantised_checkpoint_says_so(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = changed_config(
        checkpoints["llama"], tmp_path, quantization_config={"quant_method": "fp8"}
    )
    (note,) = built(folder).notes
    assert "quantised (fp8)" in note


# -- what it must not do ---------------------------------------------------------------------------


def test_in_inference_mode_with_odd_defaults(checkpoints: dict[str, Path]) -> None:
    torch.set_default_dtype(torch.float64)
    random = torch.get_rng_state()
    try:
        with torch.inference_mode():
            found = built(checkpoints["llama"])
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert [dtype for dtype, _ in found.tree.dtypes] == ["bf16"]
    assert torch.equal(torch.get_rng_state(), random)


MODELING = """
import pathlib
from transformers import LlamaForCausalLM, LlamaConfig
pathlib.Path(__file__).parent.joinpath("ran").touch()
pathlib.Path({witness!r}).touch()
class Own(LlamaForCausalLM):
    pass
"""


@pytest.fixture
def with_code(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    (tmp_path / "ckpt").mkdir()
    folder = changed_config(
        checkpoints["llama"],
        tmp_path / "ckpt",
        architectures=["Own"],
        auto_map={"AutoModelForCausalLM": "modeling_own.Own"},
    )
    source = MODELING.format(witness=str(tmp_path / "witness"))
    (folder / "modeling_own.py").write_text(source)
    return folder


def test_code_of_the_checkpoint_is_not_run(with_code: Path, tmp_path: Path) -> None:
    with pytest.raises(SkeletonError, match="Own is code that lies with the checkpoint"):
        built(with_code)
    assert not (tmp_path / "witness").exists()


def test_trusted_code_runs_in_the_copy_and_leaves_no_file(with_code: Path, tmp_path: Path) -> None:
    before = sorted(p for p in Path(os.environ["HOME"]).rglob("*"))
    modules = set(sys.modules)
    files = sorted(with_code.iterdir())
    found = built(with_code, trust_remote_code=True)
    assert found.class_name == "Own" and (tmp_path / "witness").exists()
    assert sorted(Path(os.environ["HOME"]).rglob("*")) == before
    assert sorted(with_code.iterdir()) == files
    assert {m for m in set(sys.modules) - modules if "own" in m.lower()} == set()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["NoSuchModel"]}, "transformers .* has no model 'NoSuchModel'"),
        ({"architectures": ["pipeline"]}, "has no model 'pipeline'"),
        ({"architectures": None}, "names no class in 'architectures'"),
        ({"hidden_size": "wide"}, "cannot be built"),
    ],
)
def test_configs_that_describe_no_model(
    checkpoints: dict[str, Path], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    folder = changed_config(checkpoints["llama"], tmp_path, **changes)
    with pytest.raises(SkeletonError, match=said) as raised:
        built(folder)
    assert "\n" not in str(raised.value) and str(folder) in str(raised.value)


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(SkeletonError, match=r"no config\.json"):
        build_skeleton(tmp_path, [])
    for text, said in (("{", "config.json: "), ("[1]", "a JSON list, expected an object")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(SkeletonError, match=said):
            build_skeleton(tmp_path, [])


NOT_IMPORTED = """
import sys
from pathlib import Path
from modpdb.probes.skeleton import build_skeleton
found = build_skeleton(Path(sys.argv[1]), [])
print(found.class_name, [m for m in ("torch", "transformers", "gguf", "numpy") if m in sys.modules])
"""


def test_nothing_is_imported_here(checkpoints: dict[str, Path], plain_run: Any) -> None:
    done = plain_run(["-c", NOT_IMPORTED, checkpoints["llama"]])
    assert (done.stdout, done.stderr) == ("LlamaForCausalLM []\n", "")


def test_without_transformers(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SkeletonError, match="needs transformers"):
        build_skeleton(checkpoints["llama"], [])
