"""explain at the real failures of the real scripts, each on a checkpoint that provokes it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import broken_checkpoints as broken
from warm_process import WarmProcess, warm_process

pytestmark = pytest.mark.conversion
BRIEF = 12  # lines at 80 columns

Explained = tuple[str, str]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmProcess]:
    with warm_process(tmp_path_factory.mktemp("warm")) as process:
        yield process


@pytest.fixture
def explained(warm: WarmProcess, tmp_path: Path) -> Callable[..., Explained]:
    """What comes by itself and what `explain` prints, both with their lines joined."""

    def run(
        script: Path,
        folder: Path | str,
        *options: str | Path,
        first: str = "",
        cwd: Path | None = None,
    ) -> Explained:
        done = warm.run(
            ["--stop=write", script, folder, "--outfile", tmp_path / "out.gguf", *options],
            f"{first}p 'that was unasked'\nexplain\np 'that was all'\nq\n",
            cwd=cwd,
        )
        unasked, _, rest = done.stdout.partition("(ModPdb) 'that was unasked'")
        asked, ended, _ = rest.partition("(ModPdb) 'that was all'")
        assert ended, done.stderr
        brief = unasked[unasked.find("\ncause: ") + 1 :] if "\ncause: " in unasked else ""
        assert brief.count("\n") <= BRIEF, brief
        assert "***" not in asked, asked
        return " ".join(brief.split()), " ".join(asked.split())

    return run


@pytest.fixture(params=["llama_cpp", "llama_cpp_single_file"])
def convert(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param) / "convert_hf_to_gguf.py"


@pytest.fixture
def newest(llama_cpp: Path) -> Path:
    return llama_cpp / "convert_hf_to_gguf.py"


# -- 1: names ------------------------------------------------------------------------------------


def test_names_are_guessed_by_shape_and_what_is_free(
    explained, convert: Path, llama_checkpoint, tmp_path
) -> None:
    folder = broken.renamed_blocks(llama_checkpoint, tmp_path / "model")
    brief, whole = explained(convert, folder)
    assert brief.startswith("cause: tensor_mapping.py lacks 16 names") and "(a guess)" in brief
    for said in (brief, whole):
        assert "feed.shrink.weight [64, 160] → blk.N.ffn_down?" in said
        assert "mixer.out_map.weight [64, 64] → blk.N.attn_output?" in said
        assert "mixer.query_map.weight [64, 64] → blk.N.attn_q?" in said
        assert "mixer_norm.weight [64] → blk.N.attn_norm?" in said
        assert "gguf-py/gguf/tensor_mapping.py" in said
    assert "model.layers.0.feed.shrink.weight; 15 more names" in whole
    lines = (convert.parent / "gguf-py/gguf/tensor_mapping.py").read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if "MODEL_TENSOR.FFN_DOWN: (" in text)
    pasted = f'"model.layers.{{bid}}.feed.shrink", # line {line}, MODEL_TENSOR.FFN_DOWN'
    assert pasted in whole


def test_a_prefix_is_put_right(explained, newest: Path, llama_checkpoint, tmp_path) -> None:
    folder = broken.lost_prefix(llama_checkpoint, tmp_path / "model")
    brief, whole = explained(newest, folder)
    assert "body. stands where the map has model." in brief and "36 names are mapped" in brief
    assert "self_attn.q_proj.weight → blk.N.attn_q.weight" in whole
    assert 'name = "model." + name.removeprefix("body.")' in brief
    assert "conversion/llama.py:" in brief and "LlamaModel.modify_tensors" in brief


def test_several_reasons_at_once(explained, newest: Path, llama_checkpoint, tmp_path) -> None:
    _, whole = explained(newest, broken.many_faults(llama_checkpoint, tmp_path / "model"))
    assert "this is a quantised checkpoint (GPTQ, AWQ, MLX)" in whole
    assert "convert the checkpoint that it was quantised from" in whole
    assert "knows it as MODEL_TENSOR.ATTN_Q_NORM, which MODEL_TENSORS[MODEL_ARCH.LLAMA]" in whole
    assert "only .weight and .bias are taken off" in whole
    assert "counts 3 blocks, 0 to 2, and the checkpoint has them up to 3" in whole
    assert '"num_hidden_layers": 4,' in whole
    assert "model.adapters.quux [3, 5, 7] no tensor that is free is like it" in whole


# -- 2, 7: tokenizers ----------------------------------------------------------------------------


def test_a_pre_tokenizer_that_nobody_knows(
    explained, newest: Path, qwen2_checkpoint, tmp_path
) -> None:
    folder = broken.unknown_pre_tokenizer(qwen2_checkpoint, tmp_path / "model")
    brief, whole = explained(newest, folder)
    assert "splits as llama.cpp's gpt-2 does" in brief and "(a guess)" in brief
    assert "ByteLevel with GPT-2" in whole and "chktok" in whole
    assert 'if chkhsh == "' in whole and 'res = "gpt-2"' in whole
    assert "`models` of convert_hf_to_gguf_update.py" in whole
    lines = (newest.parent / "conversion/base.py").read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if "if res is None:" in text)
    assert f"conversion/base.py:{line}, to go on" in whole


def test_more_tokens_than_rows(explained, newest: Path, qwen2_checkpoint, tmp_path) -> None:
    folder = broken.too_many_tokens(qwen2_checkpoint, tmp_path / "model")
    brief, whole = explained(newest, folder)
    assert "73 more than the embedding has rows for" in brief
    assert "the embedding 200 rows" in whole and "ids up to 272" in whole
    assert "model.resize_token_embeddings(len(tokenizer))" in brief


def test_no_tokenizer(explained, newest: Path, gemma3_checkpoint, tmp_path) -> None:
    folder = broken.no_tokenizer_model(gemma3_checkpoint, tmp_path / "model")
    brief, whole = explained(newest, folder)
    assert "has no tokenizer at all" in brief and "hf download REPO tokenizer.model" in brief
    assert "tokenizer.model not there" in whole


# -- 3: architectures ----------------------------------------------------------------------------


def test_a_misspelt_architecture(explained, convert: Path, llama_checkpoint, tmp_path) -> None:
    folder = broken.of_architecture(llama_checkpoint, tmp_path / "model", "LlamaForCasualLM")
    brief, whole = explained(convert, folder)
    assert brief.startswith("cause: LlamaForCausalLM is meant") and "(a guess)" in brief
    assert '"architectures": ["LlamaForCausalLM"],' in whole


def test_an_architecture_like_none(explained, newest: Path, llama_checkpoint, tmp_path) -> None:
    folder = broken.of_architecture(llama_checkpoint, tmp_path / "model", "XyzzyQuuxModel")
    brief, _ = explained(newest, folder)
    assert "no registered name is close: a newer llama.cpp may know it (a guess)" in brief
    assert f"python {newest} --print-supported-models" in brief


def test_an_architecture_that_is_known_as_an_encoder(
    explained, newest: Path, llama_checkpoint, tmp_path
) -> None:
    folder = broken.of_architecture(llama_checkpoint, tmp_path / "model", "InternVisionModel")
    brief, _ = explained(newest, folder)
    assert "InternVisionModel is known as an encoder (mmproj) alone" in brief
    assert f"python {newest} {folder} --outfile" in brief and "--mmproj" in brief
    assert "conversion/internvl.py:" in brief and "(a guess)" not in brief


def test_a_class_that_the_map_does_not_name(
    explained, llama_cpp: Path, llama_checkpoint, tmp_path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "gguf-py").symlink_to(llama_cpp / "gguf-py")
    shutil.copytree(llama_cpp / "conversion", tree / "conversion")
    shutil.copy(llama_cpp / "convert_hf_to_gguf.py", tree)
    added = '\n\n@ModelBase.register("ZebraForCausalLM")\nclass ZebraModel(LlamaModel):\n    pass\n'
    with (tree / "conversion" / "llama.py").open("a") as file:
        file.write(added)
    folder = broken.of_architecture(llama_checkpoint, tmp_path / "model", "ZebraForCausalLM")
    brief, _ = explained(tree / "convert_hf_to_gguf.py", folder)
    assert "ZebraModel in llama.py registers it, and TEXT_MODEL_MAP" in brief
    assert '"ZebraForCausalLM": "llama",' in brief and "conversion/__init__.py:" in brief
    assert "(a guess)" not in brief


def test_a_model_id(explained, newest: Path, tmp_path) -> None:
    brief, whole = explained(newest, "google/gemma-3-270m", cwd=tmp_path)
    assert "reads as the id of a model on Hugging Face" in brief
    assert "convert_hf_to_gguf.py google/gemma-3-270m --outfile" in brief and "--remote" in brief
    assert "hf download google/gemma-3-270m" in whole


# -- 6: LoRA -------------------------------------------------------------------------------------


@pytest.fixture
def convert_lora(llama_cpp: Path) -> Path:
    return llama_cpp / "convert_lora_to_gguf.py"


def test_an_operation_that_two_factors_do_not_have(
    explained, convert_lora: Path, llama_checkpoint, tmp_path
) -> None:
    base, adapter = broken.key_value_adapter(llama_checkpoint, tmp_path / "b", tmp_path / "a")
    brief, whole = explained(convert_lora, adapter, "--base", base)
    assert "model.layers.0.self_attn.kv_b_proj.weight" in brief
    assert ("A [1, 4, 32]" in brief and "B [4, 32, 4]" in whole) or "B [4, 16, 4]" in whole
    assert "transpose(1, 2), by permute(" in whole and "conversion/deepseek.py:" in whole
    assert "merge_and_unload()" in brief and "up 2" in brief


def test_a_tensor_that_is_no_half(
    explained, convert_lora: Path, llama_checkpoint, tmp_path
) -> None:
    name = "base_model.model.model.embed_tokens.weight"
    adapter = broken.adapter_with(tmp_path / "a", name, 384, 64)
    brief, whole = explained(convert_lora, adapter, "--base", llama_checkpoint)
    assert "the whole embedding was saved with the adapter" in brief and name in brief
    assert "save_embedding_layers=False" in whole


def test_an_output_that_the_base_drops(
    explained, llama_cpp_single_file: Path, gemma3_checkpoint, tmp_path
) -> None:
    """The newest classes drop it in filter_tensors, before an adapter's tensors are converted."""
    script = llama_cpp_single_file / "convert_lora_to_gguf.py"
    base, adapter = broken.output_adapter(gemma3_checkpoint, tmp_path / "b", tmp_path / "a")
    brief, whole = explained(script, adapter, "--base", base)
    assert "embeddings are tied" in brief and "leave lm_head out of target_modules" in brief
    assert "converter drops lm_head.weight" in whole


# -- 9: the config -------------------------------------------------------------------------------


def test_a_number_that_is_nested(explained, convert: Path, llama_checkpoint, tmp_path) -> None:
    brief, whole = explained(convert, broken.no_layer_count(llama_checkpoint, tmp_path / "model"))
    assert "does not look: decoder.num_hidden_layers" in brief
    assert '"num_hidden_layers": 4,' in brief
    assert "the largest block number + 1" in whole and "TextModel.__init__" in whole


def test_a_key_that_the_class_reads_itself(
    explained, newest: Path, mixtral_checkpoint, tmp_path
) -> None:
    folder = broken.no_expert_count(mixtral_checkpoint, tmp_path / "model")
    brief, whole = explained(newest, folder)
    assert '"num_local_experts": 4,' in brief
    assert "the largest expert number + 1" in whole and "conversion/llama.py:" in whole


# -- 10, 11, 12, 14 ------------------------------------------------------------------------------


def test_two_sources_of_one_tensor(explained, newest: Path, llama_checkpoint, tmp_path) -> None:
    brief, _ = explained(newest, broken.same_twice(llama_checkpoint, tmp_path / "model"))
    assert (
        "model.embed_tokens.weight and transformer.wte.weight both become token_embd.weight"
        in brief
    )
    assert "model.embed_tokens.weight [384, 64] bf16 model.safetensors held" in brief
    assert "compare model.embed_tokens.weight, transformer.wte.weight" in brief


def test_no_preprocessor(explained, newest: Path, gemma3_checkpoint, tmp_path) -> None:
    folder = broken.no_image_mean(gemma3_checkpoint, tmp_path / "model")
    brief, whole = explained(newest, folder, "--mmproj")
    assert "has none of the preprocessor's files" in brief
    assert "hf download REPO preprocessor_config.json" in brief
    assert "filter_tensors kept 2 of 56 tensors" in whole and "image_mean" in whole


def test_files_that_are_not_there(explained, newest: Path, llama_checkpoint, tmp_path) -> None:
    brief, _ = explained(newest, broken.in_two_files(llama_checkpoint, tmp_path / "model"))
    assert "model-00002-of-00002.safetensors is not there" in brief
    assert "not there 19 in the index" in brief and "hf download REPO model-00002" in brief


def test_a_file_that_ends_too_early(explained, newest: Path, llama_checkpoint, tmp_path) -> None:
    folder = broken.cut_short(llama_checkpoint, tmp_path / "model")
    brief, whole = explained(newest, folder, first="c\n")
    assert brief.startswith("cause: model.safetensors is not whole, by what the headers list")
    assert "lies at bytes" in brief and "hf download REPO model.safetensors" in brief
    assert "LocalTensor.mmap_bytes" in whole and "index" not in whole


def test_experts_that_did_not_come(explained, newest: Path, mixtral_checkpoint, tmp_path) -> None:
    brief, _ = explained(newest, broken.an_expert_less(mixtral_checkpoint, tmp_path / "model"))
    assert "the checkpoint lacks model.layers.1.block_sparse_moe.experts.2.w3.weight" in brief
    assert "11 of 12, not 2.w3.weight" in brief and "ckpt *experts*" in brief


# -- failures without a name of their own --------------------------------------------------------


def test_a_null_in_the_metadata(
    explained, llama_cpp_single_file: Path, mixtral_checkpoint, tmp_path
) -> None:
    folder = broken.null_head_size(mixtral_checkpoint, tmp_path / "model")
    brief, whole = explained(llama_cpp_single_file / "convert_hf_to_gguf.py", folder, first="c\n")
    assert "a null in the config came through: head_dim (a guess)" in brief
    assert '"head_dim": 16,' in brief
    assert "llama.rope.dimension_count" in whole and "struct.error" not in brief


def test_an_overflow_names_its_tensor(explained, newest: Path, llama_checkpoint, tmp_path) -> None:
    folder = broken.too_large(llama_checkpoint, tmp_path / "model")
    first = "import warnings; warnings.simplefilter('error', RuntimeWarning)\nc\n"
    brief, whole = explained(newest, folder, "--outtype", "f16", first=first)
    assert "f16 ends at 65,504" in brief and "--outtype bf16" in brief
    assert "blk.2.ffn_up.weight" in whole


def test_nothing_is_said_of_what_is_no_conversion(warm: WarmProcess, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("def f(name):\n    raise ValueError(\"Can not map tensor 'x'\")\nf('x')\n")
    done = warm.run([script], "explain\nc\nexplain\nq\n")
    assert "*** no exception at hand: explain is for post-mortem" in done.stdout
    assert "cause" not in done.stdout
    assert "modpdb knows nothing of this ValueError" in done.stdout
    assert done.stdout.count("***") == 2
