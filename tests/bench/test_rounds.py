"""The round workload: the same bytes for the same seed, histories that only grow, nothing shared without reuse."""

import asyncio
import itertools
from dataclasses import replace

import pytest
from stub_server import StubServer

from elmas.agents.endpoint import Endpoint, RequestRecord
from elmas.bench.load_client import LoadRun, play
from elmas.bench.rounds import RoundsWorkload

SMALL = RoundsWorkload(
    "small", 5, 3, system_tokens=40, persona_tokens=20, observation_tokens=8, answer_tokens=4, seed=7
)


def run(stub: StubServer, workload: RoundsWorkload) -> LoadRun:
    async def load() -> LoadRun:
        async with Endpoint(stub.base_url, "stub") as endpoint:
            return await play(workload, endpoint)

    return asyncio.run(load())


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
    assert (first.request_digest, first.output_digest) == (second.request_digest, second.output_digest)


def test_shuffling_changes_the_order_and_not_the_answers(stub: StubServer) -> None:
    shuffled = replace(SMALL, n_agents=40, order="shuffled")
    assert shuffled.sending_order(0) != shuffled.sending_order(1)
    assert sorted(shuffled.sending_order(0)) == list(range(40))
    assert run(stub, shuffled).output_digest == run(stub, replace(shuffled, order="fixed")).output_digest


def test_a_round_begins_when_the_one_before_is_over(stub: StubServer) -> None:
    stub.behaviour.delay_s, stub.behaviour.gap_s = 0.3, 0.02
    by_round: dict[int, list[RequestRecord]] = {}
    for each in run(stub, SMALL).records:
        by_round.setdefault(each.request.round, []).append(each.record)
    assert sorted(by_round) == [0, 1, 2]
    for earlier, later in itertools.pairwise(by_round[index] for index in range(3)):
        assert max(r.ended_s for r in earlier) <= min(r.submitted_s for r in later)
    assert stub.most_running == SMALL.n_agents


def test_answers_are_exact_and_greedy(stub: StubServer) -> None:
    request = SMALL.requests()[0]
    fields = request.fields
    assert (fields["max_tokens"], fields["temperature"]) == (4, 0.0)
    assert (fields["ignore_eos"], fields["return_token_ids"]) == (True, True)
    assert {each.record.completion_tokens for each in run(stub, SMALL).records} == {4}


def test_a_failed_request_does_not_stop_the_rounds(stub: StubServer) -> None:
    stub.behaviour.fail_first = 2
    records = run(stub, SMALL).records
    assert sum(each.record.error is not None for each in records) == 2
    assert len(records) == 15
