"""The order saves work and starves nobody."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from elmas.scheduling.order import Bounds, Waiting, order

FREE = Bounds(max_overtaken=1000, max_wait_s=1000.0)

requests = st.builds(
    Waiting,
    cost=st.integers(0, 5).map(float),
    n_overtaken=st.integers(0, 6),
    waited_s=st.floats(0, 20, allow_nan=False),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(requests, max_size=14), st.integers(0, 6), st.floats(1, 30))
def test_any_beginning_keeps_the_bounds(window: list[Waiting], max_overtaken: int, max_wait_s: float) -> None:
    result = order(window, Bounds(max_overtaken, max_wait_s))
    assert sorted(result) == list(range(len(window)))
    for place, position in enumerate(result):
        request = window[position]
        n_later_before = sum(other > position for other in result[:place])
        if request.n_overtaken >= max_overtaken or request.waited_s >= max_wait_s:
            assert n_later_before == 0
        else:
            assert request.n_overtaken + n_later_before <= max_overtaken


@given(st.lists(st.integers(0, 5).map(float), max_size=20))
def test_cheapest_first_and_arrival_among_equals(costs: list[float]) -> None:
    result = order([Waiting(cost) for cost in costs], FREE)
    assert result == sorted(range(len(costs)), key=lambda position: costs[position])


def test_a_stream_of_perfect_hits_does_not_starve_an_expensive_request() -> None:
    """One slot, and for every request that runs a new one arrives that costs nothing."""
    bounds = Bounds(max_overtaken=7, max_wait_s=1e9)
    rng = random.Random(0)
    queue = [[Waiting(cost=100.0), 0], *([Waiting(cost=0.0), 0] for _ in range(5))]
    n_before = 0
    while True:
        window = [Waiting(request.cost, n_overtaken) for request, n_overtaken in queue]
        chosen = order(window, bounds)[0]
        for earlier in queue[:chosen]:
            earlier[1] += 1
        request, _ = queue.pop(chosen)
        if request.cost == 100.0:
            break
        n_before += 1
        queue.append([Waiting(cost=rng.random()), 0])
    assert n_before == bounds.max_overtaken


def test_waiting_too_long_ends_the_overtaking() -> None:
    window = [Waiting(cost=9.0, waited_s=31.0), Waiting(cost=0.0), Waiting(cost=8.0, waited_s=31.0), Waiting(cost=0.0)]
    assert order(window, Bounds(100, 30.0)) == [0, 1, 2, 3]
