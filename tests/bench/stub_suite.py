"""A stand-in for vLLM with a prefix cache without limits, and the servers of a suite run made of it.

Answers depend on the prompt alone. The counters are those that vLLM 0.32 writes, cut to what the suite reads.
"""

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from aiohttp import web

from elmas.errors import UserError
from elmas.serve.command import ServerCommand
from elmas.serve.process import Samples, parse_metrics

BLOCK = 16


@dataclass
class CachingStub:
    """What a test may change, and what the server counts."""

    base_url: str = ""
    forgets: bool = True
    """Whether a reset empties the cache."""
    can_reset: bool = True
    miscounts: int = 0
    """Prompt tokens counted too many per request."""
    order_errors: int = 0
    """Internal errors since the start."""
    answers_otherwise: bool = False
    dies_after: int | None = None
    """Requests after which every connection is closed, until `revive`."""
    fails: bool = False
    blocks: set[bytes] = field(default_factory=set)
    profiler_orders: list[str] = field(default_factory=list)
    """Each with the number of requests before it."""
    n_served: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    ttft_s: float = 0.0

    def revive(self) -> None:
        """A new server: it has forgotten everything, its counters too."""
        self.blocks.clear()
        self.n_served = self.prompt_tokens = self.cached_tokens = self.output_tokens = 0
        self.ttft_s = 0.0

    @property
    def dead(self) -> bool:
        """Whether it has died."""
        return self.dies_after is not None and self.n_served >= self.dies_after

    async def handle(self, request: web.Request) -> web.StreamResponse:
        begin_s = time.perf_counter()
        body = await request.json()
        if self.dead or request.transport is None:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if self.fails:
            return web.json_response({"error": {"message": "no room"}}, status=500)
        prompt = body.get("prompt") or [ord(each) for each in json.dumps(body["messages"])]
        seed = json.dumps(prompt).encode() + b"x" * self.answers_otherwise
        answer = [hashlib.sha256(seed + bytes([i])).digest()[0] + 300 for i in range(body["max_tokens"])]
        self.n_served += 1
        self.prompt_tokens += len(prompt) + self.miscounts
        self.output_tokens += len(answer)
        keys = [hashlib.sha256(repr(prompt[:end]).encode()).digest() for end in range(BLOCK, len(prompt), BLOCK)]
        cached = next((i for i, key in enumerate(keys) if key not in self.blocks), len(keys)) * BLOCK
        self.blocks.update(keys)
        self.cached_tokens += cached
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for position, token in enumerate(answer):
            choice: dict[str, Any] = {"text": f" {token}"}
            if body.get("return_token_ids"):
                choice |= {"token_ids": [token], **({"prompt_token_ids": prompt} if position == 0 else {})}
            await _event(response, {"choices": [choice]})
            if position == 0:
                self.ttft_s += time.perf_counter() - begin_s
        usage = {
            "prompt_tokens": len(prompt),
            "completion_tokens": len(answer),
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        await _event(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "bench", "owned_by": "vllm"}]})

    async def reset(self, request: web.Request) -> web.Response:
        if not self.can_reset:
            return web.Response(status=404)
        if self.forgets:
            self.blocks.clear()
        return web.json_response({"success": True})

    async def profile(self, request: web.Request) -> web.Response:
        self.profiler_orders.append(f"{request.path} after {self.n_served}")
        return web.Response()

    async def metrics(self, request: web.Request) -> web.Response:
        source = "vllm:prompt_tokens_by_source_total"
        computed = self.prompt_tokens - self.cached_tokens
        lines = {
            f'{source}{{source="local_compute"}}': computed,
            f'{source}{{source="local_cache_hit"}}': self.cached_tokens,
            "vllm:generation_tokens_total": self.output_tokens,
            'vllm:request_success_total{finished_reason="length"}': self.n_served,
            "vllm:time_to_first_token_seconds_sum": self.ttft_s,
            f'vllm:cache_config_info{{block_size="{BLOCK}"}}': 1,
            "elmas:store_blocks_total": self.n_served,
            "elmas:order_errors_total": self.order_errors,
        }
        return web.Response(text="".join(f"{name} {value}\n" for name, value in lines.items()))


class StubServers:
    """Replaces `arm_command` and `running_server` of the runner by one stub that is born again with every start."""

    def __init__(self, stub: CachingStub) -> None:
        self.stub = stub
        self.started: list[str] = []
        self.disks: list[Path | None] = []
        self.profile_dirs: list[Path | None] = []
        self.do_not_start: set[str] = set()

    def arm_command(self, arm: str, shape: Any) -> ServerCommand:
        self.disks.append(shape.disk)
        self.profile_dirs.append(shape.profile_dir)
        return ServerCommand(("serve", arm), {}, "127.0.0.1", 1)

    @contextmanager
    def running_server(self, command: ServerCommand, log_path: Path) -> Iterator[tuple["StubServers", float]]:
        name = command.argv[1]
        log_path.parent.mkdir(parents=True, exist_ok=True)
        log_path.write_text("ValueError: the cause\n" + "loading\n" * 20)
        if name in self.do_not_start:
            raise UserError("the server ended (exit code 1) before it was ready; the end of its log")
        self.started.append(name)
        self.stub.revive()
        try:
            yield self, 0.5
        except httpx.HTTPError as error:
            raise UserError(f"the server stopped answering ({error})") from None

    @property
    def base_url(self) -> str:
        return self.stub.base_url

    def metrics(self) -> Samples:
        if self.stub.dead:
            raise httpx.ConnectError("refused")
        return parse_metrics(httpx.get(self.base_url + "/metrics").text)

    def reset_caches(self) -> None:
        if httpx.post(self.base_url + "/reset_prefix_cache").status_code != 200:
            raise UserError("the server has no route to reset its caches")


async def _event(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


@contextmanager
def caching_stub() -> Iterator[CachingStub]:
    """Serve a stub in a thread of its own, on a free port, until the block ends."""
    stub = CachingStub()
    ready = threading.Event()
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/v1/chat/completions", stub.handle)
        app.router.add_post("/v1/completions", stub.handle)
        app.router.add_post("/reset_prefix_cache", stub.reset)
        app.router.add_get("/v1/models", stub.models)
        app.router.add_get("/metrics", stub.metrics)
        app.router.add_post("/start_profile", stub.profile)
        app.router.add_post("/stop_profile", stub.profile)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
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
