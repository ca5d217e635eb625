"""A session is found again by its id or by what it said last, and habits and hints tell when it will be back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmas.cache.hints import NO_HINTS, Hints
from elmas.cache.returns import _WIDTHS, Returns, _gittins
from elmas.cache.sessions import NO_SESSION, Sessions
from tests.cache.truth import earn_trust

_some_hints = st.sampled_from(
    [NO_HINTS, Hints(is_done=True), Hints(next_use_s=10.0), Hints(ttl_s=20.0), Hints(priority=3.0, next_use_s=1.0)]
)


def chain(*names: int) -> list[bytes]:
    return [name.to_bytes(32, "little") for name in names]


def values(sessions: Sessions, *slots: int) -> list[float]:
    sessions.refresh()
    return sessions.values(np.array(slots)).tolist()


def test_a_request_that_goes_on_where_the_prompt_or_the_answer_ended_is_of_the_same_session() -> None:
    sessions = Sessions()
    a = sessions.arrive(chain(1, 2), 0.0)
    sessions.end(a, 2, chain(1, 2, 3), 1.0)
    assert sessions.arrive(chain(1, 2, 3, 4), 2.0) == a
    sessions.end(a, 4, chain(1, 2, 3, 4, 5), 3.0)
    assert sessions.arrive(chain(1, 2, 3, 4, 9), 4.0) == a, "the answer came back in other words"


def test_a_shared_beginning_does_not_make_one_session() -> None:
    sessions = Sessions()
    a, b = sessions.arrive(chain(1, 2), 0.0), sessions.arrive(chain(1, 3), 0.0)
    assert a != b
    sessions.end(a, 2, chain(1, 2, 4), 1.0)
    assert sessions.arrive(chain(1, 2, 7, 8), 2.0) == a, "the prompt's own end is still known"
    sessions.end(a, 4, chain(1, 2, 7, 8), 3.0)
    assert sessions.arrive(chain(1, 2, 6), 4.0) not in (a, b), "a's conversation is further on"


def test_ids_name_sessions_and_salts_keep_them_apart() -> None:
    sessions = Sessions()
    a = sessions.arrive(chain(1), 0.0, "x", "salt")
    assert sessions.arrive(chain(2), 1.0, "x", "salt") == a
    assert sessions.arrive(chain(2), 1.0, "x") != a
    assert sessions.find("x", "salt") == a
    assert sessions.find("y", "salt") == NO_SESSION


def test_the_session_heard_of_longest_ago_makes_room() -> None:
    sessions = Sessions(n_slots=2)
    a, b = sessions.arrive(chain(1), 0.0), sessions.arrive(chain(2), 1.0)
    before = sessions.generation[a]
    sessions.arrive(chain(2, 3), 2.0)
    sessions.end(a, 1, chain(1), 3.0)
    c = sessions.arrive(chain(4), 4.0)
    assert c == b
    assert sessions.generation[a] == before
    assert sessions.arrive(chain(2, 3), 5.0) == a, "forgotten, so it is a new session in the oldest place"


def test_who_is_due_is_worth_more_than_who_was_just_here() -> None:
    sessions = Sessions()
    for turn in range(6):
        for agent in range(10):
            slot = sessions.arrive(chain(agent), 10.0 * turn + agent, f"agent {agent}")
            sessions.end(slot, 1, chain(agent), 10.0 * turn + agent)
    order = values(sessions, *(sessions.find(f"agent {agent}") for agent in range(10)))
    assert order == sorted(order, reverse=True)
    assert order[0] > 5 * order[-1]


def test_who_stayed_away_for_long_is_worth_next_to_nothing() -> None:
    sessions = Sessions()
    gone = sessions.arrive(chain(99), 0.0, "gone")
    sessions.end(gone, 1, chain(99), 0.0)
    for turn in range(100):
        for agent in range(10):
            sessions.arrive(chain(agent), 10.0 * turn + agent, f"agent {agent}")
    there = sessions.find("agent 0")
    assert values(sessions, gone)[0] < 0.05 * values(sessions, there)[0]


def test_hints_outdo_habits() -> None:
    sessions = Sessions()
    earn_trust(sessions)
    soon, late, never, kept = (sessions.arrive(chain(n), 0.0, str(n)) for n in range(4))
    sessions.hint(soon, Hints(next_use_s=1.5), 0.0)
    sessions.hint(late, Hints(next_use_s=100.0), 0.0)
    sessions.hint(never, Hints(is_done=True), 0.0)
    sessions.hint(kept, Hints(next_use_s=100.0, priority=3.0), 0.0)
    for number, slot in enumerate((soon, late, never, kept)):
        sessions.end(slot, 1, chain(number), 0.0)
    assert values(sessions, soon, late, never, kept) == pytest.approx([1 / 1.5, 0.01, 0.0, 0.03])
    sessions.arrive(chain(50), 1.0)
    assert values(sessions, soon)[0] == pytest.approx(2.0), "half a second is left"


def test_what_outlives_its_time_is_worth_nothing() -> None:
    sessions = Sessions()
    a = sessions.arrive(chain(1), 0.0)
    sessions.hint(a, Hints(ttl_s=5.0), 0.0)
    sessions.end(a, 1, chain(1), 0.0)
    sessions.arrive(chain(2), 4.0)
    assert values(sessions, a)[0] > 0
    sessions.arrive(chain(3), 6.0)
    assert values(sessions, a) == [0.0]


def test_steps_count_in_the_sessions_own_intervals() -> None:
    sessions = Sessions()
    earn_trust(sessions)
    for turn in range(20):
        slot = sessions.arrive(chain(1), 4.0 * turn, "a")
    sessions.hint(slot, Hints(next_use_steps=3), sessions.now_s)
    assert values(sessions, slot)[0] == pytest.approx(1 / 12, rel=0.05)


def test_hints_are_not_believed_before_some_came_true() -> None:
    sessions = Sessions()
    slot = sessions.arrive(chain(1), 0.0)
    before = values(sessions, slot)
    sessions.hint(slot, Hints(next_use_s=0.01), 0.0)
    assert values(sessions, slot) == before
    sessions.hint(slot, Hints(is_done=True), 0.0)
    assert values(sessions, slot) == before


def test_a_named_session_that_begins_anew_leaves_its_past_behind() -> None:
    sessions = Sessions()
    a = sessions.arrive(chain(1, 2), 0.0, "x")
    sessions.end(a, 2, chain(1, 2, 3), 1.0)
    assert sessions.arrive(chain(1, 2, 9), 2.0, "x") == a
    sessions.end(a, 3, chain(1, 2, 9), 3.0)
    b = sessions.arrive(chain(50), 4.0, "x")
    assert b != a
    assert sessions.arrive(chain(50), 5.0, "x") == b
    assert sessions.arrive(chain(1, 2, 9, 10), 6.0) == a, "what was said is found by what it was"


def test_a_hint_ends_with_the_return() -> None:
    sessions = Sessions()
    a = sessions.arrive(chain(1), 0.0, "a")
    sessions.hint(a, Hints(is_done=True), 0.0)
    assert sessions.arrive(chain(1), 3.0, "a") == a
    assert values(sessions, a)[0] > 0


def test_hints_that_never_come_true_are_not_believed() -> None:
    sessions = Sessions()
    earn_trust(sessions)
    for n in range(20):
        sessions.hint(sessions.arrive(chain(n), 0.0), Hints(next_use_s=1.0), 0.0)
    sessions.arrive(chain(100), 60.0)
    sessions.refresh()
    fresh = sessions.arrive(chain(101), 61.0)
    sessions.hint(fresh, Hints(next_use_s=1.0), 61.0)
    assert values(sessions, fresh)[0] == pytest.approx(sessions.learned_values(np.array([fresh]))[0])


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.floats(0, 50)), max_size=80))
def test_every_key_leads_to_a_living_session(events: list[tuple[int, bool, float]]) -> None:
    sessions, now_s = Sessions(n_slots=3), 0.0
    for name, is_named, gap_s in events:
        now_s += gap_s
        slot = sessions.arrive(chain(name), now_s, str(name) if is_named else None)
        sessions.end(slot, 1, chain(name, name + 100), now_s)
        sessions.refresh()
        assert set(sessions._slot_of.values()) <= set(sessions._by_age)
        assert len(sessions._by_age) + len(sessions._free) == 3
        assert all(key in sessions._keys_of[slot] for key, slot in sessions._slot_of.items())
        known = np.fromiter(sessions._by_age, dtype=np.int64)
        assert np.flatnonzero(sessions._is_known).tolist() == sorted(known.tolist())
        found = sessions.values(known)
        assert np.isfinite(found).all()
        assert (found >= 0).all()


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 50), _some_hints), max_size=60), st.booleans())
def test_asking_for_one_session_gives_what_asking_for_many_does(
    events: list[tuple[int, float, Hints]], is_believed: bool
) -> None:
    sessions, now_s = Sessions(n_slots=4), 0.0
    if is_believed:
        sessions._trust._returns.share[:] = sessions._trust._ends[:] = 0.9
    for name, gap_s, hints in events:
        now_s += gap_s
        slot = sessions.arrive(chain(name), now_s, str(name), hints=hints)
        if gap_s < 40:
            sessions.end(slot, 1, chain(name), now_s)
        sessions.refresh()
    for slot in sessions._by_age:
        slots = np.array([slot])
        many = sessions.learned_values(slots)[0], sessions.values(slots)[0]
        assert sessions.values_of(slot) == many, "to the last bit: what is equal must stay so"


@given(st.lists(st.floats(0, 1), min_size=186, max_size=186), st.floats(1e-3, 0.1))
def test_the_index_is_the_best_ratio_over_all_horizons(chances: list[float], scale: float) -> None:
    hazard = scale * np.array(chances)
    survival = np.concatenate(([1.0], np.cumprod(1.0 - hazard)))
    time = np.concatenate(([0.0], np.cumsum((survival[:-1] + survival[1:]) / 2 * _WIDTHS)))
    for start in (0, 17, 90, 185):
        spans, returns = time[start + 1 :] - time[start], survival[start] - survival[start + 1 :]
        best = max((r / s for r, s in zip(returns.tolist(), spans.tolist(), strict=True) if s > 0), default=0.0)
        assert _gittins(hazard)[start] == pytest.approx(best, rel=1e-6)


def test_the_index_of_a_sure_return_is_one_over_the_time_left() -> None:
    returns = Returns()
    for _ in range(2000):
        returns.returned(1.0)
    returns.refresh(np.empty(0))
    assert returns.index(np.array([0.2, 0.5, 0.8])) == pytest.approx([1 / 0.8, 1 / 0.5, 1 / 0.2], rel=0.06)


def test_the_index_of_memoryless_returns_does_not_change_with_age() -> None:
    returns, rng = Returns(), np.random.default_rng(1)
    for age in rng.exponential(1.0, 6000):
        returns.returned(age)
    returns.refresh(np.empty(0))
    assert returns.index(np.array([0.05, 0.5, 1.0, 2.0])) == pytest.approx([1.0] * 4, rel=0.2)


def test_what_still_waits_counts_as_not_having_come_back() -> None:
    returns = Returns()
    for _ in range(100):
        returns.returned(1.0)
    returns.refresh(np.empty(0))
    sure = returns.index(np.array([0.0]))[0]
    returns.refresh(np.full(300, 5.0))
    assert returns.index(np.array([0.0]))[0] < 0.5 * sure
    for _ in range(300):
        returns.gave_up(5.0)
    returns.refresh(np.empty(0))
    assert returns.index(np.array([0.0]))[0] < 0.5 * sure, "also when they are not watched any more"


def test_a_session_that_waits_or_runs_is_not_away() -> None:
    sessions = Sessions()
    for turn in range(20):
        for agent in "ab":
            sessions.end(sessions.arrive(chain(1), 10.0 * turn, agent), 1, chain(1), 10.0 * turn)
    a, b = sessions.find("a"), sessions.find("b")
    sessions.arrive(chain(1), 200.0, "a")
    sessions.arrive(chain(1), 200.0, "b")
    sessions.end(b, 1, chain(1), 201.0)
    sessions.arrive(chain(2), 208.0)
    assert values(sessions, b)[0] > 2 * values(sessions, a)[0], "it will be back first"
