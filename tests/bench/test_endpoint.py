"""The streaming client: what it measures, and that a failed request is a record and never an exception."""

import asyncio
import json
import socket

import pytest
from stub_server import StubServer

from elmas.agents.endpoint import Endpoint, RequestRecord
from elmas.errors import UserError


def complete(stub: StubServer, n_tokens: int = 4, timeout_s: float = 10.0, **options: object) -> RequestRecord:
    async def run() -> RequestRecord:
        async with Endpoint(stub.base_url, "stub", timeout_s=timeout_s) as endpoint:
            return await endpoint.complete([1, 2, 3], max_tokens=n_tokens, **options)

    return asyncio.run(run())


def test_completion_is_recorded_with_tokens_and_usage(stub: StubServer) -> None:
    stub.behaviour.cached_tokens = 2
    record = complete(stub, return_token_ids=True)
    assert record.error is None
    assert record.text == " t0 t1 t2 t3"
    assert record.token_ids is not None
    assert len(record.token_ids) == 4
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (3, 4, 2)
    assert record.finish_reason == "length"
    assert stub.bodies[0]["stream_options"] == {"include_usage": True}


def test_absent_details_are_none_and_not_zero(stub: StubServer) -> None:
    record = complete(stub)
    assert record.cached_tokens is None
    assert record.token_ids is None


def test_times_are_those_of_the_server(stub: StubServer) -> None:
    stub.behaviour.delay_s, stub.behaviour.gap_s = 0.3, 0.2
    record = complete(stub, n_tokens=3)
    # The stub sleeps at least this long; how much longer everything takes is the test machine's affair.
    assert record.ttft_s is not None
    assert 0.29 <= record.ttft_s < 0.69
    assert len(record.chunk_times_s) == 3
    assert record.chunk_times_s == tuple(sorted(record.chunk_times_s))
    assert record.chunk_times_s[-1] - record.submitted_s >= 0.69
    assert record.e2el_s >= 0.69


def test_the_role_of_a_chat_answer_is_no_first_token(stub: StubServer) -> None:
    async def run() -> RequestRecord:
        async with Endpoint(stub.base_url + "/v1", "stub") as endpoint:
            return await endpoint.chat([{"role": "user", "content": "hello"}])

    record = asyncio.run(run())
    assert record.text.startswith("I think so. My guess: ")
    assert len(record.chunk_times_s) == record.completion_tokens == 6


def test_pieces_are_handed_on_as_they_come_and_headers_are_sent(stub: StubServer) -> None:
    stub.behaviour.break_after = 3
    pieces: list[str] = []

    async def run() -> RequestRecord:
        async with Endpoint(stub.base_url, "stub") as endpoint:
            return await endpoint.complete([1], headers={"X-Session-ID": "a"}, on_text=pieces.append, max_tokens=5)

    assert asyncio.run(run()).error is not None
    assert "".join(pieces) == " t0 t1 t2"
    assert stub.session_ids == ["a"]


def test_half_a_character_counts_as_output(stub: StubServer) -> None:
    event = {"choices": [{"text": "", "token_ids": [7]}]}
    stub.behaviour.raw_event = b"data: " + json.dumps(event).encode() + b"\n\n"
    stub.behaviour.delay_s = 1.0
    pieces: list[str] = []
    record = complete(stub, return_token_ids=True, on_text=pieces.append)
    assert record.ttft_s is not None
    assert record.ttft_s < 0.9
    assert pieces[0] == ""
    assert record.token_ids is not None
    assert record.token_ids[0] == 7


def test_events_cut_anywhere_are_put_together(stub: StubServer) -> None:
    stub.behaviour.raw_event = b'data: {"choices":[{"text":"a'
    # The rest of that event never comes: the next one ends in the same line and is no JSON.
    record = complete(stub)
    assert record.error is not None

    from elmas.agents.endpoint import _Answer

    answer = _Answer()
    whole = b'data: {"choices":[{"text":"\xc3\xa9"}]}\r\n\r\n: a comment\n\ndata: [DONE]\n\n'
    for index in range(len(whole)):
        answer.feed(whole[index : index + 1], float(index))
    assert answer.record(0.0, 1.0, None).text == "é"
    assert answer.record(0.0, 1.0, None).error is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"status": 404}, "HTTP 404: "),
        ({"break_after": 2}, ""),
        ({"error_event": True}, "engine died"),
        ({"raw_event": b"data: {broken\n\n"}, "JSONDecodeError"),
        ({"raw_event": b"data: [1]\n\n"}, "unexpected answer"),
    ],
)
def test_failures_are_recorded_in_one_line(stub: StubServer, change: dict[str, object], expected: str) -> None:
    for name, value in change.items():
        setattr(stub.behaviour, name, value)
    record = complete(stub)
    assert record.error is not None
    assert expected in record.error
    assert "\n" not in record.error
    assert record.ended_s >= record.submitted_s


def test_a_broken_stream_keeps_what_had_arrived(stub: StubServer) -> None:
    stub.behaviour.break_after = 2
    record = complete(stub)
    assert record.text == " t0 t1"
    assert record.error is not None


def test_a_slow_server_times_out(stub: StubServer) -> None:
    stub.behaviour.delay_s = 30
    record = complete(stub, timeout_s=0.3)
    assert record.error == "no complete answer within 0 s"
    assert record.e2el_s < 5


def test_nobody_listening_is_a_failed_request() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    record = complete(StubServer(base_url=f"http://127.0.0.1:{port}"))
    assert record.error is not None
    assert "Connect" in record.error


def test_all_requests_are_under_way_at_once_and_connections_are_reused(stub: StubServer) -> None:
    stub.behaviour.delay_s = 1.0

    async def run() -> None:
        async with Endpoint(stub.base_url, "stub") as endpoint:
            for _ in range(2):
                records = await asyncio.gather(*(endpoint.complete([index], max_tokens=2) for index in range(120)))
                assert all(record.error is None for record in records)
                assert [body["prompt"] for body in stub.bodies[-120:]].count([5]) == 1

    asyncio.run(run())
    assert stub.most_running == 120
    assert len(stub.connections) == 120


def test_the_environment_names_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(UserError, match="OPENAI_BASE_URL"):
        Endpoint.from_environment("model")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://host:1/v1/")
    assert Endpoint.from_environment("model").base_url == "http://host:1/v1"
