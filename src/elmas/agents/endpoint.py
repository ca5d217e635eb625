"""A streaming client for any OpenAI-compatible endpoint: one call in, one timed record out.

A failed call is a record too, with `error` set: a client of a hundred agents must not lose the other ninety-nine.
This file knows no vLLM and no benchmark; `elmas.bench.load_client` and the agent programs both build on it. Below it is
`elmas.agents.http`: load is often generated on the machine that serves, so a streamed chunk has to be cheap.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from elmas.agents.http import Connections
from elmas.errors import UserError

Message = Mapping[str, str]
"""One chat message: `role` and `content`."""

OnText = Callable[[str], None]
"""Called with every piece of an answer as it comes; it must neither raise nor wait. A piece is empty where the server
sends token ids and has no text for them yet."""


@dataclass(frozen=True)
class RequestRecord:
    """What one request did. Times are seconds of `time.perf_counter`: only their differences mean anything."""

    submitted_s: float
    ended_s: float
    """When the stream ended, well or badly."""
    chunk_times_s: tuple[float, ...] = ()
    """Arrival of every chunk that carried output, in order: the first gives TTFT, the gaps are the ITL."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    """Prompt tokens that the server did not compute; None when it does not say (`--enable-prompt-tokens-details`)."""
    text: str = ""
    token_ids: tuple[int, ...] | None = None
    """Output token ids, when the request asked for them through vLLM's `return_token_ids`."""
    finish_reason: str | None = None
    error: str | None = None
    """None for a complete answer, else one line."""
    prompt_token_ids: tuple[int, ...] | None = None
    """The prompt as the server saw it, when the request asked for it through vLLM's `return_token_ids`."""
    http_status: int | None = None
    """None: there was no answer at all."""
    retry_after_s: float | None = None
    """How long a server that refused asks to wait."""

    @property
    def ttft_s(self) -> float | None:
        """Seconds from submission to the first output; None when there was none."""
        return self.chunk_times_s[0] - self.submitted_s if self.chunk_times_s else None

    @property
    def e2el_s(self) -> float:
        """Seconds from submission to the end of the stream."""
        return self.ended_s - self.submitted_s

    def to_json(self, start_s: float) -> dict[str, Any]:
        """Return the main figures and the text as plain values; `start_s` is the time that counts as 0."""
        return {
            "submitted_s": self.submitted_s - start_s,
            "ttft_s": self.ttft_s,
            "e2el_s": self.e2el_s,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
            "text": self.text,
            "error": self.error,
        }


class Endpoint:
    """One model behind one base URL, with one connection pool; use it as an async context manager.

    `base_url` is what OpenAI clients take; "/v1" is added when it is missing. `timeout_s` bounds one whole request.
    """

    def __init__(self, base_url: str, model: str, api_key: str = "", timeout_s: float = 600.0) -> None:
        base_url = base_url.rstrip("/")
        self.base_url = base_url if base_url.endswith("/v1") else base_url + "/v1"
        self.model = model
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout_s = timeout_s
        self._path = urlsplit(self.base_url).path
        self._connections: Connections | None = None

    @classmethod
    def from_environment(cls, model: str, timeout_s: float = 600.0) -> Self:
        """Return the endpoint that OPENAI_BASE_URL and OPENAI_API_KEY name; raises UserError without the first."""
        base_url = os.environ.get("OPENAI_BASE_URL", "")
        if not base_url:
            raise UserError("no endpoint: set OPENAI_BASE_URL, for example to http://127.0.0.1:8000/v1")
        return cls(base_url, model, os.environ.get("OPENAI_API_KEY", ""), timeout_s)

    async def __aenter__(self) -> Self:
        self._connections = Connections(self.base_url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connections is not None:
            await self._connections.close()
            self._connections = None

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        headers: Mapping[str, str] | None = None,
        on_text: OnText | None = None,
        **options: Any,
    ) -> RequestRecord:
        """Return the streamed answer to a conversation; `options` are further fields of the request body."""
        body = self.encode(messages=list(messages), **options)
        return await self.stream("/chat/completions", body, headers, on_text)

    async def complete(
        self,
        prompt: str | Sequence[int],
        *,
        headers: Mapping[str, str] | None = None,
        on_text: OnText | None = None,
        **options: Any,
    ) -> RequestRecord:
        """Return the streamed continuation of a text or of token ids; `options` as for `chat`."""
        prompt = prompt if isinstance(prompt, str) else list(prompt)
        return await self.stream("/completions", self.encode(prompt=prompt, **options), headers, on_text)

    async def get(self, path: str, timeout_s: float) -> str | None:
        """Return what `path` below the server's root (not /v1) holds; None for any status but 200.

        Raises OSError when nobody answers within `timeout_s`, and UnicodeError for an answer that is no text.
        """
        status, body = await self._order("GET", path, timeout_s)
        return body.decode() if status == 200 else None

    async def post(self, path: str, timeout_s: float) -> int:
        """Send an empty order to `path` below the server's root and return the status; raises as `get`."""
        return (await self._order("POST", path, timeout_s))[0]

    def encode(self, **fields: Any) -> bytes:
        """Return the body of a streaming request, so that it can be prepared before the clock runs."""
        body = {"model": self.model, "stream": True, "stream_options": {"include_usage": True}, **fields}
        return json.dumps(body, separators=(",", ":")).encode()

    async def stream(
        self, path: str, body: bytes, headers: Mapping[str, str] | None = None, on_text: OnText | None = None
    ) -> RequestRecord:
        """Send an encoded body to `path` below /v1 and return its record; the only exception is cancellation.

        `headers` are sent beside the endpoint's own.
        """
        connections = self._opened()
        answer = _Answer(on_text)
        refusal = bytearray()

        def take(status: int, data: bytes) -> None:
            answer.status = status
            if status == 200:
                answer.feed(data, time.perf_counter())
            else:
                refusal.extend(data)

        error: str | None = None
        submitted_s = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                all_headers = {**self._headers, **(headers or {})}
                response = await connections.request("POST", self._path + path, all_headers, body, take)
            answer.status = response.status
            if response.status != 200:
                answer.retry_after_s = _seconds(response.headers.get("retry-after"))
                error = f"HTTP {response.status}: {_one_line(refusal.decode(errors='replace'))}"
        except TimeoutError:
            error = f"no complete answer within {time.perf_counter() - submitted_s:.0f} s"
        except (OSError, ValueError) as cause:
            error = f"{type(cause).__name__}: {_one_line(str(cause))}"
        except Exception as cause:  # a malformed event of some other server: still one failed request, not a lost run
            error = f"unexpected answer ({type(cause).__name__}: {_one_line(str(cause))})"
        return answer.record(submitted_s, time.perf_counter(), error)

    async def _order(self, method: str, path: str, timeout_s: float) -> tuple[int, bytes]:
        """Return status and body of a plain request below the server's root."""
        body = bytearray()
        root = self._path.removesuffix("/v1")
        async with asyncio.timeout(timeout_s):
            response = await self._opened().request(
                method, root + path, self._headers, b"", lambda _, data: body.extend(data)
            )
        return response.status, bytes(body)

    def _opened(self) -> Connections:
        if self._connections is None:
            raise RuntimeError("use the endpoint as an async context manager")
        return self._connections


class _Answer:
    """Collects server-sent events into a record."""

    def __init__(self, on_text: OnText | None = None) -> None:
        self._on_text = on_text
        self.status: int | None = None
        self.retry_after_s: float | None = None
        self._rest = b""
        self._times_s: list[float] = []
        self._texts: list[str] = []
        self._token_ids: list[int] | None = None
        self._prompt_token_ids: list[int] | None = None
        self._usage: dict[str, Any] = {}
        self._finish_reason: str | None = None
        self._error: str | None = None
        self._done = False

    def feed(self, data: bytes, now_s: float) -> None:
        """Take the bytes that arrived at `now_s`; raises ValueError for an event that is no JSON."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                payload = line[5:].strip()
                if payload == b"[DONE]":
                    self._done = True
                elif payload:
                    self._event(json.loads(payload), now_s)

    def _event(self, event: dict[str, Any], now_s: float) -> None:
        if event.get("error"):
            error = event["error"]
            self._error = _one_line(str(error.get("message", error) if isinstance(error, dict) else error))
            return
        self._usage = event.get("usage") or self._usage
        # vLLM sends them once: with a chat beside the choices, with a completion in the choice.
        self._prompt_token_ids = event.get("prompt_token_ids") or self._prompt_token_ids
        for choice in event.get("choices") or ():
            self._prompt_token_ids = choice.get("prompt_token_ids") or self._prompt_token_ids
            text = choice.get("text")
            if text is None:
                text = (choice.get("delta") or {}).get("content")
            token_ids = choice.get("token_ids")
            if token_ids is not None:
                self._token_ids = (self._token_ids or []) + token_ids
            if text:
                self._texts.append(text)
            # Half of a multi-byte character has token ids and no text yet: it is output all the same.
            if text or token_ids:
                self._times_s.append(now_s)
                if self._on_text is not None:
                    self._on_text(text or "")
            self._finish_reason = choice.get("finish_reason") or self._finish_reason

    def record(self, submitted_s: float, ended_s: float, error: str | None) -> RequestRecord:
        error = error or self._error
        if error is None and not self._done:
            error = "the stream broke off"
        details = self._usage.get("prompt_tokens_details") or {}
        return RequestRecord(
            submitted_s=submitted_s,
            ended_s=ended_s,
            chunk_times_s=tuple(self._times_s),
            prompt_tokens=self._usage.get("prompt_tokens") or 0,
            completion_tokens=self._usage.get("completion_tokens") or 0,
            cached_tokens=details.get("cached_tokens"),
            text="".join(self._texts),
            token_ids=None if self._token_ids is None else tuple(self._token_ids),
            finish_reason=self._finish_reason,
            error=error,
            prompt_token_ids=None if self._prompt_token_ids is None else tuple(self._prompt_token_ids),
            http_status=self.status,
            retry_after_s=self.retry_after_s,
        )


def _seconds(text: str | None) -> float | None:
    """Return the seconds of a Retry-After header; None for a date or anything else."""
    return float(text) if text is not None and text.isdecimal() else None


def _one_line(text: str, limit: int = 200) -> str:
    """Return `text` as one line of at most `limit` characters."""
    return " ".join(text.split())[:limit]
