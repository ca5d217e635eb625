"""Nobody waits for others without reason, nor for long."""

from hypothesis import given
from hypothesis import strategies as st

from elmas.scheduling.gathering import MAX_WAIT_S, Gathering


def burst(
    gathering: Gathering, begin_s: float, n: int, interval_s: float, n_only_on_device: int, late_s: float = 0.0
) -> float:
    """A burst of arrivals at an idle server, seen so much later; returns when the last one was seen."""
    for i in range(n):
        gathering.arrived(
            begin_s + i * interval_s,
            begin_s + i * interval_s + late_s,
            is_idle=i == 0,
            n_only_on_device=n_only_on_device,
        )
    return begin_s + (n - 1) * interval_s + late_s


def test_a_burst_like_the_one_before_is_waited_for() -> None:
    gathering = Gathering()
    burst(gathering, 0.0, 50, 0.001, 0)
    last_s = burst(gathering, 10.0, 10, 0.001, 100)
    assert gathering.holds_until_s(last_s) > last_s
    last_s = burst(gathering, last_s + 0.001, 40, 0.001, 100)
    assert gathering.holds_until_s(last_s) == last_s, "the burst has come"


def test_a_burst_is_waited_for_though_the_scheduler_sees_it_late() -> None:
    gathering = Gathering()
    burst(gathering, 0.0, 50, 0.001, 0, late_s=0.1)
    last_s = burst(gathering, 10.0, 10, 0.001, 100, late_s=0.1)
    assert gathering.holds_until_s(last_s) > last_s


def test_long_prompts_which_the_front_end_takes_long_for_are_a_burst_too() -> None:
    gathering = Gathering()
    burst(gathering, 0.0, 50, 0.004, 0)
    last_s = burst(gathering, 10.0, 10, 0.004, 100)
    assert gathering.holds_until_s(last_s) >= last_s + 0.01


def test_a_burst_that_takes_longer_than_the_wait_is_not_waited_for() -> None:
    gathering = Gathering()
    n = int(1.2 * MAX_WAIT_S / 0.002)
    burst(gathering, 0.0, n, 0.002, 0)
    last_s = burst(gathering, 10.0, 10, 0.002, 100)
    assert gathering.holds_until_s(last_s) == last_s


def test_a_burst_that_does_not_go_on_is_not_waited_for() -> None:
    gathering = Gathering()
    burst(gathering, 0.0, 50, 0.001, 0)
    last_s = burst(gathering, 10.0, 10, 0.001, 100)
    assert gathering.holds_until_s(last_s) <= last_s + 0.01


def test_nobody_waits_where_host_memory_holds_what_the_device_has() -> None:
    gathering = Gathering()
    burst(gathering, 0.0, 50, 0.001, 7)
    last_s = burst(gathering, 10.0, 10, 0.001, 7)
    assert gathering.holds_until_s(last_s) == last_s


@given(st.lists(st.tuples(st.floats(0.01, 100.0), st.integers(1, 7)), min_size=1, max_size=20))
def test_few_requests_at_a_time_never_wait(visits: list[tuple[float, int]]) -> None:
    gathering = Gathering()
    now_s = 0.0
    for number, (pause_s, n) in enumerate(visits):
        now_s = burst(gathering, now_s + pause_s, n, 0.001, number)
        assert gathering.holds_until_s(now_s) == now_s


@given(st.lists(st.tuples(st.floats(0.011, 0.09), st.booleans()), min_size=20, max_size=200))
def test_users_who_do_not_know_of_each_other_never_wait(arrivals: list[tuple[float, bool]]) -> None:
    gathering = Gathering()
    now_s = 0.0
    for number, (gap_s, is_idle) in enumerate(arrivals):
        now_s += gap_s
        gathering.arrived(now_s, now_s, is_idle, number)
        assert gathering.holds_until_s(now_s) == now_s


@given(st.lists(st.tuples(st.floats(0.0, 0.1), st.booleans(), st.integers(0, 3)), max_size=200))
def test_nobody_waits_longer_than_the_bound(arrivals: list[tuple[float, bool, int]]) -> None:
    gathering = Gathering()
    now_s = 0.0
    held_since_s: float | None = None
    n_only_on_device = 0
    for gap_s, is_idle, n_more in arrivals:
        now_s += gap_s
        n_only_on_device += n_more
        if held_since_s is not None and gathering.holds_until_s(now_s) <= now_s:
            held_since_s = None
        gathering.arrived(now_s, now_s, is_idle, n_only_on_device)
        until_s = gathering.holds_until_s(now_s)
        if until_s > now_s:
            held_since_s = now_s if held_since_s is None else held_since_s
            assert until_s <= held_since_s + MAX_WAIT_S + 1e-9
