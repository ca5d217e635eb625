"""The load client: what it sends and counts, and that it notices when it is itself late."""

import asyncio
import hashlib
import json
import socket
import time
from dataclasses import dataclass, replace

import pytest
from stub_server import StubServer

from elmas.agents.endpoint import Endpoint
from elmas.bench.load_client import LoadRun, play
from elmas.bench.rounds import RoundsWorkload
from elmas.bench.workloads.calls import chat, completion
from elmas.bench.workloads.catalog import scaled, workload
from elmas.bench.workloads.steps import AtOnce, Due, InTurn, Scripted, Step
from elmas.bench.workloads.workload import Load, Workload
from elmas.errors import UserError

ROUNDS = RoundsWorkload("rounds", 6, 3, system_tokens=32, persona_tokens=16, observation_tokens=16, answer_tokens=4)


def run(each: Workload, base_url: str, model: str = "stub", n_ended: list[int] | None = None) -> LoadRun:
    async def opened() -> LoadRun:
        async with Endpoint(base_url, model, timeout_s=20.0) as endpoint:
            return await play(each, endpoint, lambda: n_ended.append(1) if n_ended is not None else None)

    return asyncio.run(opened())


@dataclass(frozen=True)
class Calls(Scripted):
    """Any script as a workload."""

    step: Step
    name: str = "calls"
    seed: int = 0

    def scaled(self, factor: float) -> "Calls":
        return self

    def make_script(self) -> Step:
        return self.step


def test_every_request_is_recorded_once_by_agent_and_turn(stub: StubServer) -> None:
    n_ended: list[int] = []
    played = run(ROUNDS, stub.base_url, n_ended=n_ended)
    assert [(each.request.agent, each.request.turn) for each in played.records] == [
        (f"agent-{agent:05}", turn) for agent in range(6) for turn in range(3)
    ]
    assert all(each.record.error is None for each in played.records)
    assert all(each.record.completion_tokens == 4 for each in played.records)
    assert sorted(body["prompt"] for body in stub.bodies) == sorted(
        ROUNDS.prompt(agent, index) for agent in range(6) for index in range(3)
    )
    assert len(n_ended) == 18
    assert sorted(set(stub.session_ids)) == [f"agent-{agent:05}" for agent in range(6)]


def test_equal_seeds_have_equal_digests_and_other_seeds_others(stub: StubServer) -> None:
    first, again, other = (run(each, stub.base_url) for each in (ROUNDS, ROUNDS, replace(ROUNDS, seed=1)))
    assert (first.request_digest, first.output_digest) == (again.request_digest, again.output_digest)
    assert first.request_digest != other.request_digest
    assert first.output_digest != other.output_digest


def test_the_request_digest_is_over_the_bytes_that_the_server_got(stub: StubServer) -> None:
    played = run(Calls(completion([1, 2], 3, agent="a")), stub.base_url)
    body = json.dumps(stub.bodies[0], separators=(",", ":")).encode()
    inner = hashlib.sha256(b"/completions\n" + body).digest()
    assert played.request_digest == hashlib.sha256(inner).hexdigest()


def test_other_answers_have_another_output_digest(stub: StubServer) -> None:
    asked = Calls(chat([{"role": "user", "content": "hello"}], 5, agent="a"))
    stub.behaviour.answer = lambda body: "one answer"
    first = run(asked, stub.base_url)
    stub.behaviour.answer = lambda body: "quite another answer"
    second = run(asked, stub.base_url)
    assert first.request_digest == second.request_digest
    assert first.output_digest != second.output_digest


def test_a_failed_request_is_a_record_and_the_others_go_on(stub: StubServer) -> None:
    stub.behaviour.fail_first = 2
    played = run(ROUNDS, stub.base_url)
    assert len(played.records) == 18
    assert [each.record.error for each in played.records].count(None) == 16


def test_lengths_are_exact_for_vllm_and_plain_for_other_servers(
    stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(ROUNDS, stub.base_url)
    assert {"ignore_eos": True, "max_tokens": 4}.items() <= stub.bodies[-1].items()

    async def is_not_vllm(endpoint: Endpoint) -> bool:
        return False

    monkeypatch.setattr("elmas.bench.load_client._is_vllm", is_not_vllm)
    run(ROUNDS, stub.base_url)
    assert stub.bodies[-1]["max_tokens"] == 4
    assert not {"ignore_eos", "min_tokens", "return_token_ids"} & set(stub.bodies[-1])


def test_requests_are_sent_when_they_are_due(stub: StubServer) -> None:
    calls = AtOnce(tuple(Due(0.2 * index, completion([index], 1, agent=f"a{index}")) for index in range(4)))
    played = run(Calls(calls), stub.base_url)
    for index, each in enumerate(played.records):
        assert each.due_s == pytest.approx(0.2 * index)
        assert each.record.submitted_s - played.begun_s >= 0.2 * index
    assert played.lag.max_s < 0.2


@dataclass(frozen=True)
class Blocking(Calls):
    """Blocks the event loop on purpose in the middle of a run."""

    block_s: float = 0.0

    async def play(self, load: Load) -> None:
        async def block() -> None:
            await asyncio.sleep(0.1)
            time.sleep(self.block_s)

        await asyncio.gather(super().play(load), block(), load.sleep_until(0.3))


def test_a_client_that_is_late_says_so(stub: StubServer) -> None:
    call = Due(0.15, completion([1], 1, agent="a"))
    late = run(Blocking(call, block_s=0.6), stub.base_url)
    assert late.lag.max_s >= 0.5
    assert late.lag.p99_s <= late.lag.max_s
    assert late.lag.p50_s < 0.3
    assert late.records[0].record.submitted_s - late.begun_s >= 0.6


def test_applications_play_through_the_load(stub: StubServer) -> None:
    game = scaled(workload("app_guessing_game", seed=1), 0.05)
    played = run(game, stub.base_url)
    assert len(played.records) == game.n_requests == len(stub.bodies)
    assert all(each.record.error is None for each in played.records)
    assert {body["response_format"]["type"] for body in stub.bodies} == {"json_schema"}
    # What the stub said is in nobody's history: the applications hear the script.
    assert "I think so." not in json.dumps(stub.bodies)


def test_a_turn_that_is_sent_twice_is_an_error_of_the_workload(stub: StubServer) -> None:
    call = completion([1], 1, agent="a")
    with pytest.raises(ValueError, match="a sends turn 0 a second time"):
        run(Calls(InTurn((call, call))), stub.base_url)


def test_nobody_listening_and_wrong_models_are_one_clear_line(stub: StubServer) -> None:
    with pytest.raises(UserError, match=r"serves no model 'llama': choose from stub, bench"):
        run(ROUNDS, stub.base_url, "llama")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(UserError, match=f"nobody listens at http://127.0.0.1:{port}/v1"):
        run(ROUNDS, f"http://127.0.0.1:{port}")
