"""The front end shares its time among all requests that have come."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmas.sim.frontend import FrontEnd
from elmas.sim.requests import Job

REQUEST_S = 0.01


def job(number: int) -> Job:
    return Job(0.0, 1, 1, [], tag=number)


def through(arrivals_s: list[float]) -> list[float]:
    """When requests that come at these times are through, by the front end; checks that they stay in order."""
    front_end, times_s = FrontEnd(REQUEST_S), []
    coming = list(enumerate(arrivals_s))
    while coming or front_end.next_s < math.inf:
        if coming and coming[0][1] <= front_end.next_s:
            number, arrival_s = coming.pop(0)
            front_end.arrive(job(number), arrival_s)
        else:
            times_s.append(front_end.next_s)
            assert front_end.take().tag == len(times_s) - 1
    return times_s


def shared_in_small_turns(arrivals_s: list[float], turn_s: float) -> list[float]:
    """The same by a simple model: every turn of the loop is shared by those that are there."""
    left = [REQUEST_S] * len(arrivals_s)
    through_s = [0.0] * len(arrivals_s)
    now_s = 0.0
    while any(share > 1e-12 for share in left):
        there = [i for i, arrival_s in enumerate(arrivals_s) if arrival_s <= now_s and left[i] > 1e-12]
        now_s += turn_s
        for i in there:
            left[i] -= turn_s / len(there)
            through_s[i] = now_s
    return through_s


def test_who_comes_alone_is_through_after_its_own_time() -> None:
    assert through([1.0, 2.0]) == pytest.approx([1.01, 2.01])


def test_those_that_come_at_once_are_through_at_once() -> None:
    assert through([1.0] * 50) == pytest.approx([1.0 + 50 * REQUEST_S] * 50)


@given(st.lists(st.integers(0, 12), max_size=12))
def test_it_is_a_loop_that_works_on_all_in_turns(gaps: list[int]) -> None:
    arrivals_s = [sum(gaps[: i + 1]) * 0.002 for i in range(len(gaps))]
    assert through(arrivals_s) == pytest.approx(shared_in_small_turns(arrivals_s, 1e-5), abs=3e-4)


@given(st.lists(st.floats(0, 0.1), max_size=30))
def test_it_never_rests_while_anybody_is_there(gaps_s: list[float]) -> None:
    arrivals_s = [sum(gaps_s[: i + 1]) for i in range(len(gaps_s))]
    free_s = 0.0
    for arrival_s in arrivals_s:
        free_s = max(free_s, arrival_s) + REQUEST_S
    times_s = through(arrivals_s)
    assert times_s == sorted(times_s)
    assert not times_s or times_s[-1] == pytest.approx(free_s)
    assert all(
        time_s >= arrival_s + REQUEST_S * (1 - 1e-9) for time_s, arrival_s in zip(times_s, arrivals_s, strict=True)
    )
