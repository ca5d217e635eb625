"""No retention hits more than the optimum, and the optimum is reached: by exhaustive search on tiny traces."""

from functools import cache
from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from elmas.sim.optimal import look_ahead
from elmas.sim.packed import PackedTrace, pack_trace
from elmas.sim.traces import Access

Blocks = frozenset[int]


@st.composite
def tiny_traces(draw: st.DrawFn) -> PackedTrace:
    """Requests that walk a random tree of blocks: a block has the same blocks before it wherever it appears."""
    children: dict[int, list[int]] = {}
    n_blocks = 0
    accesses = []
    for second in range(draw(st.integers(1, 6))):
        path: list[int] = []
        for _ in range(draw(st.integers(1, 4))):
            known = children.setdefault(path[-1] if path else -1, [])
            choice = draw(st.integers(0, min(len(known), 1)))
            if choice == len(known):
                known.append(n_blocks)
                n_blocks += 1
            path.append(known[choice])
        n_answer = draw(st.integers(0, len(path) - 1))
        n_prompt = len(path) - n_answer
        accesses.append(Access(float(second), n_prompt, n_answer, tuple(path[:n_prompt]), tuple(path[n_prompt:])))
    return pack_trace(accesses, 1)


def requests(trace: PackedTrace) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return prompt and answer of each request."""
    blocks, starts = trace.blocks.tolist(), trace.starts.tolist()
    cuts = zip(starts, trace.n_prompt.tolist(), starts[1:], strict=False)
    return [(tuple(blocks[s : s + n]), tuple(blocks[s + n : e])) for s, n, e in cuts]


def leading_run(prompt: tuple[int, ...], held: Blocks) -> int:
    """Return how many blocks of the prompt are held, up to the first that is not."""
    return next((i for i, block in enumerate(prompt) if block not in held), len(prompt))


def best_by_search(trace: PackedTrace, capacity: int) -> int:
    """Return the most blocks that can be hit, over everything that could be kept after each request."""
    all_requests = requests(trace)

    @cache
    def best(index: int, held: Blocks) -> int:
        if index == len(all_requests):
            return 0
        prompt, answer = all_requests[index]
        available = held | set(prompt) | set(answer)
        later = {block for following, _ in all_requests[index + 1 :] for block in following}
        useful = sorted(available & later)
        choices = combinations(useful, min(capacity, len(useful)))
        return leading_run(prompt, held) + max(best(index + 1, frozenset(kept)) for kept in choices)

    return best(0, frozenset())


@settings(max_examples=300)
@given(tiny_traces(), st.integers(1, 5))
def test_the_optimum_is_what_exhaustive_search_finds(trace: PackedTrace, capacity: int) -> None:
    assert int(look_ahead(trace).optimal_hit_blocks(capacity).sum()) == best_by_search(trace, capacity)


@given(tiny_traces())
def test_without_a_limit_everything_seen_before_is_hit(trace: PackedTrace) -> None:
    seen: set[int] = set()
    expected = []
    for prompt, answer in requests(trace):
        expected.append(leading_run(prompt, frozenset(seen)))
        seen.update(prompt, answer)
    assert look_ahead(trace).infinite_hit_blocks().tolist() == expected


@given(tiny_traces())
def test_a_tier_as_large_as_the_working_set_loses_nothing(trace: PackedTrace) -> None:
    future = look_ahead(trace)
    hits = future.optimal_hit_blocks(max(1, future.peak_live_blocks))
    assert np.array_equal(hits, future.infinite_hit_blocks())


@given(tiny_traces())
def test_the_working_set_is_the_most_that_is_seen_and_asked_for_again(trace: PackedTrace) -> None:
    all_requests = requests(trace)
    most, seen = 0, set()
    for index, (prompt, answer) in enumerate(all_requests):
        seen.update(prompt, answer)
        live = 0
        for block in seen:
            following = [
                "prompt" if block in later_prompt else "answer"
                for later_prompt, later_answer in all_requests[index + 1 :]
                if block in later_prompt or block in later_answer
            ]
            live += following[:1] == ["prompt"]
        most = max(most, live)
    assert look_ahead(trace).peak_live_blocks == most


@given(tiny_traces())
def test_the_deepest_block_is_asked_for_next_by_the_request_that_has_it(trace: PackedTrace) -> None:
    all_requests = requests(trace)
    for index, (prompt, answer) in enumerate(all_requests):
        deepest = (prompt + answer)[-1]
        expected = -1
        for later in range(index + 1, len(all_requests)):
            if deepest in all_requests[later][0] or deepest in all_requests[later][1]:
                expected = later if deepest in all_requests[later][0] else -1
                break
        assert int(look_ahead(trace).deepest_next[index]) == expected


def test_a_shared_prefix_outlives_the_tails_on_it() -> None:
    rounds = [Access(float(i), 3, 0, (0, 1, 2) if i % 2 else (0, 3, 4)) for i in range(6)]
    trace = pack_trace(rounds, 1)
    assert look_ahead(trace).optimal_hit_blocks(1).tolist() == [0, 1, 1, 1, 1, 1]
