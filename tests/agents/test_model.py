"""What agents ask through: every question has an answer or an error, and elmas alone is told what comes next."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_model import ELMAS_METRICS, VLLM_METRICS, Reaction, StubModel, serving

from elmas.agents.endpoint import Endpoint, RequestRecord
from elmas.agents.model import Answer, Expect, Model
from elmas.agents.retry import RetryPolicy
from elmas.agents.trace import BLOCK_TOKENS, TraceRecorder
from elmas.errors import UserError
from elmas.sim.traces import read_trace

HELLO = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
QUICK = RetryPolicy(first_wait_s=0.01)


def run(
    stub: StubModel, body: Callable[[Model], Awaitable[Any]], timeout_s: float = 10.0, name: str = "m", **options: Any
) -> Any:
    """Await `body` with a model at the stub."""

    async def opened() -> Any:
        async with (
            serving(stub),
            Model(Endpoint(stub.url, name, timeout_s=timeout_s), **{"retry": QUICK, **options}) as model,
        ):
            return await body(model)

    return asyncio.run(opened())


def ask(stub: StubModel, **options: Any) -> Answer:
    """One question with a schema."""
    answer: Answer = run(stub, lambda model: model.ask("a", HELLO, max_tokens=5, schema=SCHEMA), **options)
    return answer


@pytest.mark.parametrize(
    ("reaction", "error"),
    [
        (Reaction("busy", status=503), "HTTP 503"),
        (Reaction("slow down", status=429), "HTTP 429"),
        (Reaction("half an", breaks_off=True), "the stream broke off|ClientPayloadError|ServerDisconnected|Connection"),
        (Reaction(delay_s=5.0), "no complete answer within"),
    ],
    ids=["failing", "too many", "broken off", "hanging"],
)
def test_a_bad_call_is_repeated_and_then_an_answer_with_an_error(reaction: Reaction, error: str) -> None:
    stub = StubModel(lambda number, body: reaction)
    answer = ask(stub, timeout_s=0.2)
    assert len(stub.seen) == len(answer.records) == QUICK.max_attempts
    assert answer.error is not None
    assert any(part in answer.error for part in error.split("|"))
    assert answer.text == ""
    assert answer.data() is None


def test_a_call_that_gets_through_in_the_end_is_an_answer_with_all_its_attempts() -> None:
    stub = StubModel(lambda number, body: Reaction("busy", status=503) if number < 2 else Reaction('{"n": 3}'))
    answer = ask(stub)
    assert answer.error is None
    assert answer.data() == {"n": 3}
    assert [record.error is None for record in answer.records] == [False, False, True]


@pytest.mark.parametrize("status", [401, 404, 413])
def test_what_would_be_refused_again_is_not_repeated(status: int) -> None:
    stub = StubModel(lambda number, body: Reaction("no", status=status))
    assert ask(stub).error is not None
    assert len(stub.seen) == 1


def test_a_server_that_names_a_wait_gets_it() -> None:
    refused = RequestRecord(0.0, 1.0, error="HTTP 429", http_status=429, retry_after_s=7.0)
    assert RetryPolicy().wait_s(refused, 1, random.Random(0)) == 7.0


@given(st.integers(0, 99))
def test_waits_grow_within_bounds_and_end(seed: int) -> None:
    policy = RetryPolicy(max_attempts=8, first_wait_s=1.0, longest_wait_s=16.0)
    refused = RequestRecord(0.0, 1.0, error="HTTP 503", http_status=503)
    waits = [policy.wait_s(refused, n, random.Random(f"{seed}/{n}")) for n in range(1, 9)]
    for number, wait_s in enumerate(waits[:-1]):
        longest_s = min(16.0, 2.0**number)
        assert wait_s is not None
        assert longest_s / 2 <= wait_s <= longest_s
    assert waits[-1] is None


def test_a_schema_is_a_response_format() -> None:
    stub = StubModel()
    ask(stub)
    form = stub.seen[0].body["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["schema"] == SCHEMA
    assert stub.seen[0].body["messages"] == HELLO


def test_a_server_without_response_format_gets_the_schema_in_words_from_then_on() -> None:
    def react(number: int, body: dict[str, Any]) -> Reaction:
        return Reaction("unknown field", status=400) if "response_format" in body else Reaction('Sure: {"n": 4}!')

    stub = StubModel(react)

    async def body(model: Model) -> list[Answer]:
        return [await model.ask("a", HELLO, max_tokens=5, schema=SCHEMA) for _ in range(2)]

    answers = run(stub, body)
    assert [answer.data() for answer in answers] == [{"n": 4}, {"n": 4}]
    assert ["response_format" in seen.body for seen in stub.seen] == [True, False, False]
    said = stub.seen[-1].body["messages"]
    assert said[0] == HELLO[0]
    assert said[1]["content"].startswith("hello\n")
    assert '"integer"' in said[1]["content"]


def test_a_400_for_another_reason_does_not_give_up_schemas() -> None:
    def react(number: int, body: dict[str, Any]) -> Reaction:
        too_long = len(body["messages"][-1]["content"]) > 1000
        return Reaction("too long", status=400) if too_long else Reaction('{"n": 4}')

    stub = StubModel(react)

    async def body(model: Model) -> tuple[Answer, Answer]:
        long = [{"role": "user", "content": "x" * 2000}]
        return (
            await model.ask("a", long, max_tokens=5, schema=SCHEMA),
            await model.ask("a", HELLO, max_tokens=5, schema=SCHEMA),
        )

    bad, good = run(stub, body)
    assert "too long" in bad.error
    assert good.error is None
    assert "response_format" in stub.seen[-1].body


@pytest.mark.parametrize("metrics", [None, VLLM_METRICS], ids=["no metrics", "plain vLLM"])
def test_no_other_server_than_elmas_gets_hints(metrics: str | None) -> None:
    stub = StubModel(metrics=metrics)
    run(stub, tell_everything)
    assert len(stub.seen) == 1
    assert stub.seen[0].hints is None
    assert stub.seen[0].session == "swarm/7"


def test_elmas_gets_what_the_agent_expects_and_its_pauses() -> None:
    stub = StubModel(metrics=ELMAS_METRICS)
    run(stub, tell_everything)
    assert {seen.session for seen in stub.seen} == {"swarm/7"}
    assert [seen.hints for seen in stub.seen] == [
        {"next_use_steps": 1, "next_use_s": 2.5, "done": True},
        {"next_use_s": 3.0, "signal": True},
        {"prefetch": True, "signal": True},
        {"done": True, "signal": True},
    ]
    assert all(seen.body["max_tokens"] == 1 for seen in stub.seen[1:])


async def tell_everything(model: Model) -> None:
    await model.ask("swarm/7", HELLO, max_tokens=5, expect=Expect(rounds_to_next=1, seconds_to_next=2.5, done=True))
    for signal in (model.pause("swarm/7", 3.0), model.pause("swarm/7"), model.resume("swarm/7"), model.done("swarm/7")):
        await signal
        await asyncio.sleep(0.05)


def test_nothing_known_is_no_hint() -> None:
    stub = StubModel(metrics=ELMAS_METRICS)
    ask(stub)
    assert "kv_transfer_params" not in stub.seen[0].body


def test_a_signal_that_fails_disturbs_nobody() -> None:
    def react(number: int, body: dict[str, Any]) -> Reaction:
        return Reaction("broken", status=500) if "kv_transfer_params" in body else Reaction()

    stub = StubModel(react, metrics=ELMAS_METRICS)

    async def body(model: Model) -> Answer:
        await model.resume("a")
        return await model.ask("a", HELLO, max_tokens=5)

    assert run(stub, body).error is None


def test_any_agent_name_is_a_legal_header() -> None:
    stub = StubModel()
    run(stub, lambda model: model.ask("town/Zoë\r\nX: y", HELLO, max_tokens=5))
    assert stub.seen[0].session == "town/Zo%C3%AB%0D%0AX: y"


def test_no_more_calls_than_allowed_are_under_way() -> None:
    stub = StubModel(lambda number, body: Reaction(delay_s=0.02))

    async def body(model: Model) -> None:
        await asyncio.gather(*(model.ask(f"a/{index}", HELLO, max_tokens=5) for index in range(20)))

    run(stub, body, max_concurrent=3)
    assert stub.most_running == 3
    assert len(stub.seen) == 20


def test_two_thousand_agents_in_one_process_and_every_tenth_call_fails_first() -> None:
    failed: set[str] = set()

    def react(number: int, body: dict[str, Any]) -> Reaction:
        agent = body["messages"][0]["content"]
        if agent.endswith("0") and agent not in failed:
            failed.add(agent)
            return Reaction("busy", status=503)
        return Reaction(agent)

    async def body(model: Model) -> list[Answer]:
        questions = ([{"role": "user", "content": f"agent {index}"}] for index in range(2000))
        return await asyncio.gather(*(model.ask(f"a/{i}", q, max_tokens=5) for i, q in enumerate(questions)))

    answers = run(StubModel(react), body, timeout_s=60.0)
    assert [answer.text for answer in answers] == [f"agent {index}" for index in range(2000)]
    assert sum(len(answer.records) for answer in answers) == 2200


def test_without_a_name_the_first_model_is_taken() -> None:
    async def body(model: Model) -> str:
        return model.name

    assert run(StubModel(), body, name="") == "stub-model"
    with pytest.raises(UserError, match="--model"):
        run(StubModel(models=[]), body, name="")


def test_an_endpoint_where_nobody_listens_is_one_line() -> None:
    async def opened() -> None:
        async with Model(Endpoint("http://127.0.0.1:9/v1", "m")):
            pass

    with pytest.raises(UserError, match="nobody listens at"):
        asyncio.run(opened())


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ('{"n": 1}', {"n": 1}),
        ("[1, 2]", [1, 2]),
        ('```json\n{"n": 1}\n```', {"n": 1}),
        ('It is {"n": 1}, I think', {"n": 1}),
        ('So 3 of them: ["a"]', ["a"]),
        ("7", 7),
        ("no idea", None),
        ('{"n": ', None),
        ("", None),
    ],
)
def test_json_is_found_in_an_answer(text: str, data: Any) -> None:
    assert Answer(text, ()).data() == data


@pytest.mark.parametrize("metrics", [VLLM_METRICS, None], ids=["token ids", "text"])
def test_a_trace_shows_that_a_conversation_grows(metrics: str | None, tmp_path: Path) -> None:
    recorder = TraceRecorder()

    async def body(model: Model) -> None:
        said = [{"role": "user", "content": "word " * 100}]
        for _ in range(3):
            answer = await model.ask("a", said, max_tokens=5)
            said += [{"role": "assistant", "content": answer.text}, {"role": "user", "content": "more " * 50}]

    run(StubModel(metrics=metrics), body, trace=recorder)
    path = tmp_path / "trace.jsonl"
    assert recorder.write(path) == 3
    first, second, third = read_trace(path, BLOCK_TOKENS)
    for earlier, later in ((first, second), (second, third)):
        n_complete = earlier.input_tokens // BLOCK_TOKENS
        assert n_complete > 5
        assert later.hash_ids[:n_complete] == earlier.hash_ids[:n_complete]
        assert later.input_tokens > earlier.input_tokens
        assert later.arrival_s >= earlier.arrival_s
    assert {access.session_id for access in (first, second, third)} == {"a"}


def test_a_trace_knows_the_blocks_that_an_answer_completes(tmp_path: Path) -> None:
    recorder = TraceRecorder()
    answer = RequestRecord(0.0, 1.0, token_ids=tuple(range(40)), prompt_token_ids=tuple(range(100, 120)))
    after = RequestRecord(2.0, 3.0, token_ids=(1,), prompt_token_ids=(*range(100, 120), *range(40)))
    recorder.add("a", HELLO, after)
    recorder.add("a", HELLO, answer)
    recorder.write(tmp_path / "trace.jsonl")
    first, second = read_trace(tmp_path / "trace.jsonl", BLOCK_TOKENS)
    assert (first.input_tokens, first.output_tokens) == (20, 40)
    assert second.hash_ids[:3] == first.hash_ids[:1] + first.out_hash_ids
    assert json.loads((tmp_path / "trace.jsonl").read_text().splitlines()[1])["timestamp"] == 2000


def test_a_trace_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose another file"):
        TraceRecorder().write(tmp_path)
