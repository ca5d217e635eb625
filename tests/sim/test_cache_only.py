"""A replay hits what a simple model of the same policy hits, and never more than the bounds allow."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elmas.cache.hints import NO_HINTS, Hints
from elmas.cache.retention import POLICIES
from elmas.errors import UserError
from elmas.sim.cache_only import parse_host_blocks, replay_cache_only
from elmas.sim.generate import FAMILIES, TraceRecipe, generate
from elmas.sim.hints import HINT_KINDS, hints_for
from elmas.sim.optimal import look_ahead
from elmas.sim.packed import PackedTrace, pack_trace
from elmas.sim.traces import Access


def packed(family: str, n_sessions: int, seed: int = 1) -> PackedTrace:
    """Return a generated trace with blocks of 64 tokens."""
    return pack_trace(generate(TraceRecipe(family, n_sessions, seed, 64)), 64)


def lru_hit_blocks(trace: PackedTrace, capacity: int) -> int:
    """Least recently used, block by block: of what was used last together, the tail goes first."""
    held: OrderedDict[int, None] = OrderedDict()
    n_hits = 0
    for request in range(trace.n_requests):
        blocks = trace.blocks[trace.starts[request] : trace.starts[request + 1]].tolist()
        prompt = blocks[: trace.n_prompt[request]]
        n_hits += next((i for i, block in enumerate(prompt) if block not in held), len(prompt))
        missing = [block for block in blocks if block not in held]
        used = [block for block in prompt if block in held]
        for block in reversed(used):
            held.move_to_end(block)
        for victim in [block for block in held if block not in prompt]:
            if len(held) + len(missing) <= capacity:
                break
            del held[victim]
        for block in reversed(missing[: capacity - len(held)]):
            held[block] = None
    return n_hits


@settings(max_examples=30)
@given(st.sampled_from(list(FAMILIES)), st.integers(0, 9), st.floats(0.02, 1.1))
def test_a_replay_with_lru_hits_what_a_model_block_by_block_hits(family: str, seed: int, share: float) -> None:
    trace = packed(family, 12, seed)
    future = look_ahead(trace)
    n_blocks = max(1, int(share * future.peak_live_blocks))
    result = replay_cache_only(trace, future, "lru", n_blocks, [NO_HINTS] * trace.n_requests)
    assert result.host_hit_tokens == 64 * lru_hit_blocks(trace, n_blocks)


@settings(max_examples=40)
@given(
    st.sampled_from(list(POLICIES)),
    st.sampled_from(HINT_KINDS),
    st.sampled_from(list(FAMILIES)),
    st.integers(0, 9),
    st.floats(0.02, 1.5),
)
def test_no_policy_hits_more_than_the_bounds(policy: str, kind: str, family: str, seed: int, share: float) -> None:
    trace = packed(family, 12, seed)
    future = look_ahead(trace)
    n_blocks = max(1, int(share * future.peak_live_blocks))
    result = replay_cache_only(trace, future, policy, n_blocks, hints_for(kind, trace, future))
    assert 0 <= result.host_hit_tokens <= result.optimal_hit_tokens
    assert result.optimal_hit_tokens <= result.infinite_hit_tokens <= result.prompt_tokens
    assert result.prompt_tokens == int(trace.input_tokens.sum())


@pytest.mark.parametrize("policy", POLICIES)
def test_a_tier_that_never_fills_hits_everything_seen_before(policy: str) -> None:
    trace = packed("tool-agents", 20)
    future = look_ahead(trace)
    result = replay_cache_only(trace, future, policy, int(trace.blocks.max()) + 1, [NO_HINTS] * trace.n_requests)
    assert result.host_hit_tokens == result.infinite_hit_tokens == result.optimal_hit_tokens
    assert result.evicted_blocks == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_replay_is_the_same_every_time(policy: str) -> None:
    trace = packed("chats", 40)
    future = look_ahead(trace)
    first, second = (
        replay_cache_only(trace, future, policy, future.peak_live_blocks // 2, [NO_HINTS] * trace.n_requests).to_json()
        for _ in range(2)
    )
    assert first | {"seconds": 0} == second | {"seconds": 0}


def test_correct_hints_say_when_the_session_asks_again_and_when_never() -> None:
    turns = [
        Access(0.0, 2, 0, (0, 1), session_id="a"),
        Access(1.0, 2, 0, (0, 2), session_id="b"),
        Access(4.0, 2, 0, (0, 1), session_id="a"),
        Access(9.0, 2, 0, (0, 3)),
        Access(11.0, 3, 0, (0, 3, 4)),
    ]
    trace = pack_trace(turns, 1)
    hints = hints_for("correct", trace, look_ahead(trace))
    done = Hints(is_done=True)
    assert [replace(hint, prefixes=None) for hint in hints] == [
        Hints(next_use_s=4.0),
        done,
        done,
        Hints(next_use_s=2.0),
        done,
    ]
    assert hints[0].prefixes == ((1, 1.0),), "the first block is asked for by another session before"


def test_wrong_hints_call_sessions_done_that_return_and_expect_those_that_do_not() -> None:
    trace = packed("chats", 200)
    future = look_ahead(trace)
    correct, wrong = hints_for("correct", trace, future), hints_for("wrong", trace, future, 3)
    returns = np.array([not hints.is_done for hints in correct])
    called_done = np.array([hints.is_done for hints in wrong])
    assert not called_done[~returns].any()
    assert 0.4 < called_done[returns].mean() < 0.6
    assert wrong == hints_for("wrong", trace, future, 3) != hints_for("wrong", trace, future, 4)


def test_the_traces_own_hints_are_given_where_it_has_some() -> None:
    hint = Hints(next_use_s=3.0)
    trace = pack_trace([Access(0.0, 1, 0, (0,), hints=hint), Access(1.0, 1, 0, (0,))], 1)
    assert hints_for("trace", trace, look_ahead(trace)) == [hint, NO_HINTS]
    assert hints_for("none", trace, look_ahead(trace)) == [NO_HINTS, NO_HINTS]


@pytest.mark.parametrize(("text", "expected"), [("10", 10), ("0.25w", 25), ("1w", 100), ("1.5w", 150)])
def test_a_capacity_is_a_number_or_a_share_of_the_working_set(text: str, expected: int) -> None:
    assert parse_host_blocks(text, 100) == expected


@pytest.mark.parametrize("text", ["", "w", "0", "-3", "many", "0.001w", "nanw", "infw", "2.5"])
def test_a_capacity_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--host-blocks is"):
        parse_host_blocks(text, 100)


def test_unknown_policies_and_hints_are_refused() -> None:
    trace = packed("chats", 2)
    future = look_ahead(trace)
    with pytest.raises(UserError, match="--policy is 'magic': choose one of"):
        replay_cache_only(trace, future, "magic", 1, [NO_HINTS] * trace.n_requests)
    with pytest.raises(UserError, match="--hints is 'some': choose one of"):
        hints_for("some", trace, future)
