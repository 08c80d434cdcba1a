"""What is said of a breakpoint on tensor names."""

import io

from rich.console import Console

from modpdb.probes.tensor_names import Meets
from modpdb.views.tensor_names import in_words, tensors_met


def shown(found: Meets, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(tensors_met("Breakpoint 1 at @g", found))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_one_and_many() -> None:
    pairs = [(f"blk.{n}.attn_q.weight", f"model.layers.{n}.q.weight") for n in range(4)]
    assert shown(Meets((), tuple(pairs[:1]), (), (), True)) == [
        "Breakpoint 1 at @g: 1 GGUF tensor (predicted)",
        "    blk.0.attn_q.weight  from model.layers.0.q.weight",
    ]
    assert shown(Meets(("model.a",), tuple(pairs), ("blk.0.x", "blk.1.x"), (), True)) == [
        "Breakpoint 1 at @g: 1 checkpoint tensor, 4 GGUF tensors (predicted)",
        "    model.a",
        "    blk.{0…3}.attn_q.weight  from model.layers.*.q.weight",
        "    not predicted, but possible:  blk.{0…1}.x",
    ]


def test_a_long_list_is_cut() -> None:
    lines = shown(Meets(tuple(f"tensor_{chr(97 + n)}" for n in range(9)), (), (), (), True))
    assert len(lines) == 8 and lines[-1] == "    … and 3 rows more"


def test_none() -> None:
    assert shown(Meets((), (), (), ("model.a", "model.b"), True)) == [
        "Breakpoint 1 at @g: no tensor of that name is known",
        "    near: model.a",
        "    near: model.b",
    ]
    assert in_words(Meets((), (), (), (), False)) == (
        "no checkpoint tensor of that name, GGUF names are not known yet"
    )
    assert in_words(Meets((), (), ("blk.0.x",), (), True)) == "none predicted"


def test_names_out_of_a_checkpoint_are_escaped() -> None:
    text = "\n".join(shown(Meets(("a\x1b[2J",), (("b\x07", "a\x1b[2J"),), ("c\x1b",), (), True)))
    assert "\x1b" not in text and "\x07" not in text and r"a\x1b[2J" in text
    assert r"near: n\x1b" in "\n".join(shown(Meets((), (), (), ("n\x1b",), True)))
