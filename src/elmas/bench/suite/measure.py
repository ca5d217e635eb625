"""One trial on a running server: warm up, make sure that its caches are empty, play, and account for everything."""

import asyncio
import hashlib
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import httpx
import numpy as np

from elmas.agents.endpoint import Endpoint, RequestRecord
from elmas.bench.counters import read_block_size, read_counters, read_events, read_offloaded_bytes, read_served
from elmas.bench.load_client import LoadRun, SentRecord, play, run_loop
from elmas.bench.machine import UsageMeter
from elmas.bench.suite.accounting import (
    check_counters,
    find_violations,
    infinite_tokens,
    tier_bytes,
    token_counts,
)
from elmas.bench.suite.servers import RunningServer
from elmas.bench.suite.trial import Failure, RequestColumns, Round, Trial, WarmUp
from elmas.bench.summary import PERCENTILES, summarise
from elmas.bench.workloads.workload import Vocabulary, Workload
from elmas.errors import UserError

_WARM_UP_REQUESTS = 4
_WARM_UP_TOKENS = 512
_PROBE_BLOCKS = 4
_PROFILER_TIMEOUT_S = 600.0
"""Writing the trace of a long run takes minutes."""

_SETTLE_S = 2.0
"""How long the server's counters may take to show the end of the last request."""


@dataclass(frozen=True)
class Client:
    """How the suite speaks to servers."""

    model: str
    """Its name at the server."""
    api_key: str = ""
    timeout_s: float = 1000.0
    """After which a request has failed; that of the original suite."""
    percentiles: tuple[float, ...] = PERCENTILES
    vocabulary: Vocabulary = field(default_factory=Vocabulary)

    def endpoint(self, server: RunningServer) -> Endpoint:
        """Return a connection to a server."""
        return Endpoint(server.base_url, self.model, self.api_key, self.timeout_s)


def warm_up(server: RunningServer, client: Client, longest_tokens: int, block_size: int) -> WarmUp:
    """Take the first-use costs: buffers, threads, connections, the chat template. Leaves the probe in the caches.

    No request is longer than `longest_tokens`. Raises UserError when the server answers nothing at all.
    """
    begin_s = time.perf_counter()
    n_tokens = max(1, min(_WARM_UP_TOKENS, longest_tokens - 16))
    prompts = [_tokens(client.vocabulary, n_tokens, number) for number in range(1, _WARM_UP_REQUESTS + 1)]
    probe = _probe(client.vocabulary, longest_tokens, block_size)

    async def send() -> list[RequestRecord]:
        async with client.endpoint(server) as endpoint:
            calls = [endpoint.complete(prompt, max_tokens=16, temperature=0.0) for prompt in prompts]
            hello = endpoint.chat([{"role": "user", "content": "Hello."}], max_tokens=8, temperature=0.0)
            records = list(await asyncio.gather(*calls, hello))
            # What is asked for twice is kept by every tier.
            return records + [await endpoint.complete(probe, max_tokens=1, temperature=0.0) for _ in range(2)]

    records = asyncio.run(send())
    if all(record.error is not None for record in records):
        raise UserError(f"the server answers nothing: {records[0].error}")
    return WarmUp(len(records), time.perf_counter() - begin_s)


def caches_are_empty(server: RunningServer, client: Client, longest_tokens: int, block_size: int) -> bool:
    """Whether nothing is found of a prompt that was sent twice before (`warm_up`), on the device or in any other tier.

    A server without counters cannot prove it.
    """
    probe = _probe(client.vocabulary, longest_tokens, block_size)

    async def send() -> RequestRecord:
        async with client.endpoint(server) as endpoint:
            return await endpoint.complete(probe, max_tokens=1, temperature=0.0)

    before = read_counters(server.metrics())
    record = asyncio.run(send())
    found = read_counters(server.metrics()) - before
    return record.error is None and found.total == found.computed == len(probe)


def measure(
    server: RunningServer,
    workload: Workload,
    blank: Trial,
    client: Client,
    block_bytes: int | None,
    on_request: Callable[[], None],
    *,
    begins_empty: bool = True,
    profiling: bool = False,
) -> Trial:
    """Play `workload` and return `blank` with everything that was measured; `on_request` is called per ended request.

    `begins_empty` says that no cache may serve more than this workload itself has put there. `profiling` runs the
    server's profiler meanwhile.
    Raises httpx.HTTPError when the server's counters cannot be read any more: it has ended.
    """
    before = server.metrics()
    meter = UsageMeter()

    async def run_load() -> LoadRun:
        async with client.endpoint(server) as endpoint:
            return await play(workload, endpoint, on_request)

    with _profiler(server) if profiling else nullcontext():
        run = run_loop(run_load())
        usage = meter.stop()
    sent = sorted(run.records, key=lambda each: each.record.submitted_s)
    records = [each.record for each in sent]
    metrics = summarise(records, client.percentiles)
    after = server.metrics()
    deadline_s = time.monotonic() + _SETTLE_S
    n_complete = metrics.n_requests - metrics.n_failed
    while (read_served(after) - read_served(before)).n_requests < n_complete and time.monotonic() < deadline_s:
        time.sleep(0.05)
        after = server.metrics()
    block_size = blank.server.block_size or read_block_size(after)
    tokens = token_counts(read_counters(after) - read_counters(before)) if read_counters(after).total else None
    events_before, offloaded_before = read_events(before), read_offloaded_bytes(before)
    since_start = read_events(after)
    events = {name: value - events_before.get(name, 0.0) for name, value in since_start.items()}
    offloaded = {name: value - offloaded_before.get(name, 0) for name, value in read_offloaded_bytes(after).items()}
    served = read_served(after) - read_served(before)
    checks = check_counters(metrics, served, run.lag.max_s) if tokens is not None and not metrics.n_failed else []
    infinite = None if block_size is None else infinite_tokens(records, block_size)
    return replace(
        blank,
        status="done",
        server=replace(blank.server, block_size=block_size),
        metrics=metrics,
        tokens=tokens,
        infinite_hit_rate=infinite / metrics.prompt_tokens if infinite is not None and metrics.prompt_tokens else None,
        bytes=tier_bytes(events, offloaded, block_bytes) if tokens is not None else None,
        events={name: value for name, value in events.items() if value},
        failures=[
            Failure(each.request.agent, each.request.turn, each.record.error)
            for each in sent
            if each.record.error is not None
        ],
        request_digest=run.request_digest,
        output_digest=run.output_digest,
        lag=run.lag,
        usage=usage,
        rounds=_rounds(sent, run.begun_s),
        requests=_columns(sent, run.begun_s),
        counters_check=checks,
        violations=find_violations(
            records, checks, tokens, infinite if begins_empty else None, block_size, since_start
        ),
    )


@contextmanager
def _profiler(server: RunningServer) -> Iterator[None]:
    """Run the profiler of a server that has one; its traces are written in the end."""
    httpx.post(f"{server.base_url}/start_profile", timeout=_PROFILER_TIMEOUT_S).raise_for_status()
    yield
    httpx.post(f"{server.base_url}/stop_profile", timeout=_PROFILER_TIMEOUT_S).raise_for_status()


def _rounds(sent: Sequence[SentRecord], begun_s: float) -> list[Round]:
    by_round: dict[int, list[RequestRecord]] = {}
    for each in sent:
        by_round.setdefault(each.request.round, []).append(each.record)
    rounds = []
    for number, records in sorted(by_round.items()):
        waits_s = [record.ttft_s for record in records if record.ttft_s is not None]
        rounds.append(
            Round(
                round=number,
                begin_s=min(record.submitted_s for record in records) - begun_s,
                end_s=max(record.ended_s for record in records) - begun_s,
                n=len(records),
                ttft_mean_s=sum(waits_s) / len(waits_s) if waits_s else None,
            )
        )
    return rounds


def _columns(sent: Sequence[SentRecord], begun_s: float) -> RequestColumns:
    def rounded(seconds: float | None) -> float | None:
        return None if seconds is None else round(seconds, 6)

    records = [each.record for each in sent]
    return RequestColumns(
        agent=[each.request.agent for each in sent],
        turn=[each.request.turn for each in sent],
        round=[each.request.round for each in sent],
        submitted_s=[round(record.submitted_s - begun_s, 6) for record in records],
        ttft_s=[rounded(record.ttft_s) for record in records],
        e2el_s=[round(record.e2el_s, 6) for record in records],
        n_in=[record.prompt_tokens for record in records],
        n_out=[record.completion_tokens for record in records],
        cached=[record.cached_tokens for record in records],
        answer=[_answer_digest(record) for record in records],
    )


def _answer_digest(record: RequestRecord) -> str:
    ids = record.token_ids
    content = record.text.encode() if ids is None else struct.pack(f"<{len(ids)}i", *ids)
    return hashlib.sha256(content).hexdigest()[:8]


def _probe(vocabulary: Vocabulary, longest_tokens: int, block_size: int) -> list[int]:
    return _tokens(vocabulary, max(1, min(_PROBE_BLOCKS * block_size + 1, longest_tokens - 1)), 0)


def _tokens(vocabulary: Vocabulary, n_tokens: int, purpose: int) -> list[int]:
    """Return tokens that no workload sends: theirs come from other seeds."""
    random = np.random.default_rng([0x656C6D6173, purpose])
    return [int(token) for token in random.integers(vocabulary.first_token_id, vocabulary.last_token_id + 1, n_tokens)]
