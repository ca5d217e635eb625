"""The round workload: the same bytes for the same seed, histories that only grow, nothing shared without reuse."""

import asyncio
import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_server import StubServer

from elmas.bench.client import Endpoint
from elmas.bench.rounds import RoundsResult, RoundsWorkload, digest, first_difference, play_rounds

SMALL = RoundsWorkload(
    "small", 5, 3, system_tokens=40, persona_tokens=20, observation_tokens=8, answer_tokens=4, seed=7
)


def run(stub: StubServer, workload: RoundsWorkload) -> RoundsResult:
    async def play() -> RoundsResult:
        async with Endpoint(stub.base_url, "stub") as endpoint:
            return await play_rounds(endpoint, workload)

    return asyncio.run(play())


def test_every_prompt_has_the_stated_length_and_begins_with_the_one_before() -> None:
    for agent in range(SMALL.n_agents):
        before: list[int] = []
        for index in range(SMALL.n_rounds):
            prompt = SMALL.prompt(agent, index)
            assert len(prompt) == SMALL.prompt_tokens(index)
            assert prompt[: len(before)] == before
            before = prompt


def test_agents_share_the_system_prompt_and_nothing_more() -> None:
    left, right = SMALL.prompt(0, 1), SMALL.prompt(1, 1)
    assert left[:40] == right[:40]
    assert left[40:44] != right[40:44]


def test_without_reuse_no_two_prompts_begin_alike() -> None:
    unique = replace(SMALL, reuse=False)
    prompts = [unique.prompt(agent, index) for agent in range(5) for index in range(3)]
    assert len({tuple(prompt[:4]) for prompt in prompts}) == len(prompts)
    assert [len(prompt) for prompt in prompts] == [SMALL.prompt_tokens(index) for _ in range(5) for index in range(3)]


def test_tokens_are_in_range_and_depend_on_the_seed() -> None:
    ids = SMALL.prompt(3, 2)
    assert all(SMALL.first_token_id <= token <= SMALL.last_token_id for token in ids)
    assert ids == replace(SMALL).prompt(3, 2)
    assert ids != replace(SMALL, seed=8).prompt(3, 2)


def test_sizes_add_up() -> None:
    prompts = [SMALL.prompt(agent, index) for agent in range(5) for index in range(3)]
    assert SMALL.total_prompt_tokens == sum(map(len, prompts))
    assert SMALL.working_set_tokens == 40 + 5 * (len(SMALL.prompt(0, 2)) - 40)
    assert SMALL.longest_request_tokens == max(map(len, prompts)) + 4


@pytest.mark.parametrize("order", ["fixed", "shuffled"])
def test_two_runs_send_identical_requests(stub: StubServer, order: str) -> None:
    workload = replace(SMALL, order=order)  # type: ignore[arg-type]
    first = run(stub, workload)
    sent, stub.bodies = stub.bodies, []
    second = run(stub, workload)
    assert len(sent) == 15
    for index in range(3):  # within a round the stub may take them in any order
        chosen = slice(5 * index, 5 * index + 5)
        assert sorted(map(str, sent[chosen])) == sorted(map(str, stub.bodies[chosen]))
    assert digest(first.outputs) == digest(second.outputs)
    assert first_difference(first.outputs, second.outputs) is None


def test_shuffling_changes_the_order_and_not_the_answers(stub: StubServer) -> None:
    shuffled = replace(SMALL, n_agents=40, order="shuffled")
    assert shuffled.sending_order(0) != shuffled.sending_order(1)
    assert sorted(shuffled.sending_order(0)) == list(range(40))
    assert run(stub, shuffled).outputs == run(stub, replace(shuffled, order="fixed")).outputs


def test_a_round_begins_when_the_one_before_is_over(stub: StubServer) -> None:
    stub.behaviour.delay_s, stub.behaviour.gap_s = 0.3, 0.02
    result = run(stub, SMALL)
    for earlier, later in itertools.pairwise(result.rounds):
        assert max(r.ended_s for r in earlier) <= min(r.submitted_s for r in later)
    assert stub.most_running == SMALL.n_agents
    assert (
        sum(result.seconds_per_round) <= max(r.ended_s for r in result.records) - result.records[0].submitted_s + 0.05
    )


def test_answers_are_exact_and_greedy(stub: StubServer) -> None:
    run(stub, SMALL)
    body = stub.bodies[0]
    assert (body["max_tokens"], body["temperature"], body["ignore_eos"], body["return_token_ids"]) == (
        4,
        0.0,
        True,
        True,
    )


def test_a_failed_request_does_not_stop_the_rounds(stub: StubServer) -> None:
    stub.behaviour.fail_first = 2
    result = run(stub, SMALL)
    assert sum(record.error is not None for record in result.records) == 2
    assert len(result.records) == 15


outputs = st.lists(st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=2, max_size=2), min_size=2, max_size=2)


@given(outputs, outputs)
def test_digests_differ_exactly_when_there_is_a_first_difference(left: list, right: list) -> None:  # type: ignore[type-arg]
    difference = first_difference(left, right)
    assert (digest(left) == digest(right)) == (difference is None) == (left == right)
    if difference is not None:
        mine = left[difference.round_index][difference.agent]
        yours = right[difference.round_index][difference.agent]
        assert mine[: difference.position] == yours[: difference.position]
        assert difference.left == (mine[difference.position] if difference.position < len(mine) else None)
        assert difference.right == (yours[difference.position] if difference.position < len(yours) else None)
        assert difference.left != difference.right


def test_runs_of_different_shape_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="zip"):
        first_difference([[[1]]], [[[1], [2]]])
