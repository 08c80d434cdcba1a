"""Folding: nothing is lost, nothing is made up, and the order is kept."""

import re
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from modpdb.views.folding import by_block, folded, folded_members

parts = st.sampled_from(
    ["a", "w1", "w2", "w", "0", "1", "2", "10", "007", "1a", "٣", "", "{0}", "\n", "a\n1"]
)
paths = st.lists(st.lists(parts, min_size=1, max_size=4).map(".".join), unique=True, max_size=30)


def spelt_out(path: str) -> list[str]:
    """The paths that a folded one stands for."""
    axes = []
    for part in re.split(r"(\{[^{}]*…[^{}]*\}|\{\d+(?:, \d+)+\})", path):
        if not re.fullmatch(r"\{.*[…,].*\}", part):
            axes.append([part])
            continue
        numbers: list[str] = []
        for piece in part[1:-1].split(", "):
            ends = re.fullmatch(r"(\d+)…(\d+)(?: by (\d+))?", piece)
            if ends is None:
                numbers.append(piece)
                continue
            first, last, step = int(ends[1]), int(ends[2]), int(ends[3] or 1)
            if ends[3] and numbers:  # `1, 3…25 by 2`
                first = int(numbers.pop())
            numbers += [str(n) for n in range(first, last + 1, step)]
        axes.append(numbers)
    return ["".join(each) for each in product(*axes)]


@given(paths, st.integers(1, 3))
def test_every_path_is_in_one_row(names: list[str], kinds: int) -> None:
    rows = folded_members(names, str, lambda name: len(name) % kinds)
    assert sorted(name for _, inside, _ in rows for name in inside) == sorted(names)
    for path, inside, alike in rows:
        assert all(len(name) % kinds == alike for name in inside)
        if len(inside) > 1:
            assert sorted(spelt_out(path)) == sorted(inside)
        else:
            assert path == inside[0]
    assert folded((name, len(name) % kinds) for name in names) == [
        (path, len(inside), alike) for path, inside, alike in rows
    ]


def test_digits_in_words_are_no_numbers() -> None:
    names = [f"experts.{n}.w{k}.weight" for n in range(3) for k in (1, 2, 3)]
    assert [path for path, _, _ in folded((name, 0) for name in names)] == [
        "experts.{0…2}.w1.weight",
        "experts.{0…2}.w2.weight",
        "experts.{0…2}.w3.weight",
    ]


def test_007_is_a_word() -> None:
    assert folded([("a.007", 0), ("a.7", 0)]) == [("a.007", 1, 0), ("a.7", 1, 0)]


def test_lines_of_a_block_stand_together() -> None:
    names = ["e", "l.0.a", "l.0.x.0.w", "l.0.b", "l.1.a", "l.1.x.0.w", "l.1.b", "z.0.q"]
    lines = folded_members(names, str, lambda name: 0)
    assert [(block, [path for path, _, _ in inside]) for block, inside in by_block(lines)] == [
        ("", ["e"]),
        ("l.{0…1}", ["l.{0…1}.a", "l.{0…1}.x.0.w", "l.{0…1}.b"]),
        ("", ["z.0.q"]),
    ]
