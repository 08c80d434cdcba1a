"""explain's short form: what is left out where there is no room."""

from io import StringIO

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from modpdb.probes.explanations.explanation import Cause, Explanation, Row, Step, Table
from modpdb.views.explain import Brief


def shown(found: Explanation, width: int = 80) -> list[str]:
    console = Console(file=StringIO(), width=width)
    with console.capture() as capture:
        console.print(Brief(found), crop=False)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    # As a terminal breaks what is to be copied.
    return [line[at : at + width] for line in lines for at in range(0, max(len(line), 1), width)]


words = st.text("abcdefgh ", max_size=120).map(lambda text: f"a{text}")
steps = st.builds(Step, words, st.lists(words, max_size=3).map(tuple))
rows = st.builds(Row, st.text("abc._", min_size=1, max_size=40), st.tuples(words))
tables = st.builds(Table, words, st.lists(rows, min_size=1, max_size=9).map(tuple), st.booleans())
explanations = st.builds(
    Explanation,
    st.just("kind"),
    words,
    st.lists(st.builds(Cause, words, st.booleans()), min_size=1, max_size=2).map(tuple),
    st.lists(tables, max_size=2).map(tuple),
    st.lists(steps, max_size=4).map(tuple),
)


@given(explanations)
def test_twelve_lines_at_most(found: Explanation) -> None:
    lines = shown(found)
    assert len(lines) <= 12
    assert lines[0].startswith("cause: ") and lines[-1] == "`explain` says more"


def test_what_is_to_be_pasted_goes_before_rows() -> None:
    table = Table("head", tuple(Row(f"row.{'x' * n}", ("of it",)) for n in range(9)), brief=True)
    paste = ("a", "b", "c", "d", "e")
    found = Explanation("k", "says", (Cause("why"),), (table,), (Step("do", paste), Step("or")))
    lines = shown(found)
    assert [line.strip() for line in lines if line.startswith("    ")] == list(paste)
    assert "row." in lines[1] and "… and 6 rows more" in "\n".join(lines)
    assert "- or" not in lines


def test_all_of_it_where_there_is_room() -> None:
    table = Table("head", (Row("row", ("of it",)),), brief=True)
    found = Explanation("k", "says", (Cause("why"),), (table,), (Step("do", ("a",)), Step("or")))
    expected = ["cause: why", "head", "  row  of it", "- do:", "    a", "- or"]
    assert shown(found) == [*expected, "`explain` says more"]
