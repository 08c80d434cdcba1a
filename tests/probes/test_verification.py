"""Verdicts on GGUF files that are written here, of checkpoints that are made up."""

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")

from safetensors.torch import save_file  # noqa: E402

from modpdb.probes.checkpoint_files import open_checkpoint  # noqa: E402
from modpdb.probes.comparing import comparing, name_map  # noqa: E402
from modpdb.probes.files import CheckpointError  # noqa: E402
from modpdb.probes.relations import Relation  # noqa: E402
from modpdb.probes.verification import Verdict, Verification, verify  # noqa: E402
from modpdb.probes.written_tensors import WrittenByWriter, WrittenFile  # noqa: E402
from modpdb.programs.verify import exit_status  # noqa: E402

TYPES = gguf.GGMLQuantizationType
BLOCK = "model.layers.0"
Q, K, UP = (
    f"{BLOCK}.{name}.weight" for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")
)
Tensors = dict[str, Any]
Files = Callable[..., tuple[Path, Path]]


def random(*shape: int, seed: int = 0, dtype: Any = None) -> Any:
    found = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05
    return found.to(dtype or torch.bfloat16)


def interleaved(weight: Any, heads: int) -> Any:
    """LlamaModel.permute of llama.cpp's conversion."""
    parts = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return parts.swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Writes a checkpoint, and a GGUF of tensors with their types; returns folder and file."""

    def write(source: Tensors, written: dict[str, tuple[Any, Any]], arch: str = "llama") -> Any:
        folder, file = tmp_path / "model", tmp_path / "out.gguf"
        folder.mkdir(exist_ok=True)
        save_file(
            {name: each.contiguous() for name, each in source.items()}, folder / "model.safetensors"
        )
        writer = gguf.GGUFWriter(file, arch)
        for name, (tensor, kind) in written.items():
            wide = tensor if tensor.dtype in (torch.float16, torch.float32) else tensor.float()
            data = gguf.quants.quantize(wide.numpy(), kind)
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return folder, file

    return write


def needs(expected: dict[str, str]) -> Any:
    """A judge that wants relations of these kinds, "identical" of all others."""

    def judge(sources: tuple[str, ...], name: str, relation: Relation) -> Any:
        wanted = expected.get(name, "identical")
        return ("ok", "") if relation.kind == wanted else ("WRONG", f"needs {wanted}")

    return judge


def verified(folder: Path, file: Path, judge: Any = None, **options: Any) -> Verification:
    written, checkpoint = WrittenFile(file), open_checkpoint(folder)
    against = comparing(checkpoint, name_map(written.contents), judge or needs({}))
    return verify(written, against, **options)


def only(found: Verification) -> Verdict:
    (verdict,) = found.verdicts
    return verdict


# -- relations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_type_of_every_dtype(files: Files, kind: str, dtype: Any) -> None:
    up, q = random(32, 64, dtype=dtype), random(64, 32, seed=1, dtype=dtype)
    written = {
        "blk.0.ffn_up.weight": (up, TYPES[kind]),
        "blk.0.attn_q.weight": (interleaved(q, 4), TYPES[kind]),
    }
    found = verified(*files({UP: up, Q: q}, written), needs({"blk.0.attn_q.weight": "rope"}))
    assert [each.status for each in found.verdicts] == ["ok", "ok"]
    rope = next(each for each in found.verdicts if each.name == "blk.0.attn_q.weight")
    assert rope.relation is not None and 4 in rope.relation.heads
    same = (
        kind
        == {"torch.bfloat16": "BF16", "torch.float16": "F16", "torch.float32": "F32"}[str(dtype)]
    )
    assert (rope.relation.cast is None) is same


def test_a_copy_is_wrong_where_rows_must_be_permuted(files: Files) -> None:
    q = random(64, 32)
    found = verified(
        *files({Q: q}, {"blk.0.attn_q.weight": (q, TYPES.F16)}),
        needs({"blk.0.attn_q.weight": "rope"}),
    )
    assert only(found).status == "WRONG" and only(found).reason == "needs rope"


def test_zero_biases_fit_whatever_is_needed_and_say_so(files: Files) -> None:
    name, zeros = f"{BLOCK}.self_attn.q_proj.bias", torch.zeros(64, dtype=torch.bfloat16)
    paths = files({name: zeros}, {"blk.0.attn_q.bias": (zeros, TYPES.F32)})
    for wanted in ("identical", "rope"):
        verdict = only(verified(*paths, needs({"blk.0.attn_q.bias": wanted})))
        assert verdict.status == "ok" and verdict.also
        assert verdict.relation is not None and verdict.relation.kind == wanted


def test_experts_stacked_in_their_order_or_not(files: Files) -> None:
    names = [f"{BLOCK}.block_sparse_moe.experts.{number}.w1.weight" for number in range(11)]
    experts = [random(16, 32, seed=number) for number in range(11)]
    source = dict(zip(names, experts, strict=True))
    stacked = {"blk.0.ffn_gate_exps.weight": (torch.stack(experts), TYPES.Q8_0)}
    verdict = only(
        verified(*files(source, stacked), needs({"blk.0.ffn_gate_exps.weight": "stacked"}))
    )
    assert (verdict.status, verdict.sources) == ("ok", tuple(names))
    stacked = {"blk.0.ffn_gate_exps.weight": (torch.stack(experts[::-1]), TYPES.Q8_0)}
    verdict = only(
        verified(*files(source, stacked), needs({"blk.0.ffn_gate_exps.weight": "stacked"}))
    )
    assert verdict.sources == tuple(names[::-1])  # from which a judge sees that it is wrong


def test_split_permuted_and_joined(files: Files) -> None:
    packed = random(96, 32)
    written = {
        "blk.0.attn_q.weight": (interleaved(packed[:32], 2), TYPES.Q8_0),
        "blk.0.attn_v.weight": (packed[64:], TYPES.F16),
    }
    found = verified(*files({f"{BLOCK}.self_attn.W_pack.weight": packed}, written))
    words = {each.name: each.relation.words for each in found.verdicts if each.relation}
    assert words["blk.0.attn_q.weight"].startswith("rows 0:32 of the 96, rows permuted per head")
    assert words["blk.0.attn_v.weight"] == "rows 64:96 of the 96"
    gate, up = random(32, 64, seed=1), random(32, 64, seed=2)
    source = {f"{BLOCK}.mlp.gate_proj.weight": gate, UP: up}
    paths = files(source, {"blk.0.ffn_up.weight": (torch.cat([gate, up]), TYPES.F16)})
    assert only(verified(*paths)).status == "unexplained"  # and no guess across names


def test_plus_one_is_computed_as_the_converter_does(files: Files) -> None:
    norm = f"{BLOCK}.input_layernorm.weight"
    for dtype, computed in ((torch.float16, "f16"), (torch.bfloat16, "f32")):
        weight = random(96, dtype=dtype)
        working = weight if dtype is torch.float16 else weight.float()
        paths = files({norm: weight}, {"blk.0.attn_norm.weight": (working + 1, TYPES.F32)})
        verdict = only(verified(*paths, needs({"blk.0.attn_norm.weight": "plus"})))
        assert verdict.status == "ok" and verdict.relation is not None
        assert (verdict.relation.constant, verdict.relation.computed) == (1.0, computed)


def test_tensors_of_other_blocks_are_found_and_wrong(files: Files) -> None:
    other = UP.replace("layers.0", "layers.1")
    one, two = random(32, 64), random(32, 64, seed=1)
    written = {"blk.0.ffn_up.weight": (two, TYPES.F16), "blk.1.ffn_up.weight": (one, TYPES.F16)}
    found = verified(*files({UP: one, other: two}, written))
    assert [(each.status, each.sources) for each in found.verdicts] == [
        ("WRONG", (other,)),
        ("WRONG", (UP,)),
    ]
    assert f"the name map puts {UP} here" in found.verdicts[0].reason


def test_what_nothing_was_made_of(files: Files) -> None:
    embed, head, lost = "model.embed_tokens.weight", "lm_head.weight", f"{BLOCK}.mlp.lost.weight"
    table = random(40, 32)
    source = {embed: table, head: table.clone(), lost: random(40, 32, seed=1)}
    found = verified(*files(source, {"token_embd.weight": (table, TYPES.F16)}))
    left = {each.name: (each.fine, each.why) for each in found.left}
    assert left == {
        head: (True, f"the same values as {embed}"),
        lost: (False, "nothing was made of it"),
    }
    assert (
        verified(
            *files(source, {"token_embd.weight": (table, TYPES.F16)}), chosen=lambda _: True
        ).left
        == ()
    )


def test_norms_that_changed_places(files: Files) -> None:
    """Copied as is needed, but each under the other's name."""
    first, second = (f"{BLOCK}.{name}_layernorm.weight" for name in ("input", "post_attention"))
    one, two = random(64), random(64, seed=1)
    names = ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight")
    swapped = dict(zip(names, ((two, TYPES.F32), (one, TYPES.F32)), strict=True))
    folder, file = files({first: one, second: two}, swapped)
    found = verified(folder, file)
    assert [each.status for each in found.verdicts] == ["WRONG", "WRONG"]
    assert f"of {second}: the name map puts {first} here" in found.verdicts[0].reason
    written, checkpoint = WrittenFile(file), open_checkpoint(folder)
    seen = {names[0]: (second,), names[1]: (first,)}  # that the converter did so proves nothing
    against = comparing(checkpoint, name_map(written.contents), needs({}), seen=seen)
    assert verify(written, against).count("WRONG") == 2


def test_tensors_that_do_not_belong_in_the_file(files: Files) -> None:
    up, odd = random(32, 64), random(64, seed=1)
    source = {UP: up, f"{BLOCK}.mlp.odd.weight": odd}
    written = {
        "blk.0.ffn_up.weight": (up, TYPES.F16),
        "blk.0.ffn_up.bias": (up, TYPES.F16),
        "blk.0.attn_norm.bias": (odd, TYPES.F32),
    }
    found = {each.name: each for each in verified(*files(source, written)).verdicts}
    assert [each.status for each in found.values()] == ["ok", "WRONG", "unjudged"]
    assert "the name map puts in blk.0.ffn_up.weight" in found["blk.0.ffn_up.bias"].reason
    assert "no place for" in found["blk.0.attn_norm.bias"].reason


def test_tensors_that_the_file_lacks(files: Files) -> None:
    """Norms of the same values stand for nothing but themselves."""
    first, second = (f"{BLOCK}.{name}_layernorm.weight" for name in ("input", "post_attention"))
    source = {first: torch.ones(64), second: torch.ones(64)}
    source["vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"] = random(32, 64)
    found = verified(*files(source, {"blk.0.attn_norm.weight": (torch.ones(64), TYPES.F32)}))
    assert [(each.name, each.fine, each.place) for each in found.left] == [
        (second, False, "blk.0.ffn_norm.weight"),
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", True, ""),
    ]
    assert found.count("ok") == 1 and exit_status(found) == 1


@pytest.mark.filterwarnings("ignore:overflow")
def test_values_that_became_infinite(files: Files) -> None:
    up = random(32, 64)
    up[3, 4] = 1e6
    verdict = only(verified(*files({UP: up}, {"blk.0.ffn_up.weight": (up, TYPES.F16)})))
    assert (verdict.status, verdict.reason) == (
        "WRONG",
        "1 value too large for f16 became infinite",
    )


# -- every bit -----------------------------------------------------------------------------------


def test_bits_that_are_equal_as_numbers(files: Files) -> None:
    weight = torch.tensor([[0.0, math.nan, 1.0, -0.0] * 8])
    folder, file = files({UP: weight}, {"blk.0.ffn_up.weight": (weight, TYPES.F32)})
    assert only(verified(folder, file)).status == "ok"
    place = WrittenFile(file).places[0]["blk.0.ffn_up.weight"]
    whole = file.read_bytes()
    for at, bits in ((0, 0x80000000), (4, 0x7FC00001), (12, 0)):  # -0, another NaN, 0
        file.write_bytes(whole[: place + at] + struct.pack("<I", bits) + whole[place + at + 4 :])
        verdict = only(verified(folder, file))
        assert verdict.status == "unexplained" and verdict.miss is not None
        assert verdict.miss.equal == 31


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_changed_bit_is_found(files: Files, data: st.DataObject) -> None:
    q, norm, experts = random(32, 64), random(64, seed=1), [random(8, 32, seed=s) for s in (2, 3)]
    source = {Q: q, f"{BLOCK}.input_layernorm.weight": norm, "model.norm.weight": norm * 0}
    names = [f"{BLOCK}.block_sparse_moe.experts.{number}.w1.weight" for number in range(2)]
    source |= dict(zip(names, experts, strict=True))
    kind = data.draw(st.sampled_from([TYPES.F16, TYPES.BF16, TYPES.Q8_0, TYPES.F32]))
    written = {
        "blk.0.attn_q.weight": (interleaved(q, 4), kind),
        "blk.0.attn_norm.weight": (norm.float() + 1, TYPES.F32),
        "output_norm.weight": (norm.float() * 0 + 1, TYPES.F32),
        "blk.0.ffn_gate_exps.weight": (torch.stack(experts), kind),
    }
    wanted = needs(
        {
            "blk.0.attn_q.weight": "rope",
            "blk.0.ffn_gate_exps.weight": "stacked",
            "blk.0.attn_norm.weight": "plus",
            "output_norm.weight": "plus",
        }
    )
    folder, file = files(source, written)
    assert verified(folder, file, wanted).count("ok") == 4
    opened = WrittenFile(file)
    tensor = data.draw(st.sampled_from(opened.contents.tensors))
    bit = data.draw(st.integers(0, 8 * (tensor.nbytes or 0) - 1))
    changed = bytearray(file.read_bytes())
    changed[opened.places[0][tensor.name] + bit // 8] ^= 1 << bit % 8
    file.write_bytes(changed)
    found = verified(folder, file, wanted)
    assert [each.name for each in found.verdicts if each.status != "ok"] == [tensor.name]


# -- input that is not as it should be -----------------------------------------------------------


def test_a_file_cut_short(files: Files) -> None:
    up = random(32, 64)
    folder, file = files({UP: up}, {"blk.0.ffn_up.weight": (up, TYPES.F16)})
    file.write_bytes(file.read_bytes()[:-2000])
    found = verified(folder, file)
    assert only(found).status == "unjudged" and "ends at byte" in only(found).reason
    assert "cut short" in found.problems[0]


def test_a_type_that_gguf_does_not_quantise_to(files: Files) -> None:
    up = random(32, 256)
    folder, file = files({UP: up}, {"blk.0.ffn_up.weight": (up, TYPES.F16)})
    writer = gguf.GGUFWriter(file, "llama")
    data = torch.zeros(32, 144, dtype=torch.uint8).numpy()
    writer.add_tensor("blk.0.ffn_up.weight", data, raw_dtype=TYPES.Q4_K)
    verdict = only(_by_writer(folder, writer))
    assert verdict.status == "unjudged" and "does not quantise to q4_K" in verdict.reason


def _by_writer(folder: Path, writer: Any) -> Verification:
    written = WrittenByWriter(writer, "writer")
    against = comparing(open_checkpoint(folder), name_map(written.contents), needs({}))
    return verify(written, against)


def test_a_writer_that_still_holds_its_tensors(files: Files, tmp_path: Path) -> None:
    up = random(32, 64)
    folder, _ = files({UP: up}, {})
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "llama")
    writer.add_tensor(
        "blk.0.ffn_up.weight",
        gguf.quants.quantize(up.float().numpy(), TYPES.Q8_0),
        raw_dtype=TYPES.Q8_0,
    )
    assert only(_by_writer(folder, writer)).status == "ok"
    writer.tensors[0]["blk.0.ffn_up.weight"].tensor = None
    assert "keeps it no more" in only(_by_writer(folder, writer)).reason
    big = gguf.GGUFWriter(tmp_path / "big.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    with pytest.raises(CheckpointError, match="big-endian"):
        WrittenByWriter(big, "writer")


def test_a_checkpoint_of_torch_save(files: Files) -> None:
    up = random(32, 64)
    folder, file = files({}, {"blk.0.ffn_up.weight": (up, TYPES.F16)})
    (folder / "model.safetensors").unlink()
    torch.save({UP: up}, folder / "pytorch_model.bin")
    assert only(verified(folder, file)).status == "ok"


def test_scalars_empty_tensors_and_a_row_of_blocks(files: Files) -> None:
    source = {UP: random(64), Q: torch.tensor(1.5), K: torch.zeros(0, 4)}
    written = {
        "blk.0.ffn_up.weight": (random(64, seed=1), TYPES.Q8_0),
        "blk.0.attn_q.weight": (torch.tensor(1.5), TYPES.F32),
        "blk.0.attn_k.weight": (torch.zeros(0, 4), TYPES.F32),
    }
    found = {each.name: each.status for each in verified(*files(source, written)).verdicts}
    assert found["blk.0.ffn_up.weight"] == "unexplained" and found["blk.0.attn_q.weight"] == "ok"
    assert found["blk.0.attn_k.weight"] == "unexplained"  # nothing to be compared: never ok


def test_names_with_escape_sequences_are_only_printed(files: Files) -> None:
    import io

    from modpdb.views.console import print_to
    from modpdb.views.verify import verification

    name = "blk.0.\x1b[31m[bold]x.weight"
    found = verified(*files({"a\x1b]0;b": random(2, 4)}, {name: (random(2, 4, seed=1), TYPES.F32)}))
    printed = io.StringIO()
    print_to(printed, [verification(found)], color=False)
    assert "\x1b" not in printed.getvalue() and "\\x1b[31m[bold]x" in printed.getvalue()
