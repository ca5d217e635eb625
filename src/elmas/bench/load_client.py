"""Plays a workload against an endpoint, and measures how late the client itself was.

All requests that a workload knows beforehand are encoded before the clock runs: otherwise the client's own work would
be part of every round.
"""

import asyncio
import gc
import hashlib
import json
import struct
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from elmas.agents.endpoint import Endpoint, RequestRecord
from elmas.agents.model import session_header
from elmas.bench.suite.trial import Lag
from elmas.bench.workloads.steps import Scripted
from elmas.bench.workloads.workload import VLLM_FIELDS, Request, Workload
from elmas.errors import UserError

try:
    import uvloop
except ImportError:  # it comes with vLLM, and is not needed
    _run: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run
else:
    _run = uvloop.run

_Result = TypeVar("_Result")

_HEARTBEAT_S = 0.005
_PROBE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class SentRequest:
    """Which request it was; its body is only in the digest of the run."""

    agent: str
    turn: int
    round: int


@dataclass(frozen=True)
class SentRecord:
    """One request and what became of it."""

    request: SentRequest
    due_s: float | None
    """When it was to be sent, in seconds since the workload began; None: as soon as it was its turn."""
    record: RequestRecord


@dataclass(frozen=True)
class LoadRun:
    """What a workload came to."""

    records: tuple[SentRecord, ...]
    """By agent and turn."""
    lag: Lag
    begun_s: float
    """When the workload began, on the clock of the records."""
    request_digest: str
    """SHA-256 of all bodies by agent and turn: equal digests mean that the same bytes were sent."""
    output_digest: str
    """SHA-256 of the output token ids, or of the texts where there are none, in the same order."""


async def play(workload: Workload, endpoint: Endpoint, on_request: Callable[[], None] = lambda: None) -> LoadRun:
    """Play a workload against an open endpoint; `on_request` is called once per ended request.

    Raises UserError when nobody listens, or the model is not there; a failed request is a record with its error.
    """
    load = TimedLoad(endpoint, await _is_vllm(endpoint), on_request)
    if isinstance(workload, Scripted):
        load.prepare(workload.requests())
    with _no_garbage_collection():
        meter = asyncio.create_task(load.meter.run())
        load.start()
        try:
            await workload.play(load)
        finally:
            meter.cancel()
    return load.finish()


def run_loop(main: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine as `asyncio.run` does, on the fastest event loop there is."""
    result: _Result = _run(main)
    return result


class LagMeter:
    """Collects how late the event loop comes to what was due, in seconds: a heartbeat and every due request."""

    def __init__(self) -> None:
        self.late_s: list[float] = []

    async def run(self) -> None:
        """Measure until cancelled. Whatever keeps the loop busy delays the heartbeat as it delays time stamps."""
        due_s = time.perf_counter()
        while True:
            due_s = max(due_s + _HEARTBEAT_S, time.perf_counter())
            await asyncio.sleep(due_s - time.perf_counter())
            self.late_s.append(max(0.0, time.perf_counter() - due_s))

    def lag(self) -> Lag:
        """Return what was measured so far; zeros when nothing was."""
        return lag_of(self.late_s)


def lag_of(late_s: Sequence[float]) -> Lag:
    """Return the figures of some delays in seconds; zeros when there are none."""
    values = np.asarray(late_s or [0.0])
    p50_s, p99_s = np.percentile(values, (50, 99))
    return Lag(float(values.mean()), float(p50_s), float(p99_s), float(values.max()))


class TimedLoad:
    """What workloads are played against (`Load`), on one endpoint."""

    def __init__(self, endpoint: Endpoint, is_vllm: bool, on_request: Callable[[], None]) -> None:
        self.meter = LagMeter()
        self._endpoint = endpoint
        self._is_vllm = is_vllm
        self._on_request = on_request
        self._begun_s = time.perf_counter()
        self._prepared: dict[tuple[str, int], bytes] = {}
        self._body_digests: dict[tuple[str, int], bytes] = {}
        self._records: list[SentRecord] = []

    def prepare(self, requests: Sequence[Request]) -> None:
        """Encode requests that will be sent."""
        for request in requests:
            self._prepared[request.agent, request.turn] = self._encode(request)

    def start(self) -> None:
        """Begin to count time from now on."""
        self._begun_s = time.perf_counter()

    @property
    def now_s(self) -> float:
        """Seconds since the workload began."""
        return time.perf_counter() - self._begun_s

    async def send(self, request: Request, due_s: float | None = None) -> RequestRecord:
        """Send a request, now or at `due_s`, and return its record when its answer has ended."""
        key = (request.agent, request.turn)
        body = self._prepared.pop(key, None) or self._encode(request)
        if due_s is not None:
            await self.sleep_until(due_s)
            self.meter.late_s.append(max(0.0, self.now_s - due_s))
        record = await self._endpoint.stream(request.path, body, session_header(request.agent))
        self._records.append(SentRecord(SentRequest(request.agent, request.turn, request.round), due_s, record))
        self._on_request()
        return record

    async def gather(self, requests: Sequence[Request]) -> list[RequestRecord]:
        """Send all requests at once and return their records in the same order when the last answer has ended."""
        calls: list[Awaitable[RequestRecord]] = [self.send(request) for request in requests]
        return list(await asyncio.gather(*calls))

    async def sleep_until(self, due_s: float) -> None:
        """Return `due_s` seconds after the workload began, or at once when that is over."""
        if (wait_s := due_s - self.now_s) > 0:
            await asyncio.sleep(wait_s)

    def finish(self) -> LoadRun:
        """Return everything that was recorded."""
        records = sorted(self._records, key=lambda each: (each.request.agent, each.request.turn))
        sent, answered = hashlib.sha256(), hashlib.sha256()
        for each in records:
            sent.update(self._body_digests[each.request.agent, each.request.turn])
            answered.update(_output_digest(each.record))
        return LoadRun(tuple(records), self.meter.lag(), self._begun_s, sent.hexdigest(), answered.hexdigest())

    def _encode(self, request: Request) -> bytes:
        """Return the body of a request; the fields of vLLM alone are left out for other servers."""
        key = (request.agent, request.turn)
        if key in self._body_digests:
            raise ValueError(f"{request.agent} sends turn {request.turn} a second time")
        fields = request.fields
        if not self._is_vllm:
            fields = {name: value for name, value in fields.items() if name not in VLLM_FIELDS}
        body = self._endpoint.encode(**fields)
        self._body_digests[key] = hashlib.sha256(request.path.encode() + b"\n" + body).digest()
        return body


def _output_digest(record: RequestRecord) -> bytes:
    ids = record.token_ids
    return hashlib.sha256(record.text.encode() if ids is None else struct.pack(f"<{len(ids)}i", *ids)).digest()


async def _is_vllm(endpoint: Endpoint) -> bool:
    """Whether the server says that it is vLLM.

    Raises UserError when nobody listens, or when the server lists its models and the endpoint's is not one of them.
    """
    try:
        listing = json.loads(await endpoint.get("/v1/models", _PROBE_TIMEOUT_S) or "{}")
        owners = {str(model["id"]): str(model.get("owned_by")) for model in listing.get("data", ())}
    except OSError as error:
        raise UserError(
            f"nobody listens at {endpoint.base_url} ({type(error).__name__}): start a server, or give another address"
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        owners = {}  # a server without a list, or with one of its own kind
    if owners and endpoint.model not in owners:
        raise UserError(f"{endpoint.base_url} serves no model {endpoint.model!r}: choose from {', '.join(owners)}")
    return owners.get(endpoint.model) == "vllm"


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect no cycles meanwhile: with the objects of thousands of requests, that stops the loop for 20 to 60 ms."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
