"""The part of `elmas simulate` that simulates a whole server; `elmas.cli.simulate` has the options."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elmas.errors import UserError

if TYPE_CHECKING:
    from elmas.sim.parts import Part
    from elmas.sim.run import Setup
    from elmas.sim.traces import Access

_ROUNDS_BLOCK_TOKENS = 16
_SCHEDULERS = ("fcfs", "elmas")


@dataclass(frozen=True)
class ServerOptions:
    """What the command line says about the simulated server, as it was typed."""

    hardware: str
    model_shape: str
    device_blocks: int
    host_memory: str | None
    policy: str
    connector: str
    disk: str | None
    disk_bandwidth: str | None
    scheduler: str
    window: int
    max_batched_tokens: int
    max_running: int

    def setup(self, block_tokens: int) -> "Setup":
        """Return the server; raises UserError for what is unknown or cannot be."""
        from elmas.sim.hardware import hardware, model_shape
        from elmas.sim.run import Setup
        from elmas.sim.waiting import OrderPlan
        from elmas.units import parse_bytes

        if self.scheduler not in _SCHEDULERS:
            raise UserError(f"--scheduler is {self.scheduler!r}: choose one of {', '.join(_SCHEDULERS)}")
        bandwidth = None if self.disk_bandwidth is None else parse_bytes(self.disk_bandwidth, "--disk-bandwidth")
        return Setup(
            hardware=hardware(self.hardware),
            shape=model_shape(self.model_shape),
            n_device_blocks=self.device_blocks,
            block_tokens=block_tokens,
            host_bytes=0 if self.host_memory is None else parse_bytes(self.host_memory, "--host-memory"),
            policy=self.policy,
            connector=self.connector,
            disk_bytes=0 if self.disk is None else parse_bytes(self.disk, "--disk"),
            disk_bytes_per_s=bandwidth,
            order=OrderPlan(self.window if self.scheduler == "elmas" else 1),
            max_batched_tokens=self.max_batched_tokens,
            max_running=self.max_running,
        )


def play(
    workload: Path,
    options: ServerOptions,
    hints: str,
    seed: int,
    block_tokens: int | None,
    n_replicas: int,
    has_bounds: bool,
) -> dict[str, Any]:
    """Simulate a workload by name, or a trace, and return what `--json` prints."""
    from elmas.sim.replicas import simulate_trace
    from elmas.sim.run import hit_bounds, simulate
    from elmas.sim.traces import DEFAULT_BLOCK_TOKENS
    from elmas.sim.workloads import WORKLOADS, find_rounds

    if str(workload) in WORKLOADS:
        if n_replicas > 1:
            raise UserError("the rounds of a workload cannot be split: drop --replicas, or give a trace")
        setup = options.setup(block_tokens or _ROUNDS_BLOCK_TOKENS)
        rounds = find_rounds(str(workload))
        outcome = simulate(setup, rounds)
        bounds = hit_bounds(rounds, setup.block_tokens, setup.capacity_blocks) if has_bounds else None
    else:
        setup = options.setup(block_tokens or DEFAULT_BLOCK_TOKENS)
        open_trace = partial(_requests, workload, setup.block_tokens, hints, seed)
        outcome, bounds = simulate_trace(setup, open_trace, n_replicas, has_bounds)
    result = {"workload": str(workload), "policy": options.policy if setup.host_bytes else "none", **outcome.to_json()}
    if bounds is not None:
        result["optimal_hit_tokens"] = bounds.optimal_hit_tokens
        result["infinite_hit_tokens"] = bounds.infinite_hit_tokens
        result["capacity_blocks"] = bounds.capacity_blocks
    return result


def _requests(trace: Path, block_tokens: int, hints: str, seed: int, part: "Part") -> "Iterator[Access]":
    """Return the requests of a part of a trace with the hints of this kind."""
    from elmas.sim.hints import hints_for
    from elmas.sim.optimal import look_ahead
    from elmas.sim.packed import pack_trace
    from elmas.sim.replicas import part_of
    from elmas.sim.traces import read_trace

    if hints == "trace":
        return read_trace(trace, block_tokens, part)
    if hints == "none":
        accesses = read_trace(trace, block_tokens, part)
        return (replace(access, hints=None) if access.hints is not None else access for access in accesses)
    packed = pack_trace(read_trace(trace, block_tokens), block_tokens)
    given = hints_for(hints, packed, look_ahead(packed), seed)
    accesses = read_trace(trace, block_tokens)
    return part_of((replace(access, hints=hint) for access, hint in zip(accesses, given, strict=True)), part)
