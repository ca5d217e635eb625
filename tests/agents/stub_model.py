"""A stand-in for an OpenAI-compatible server, in the event loop of the test: each request is answered by a function."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

VLLM_METRICS = "# HELP vllm:x y\nvllm:x 1\n"
ELMAS_METRICS = VLLM_METRICS + "# HELP elmas:hints y\nelmas:hints_total 0\n"


@dataclass(frozen=True)
class Reaction:
    """What the stub does with one request."""

    text: str = "yes"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    breaks_off: bool = False
    """The connection is closed after the text."""


@dataclass(frozen=True)
class Seen:
    """One request: its body and the session that its header names."""

    body: dict[str, Any]
    session: str | None

    @property
    def hints(self) -> dict[str, Any] | None:
        """What it tells elmas."""
        parameters = self.body.get("kv_transfer_params")
        return None if parameters is None else parameters["elmas"]


@dataclass
class StubModel:
    """What the stub was asked, and how it reacts to the n-th request (counted from 0)."""

    react: Callable[[int, dict[str, Any]], Reaction] = lambda number, body: Reaction()
    metrics: str | None = None
    """None: the server has no metrics."""
    models: list[str] = field(default_factory=lambda: ["stub-model"])
    seen: list[Seen] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    url: str = ""

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        number = len(self.seen)
        self.seen.append(Seen(body, request.headers.get("X-Session-ID")))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self._answer(request, body, self.react(number, body))
        finally:
            self.running -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any], reaction: Reaction) -> web.StreamResponse:
        await asyncio.sleep(reaction.delay_s)
        if reaction.status != 200:
            error = {"error": {"message": reaction.text}}
            return web.json_response(error, status=reaction.status, headers=reaction.headers)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        words = reaction.text.split(" ")
        first: dict[str, Any] = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
        if body.get("return_token_ids"):
            first["prompt_token_ids"] = list("".join(m["content"] for m in body["messages"]).encode())
        await _event(response, first)
        for number, word in enumerate(words):
            choice: dict[str, Any] = {"delta": {"content": word if number == 0 else " " + word}}
            if body.get("return_token_ids"):
                choice["token_ids"] = [number]
            await _event(response, {"choices": [choice]})
        if reaction.breaks_off:
            assert request.transport is not None
            request.transport.close()
            return response
        usage = {"prompt_tokens": 10, "completion_tokens": len(words)}
        await _event(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def tell_metrics(self, request: web.Request) -> web.Response:
        return web.Response(status=404) if self.metrics is None else web.Response(text=self.metrics)

    async def list_models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in self.models]})


async def _event(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


@asynccontextmanager
async def serving(stub: StubModel) -> AsyncIterator[StubModel]:
    """Serve the stub on a free port for the length of the block; its URL is in `stub.url`."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", stub.chat)
    app.router.add_get("/metrics", stub.tell_metrics)
    app.router.add_get("/v1/models", stub.list_models)
    async with TestServer(app, shutdown_timeout=0.1) as server:
        stub.url = str(server.make_url("/v1"))
        yield stub
