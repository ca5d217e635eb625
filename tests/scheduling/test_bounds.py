"""Overtaking is counted exactly up to the bound."""

from hypothesis import given
from hypothesis import strategies as st

from elmas.scheduling.bounds import Overtaking


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=5), max_size=8),
    st.integers(0, 6),
)
def test_later_ones_that_ran_earlier_are_counted(steps: list[list[tuple[int, bool]]], max_counted: int) -> None:
    overtaking = Overtaking(max_counted)
    begun: set[int] = set()
    for step in steps:
        tried = {number: runs for number, runs in step if number not in begun}
        for number in tried:
            overtaking.begin(number)
        for waiting in range(41):
            n_later = sum(other > waiting for other in begun | tried.keys())
            assert min(overtaking.n_overtaken(waiting), max_counted) == min(n_later, max_counted)
        for number in (number for number, runs in tried.items() if not runs):
            overtaking.abort(number)
        overtaking.commit()
        begun |= {number for number, runs in tried.items() if runs}
        for waiting in range(41):
            n_later = sum(other > waiting for other in begun)
            assert overtaking.n_overtaken(waiting) == min(n_later, max_counted)
