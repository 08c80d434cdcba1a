"""ahead and map on made-up findings: folded, counted, and with nothing said that is not known."""

import io

from rich.console import Console, RenderableType

from modpdb.probes.dry_run import DryRun, Miss
from modpdb.probes.provenance import WrittenTensor
from modpdb.probes.tensor_flow import flows
from modpdb.views.ahead import ahead
from modpdb.views.tensor_map import tensor_map


def shown(view: RenderableType, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(view)
    return console.file.getvalue()


def unmapped(name: str) -> Miss:
    return Miss("unmapped", name, f"ValueError: Can not map tensor {name!r}", "base.py:6 B.map")


def written(name: str, *sources: str) -> WrittenTensor:
    return WrittenTensor(name, sources, False, None, (2, 3), "f32", "f16", "", "")


def test_equal_misses_are_one_row_in_the_order_of_the_run() -> None:
    misses = [unmapped(f"layers.{layer}.odd") for layer in range(26)]
    misses.insert(1, Miss("raised", "layers.0.q", "RuntimeError: no\x1b[31m", "a.py:1 f"))
    said = shown(ahead(DryRun(tuple(misses)), "Zeta", "ZETA")).splitlines()
    assert said[0] == "2 blockers, 26 unmapped"
    row = " ".join(said[1].split())
    assert row == "no name layers.{0…25}.odd 26 × → b @layers.*.odd base.py:6 map"
    assert "layers.0.q: RuntimeError: no\\x1b[31m" in said[2]
    unfolded = shown(ahead(DryRun(tuple(misses)), "Zeta", "ZETA", unfold=True))
    assert unfolded.count("no name") == 26


def test_a_guess_is_called_one() -> None:
    found = DryRun((unmapped("x"),), exact=False, why="under --no-lazy every tensor would be read")
    said = shown(ahead(found, "Zeta", "ZETA"))
    assert said.startswith("1 unmapped, guessed from the name map alone\nnot run: under --no-lazy")
    assert "blocker" not in said and "would write" not in said


def test_split_joined_and_renamed() -> None:
    tensors = (
        written("blk.0.q.weight", "layers.0.qkv.weight"),
        written("blk.0.k.weight", "layers.0.qkv.weight"),
        written("blk.0.up.weight", "layers.0.a.weight", "layers.0.b.weight"),
        written("norm.weight", "odd.weight"),
        written("freqs.weight"),
    )
    mapping = {"layers.0.qkv": ("Q", "blk.0.q"), "odd": ("X", "x")}
    said = shown(tensor_map(DryRun(written=tensors), flows(DryRun(written=tensors), mapping)))
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert lines[0].startswith("4 checkpoint tensors → 5 GGUF tensors")
    assert "layers.0.qkv.weight → blk.0.q.weight f16 [2, 3], split in 2" in lines
    assert "→ blk.0.k.weight f16 [2, 3]" in lines
    assert "layers.0.a.weight + layers.0.b.weight → blk.0.up.weight f16 [2, 3], 2 together" in lines
    assert "odd.weight → norm.weight f16 [2, 3], named by the converter" in lines
    assert "made by the converter → freqs.weight f16 [2, 3]" in lines


def test_a_block_has_a_heading() -> None:
    tensors = tuple(
        written(f"blk.{block}.{name}", f"layers.{block}.{name}")
        for block in range(3)
        for name in ("q.weight", "k.weight")
    )
    found = DryRun(written=tensors)
    for width in (30, 120):
        said = shown(tensor_map(found, flows(found, {})), width)
        assert "layers.{0…2} → blk.{0…2}" in said.replace("\n", " ")
        assert said.count("q.weight") == 2


def test_after_the_end_there_is_no_next_stop() -> None:
    misses = (
        unmapped("layers.0.odd"),
        Miss("hparam", "", "KeyError: 'x'", "base.py:9 B.find", ("x",)),
        Miss("tokenizer", "", "RuntimeError: none", "base.py:8 B.set_vocab"),
        Miss("converter", "", "RuntimeError: none", "base.py:7 B.__init__"),
    )
    found = DryRun(misses, exact=False, why="why")
    said = shown(ahead(found, "Zeta", "ZETA"))
    steps = [line.partition("→ ")[2] for line in said.splitlines() if "→" in line]
    assert steps == [
        "b @layers.0.odd  base.py:6 map", "hparams  base.py:9 find", "stage vocab  base.py:8 set_vocab",
        "b base.py:7  __init__",
    ]  # fmt: skip
    said = shown(ahead(found, "Zeta", "ZETA", ended=True))
    assert said.count("→") == 1 and "→ hparams" in said


def test_a_vocabulary_alone_is_told() -> None:
    said = shown(ahead(DryRun(only_vocabulary=True), "Zeta", "ZETA"), 80).splitlines()
    assert said[0] == "0 blockers, 0 unmapped: the dry run met nothing to stop it"
    assert said[1].startswith("--vocab-only: the script writes no tensors now")


def test_names_are_broken_where_their_parts_end() -> None:
    tensors = tuple(
        written(f"blk.{layer}.{name}.weight", f"model.layers.{layer}.{name}_layernorm.weight")
        for layer in range(2)
        for name in ("post_feedforward", "pre_feedforward")
    )
    found = DryRun(written=tensors)
    said = shown(tensor_map(found, flows(found, {})), 56).splitlines()
    at = next(n for n, line in enumerate(said) if line.startswith("  post_feedforward_"))
    assert said[at].split()[0] == "post_feedforward_" and said[at + 1] == "    layernorm.weight"
    narrow = shown(tensor_map(found, flows(found, {})), 20)
    assert "".join(narrow.split()).count("layernorm.weight") == 2


def test_what_is_to_be_typed_is_not_broken() -> None:
    named = Miss(
        "raised",
        "model.layers.11.block_sparse_moe.experts.w2.weight",
        "ValueError: Unprocessed experts: ['model.layers.11.block_sparse_moe.experts.w2.weight']",
        "llama.py:251 LlamaModel.prepare_tensors",
    )
    next_step = "→ b @model.layers.11.block_sparse_moe.experts.w2.weight"
    for width in (70, 80, 90, 100, 160):
        said = shown(ahead(DryRun((named,)), "Zeta", "ZETA"), width).splitlines()
        assert any(next_step in line for line in said), (width, said)
