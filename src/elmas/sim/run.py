"""Simulate one server on a workload: what was asked for, what came out, and the two bounds beside it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from elmas.cache.retention import POLICIES
from elmas.errors import UserError
from elmas.sim.channels import DiskSpeed
from elmas.sim.hardware import Hardware, ModelShape, step_cost
from elmas.sim.optimal import look_ahead
from elmas.sim.packed import pack_trace
from elmas.sim.records import Distribution, Records, distribution
from elmas.sim.server import Server, ServerPlan
from elmas.sim.sources import RoundsSource, TraceSource, block_keys, plain_keys, rounds_accesses
from elmas.sim.tiers import DiskPlan, TierPlan
from elmas.sim.traces import Access
from elmas.sim.waiting import OrderPlan
from elmas.sim.workloads import Rounds

CONNECTORS = ("elmas", "offloading")


@dataclass(frozen=True)
class Setup:
    """A server on a machine. Sizes in bytes; 0 is none. The disk's bandwidth is the machine's unless given.

    `connector` "offloading" is vLLM's own connector with its LRU instead of elmas, to compare with.
    """

    hardware: Hardware
    shape: ModelShape
    n_device_blocks: int
    block_tokens: int = 16
    host_bytes: int = 0
    policy: str = "lru"
    connector: str = "elmas"
    disk_bytes: int = 0
    disk_bytes_per_s: float | None = None
    order: OrderPlan = field(default_factory=OrderPlan)
    max_batched_tokens: int = 8192
    max_running: int = 256

    @property
    def block_bytes(self) -> int:
        """Bytes of a block's KV."""
        return self.block_tokens * self.shape.kv_bytes_per_token

    @property
    def capacity_blocks(self) -> int:
        """Blocks that all tiers hold together."""
        return self.n_device_blocks - 1 + self.host_bytes // self.block_bytes + self.disk_bytes // self.block_bytes

    def server_plan(self) -> ServerPlan:
        """Return the server's plan; raises UserError for what cannot work."""
        return ServerPlan(
            n_device_blocks=self.n_device_blocks,
            block_tokens=self.block_tokens,
            block_bytes=self.block_bytes,
            max_batched_tokens=self.max_batched_tokens,
            max_running=self.max_running,
            order=self.order,
            tiers=self._tier_plan(),
            frontend_s=self.hardware.frontend_s,
        )

    def _tier_plan(self) -> TierPlan | None:
        machine = self.hardware
        if self.connector not in CONNECTORS:
            raise UserError(f"unknown connector {self.connector!r}: choose one of {', '.join(CONNECTORS)}")
        if self.host_bytes == 0:
            if self.disk_bytes:
                raise UserError("a disk needs host memory to read to: add --host-memory")
            return None
        if self.policy not in POLICIES:
            raise UserError(f"unknown policy {self.policy!r}: choose one of {', '.join(sorted(POLICIES))}")
        n_rows = self.host_bytes // self.block_bytes
        if n_rows < 1:
            raise UserError(f"--host-memory is less than a block of {self.block_bytes} bytes: raise it")
        disk = None
        if self.disk_bytes:
            if self.connector != "elmas":
                raise UserError("only elmas has a disk: drop --disk")
            given = self.disk_bytes_per_s
            speed = DiskSpeed(
                given or machine.disk_read_bytes_per_s, given or machine.disk_write_bytes_per_s, machine.disk_latency_s
            )
            disk = DiskPlan(self.disk_bytes, speed)
        return TierPlan(
            n_host_blocks=n_rows,
            policy=self.policy,
            load_bytes_per_s=machine.load_bytes_per_s,
            store_bytes_per_s=machine.store_bytes_per_s,
            disk=disk,
            is_offloading=self.connector == "offloading",
        )


@dataclass(frozen=True)
class BytesMoved:
    """Between the tiers, in bytes."""

    device_to_host: int = 0
    host_to_device: int = 0
    disk_to_host: int = 0
    host_to_disk: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a simulation came to. `seconds_per_round` is empty for a trace."""

    records: Records
    seconds_per_round: list[float]
    moved: BytesMoved
    tier_counts: dict[str, int]

    @property
    def jct_s(self) -> float:
        """From the first arrival to the last token of all."""
        return self.records.jct_s

    @property
    def ttft(self) -> Distribution | None:
        """Times until the first token."""
        return distribution(self.records.ttft_s)

    @property
    def latency(self) -> Distribution | None:
        """Times until the last token."""
        return distribution(self.records.latency_s)

    @property
    def hit_tokens(self) -> int:
        """Prompt tokens that were not computed."""
        counts = self.records.counts
        return counts.n_device_tokens + counts.n_host_tokens + counts.n_disk_tokens

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as plain values; times in seconds."""
        counts = self.records.counts
        return {
            "n_requests": counts.n_requests,
            "jct_s": round(self.jct_s, 6),
            "ttft_s": _distribution_json(self.ttft),
            "latency_s": _distribution_json(self.latency),
            "seconds_per_round": [round(seconds, 6) for seconds in self.seconds_per_round],
            "prompt_tokens": counts.n_prompt_tokens,
            "output_tokens": counts.n_answer_tokens,
            "hit_tokens": {
                "total": self.hit_tokens,
                "device": counts.n_device_tokens,
                "host": counts.n_host_tokens,
                "disk": counts.n_disk_tokens,
            },
            "computed_tokens": counts.n_computed_tokens,
            "preemptions": counts.n_preemptions,
            "computed_again_tokens": counts.n_computed_again_tokens,
            "bytes_moved": {
                "device_to_host": self.moved.device_to_host,
                "host_to_device": self.moved.host_to_device,
                "disk_to_host": self.moved.disk_to_host,
                "host_to_disk": self.moved.host_to_disk,
            },
            "steps": counts.n_steps,
            "busy_s": round(counts.busy_s, 6),
        }


def simulate(setup: Setup, workload: Rounds | Iterable[Access]) -> Outcome:
    """Play rounds (closed loop) or a trace (open loop, at its times) on a server, and return what it comes to.

    Raises UserError for sizes that cannot work. The same input gives the same outcome.
    """
    cost = step_cost(setup.hardware, setup.shape)
    keys = block_keys if setup.disk_bytes else plain_keys
    if isinstance(workload, Rounds):
        rounds = RoundsSource(workload, setup.block_tokens, keys)
        server = Server(setup.server_plan(), cost, rounds)
        records = server.run()
        return Outcome(records, rounds.seconds_per_round, _moved(server), _tier_counts(server))
    server = Server(setup.server_plan(), cost, TraceSource(workload, setup.block_tokens, keys))
    records = server.run()
    return Outcome(records, [], _moved(server), _tier_counts(server))


@dataclass(frozen=True)
class HitBounds:
    """Prompt tokens that could be hit at most: without a limit, and with optimal retention in so many blocks."""

    infinite_hit_tokens: int
    optimal_hit_tokens: int
    capacity_blocks: int


def hit_bounds(workload: Rounds | Iterable[Access], block_tokens: int, capacity_blocks: int) -> HitBounds:
    """Return the bounds of a workload, for complete blocks, of which one token at least is computed per request.

    Holds the whole trace, in 4 bytes per block.
    """
    accesses = rounds_accesses(workload, block_tokens) if isinstance(workload, Rounds) else workload
    trace = pack_trace((_complete_blocks(access, block_tokens) for access in accesses), block_tokens)
    future = look_ahead(trace)
    usable = (trace.input_tokens - 1) // block_tokens

    def tokens(hit_blocks: "np.ndarray[Any, np.dtype[np.int64]]") -> int:
        return int(np.minimum(hit_blocks, usable).sum()) * block_tokens

    return HitBounds(
        tokens(future.infinite_hit_blocks()), tokens(future.optimal_hit_blocks(capacity_blocks)), capacity_blocks
    )


def _complete_blocks(access: Access, block_tokens: int) -> Access:
    n_prompt = access.input_tokens // block_tokens
    # The KV of the last token of an answer is never computed.
    n_answer = (access.input_tokens + max(1, access.output_tokens) - 1) // block_tokens - n_prompt
    return Access(
        access.arrival_s,
        access.input_tokens,
        access.output_tokens,
        access.hash_ids[:n_prompt],
        access.out_hash_ids[:n_answer],
        access.session_id,
    )


def _moved(server: Server) -> BytesMoved:
    tiers = server.tiers
    if tiers is None:
        return BytesMoved()
    disk = tiers.disk
    return BytesMoved(
        device_to_host=tiers.stores.n_bytes,
        host_to_device=tiers.loads.n_bytes,
        disk_to_host=disk.n_bytes_read if disk is not None else 0,
        host_to_disk=disk.n_bytes_written if disk is not None else 0,
    )


def _tier_counts(server: Server) -> dict[str, int]:
    return dict(server.tiers.host.counts) if server.tiers is not None else {}


def _distribution_json(values: Distribution | None) -> dict[str, float] | None:
    if values is None:
        return None
    named = {"mean": values.mean_s, "median": values.median_s, "p90": values.p90_s, "p99": values.p99_s}
    return {name: round(seconds, 6) for name, seconds in named.items()}
