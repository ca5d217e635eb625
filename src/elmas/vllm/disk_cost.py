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
class DiskCost:
    """What it cost to bring `n_waiting` requests of `n_blocks` blocks, all waiting at once, from disk to the device.

    `request_microseconds` is the time of the engine's thread in the connector and the I/O orders, per request from
    arrival to end. The steps are those with requests left in the queue: median and longest time of vLLM's `schedule`.
    Times are processor time of that thread: what it waits for others, such as an I/O thread, is not its work.
    """

    n_waiting: int
    n_blocks: int
    n_blocks_read: int
    n_steps: int
    arrival_microseconds: float
    request_microseconds: float
    step_microseconds: float
    longest_step_microseconds: float

    @property
    def budget_microseconds(self) -> float:
        """What a request may cost over its life: 100 microseconds and 0.3 per block."""
        return 100 + 0.3 * self.n_blocks

    @property
    def step_budget_microseconds(self) -> float:
        """What a whole step may take."""
        return 1000.0


class _Facts:
    def wait(self) -> dict[str, Any]:
        return dict(_FACTS)


def disk_cost(model: str, n_waiting: int = 400, n_blocks: int = 60) -> DiskCost:
    """Measure; `model` is a directory of which the configuration is read. Raises RuntimeError if requests are stuck."""
    maker = RequestMaker(BLOCK_SIZE)
    requests = [
        maker.make(
            f"request-{number}",
            [number % 1000, number // 1000, *(position % 1000 for position in range(n_blocks * BLOCK_SIZE - 1))],
            1,
            arrival_time=float(number),
        )
        for number in range(n_waiting)
    ]
    blocks = list(dict.fromkeys(block for request in requests for block in request.block_hashes))
    n_rows = len(blocks)
    region = HostRegion.create(n_rows, ROW_ALIGNMENT_BYTES)
    with tempfile.TemporaryDirectory(prefix="elmas-scheduler-") as directory:
        capacity_bytes = 4 * n_rows * ROW_ALIGNMENT_BYTES + (64 << 20)
        _fill(Path(directory), capacity_bytes, blocks)
        scheduler = make_bare_scheduler(
            model,
            connector="ElmasConnector",
            settings={},
            block_size=BLOCK_SIZE,
            n_device_blocks=(_MAX_NUM_SEQS + 2) * (n_blocks + 8),
            n_host_rows=n_rows,
            max_num_seqs=_MAX_NUM_SEQS,
            max_batched_tokens=_MAX_NUM_SEQS * BLOCK_SIZE,
            max_model_len=BLOCK_SIZE * (n_blocks + 4),
            scheduler_class=make_scheduler,
            region=region,
        )
        half = scheduler.connector.scheduler_half
        settings = CacheSettings.parse({"disk": directory, "disk_capacity": capacity_bytes, "disk_max_wait_s": 60.0})
        half.disk = DiskHalf(
            settings,
            half.tier,
            region,
            half.costs,
            BLOCK_SIZE,
            _Facts(),
            run_bytes=_RUN_BLOCKS * 2 * ROW_ALIGNMENT_BYTES,
        )
        if not half.disk.wait_until_open(_TIMEOUT_S):
            raise RuntimeError("the disk tier did not open")
        try:
            return _play(scheduler, requests, n_blocks)
        finally:
            half.close()
            region.close()


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


def _play(scheduler: Any, requests: Sequence[Any], n_blocks: int) -> DiskCost:
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
    return DiskCost(
        n_waiting=n,
        n_blocks=n_blocks,
        n_blocks_read=scheduler.connector.scheduler_half.tier.counts["disk_read_blocks"],
        n_steps=len(steps_s),
        arrival_microseconds=1e6 * arrival_s / n,
        request_microseconds=1e6 * (clock.seconds + orders.seconds) / n,
        step_microseconds=1e6 * median(steps_s),
        longest_step_microseconds=1e6 * max(steps_s),
    )
