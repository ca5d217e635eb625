"""What agents ask, and what they say of their own future while they ask.

An application is given an `Asker` and knows no more of the model: no endpoint, no server, no retry. `Model` is the real
one, on any OpenAI-compatible endpoint. Where that is elmas, what the agents expect goes along as hints.
"""

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import quote

from elmas.agents.endpoint import Endpoint, Message, RequestRecord
from elmas.agents.retry import RetryPolicy
from elmas.agents.trace import TraceRecorder
from elmas.errors import UserError

MAX_CONCURRENT = 256
"""Calls under way at once by default."""

_PROBE_TIMEOUT_S = 10.0
_SIGNAL_TIMEOUT_S = 10.0
_MAX_SIGNALS = 16
_REFUSING_STATUSES = frozenset({400, 422})
"""What servers that know no `response_format` answer to it."""


@dataclass(frozen=True)
class Expect:
    """What an agent knows of its own future; the server is told only if it is elmas."""

    rounds_to_next: int | None = None
    """Calls of its usual interval until it asks again: 1 for an agent that asks once per round."""
    seconds_to_next: float | None = None
    """From the end of this call to its next one."""
    done: bool = False
    """This is its last call."""

    def hints(self) -> dict[str, Any]:
        """Return it in the server's words (docs/scheduling-and-retention.md)."""
        values = {"next_use_steps": self.rounds_to_next, "next_use_s": self.seconds_to_next, "done": self.done or None}
        return {key: value for key, value in values.items() if value is not None}


NOTHING_KNOWN = Expect()


@dataclass(frozen=True)
class Answer:
    """What became of one question."""

    text: str
    """"" when no answer came."""
    records: tuple[RequestRecord, ...]
    """Every attempt, the last one decides."""

    @property
    def record(self) -> RequestRecord:
        """The attempt that decided."""
        return self.records[-1]

    @property
    def error(self) -> str | None:
        """Why there is no answer, in one line; None when there is one."""
        return self.record.error

    def data(self) -> Any | None:
        """Return the answer as JSON; None when it is none. Text around it is left out: not every model holds back."""
        candidates = [self.text, *(self.text[begin:] for begin in map(self.text.find, "{[") if begin >= 0)]
        for number, candidate in enumerate(candidates):
            try:
                return json.loads(candidate) if number == 0 else json.JSONDecoder().raw_decode(candidate)[0]
            except (ValueError, RecursionError):
                continue
        return None


class Asker(Protocol):
    """Answers the agents of an application. No method raises for a failing call, and none waits for ever."""

    async def ask(
        self,
        agent: str,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        schema: Mapping[str, Any] | None = None,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        expect: Expect = NOTHING_KNOWN,
    ) -> Answer:
        """Return the answer to a conversation. `agent` names the session, uniquely in the application.

        `schema` is a JSON schema that the answer fits: parse it with `Answer.data`, and expect None where the server
        cannot enforce it. Give every array and text in it a bound (`maxItems`, `maxLength`) that `max_tokens` covers.
        """
        ...

    async def pause(self, agent: str, expected_s: float | None = None) -> None:
        """A tool begins: the agent asks nothing for `expected_s` seconds (None: nobody knows how long)."""
        ...

    async def resume(self, agent: str) -> None:
        """The tool has ended: the agent's next call comes at once."""
        ...

    async def done(self, agent: str) -> None:
        """The agent asks nothing any more."""
        ...


class Model:
    """A model at an OpenAI-compatible endpoint; use it as an async context manager, which opens the endpoint.

    At most `max_concurrent` calls are under way at once. A failed or slow one is repeated as `retry` says, with its
    jitter from `seed`; the endpoint's timeout bounds each attempt. A schema becomes a `response_format`; a server that
    refuses it gets the schema in words, from then on. With `trace` every answered call is recorded.

    An endpoint with an empty model name gets the first of its /v1/models. Entering raises UserError when nobody listens
    there or it has no model; nothing else raises.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        max_concurrent: int = MAX_CONCURRENT,
        retry: RetryPolicy | None = None,
        seed: int = 0,
        trace: TraceRecorder | None = None,
    ) -> None:
        if max_concurrent < 1:
            raise UserError(f"--max-concurrent is {max_concurrent}: at least one call must be under way")
        self._endpoint = endpoint
        self._retry = retry or RetryPolicy()
        self._seed = seed
        self._trace = trace
        self._slots = asyncio.Semaphore(max_concurrent)
        self._signal_slots = asyncio.Semaphore(_MAX_SIGNALS)
        self._signals: set[asyncio.Task[None]] = set()
        self._is_vllm = self._is_elmas = False
        self._takes_schemas = True

    @classmethod
    def from_environment(cls, model: str | None = None, **options: Any) -> Self:
        """Return the model at OPENAI_BASE_URL, None: its first; `options` as for the class. UserError without it."""
        return cls(Endpoint.from_environment(model or ""), **options)

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self._endpoint.model

    @property
    def endpoint(self) -> Endpoint:
        """Where it is, for programs that show an answer while it comes."""
        return self._endpoint

    async def __aenter__(self) -> Self:
        await self._endpoint.__aenter__()
        try:
            await self._probe()
            if not self._endpoint.model:
                self._endpoint.model = await self._first_model()
        except BaseException:
            await self._endpoint.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._signals:
            _, late = await asyncio.wait(self._signals, timeout=_SIGNAL_TIMEOUT_S)
            for task in late:
                task.cancel()
        await self._endpoint.__aexit__(kind, error, trace)

    async def ask(
        self,
        agent: str,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        schema: Mapping[str, Any] | None = None,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        expect: Expect = NOTHING_KNOWN,
    ) -> Answer:
        """Return the answer to a conversation, as `Asker.ask`."""
        fields: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
        if stop:
            fields["stop"] = list(stop)
        if self._is_vllm and self._trace is not None:
            fields["return_token_ids"] = True
        self._add_hints(fields, expect.hints())
        records: list[RequestRecord] = []
        while True:
            async with self._slots:
                records += await self._attempt(agent, messages, fields, schema)
            # Seeded by agent and attempt, not drawn in turn: who fails first depends on the clock.
            draw = random.Random(f"{self._seed}/{agent}/{len(records)}")
            wait_s = self._retry.wait_s(records[-1], len(records), draw)
            if wait_s is None:
                break
            await asyncio.sleep(wait_s)
        if self._trace is not None and records[-1].error is None:
            self._trace.add(agent, messages, records[-1])
            # A long game has millions of them, and nobody needs them any more.
            records[-1] = replace(records[-1], prompt_token_ids=None, token_ids=None)
        return Answer("" if records[-1].error is not None else records[-1].text, tuple(records))

    async def pause(self, agent: str, expected_s: float | None = None) -> None:
        """A tool begins, as `Asker.pause`."""
        if expected_s is not None:
            self._signal(agent, {"next_use_s": expected_s})

    async def resume(self, agent: str) -> None:
        """The tool has ended, as `Asker.resume`."""
        self._signal(agent, {"prefetch": True})

    async def done(self, agent: str) -> None:
        """The agent asks nothing any more, as `Asker.done`."""
        self._signal(agent, {"done": True})

    async def _attempt(
        self,
        agent: str,
        messages: Sequence[Message],
        fields: Mapping[str, Any],
        schema: Mapping[str, Any] | None,
    ) -> list[RequestRecord]:
        """Return the record of one attempt; two where the server refused a `response_format`."""
        if schema is None:
            return [await self._post(agent, messages, fields)]
        refused: list[RequestRecord] = []
        if self._takes_schemas:
            record = await self._post(agent, messages, {**fields, "response_format": response_format(schema)})
            if record.http_status not in _REFUSING_STATUSES:
                return [record]
            refused.append(record)
        record = await self._post(agent, _in_words(messages, schema), fields)
        if refused and record.http_status in _REFUSING_STATUSES:
            return refused  # it is something else that the server does not like
        self._takes_schemas = self._takes_schemas and record.error is not None
        return [*refused, record]

    async def _post(self, agent: str, messages: Sequence[Message], fields: Mapping[str, Any]) -> RequestRecord:
        body = self._endpoint.encode(messages=list(messages), **fields)
        return await self._endpoint.stream("/chat/completions", body, session_header(agent))

    async def _probe(self) -> None:
        """Find out what the server is. Only vLLM with the connector counts what begins with "elmas:"."""
        try:
            metrics = await self._endpoint.get("/metrics", _PROBE_TIMEOUT_S) or ""
        except TimeoutError:
            return
        except OSError as error:
            raise UserError(
                f"nobody listens at {self._endpoint.base_url} ({type(error).__name__}): start a server with elmas "
                "serve, or give another --base-url"
            ) from None
        except UnicodeError:
            return
        self._is_vllm, self._is_elmas = "vllm:" in metrics, "elmas:" in metrics

    async def _first_model(self) -> str:
        try:
            listing = json.loads(await self._endpoint.get("/v1/models", _PROBE_TIMEOUT_S) or "")
            return str(listing["data"][0]["id"])
        except (OSError, ValueError, LookupError, TypeError):
            raise UserError(f"{self._endpoint.base_url} does not list its models: name one with --model") from None

    def _add_hints(self, fields: dict[str, Any], hints: Mapping[str, Any]) -> None:
        if hints and self._is_elmas:
            fields["kv_transfer_params"] = {"elmas": hints}

    def _signal(self, agent: str, hints: Mapping[str, Any]) -> None:
        """Tell the server something outside of a call. In the background: no agent waits for it, and it may fail."""
        if self._is_elmas:
            task = asyncio.create_task(self._send_signal(agent, hints))
            self._signals.add(task)
            task.add_done_callback(self._signals.discard)

    async def _send_signal(self, agent: str, hints: Mapping[str, Any]) -> None:
        fields: dict[str, Any] = {"max_tokens": 1, "temperature": 0.0}
        self._add_hints(fields, {**hints, "signal": True})
        async with self._signal_slots:
            await self._post(agent, [{"role": "user", "content": "."}], fields)


def session_header(agent: str) -> dict[str, str]:
    """Return the header by which elmas knows a session; other servers leave it unread."""
    return {"X-Session-ID": quote(agent, safe="/ :,.-_")}


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the field of a request that makes its answer fit a JSON schema."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def _in_words(messages: Sequence[Message], schema: Mapping[str, Any]) -> list[Message]:
    """Return the conversation with the schema as one more line of its last message."""
    *others, last = messages
    wish = f"Answer with nothing but JSON that fits this JSON schema: {json.dumps(schema, separators=(',', ':'))}"
    return [*others, {**last, "content": f"{last['content']}\n{wish}"}]
