"""How late the load client itself is, with thousands of streams at once: against a server that only streams.

Two figures per run. `lag` is what the client measures of itself in every benchmark: a heartbeat, and requests that were
due. `chunk_delay` is from the server's write to the client's time stamp, which only this server makes known; it has the
kernel's share in it, and the server's when both want the same core.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from elmas.agents.endpoint import Endpoint, RequestRecord
from elmas.bench.arms import free_port
from elmas.bench.load_client import LoadRun, lag_of, play, run_loop
from elmas.bench.machine import describe_machine
from elmas.bench.suite.trial import Lag
from elmas.bench.workloads.calls import Tokens, completion
from elmas.bench.workloads.steps import AtOnce, Due, Scripted, Step
from elmas.bench.workloads.workload import Vocabulary
from elmas.errors import UserError

_SPARE_FILES = 100
_START_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class ClientLoad(Scripted):
    """Streams that begin evenly over `ramp_s`, all with prompts of one length."""

    name: str = "client"
    n_streams: int = 5000
    n_tokens: int = 60
    """Events of each stream."""
    gap_s: float = 0.5
    """Between two events of a stream."""
    n_running: int = 0
    """Streams that emit at once, in step; 0: all, evenly in time."""
    ramp_s: float = 5.0
    prompt_tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UserError for numbers that make no load, or more streams than the machine lets one process open."""
        if min(self.n_streams, self.n_tokens, self.prompt_tokens) < 1 or self.n_running < 0:
            raise UserError("--streams and --tokens must be at least 1, --running 0 or more")
        if self.gap_s <= 0 or self.ramp_s < 0:
            raise UserError("--gap-s must be more than 0, --ramp-s 0 or more")
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if self.n_streams + _SPARE_FILES > most:
            raise UserError(f"{self.n_streams} streams need as many open files, {most} are allowed: raise ulimit -n")

    @property
    def events_per_s(self) -> float:
        """Events that the server sends per second while all streams are open."""
        return (self.n_running or self.n_streams) / self.gap_s

    def scaled(self, factor: float) -> "ClientLoad":
        """Refuse: this load is about its size."""
        raise UserError("the benchmark of the client has no scale: give --streams")

    def make_script(self) -> Step:
        """Return the streams with the times at which they begin."""
        tokens = Tokens(self.seed, Vocabulary())
        return AtOnce(
            tuple(
                Due(
                    self.ramp_s * index / self.n_streams,
                    completion(tokens.draw(self.prompt_tokens, index), self.n_tokens, agent=f"stream-{index:06}"),
                )
                for index in range(self.n_streams)
            )
        )


@dataclass(frozen=True)
class ClientResult:
    """What the client did, and how late."""

    load: ClientLoad
    n_failed: int
    first_error: str | None
    most_open: int
    """Streams under way at the same time, at most."""
    wall_s: float
    chunks_per_s: float
    cpu_us_per_chunk: float
    """Processor time of the client, everything included, per chunk."""
    lag: Lag
    chunk_delay: Lag

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values, with the machine."""
        return {"benchmark": "client", "machine": describe_machine(), **asdict(self)}


def measure_client(load: ClientLoad) -> ClientResult:
    """Start the streaming server, play the load against it and stop it; raises UserError when it does not start."""
    _allow_files(load.n_streams + _SPARE_FILES)
    with _server(load) as base_url:
        cpu_s = 0.0

        async def run() -> LoadRun:
            nonlocal cpu_s
            async with Endpoint(base_url, "stream") as endpoint:
                # From here on, as the wall time: imports and the like are no part of it.
                begin_s = time.process_time()
                played = await play(load, endpoint)
                cpu_s = time.process_time() - begin_s
                return played

        played = run_loop(run())
    records = [each.record for each in played.records]
    delays_s = [
        arrived_s - float(written_s)
        for record in records
        for arrived_s, written_s in zip(record.chunk_times_s, record.text.split(), strict=False)
    ]
    wall_s = max(record.ended_s for record in records) - played.begun_s
    errors = [record.error for record in records if record.error is not None]
    return ClientResult(
        load=load,
        n_failed=len(errors),
        first_error=errors[0] if errors else None,
        most_open=_most_open(records),
        wall_s=wall_s,
        chunks_per_s=len(delays_s) / wall_s,
        cpu_us_per_chunk=cpu_s / max(1, len(delays_s)) * 1e6,
        lag=played.lag,
        chunk_delay=lag_of(delays_s),
    )


def _most_open(records: list[RequestRecord]) -> int:
    changes = sorted([(each.submitted_s, 1) for each in records] + [(each.ended_s, -1) for each in records])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def _allow_files(n_files: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < n_files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (n_files, hard))


@contextmanager
def _server(load: ClientLoad) -> Iterator[str]:
    """Run the streaming server as a process of its own and give its address."""
    port = free_port()
    sizes = ["--port", str(port), "--gap-s", str(load.gap_s), "--running", str(load.n_running)]
    process = subprocess.Popen([sys.executable, "-m", "elmas.bench.stream_server", *sizes])
    base_url = f"http://127.0.0.1:{port}"
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    try:
        while True:
            try:
                httpx.get(f"{base_url}/v1/models", timeout=1.0).raise_for_status()
                break
            except httpx.HTTPError:
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise UserError("the streaming server did not start: see its message above") from None
                time.sleep(0.05)
        yield base_url
    finally:
        process.kill()
        process.wait()
