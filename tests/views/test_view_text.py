"""Words and numbers."""

from hypothesis import given
from hypothesis import strategies as st

from modpdb.views.text import percent


@given(st.integers(1, 10**12).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_a_share_is_never_said_to_be_none_or_all_of_it(counted: tuple[int, int]) -> None:
    part, of = counted
    said = percent(part / of)
    assert (said == "0.0%") == (part == 0)
    assert said != "100.0%" or part / of == 1
