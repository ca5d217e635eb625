"""A stand-in for vLLM's HTTP server: it streams made-up tokens and keeps the counters that the benchmarks read.

Token ids of an answer depend only on the prompt, as with greedy decoding. A prompt may carry orders for the stub: see
`Behaviour`.
"""

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Behaviour:
    """How the stub answers; a test changes the fields before it sends."""

    delay_s: float = 0.0
    """Before the first token."""
    gap_s: float = 0.0
    """Between two tokens."""
    status: int = 200
    fail_first: int = 0
    """How many requests get status 503 before the first good answer."""
    break_after: int | None = None
    """Close the connection after so many tokens."""
    error_event: bool = False
    """Send an error inside the stream, as vLLM does for a failure during generation."""
    raw_event: bytes | None = None
    """Send these bytes first."""
    cached_tokens: int | None = None
    answer: Callable[[dict[str, Any]], str] | None = None
    """Text of a chat answer, sent as words; None: a legal guess."""
    profiles: bool = False
    """Has a profiler, as a server that was started with one."""


@dataclass
class StubServer:
    """What the stub saw, and its counters."""

    base_url: str = ""
    behaviour: Behaviour = field(default_factory=Behaviour)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    session_ids: list[str | None] = field(default_factory=list)
    """The header X-Session-ID of every request."""
    running: int = 0
    most_running: int = 0
    connections: set[Any] = field(default_factory=set)
    prompt_tokens: int = 0
    profiler_orders: list[str] = field(default_factory=list)
    """Start and stop of the profiler, with the number of requests before it."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.session_ids.append(request.headers.get("X-Session-ID"))
        self.connections.add(request.transport)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self._answer(request, body)
        finally:
            self.running -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        behaviour = self.behaviour
        if behaviour.fail_first > 0:
            behaviour.fail_first -= 1
            return web.json_response({"error": {"message": "busy"}}, status=503)
        if behaviour.status != 200:
            return web.json_response({"error": {"message": "no\nsuch model"}}, status=behaviour.status)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if behaviour.raw_event is not None:
            await response.write(behaviour.raw_event)
        await asyncio.sleep(behaviour.delay_s)
        if behaviour.error_event:
            await _event(response, {"error": {"message": "engine died", "code": 500}})
            await response.write(b"data: [DONE]\n\n")
            return response
        chat = "messages" in body
        if chat:
            await _event(response, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        tokens = _tokens(body, behaviour)
        for position, (token_id, text) in enumerate(tokens):
            if position == behaviour.break_after:
                assert request.transport is not None
                request.transport.close()
                return response
            if position:
                await asyncio.sleep(behaviour.gap_s)
            last = position == len(tokens) - 1
            choice: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
            choice["finish_reason"] = "length" if last else None
            if body.get("return_token_ids"):
                choice["token_ids"] = [token_id]
            await _event(response, {"choices": [choice]})
        n_prompt = _n_prompt_tokens(body)
        self.prompt_tokens += n_prompt
        usage: dict[str, Any] = {"prompt_tokens": n_prompt, "completion_tokens": len(tokens)}
        if behaviour.cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": behaviour.cached_tokens}
        await _event(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name, "owned_by": "vllm"} for name in ("stub", "bench")]})

    async def profiler(self, request: web.Request) -> web.Response:
        if not self.behaviour.profiles:
            return web.json_response({"detail": "Not Found"}, status=404)
        self.profiler_orders.append(f"{request.path} after {len(self.bodies)}")
        return web.Response()

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=metrics_text(computed=self.prompt_tokens))


def metrics_text(computed: int = 0, device: int = 0, host: int = 0, preemptions: int = 0) -> str:
    """Return a reading of /metrics as vLLM 0.32 writes it, cut to what matters here."""
    labels = 'engine="0",model_name="stub"'
    by_source = {"local_compute": computed, "local_cache_hit": device, "external_kv_transfer": host}
    return "\n".join(
        [
            "# HELP vllm:prompt_tokens_by_source_total Number of prompt tokens by source.",
            "# TYPE vllm:prompt_tokens_by_source_total counter",
            *(f'vllm:prompt_tokens_by_source_total{{{labels},source="{k}"}} {v}.0' for k, v in by_source.items()),
            "# HELP vllm:prompt_tokens_by_source_created Number of prompt tokens by source.",
            "# TYPE vllm:prompt_tokens_by_source_created gauge",
            f'vllm:prompt_tokens_by_source_created{{{labels},source="local_compute"}} 1.7e+09',
            "# HELP vllm:num_preemptions_total Cumulative number of preemption from the engine.",
            "# TYPE vllm:num_preemptions_total counter",
            f"vllm:num_preemptions_total{{{labels}}} {preemptions}.0",
            "# HELP vllm:prefix_cache_hits_total Prefix cache hits, in terms of number of cached tokens.",
            "# TYPE vllm:prefix_cache_hits_total counter",
            f"vllm:prefix_cache_hits_total{{{labels}}} 999.0",
            "",
        ]
    )


async def _event(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


def _tokens(body: dict[str, Any], behaviour: Behaviour) -> list[tuple[int, str]]:
    if "messages" in body:
        if behaviour.answer is not None:
            words = behaviour.answer(body).split(" ")
        else:
            guess = _hash(body["messages"]) % 101
            words = ["I", "think", "so.", "My", "guess:", str(guess)]
        return [(index, word if index == 0 else " " + word) for index, word in enumerate(words)]
    seed = _hash(body["prompt"])
    return [((seed + position) % 1000, f" t{position}") for position in range(body["max_tokens"])]


def _hash(value: Any) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(value).encode()).digest()[:4], "little")


def _n_prompt_tokens(body: dict[str, Any]) -> int:
    if "messages" in body:
        return sum(len(message["content"].split()) for message in body["messages"])
    return len(body["prompt"])


@contextmanager
def running_stub() -> Iterator[StubServer]:
    """Serve the stub in a thread of its own, on a free port, until the block ends."""
    stub = StubServer()
    ready = threading.Event()
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", stub.handle)
        app.router.add_post("/v1/completions", stub.handle)
        app.router.add_post("/start_profile", stub.profiler)
        app.router.add_post("/stop_profile", stub.profiler)
        app.router.add_get("/metrics", stub.metrics)
        app.router.add_get("/v1/models", stub.models)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        stub.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    def serve() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield stub
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
