"""The tokens of a step: within bounds, spread where others wait, and all of them where nothing would be gained."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmas.scheduling.pacing import LEAST_TOKENS, Pacing

MAX_TOKENS = 8192


def measured(short_step_s: float, token_s: float, max_tokens: int = MAX_TOKENS) -> Pacing:
    """Pacing that knows how long a step takes at least, and a token."""
    pacing = Pacing(max_tokens)
    pacing.took(100, short_step_s)
    pacing.took(4096, 4096 * token_s)
    return pacing


steps = st.lists(
    st.tuples(st.integers(0, MAX_TOKENS), st.integers(0, 50), st.integers(0, 300)),
    max_size=200,
)
"""Prompt tokens that could be computed, requests that wait, and requests that decode."""


@given(steps, st.integers(1, 2 * MAX_TOKENS))
def test_a_limit_is_never_outside_its_bounds(steps: list[tuple[int, int, int]], max_tokens: int) -> None:
    pacing = Pacing(max_tokens)
    for n_wanted, n_waiting, n_decoding in steps:
        limit = pacing.limit(n_decoding)
        assert min(LEAST_TOKENS, max_tokens) <= limit <= max_tokens
        pacing.scheduled(min(n_wanted, limit), n_waiting)


@given(steps)
def test_where_nothing_decodes_a_step_has_all_tokens(steps: list[tuple[int, int, int]]) -> None:
    pacing = Pacing(MAX_TOKENS)
    for n_wanted, n_waiting, _ in steps:
        pacing.scheduled(min(n_wanted, pacing.limit(1)), n_waiting)
        assert pacing.limit(0) == MAX_TOKENS


@given(steps)
def test_steps_that_only_decode_change_nothing_while_nobody_waits(steps: list[tuple[int, int, int]]) -> None:
    pacing = Pacing(MAX_TOKENS)
    for n_wanted, n_waiting, n_decoding in steps:
        pacing.scheduled(min(n_wanted, pacing.limit(n_decoding)), n_waiting)
        before = pacing.limit(1)
        pacing.scheduled(0, n_waiting=0)
        assert pacing.limit(1) == before


@given(st.integers(1, 60), st.integers(1, 9), steps)
def test_steps_counted_together_are_as_steps_one_by_one(
    n_steps: int, n_waiting: int, steps: list[tuple[int, int, int]]
) -> None:
    together, one_by_one = Pacing(MAX_TOKENS), Pacing(MAX_TOKENS)
    for pacing in (together, one_by_one):
        for n_wanted, n_others, _ in steps:
            pacing.scheduled(n_wanted, n_others)
    together.scheduled(0, n_waiting, n_steps)
    for _ in range(n_steps):
        one_by_one.scheduled(0, n_waiting)
    assert together.limit(1) == pytest.approx(one_by_one.limit(1), abs=1)


def test_a_server_that_has_room_for_all_prompts_soon_computes_as_many_at_once_as_it_may() -> None:
    pacing = measured(0.002, 1e-5)
    pacing.scheduled(0, n_waiting=5, n_steps=1000)
    assert pacing.limit(8) == LEAST_TOKENS
    limits = []
    for _ in range(400):
        limits.append(pacing.limit(8))
        pacing.scheduled(limits[-1], n_waiting=5)
    assert limits == sorted(limits)
    assert limits[-1] == MAX_TOKENS


@pytest.mark.parametrize("n_prompt_tokens", [1_600, 6_700, 30_000])
def test_prompts_are_spread_over_the_steps_of_those_that_decode(n_prompt_tokens: int) -> None:
    """A place frees up every 40 steps; then a prompt follows. The fewer steps compute nothing of it, the better."""
    pacing, left, n_only_decoding = measured(0.002, 1e-5), 0, 0
    for step in range(4_000):
        if step % 40 == 0:
            left += n_prompt_tokens
        n_tokens = min(left, pacing.limit(8))
        left -= n_tokens
        pacing.scheduled(n_tokens, n_waiting=9)
        n_only_decoding += n_tokens == 0 and step >= 400
    assert left <= n_prompt_tokens, "prompts are computed as fast as places free up"
    all_at_once = 3_600 * (1 - -(-n_prompt_tokens // MAX_TOKENS) / 40)
    least = 3_600 * max(0.0, 1 - n_prompt_tokens / LEAST_TOKENS / 40)
    assert n_only_decoding < least + 0.5 * (all_at_once - least)


@pytest.mark.parametrize(("short_step_s", "token_s", "least_tokens"), [(0.02, 2e-5, 1000), (1.0, 2e-5, MAX_TOKENS)])
def test_no_step_is_shorter_than_the_time_that_any_step_takes(
    short_step_s: float, token_s: float, least_tokens: int
) -> None:
    pacing = measured(short_step_s, token_s)
    pacing.scheduled(0, n_waiting=5, n_steps=1000)
    assert pacing.limit(8) == pytest.approx(least_tokens, abs=1)


def test_a_step_that_took_long_once_changes_little() -> None:
    pacing, disturbed = measured(0.02, 2e-5), measured(0.02, 2e-5)
    for each in (pacing, disturbed):
        each.scheduled(0, n_waiting=5, n_steps=1000)
    disturbed.took(100, 60.0)
    assert disturbed.limit(8) < 1.1 * pacing.limit(8)
