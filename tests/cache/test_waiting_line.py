"""The line knows who is before whom, and estimates a wait by the work ahead and by how fast others began."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elmas.cache.service_rate import ServiceRate
from elmas.cache.waiting_line import WaitingLine

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "arrive", "arrive", "work", "begin", "begin", "leave", "stranger"]),
        st.integers(0, 10),
        st.floats(0.0, 10.0),
    ),
    max_size=80,
)


@settings(max_examples=200, derandomize=True)
@given(actions=ACTIONS)
def test_the_line_matches_a_plain_list(actions: list[tuple[str, int, float]]) -> None:
    line, rate = WaitingLine(), ServiceRate()
    waiting: dict[str, tuple[int, float]] = {}
    n_arrived, now_s = 0, 0.0
    for action, place, value in actions:
        now_s += value / 10
        name = list(waiting)[place % len(waiting)] if waiting else "nobody"
        if action == "arrive":
            n_arrived += 1
            expected_s = max(sum(work_s for _, work_s in waiting.values()), rate.wait_s(len(waiting)))
            assert line.number(f"request-{n_arrived}") == n_arrived, "a number is known before it is taken"
            assert line.arrive(f"request-{n_arrived}") == pytest.approx(expected_s, abs=1e-9)
            waiting[f"request-{n_arrived}"] = n_arrived, 0.0
        elif action == "work" and waiting:
            line.set_work(name, value)
            waiting[name] = waiting[name][0], value
        elif action == "begin":
            assert line.begin(name, now_s) == (name in waiting)
            if waiting.pop(name, None) is not None:
                rate.admitted(1, len(waiting), now_s)
        elif action == "leave":
            line.leave(name, now_s)
            if waiting.pop(name, None) is not None and not waiting:
                rate.admitted(0, 0, now_s)
        elif action == "stranger":
            assert not line.begin("stranger", now_s)
            line.leave("stranger", now_s)
        assert len(line) == len(waiting)
        assert [line.number(name) for name in waiting] == [number for number, _ in waiting.values()]
        assert line.number("stranger") == n_arrived + 1


def test_numbers_grow_by_arrival_and_are_never_given_twice() -> None:
    line = WaitingLine()
    for name in "abc":
        line.arrive(name)
    line.begin("a", 0.0)
    line.leave("c", 0.0)
    line.arrive("d")
    assert [line.number(name) for name in "bd"] == [2, 4]


def test_the_wait_is_the_work_ahead_while_nothing_else_delays() -> None:
    line = WaitingLine()
    assert line.arrive("a") == 0
    line.set_work("a", 1.5)
    assert line.arrive("b") == 1.5
    line.set_work("b", 2.0)
    line.set_work("a", 1.0)
    assert line.arrive("c") == 3.0
    line.begin("a", 0.0)
    assert line.arrive("d") == 2.0


def test_the_wait_follows_those_that_began_lately_where_that_is_longer() -> None:
    line = WaitingLine()
    for number in range(20):
        line.arrive(f"request-{number}")
        line.set_work(f"request-{number}", 0.1)
    for number in range(10):  # one every two seconds
        line.begin(f"request-{number}", 2.0 * number)
    assert line.arrive("new") == pytest.approx(20.0)


def test_rounding_errors_do_not_outlive_the_line() -> None:
    line = WaitingLine()
    for _ in range(3):
        for number in range(1000):
            line.arrive(f"request-{number}")
            line.set_work(f"request-{number}", 0.1 * number)
        for number in range(1000):
            line.leave(f"request-{number}", 0.0)
        assert line.arrive("alone") == 0.0
        line.leave("alone", 0.0)
