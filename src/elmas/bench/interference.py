"""What copies cost those that decode: the time between their tokens while others load, beside the same without copies.

Some requests decode all the time. Beside them come others, each with a context that was seen before and a new
question: first all contexts are in host memory only (`host`), then they are on the device (`device`). The model does
the same work both times, so the copies are the difference. Afterwards come contexts that nobody has seen (`new`), which
are computed and stored; those compare with a server that stores nothing.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.table import Table

from elmas.agents.endpoint import Endpoint, RequestRecord
from elmas.bench.arms import MODEL_NAME, ServerShape, arm_command, running_server
from elmas.bench.counters import read_events
from elmas.bench.load_client import run_loop
from elmas.bench.machine import describe_machine, describe_versions
from elmas.bench.suite.servers import block_bytes
from elmas.bench.workloads.calls import Tokens
from elmas.bench.workloads.workload import Vocabulary
from elmas.errors import UserError
from elmas.serve.process import ServerProcess

SERVERS = ("mt-apc", "mt-apc:store=false", "noop")

_STREAM_PROMPT_TOKENS = 32
_QUESTION_TOKENS = 64
_LEAD_S = 0.2
"""Between the first token of all streams and the first context."""

_REST_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class InterferencePlan:
    """The load. All times in seconds."""

    n_streams: int
    """Requests that decode."""
    stream_tokens: int
    """Output tokens of each of them: enough to outlast the contexts."""
    n_contexts: int
    context_tokens: int
    interval_s: float
    """Between two contexts."""
    n_rounds: int

    def check(self) -> None:
        """Raise UserError for sizes that measure nothing."""
        if min(asdict(self).values()) <= 0:
            raise UserError("--streams, --tokens, --contexts, --context-tokens, --interval-ms, --rounds: all above 0")

    def shape(self, model: Path, block_size: int, device: str, vllm_arguments: tuple[str, ...]) -> ServerShape:
        """Return servers on whose device, and in whose host memory, there is room for everything at once."""
        request_tokens = self.context_tokens + _QUESTION_TOKENS + block_size
        stream_tokens = _STREAM_PROMPT_TOKENS + self.stream_tokens + block_size
        n_blocks = -(-2 * (self.n_contexts * request_tokens + self.n_streams * stream_tokens) // block_size)
        shape = ServerShape(
            model=model,
            n_device_blocks=n_blocks,
            max_model_len=max(request_tokens, stream_tokens),
            host_memory="1GiB",
            max_running=self.n_streams + self.n_contexts,
            vllm_arguments=vllm_arguments,
            block_size=block_size,
        )
        per_block = block_bytes(shape, device)
        if per_block is None:
            raise UserError(f"{model} does not say how large its KV is: give a directory with a config.json")
        return replace(shape, host_memory=str(n_blocks * per_block))


@dataclass
class Phase:
    """What the streams saw on one server while contexts of one kind came, over all rounds."""

    server: str
    kind: str
    """ "host", "device" or "new"."""
    gaps_s: list[float] = field(default_factory=list)
    """Between two tokens of a stream."""
    seconds: float = 0.0
    load_blocks: float = 0.0
    store_blocks: float = 0.0
    longest_s: list[float] = field(default_factory=list)
    """The longest gap of each round: whether one round had a slow step, or all."""

    def forget(self) -> None:
        """Drop what was seen so far."""
        self.gaps_s.clear()
        self.longest_s.clear()
        self.seconds = self.load_blocks = self.store_blocks = 0.0

    def percentile_s(self, percent: float) -> float:
        """Return a percentile of the time between tokens."""
        return float(np.percentile(self.gaps_s, percent))

    def to_json(self, bytes_per_block: int) -> dict[str, Any]:
        """Return the figures as plain values; rates are bytes per second while contexts came."""
        return {
            "server": self.server,
            "contexts": self.kind,
            "n_gaps": len(self.gaps_s),
            "itl_mean_s": float(np.mean(self.gaps_s)),
            **{f"itl_p{percent}_s": self.percentile_s(percent) for percent in (50, 90, 99)},
            "itl_max_s": max(self.gaps_s),
            "itl_max_s_per_round": self.longest_s,
            "seconds": self.seconds,
            "load_bytes_per_s": self.load_blocks * bytes_per_block / self.seconds,
            "store_bytes_per_s": self.store_blocks * bytes_per_block / self.seconds,
        }


@dataclass(frozen=True)
class InterferenceResult:
    """All phases of all servers."""

    plan: InterferencePlan
    phases: tuple[Phase, ...]
    bytes_per_block: int
    commands: dict[str, str]

    def ratio(self, phase: Phase, percent: float) -> float | None:
        """Return a phase's percentile over that of its control; None for a control.

        The control of `host` is `device` on the same server, that of `new` is `new` on the last server that stores
        nothing.
        """
        if phase.kind == "host":
            control = next(each for each in self.phases if each.server == phase.server and each.kind == "device")
        else:
            controls = [each for each in self.phases if each.kind == "new" and not each.store_blocks]
            if phase.kind != "new" or not controls or not phase.store_blocks:
                return None
            control = controls[-1]
        return phase.percentile_s(percent) / control.percentile_s(percent)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "benchmark": "interference",
            "machine": describe_machine(),
            "versions": describe_versions(),
            "plan": asdict(self.plan),
            "bytes_per_block": self.bytes_per_block,
            "commands": self.commands,
            "phases": [
                {**phase.to_json(self.bytes_per_block), "itl_p99_ratio": self.ratio(phase, 99)} for phase in self.phases
            ],
        }


def measure_interference(
    plan: InterferencePlan,
    shape: ServerShape,
    servers: Sequence[str],
    device: str,
    log_dir: Path,
    on_stage: Callable[[str], None],
) -> InterferenceResult:
    """Play the load on one server after the other.

    Raises UserError when a server fails, when contexts are not found where they should be, or when the streams end
    too early.
    """
    plan.check()
    phases: list[Phase] = []
    commands: dict[str, str] = {}
    for name in servers:
        on_stage(f"{name}: starting the server")
        command = arm_command(name, shape)
        commands[name] = command.shell_line()
        with running_server(command, log_dir / f"{name.replace(':', '-')}.log") as (server, _):
            load = _Load(plan, server, name)
            phases += run_loop(load.play(on_stage))
    return InterferenceResult(plan, tuple(phases), block_bytes(shape, device) or 0, commands)


def interference_table(result: InterferenceResult) -> Table:
    """Return the time between tokens of the streams, by server and by where the contexts came from."""
    table = Table(title="time between the tokens of those that decode, ms, while contexts come")
    for heading in ("server", "contexts", "median", "P99", "max", "P99 to control", "loads, GB/s", "stores, GB/s"):
        table.add_column(heading, justify="left" if heading in ("server", "contexts") else "right")
    for phase in result.phases:
        values = phase.to_json(result.bytes_per_block)
        ratio = result.ratio(phase, 99)
        table.add_row(
            phase.server,
            phase.kind,
            *(f"{values[name] * 1e3:.1f}" for name in ("itl_p50_s", "itl_p99_s", "itl_max_s")),
            "-" if ratio is None else f"{ratio:.3f}",
            *(f"{values[name] / 1e9:.1f}" for name in ("load_bytes_per_s", "store_bytes_per_s")),
        )
    return table


class _Load:
    """The load of one server."""

    def __init__(self, plan: InterferencePlan, server: ServerProcess, name: str) -> None:
        self._plan = plan
        self._server = server
        self._name = name
        self._tokens = Tokens(0, Vocabulary())
        self._n_prompts = 0
        self._contexts = [self._prompt(plan.context_tokens) for _ in range(plan.n_contexts)]

    async def play(self, on_stage: Callable[[str], None]) -> list[Phase]:
        host, device, new = (Phase(self._name, kind) for kind in ("host", "device", "new"))
        async with Endpoint(self._server.base_url, MODEL_NAME) as endpoint:
            on_stage(f"{self._name}: computing contexts")
            await self._begin(endpoint)
            if await self._stored():
                for _ in self._rounds("known contexts", (host, device), on_stage):
                    await self._rest()
                    self._server.reset_caches(device_only=True)
                    for phase in (host, device):
                        await self._round(endpoint, phase, self._contexts)
                    if host.load_blocks <= device.load_blocks:
                        raise UserError(f"{self._name} did not load from host memory: see its log")
            for _ in self._rounds("new contexts", (new,), on_stage):
                await self._round(endpoint, new, [self._prompt(self._plan.context_tokens) for _ in self._contexts])
        return [phase for phase in (host, device, new) if phase.gaps_s]

    def _rounds(self, title: str, phases: Sequence[Phase], on_stage: Callable[[str], None]) -> Iterator[None]:
        """Yield for each round. What the phases hold of the first one is dropped: what happens for the first time takes
        longer, such as a kernel that is loaded."""
        for round_ in range(self._plan.n_rounds + 1):
            on_stage(f"{self._name}: {title}, {f'round {round_}' if round_ else 'not counted'}")
            yield
            if round_ == 0:
                for phase in phases:
                    phase.forget()

    async def _begin(self, endpoint: Endpoint) -> None:
        """Compute all contexts, which lets the server warm up too."""
        for record in [await endpoint.complete(context, max_tokens=1) for context in self._contexts]:
            _check(record)

    async def _stored(self) -> bool:
        await self._rest()
        return self._events().get("store_blocks", 0) > 0

    async def _round(self, endpoint: Endpoint, phase: Phase, contexts: Sequence[list[int]]) -> None:
        """Let the streams decode, send the contexts meanwhile, and add what the streams saw to the phase."""
        plan = self._plan
        await self._rest()
        before = self._events()
        n_first = 0
        all_began = asyncio.Event()

        def first_token() -> None:
            nonlocal n_first
            n_first += 1
            if n_first == plan.n_streams:
                all_began.set()

        prompts = [self._prompt(_STREAM_PROMPT_TOKENS) for _ in range(plan.n_streams)]
        streams = [asyncio.create_task(self._stream(endpoint, prompt, first_token)) for prompt in prompts]
        async with asyncio.timeout(_REST_TIMEOUT_S):
            await all_began.wait()
        await asyncio.sleep(_LEAD_S)
        begin_s = time.perf_counter()
        others = []
        for number, context in enumerate(contexts):
            await asyncio.sleep(begin_s + number * plan.interval_s - time.perf_counter())
            prompt = context + self._prompt(_QUESTION_TOKENS)
            others.append(asyncio.create_task(endpoint.complete(prompt, max_tokens=1)))
        ends_s = [_check(record).ended_s for record in await asyncio.gather(*others)]
        end_s = max(ends_s)
        gaps_s: list[float] = []
        for record in await asyncio.gather(*streams):
            times_s = np.array(_check(record).chunk_times_s)
            if times_s[-1] < end_s:
                raise UserError(
                    f"the streams ended {end_s - times_s[-1]:.1f} s before the contexts on {self._name}: "
                    f"raise --tokens, now {plan.stream_tokens}"
                )
            inside = (times_s >= begin_s) & (times_s <= end_s)
            gaps_s += np.diff(times_s[inside]).tolist()
        await self._rest()
        after = self._events()
        phase.gaps_s += gaps_s
        phase.longest_s.append(max(gaps_s, default=0.0))
        phase.seconds += end_s - begin_s
        phase.load_blocks += after.get("load_blocks", 0) - before.get("load_blocks", 0)
        phase.store_blocks += after.get("store_blocks", 0) - before.get("store_blocks", 0)

    async def _stream(self, endpoint: Endpoint, prompt: list[int], on_first: Callable[[], None]) -> RequestRecord:
        began = False

        def on_text(_: str) -> None:
            nonlocal began
            if not began:
                began = True
                on_first()

        # Token ids make every token a chunk of its own, also half a character.
        fields: dict[str, Any] = {"max_tokens": self._plan.stream_tokens, "ignore_eos": True, "return_token_ids": True}
        return await endpoint.complete(prompt, on_text=on_text, **fields)

    async def _rest(self) -> None:
        """Wait until the server does nothing; its counters are complete then."""
        async with asyncio.timeout(_REST_TIMEOUT_S):
            while sum(self._server.metrics().get("vllm:num_requests_running", {}).values()):
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.2)

    def _events(self) -> dict[str, float]:
        try:
            return read_events(self._server.metrics())
        except httpx.HTTPError as error:
            raise UserError(f"{self._name} stopped answering ({error}): see its log") from None

    def _prompt(self, n_tokens: int) -> list[int]:
        """Return tokens that no prompt had before."""
        self._n_prompts += 1
        return self._tokens.draw(n_tokens, self._n_prompts)


def _check(record: RequestRecord) -> RequestRecord:
    if record.error is not None:
        raise UserError(f"a request failed: {record.error}")
    return record
