"""What the disk tier costs the engine's critical thread when everything a full queue needs is on disk.

vLLM's own scheduler, a real directory and the real I/O threads, without a worker. The rows are as small as they can be,
so that the disk is fast and most of the time goes into the bookkeeping that is measured here.
"""

import gc
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from vllm.v1.outputs import KVConnectorOutput

from elmas.settings import CacheSettings
from elmas.tiers.disk.format import Namespace
from elmas.tiers.disk.store import DiskStore
from elmas.tiers.host import ROW_ALIGNMENT_BYTES, HostRegion
from elmas.vllm.bare_scheduler import RequestMaker, make_bare_scheduler
from elmas.vllm.disk_half import DiskHalf
from elmas.vllm.metadata import Confirmations
from elmas.vllm.scheduler import make_scheduler
from elmas.vllm.scheduler_cost import BLOCK_SIZE, HOOKS, answer_step, time_hooks

_MAX_NUM_SEQS = 16
_RUN_BLOCKS = 16
"""Blocks per read: what the server reads at once of blocks of half a MiB."""

_MODEL_S = 0.005
"""How long the absent model computes in a step: the I/O threads work meanwhile."""

_FACTS = {"benchmark": "scheduler"}
_MOST_STEPS = 100_000
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class QueueCost:
    """What it cost to bring all requests of a full queue to the device.

    `arrival_microseconds` and `request_microseconds` are the time of the engine's thread in the connector and the I/O
    orders, per request: at its arrival, and over its whole life. The steps are those with requests left in the queue:
    median and longest time of vLLM's `schedule`, all of it. Times are processor time of that thread: what it waits for
    others, such as an I/O thread, is not its work.
    """

    n_steps: int
    arrival_microseconds: float
    request_microseconds: float
    step_microseconds: float
    longest_step_microseconds: float


@dataclass(frozen=True)
class DiskCost:
    """The cost for `n_waiting` requests of `n_blocks` blocks, all waiting at once: with every block on disk, and for
    comparison with every block in host memory and no disk."""

    n_waiting: int
    n_blocks: int
    n_blocks_read: int
    disk: QueueCost
    host: QueueCost

    @property
    def budget_microseconds(self) -> float:
        """What a request may cost over its life: 100 microseconds and 0.3 per block."""
        return 100 + 0.3 * self.n_blocks


class _Facts:
    def wait(self) -> dict[str, Any]:
        return dict(_FACTS)


def disk_cost(model: str, n_waiting: int = 400, n_blocks: int = 60) -> DiskCost:
    """Measure; `model` is a directory of which the configuration is read. Raises RuntimeError if requests are stuck."""
    requests = _requests(n_waiting, n_blocks)
    blocks = list(dict.fromkeys(block for request in requests for block in request.block_hashes))
    region = HostRegion.create(len(blocks), ROW_ALIGNMENT_BYTES)
    with tempfile.TemporaryDirectory(prefix="elmas-scheduler-") as directory:
        capacity_bytes = 4 * len(blocks) * ROW_ALIGNMENT_BYTES + (64 << 20)
        _fill(Path(directory), capacity_bytes, blocks)
        scheduler = _scheduler(model, n_blocks, region)
        half = scheduler.connector.scheduler_half
        settings = CacheSettings.parse({"disk": directory, "disk_capacity": capacity_bytes, "disk_max_wait_s": 60.0})
        run_bytes = _RUN_BLOCKS * 2 * ROW_ALIGNMENT_BYTES
        half.disk = DiskHalf(
            settings, half.tier, region, half.costs, half.sessions, BLOCK_SIZE, _Facts(), run_bytes=run_bytes
        )
        if not half.disk.wait_until_open(_TIMEOUT_S):
            raise RuntimeError("the disk tier did not open")
        try:
            disk = _play(scheduler, requests)
            n_blocks_read = half.tier.counts["disk_read_blocks"]
        finally:
            half.close()
    scheduler = _scheduler(model, n_blocks, region)
    index = scheduler.connector.scheduler_half.tier.index
    index.commit(index.reserve(blocks, []), 0.0)
    host = _play(scheduler, _requests(n_waiting, n_blocks))
    region.close()
    return DiskCost(n_waiting, n_blocks, n_blocks_read, disk, host)


def _requests(n: int, n_blocks: int) -> list[Any]:
    """Return requests whose prompts have `n_blocks` full blocks, of which none is shared, and one token more."""
    maker = RequestMaker(BLOCK_SIZE)
    return [
        maker.make(
            f"request-{number}",
            [number % 1000, number // 1000, *(position % 1000 for position in range(n_blocks * BLOCK_SIZE - 1))],
            1,
            arrival_time=float(number),
        )
        for number in range(n)
    ]


def _scheduler(model: str, n_blocks: int, region: HostRegion) -> Any:
    return make_bare_scheduler(
        model,
        connector="ElmasConnector",
        settings={},
        block_size=BLOCK_SIZE,
        n_device_blocks=(_MAX_NUM_SEQS + 2) * (n_blocks + 8),
        n_host_rows=region.n_rows,
        max_num_seqs=_MAX_NUM_SEQS,
        max_batched_tokens=_MAX_NUM_SEQS * BLOCK_SIZE,
        max_model_len=BLOCK_SIZE * (n_blocks + 4),
        scheduler_class=make_scheduler,
        region=region,
    )


def _fill(directory: Path, capacity_bytes: int, blocks: Sequence[bytes]) -> None:
    """Write blocks, whatever is in them, as an earlier server would have."""
    store = DiskStore(directory, Namespace(_FACTS), ROW_ALIGNMENT_BYTES, capacity_bytes)
    n_slots = store.shape.n_slots
    row = HostRegion.create(1, ROW_ALIGNMENT_BYTES)
    for segment, first in enumerate(range(0, len(blocks), n_slots)):
        some = blocks[first : first + n_slots]
        keys = np.zeros((n_slots, len(some[0])), dtype=np.uint8)
        keys[: len(some)] = np.frombuffer(b"".join(some), dtype=np.uint8).reshape(len(some), -1)
        store.create(segment)
        store.write(segment, 0, some, [row.rows[0]] * len(some))
        store.seal(segment, keys, np.arange(n_slots) < len(some))
    store.close()
    row.close()


def _play(scheduler: Any, requests: Sequence[Any]) -> QueueCost:
    # As vLLM's engine does after its start: else the collector's walk over all modules would be part of a step.
    gc.collect()
    gc.freeze()
    clock = time_hooks(scheduler.connector, HOOKS)
    orders = time_hooks(scheduler.connector.scheduler_half, ["before_step"])
    for request in requests:
        scheduler.add_request(request)
    arrival_s = clock.seconds
    steps_s: list[float] = []
    loading: set[str] = set()
    for _ in range(_MOST_STEPS):
        if not scheduler.has_requests():
            break
        has_queue = len(scheduler.waiting) > 0
        begin_s = time.thread_time()
        output = scheduler.schedule()
        if has_queue:
            steps_s.append(time.thread_time() - begin_s)
        transfers = output.kv_connector_metadata
        confirmed = Confirmations({store.number: 1 for store in transfers.stores}, {}) if transfers.stores else None
        news = KVConnectorOutput(finished_recving=loading or None, kv_connector_worker_meta=confirmed)
        loading = {load.owner for load in transfers.loads}
        time.sleep(_MODEL_S)
        answer_step(scheduler, output, {name: [1] for name in output.num_scheduled_tokens}, news)
    else:
        raise RuntimeError(f"{len(scheduler.requests)} requests are left after {_MOST_STEPS} steps")
    n = len(requests)
    return QueueCost(
        n_steps=len(steps_s),
        arrival_microseconds=1e6 * arrival_s / n,
        request_microseconds=1e6 * (clock.seconds + orders.seconds) / n,
        step_microseconds=1e6 * median(steps_s),
        longest_step_microseconds=1e6 * max(steps_s),
    )
