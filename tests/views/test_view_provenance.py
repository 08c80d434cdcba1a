"""The rows of `provenance`, and the way of one tensor."""

import io

from modpdb.probes.lazy import Leaf, Made
from modpdb.probes.provenance import WrittenTensor
from modpdb.probes.tensor_ways import Unwritten, Ways
from modpdb.views.console import print_to
from modpdb.views.provenance import whole, written_rows


def written(name: str, *sources: str, inferred: bool = False) -> WrittenTensor:
    history = None
    if len(sources) == 1 and not inferred:
        source = Leaf("model.safetensors", sources[0], (4, 2), "bf16")
        history = Made("to(f32)", (source,), (4, 2), "f32")
        history = Made("+ 1", (history,), (4, 2), "f32")
    return WrittenTensor(name, sources, inferred, history, (4, 2), "f32", "f16", "b.py:9 f", "")


def shown(*renderables: object) -> str:
    out = io.StringIO()
    print_to(out, renderables, color=False)
    return out.getvalue()


def rows(*tensors: WrittenTensor, unwritten: tuple[Unwritten, ...] = ()) -> str:
    ways = Ways(tensors, (), unwritten, True)
    return shown(written_rows(ways, ways))


def test_blocks_and_what_their_sources_have_in_common() -> None:
    pairs = (("attn_q", "self_attn.q_proj"), ("attn_norm", "input_layernorm"))
    names = [(f"blk.{n}.{a}", f"model.layers.{n}.{b}") for n in range(3) for a, b in pairs]
    said = rows(*(written(*each) for each in names), written("rope"), written("out", "head"))
    assert said.splitlines() == [
        "8 tensors written from 7 of the checkpoint · 1 made by the converter",
        "blk.{0…2}    3 ×       ← model.layers.{0…2}.",
        "  attn_q          f16  ← self_attn.q_proj · + 1",
        "  attn_norm       f16  ← input_layernorm · + 1",
        "rope              f16  made by the converter",
        "out               f16  ← head · + 1",
    ]
    one = rows(*(written(*each) for each in names if ".1." in each[0]))
    assert one.splitlines()[1:] == [
        "blk.1             ← model.layers.1.",
        "  attn_q     f16  ← self_attn.q_proj · + 1",
        "  attn_norm  f16  ← input_layernorm · + 1",
    ]


def test_stacked_inferred_and_not_written() -> None:
    experts = [f"l.{n}.w1" for n in range(4)]
    unwritten = (Unwritten("a.0", "", ""), Unwritten("b", "B", "c.py:1 g"))
    said = rows(written("exps", *experts, inferred=True), unwritten=unwritten)
    assert "1 inferred · 1 read and not written · 1 to come" in " ".join(said.split())
    assert "exps  f16  ← l.{0…3}.w1 · inferred\nread, and nothing of it was written" in said
    assert said.endswith("  b  → B\n`map` says what will become of those to come\n")


def test_chosen_ones_to_come_are_listed() -> None:
    to_come = (Unwritten("a.0", "A.0", ""), Unwritten("a.1", "A.1", ""), Unwritten("b", "", ""))
    every = Ways((), (), (*to_come, Unwritten("c", "C", "")), True)
    said = shown(written_rows(Ways((), (), to_come, True), every))
    assert "to come, → the name map's word (predicted):\n" in said
    assert "  a.{0…1}  → A.{0…1}\n" in said and "  b        no name in the name map\n" in said


def test_one_whole() -> None:
    ways = Ways((written("blk.0.x", "l.0.\x1b[1m"), written("y", "p", "q")), (), (), True)
    said = shown(whole(ways, {"p": "m.bin", "q": "m.bin"}))
    assert "model.safetensors: l.0.\\x1b[1m [4, 2] bf16 → to(f32) → + 1\n" in said
    assert "→ blk.0.x f16 [4, 2] ne [2, 4]\n  written at  b.py:9 f\n" in said
    assert "m.bin: p, q (inferred, operations not known) → y f16 [4, 2] ne [2, 4]\n" in said


def test_nobody_looked() -> None:
    ways = Ways((), (), (Unwritten("a", "A", ""),), False)
    assert "nobody looked while the conversion ran" in shown(written_rows(ways, ways))
    assert "not known: nobody looked" in shown(whole(ways, {}))
