"""Host memory and disk beside the device, driven as the server drives them, in virtual time.

The counterpart of `elmas.vllm.scheduler_half`: the same calls of the same host tier, disk tier, waiting line, sessions
and costs, at the same moments of a request's life. One difference: the blocks of an answer are considered for storing
when the request ends or is preempted, not one by one while it decodes.
"""

import math
from collections import deque
from dataclasses import dataclass

from elmas.cache.costs import CostModel
from elmas.cache.index import TierIndex
from elmas.cache.retention import POLICIES
from elmas.cache.rows import BlockHash
from elmas.cache.seen import SeenBlocks
from elmas.cache.segments import SegmentIndex
from elmas.cache.sessions import Sessions
from elmas.cache.waiting_line import WaitingLine
from elmas.movement.disk_tier import DiskLimits, DiskTier, Found
from elmas.movement.host_tier import HostTier
from elmas.movement.transfers import Transfer
from elmas.sim.channels import CopyChannel, DiskSpeed, VirtualDisk
from elmas.sim.device import DeviceBlocks, DeviceCache
from elmas.sim.offloading import OffloadingLru
from elmas.sim.requests import Live
from elmas.tiers.disk.format import choose_shape

_STORE_SHARE = 0.25
"""Share of the device's blocks that may wait for their copy to host memory."""

_RUN_BYTES = 8 << 20
_SEEN_BLOCKS = 1 << 20
_SEEN_TAILS = 1 << 16

_OVERDUE_CHECK_S = 30.0
"""Rarer than in the server: a look at the pins of all that wait is long where requests pile up for hours."""


@dataclass(frozen=True)
class DiskPlan:
    """The disk tier of a simulated server; without a write rate, half of the disk's speed is written at most."""

    capacity_bytes: int
    speed: DiskSpeed
    max_wait_s: float = 2.0
    admits_all: bool = False
    write_rate_bytes_per_s: float | None = None


@dataclass(frozen=True)
class TierPlan:
    """The tiers of a simulated server: rows of host memory by policy, and a disk."""

    n_host_blocks: int
    policy: str
    load_bytes_per_s: float
    store_bytes_per_s: float
    disk: DiskPlan | None = None
    is_offloading: bool = False
    """True: not elmas but vLLM's OffloadingConnector with its LRU, whatever `policy` says; it has no disk."""


class Tiers:
    """See the module. `device` is the server's; rows are `block_bytes` each."""

    def __init__(self, plan: TierPlan, device: DeviceCache, block_tokens: int, block_bytes: int) -> None:
        self.sessions = Sessions(block_tokens=block_tokens, is_behind_device=True)
        self._offloading = OffloadingLru(plan.n_host_blocks) if plan.is_offloading else None
        policy = self._offloading or POLICIES[plan.policy](plan.n_host_blocks, self.sessions)
        index = TierIndex(plan.n_host_blocks, policy)
        self.host = HostTier(index, 1, max(1, int((device.n_blocks + 1) * _STORE_SHARE)))
        self.costs = CostModel()
        self.loads = CopyChannel(plan.load_bytes_per_s)
        self.stores = CopyChannel(plan.store_bytes_per_s)
        self.disk: VirtualDisk | None = None
        self._device = device
        self._block_tokens = block_tokens
        self._block_bytes = block_bytes
        self._line = WaitingLine()
        self._to_load: list[tuple[Live, Transfer]] = []
        self._to_store: list[Transfer] = []
        self._storing: dict[int, DeviceBlocks] = {}
        self._loading: dict[int, Live] = {}
        self._uncovered: deque[Live] = deque()
        self._to_write: dict[int, tuple[list[BlockHash], int]] = {}
        self._has_offers = False
        self._checked_s = 0.0
        self._waited: list[str] = []
        if plan.disk is not None:
            self.disk = self._open_disk(plan.disk, plan.policy)

    def _open_disk(self, plan: DiskPlan, policy: str) -> VirtualDisk:
        shape = choose_shape(self._block_bytes, plan.capacity_bytes)
        limits = DiskLimits(
            block_tokens=self._block_tokens,
            row_bytes=self._block_bytes,
            max_run_records=max(1, min(shape.n_slots, _RUN_BYTES // shape.record_bytes)),
            max_wait_s=plan.max_wait_s,
            admits_all=plan.admits_all,
            write_rate_bytes_per_s=plan.write_rate_bytes_per_s,
        )
        index = SegmentIndex(
            shape.n_slots,
            shape.segment_bytes,
            plan.capacity_bytes,
            lambda n_rows: POLICIES[policy](n_rows, self.sessions),
        )
        seen, tails = SeenBlocks(_SEEN_BLOCKS), SeenBlocks(_SEEN_TAILS)
        tier = DiskTier(index, self.host, self.costs, seen, tails, limits, 0.0)
        tier.on_wait_over = self._waited.append
        limits_own_rate = plan.write_rate_bytes_per_s is None
        return VirtualDisk(tier, self.costs, plan.speed, self._block_bytes, limits_own_rate)

    # A request's life

    def add(self, request: Live, now_s: float) -> None:
        """A request has arrived: what is resident of its prefix is kept for it, what is on disk begins to move."""
        job = request.job
        prompt = job.blocks[: job.n_prompt_tokens // self._block_tokens]
        request.session = self.sessions.arrive(prompt, now_s, job.session_id, hints=job.hints)
        n_ahead, wait_s = len(self._line), self._line.arrive(request.key)
        if self.disk is None:
            if self._offloading is None:
                rows = self.host.index.lookup(prompt)
                self.host.expect(request.key, rows[rows >= 0], now_s)
            return
        found = self.disk.tier.arrive(request.key, prompt, request.session)
        n_covered = self._block_tokens * self._read_for(request, found, n_ahead, wait_s, now_s)
        self._line.set_work(request.key, self.costs.prefill_s(n_covered, job.n_prompt_tokens - n_covered) or 0.0)

    def takes_turn(self, request: Live, now_s: float) -> bool:
        """The request's turn has come; returns whether it takes it, or waits on for its reads."""
        if self.disk is None:
            return True
        tier = self.disk.tier
        if tier.is_waiting(request.key):
            tier.take_turn(request.key, 0, now_s)
        return not tier.is_waiting(request.key)

    def offer(self, request: Live, n_usable: int, n_on_device: int, now_s: float) -> int:
        """Return how many of the first `n_usable` blocks can be loaded after those on the device."""
        self._has_offers = True
        return self.host.offer(request.key, request.job.blocks[:n_usable], n_on_device, now_s)

    def accept(self, request: Live, n_load: int, now_s: float) -> int:
        """Device blocks were allocated: `n_load` blocks are to be loaded; returns how many of these came from disk."""
        blocks = request.own_blocks.tolist() if n_load else []
        acceptance = self.host.accept(request.key, n_load, blocks, now_s, request.session)
        if acceptance.load is not None:
            self._to_load.append((request, acceptance.load))
        has_begun = self._line.begin(request.key, now_s)
        if self.disk is not None:
            self.disk.tier.leave(request.key)
            if has_begun:
                self.disk.tier.begun(now_s)
        request.n_considered = max(request.n_considered, acceptance.n_resident)
        return acceptance.n_from_disk

    def end(self, request: Live, now_s: float) -> None:
        """The request has ended; its device blocks are still its own during this call."""
        job = request.job
        self._line.leave(request.key, now_s)
        self.host.dismiss(request.key)
        self.sessions.end(request.session, job.n_prompt_tokens // self._block_tokens, job.blocks, now_s)
        self.store_completed(request, request.n_tokens - 1)
        if self._offloading is not None:
            self._offloading.ended(job.blocks, request.session)
        if self.disk is not None:
            self.disk.tier.note_tail(job.blocks)
            self.disk.tier.forget(request.key)

    def has_computed(self, request: Live) -> None:
        """The request has computed a part of its prompt in the step that has ended."""
        self._uncovered.append(request)

    def store_completed(self, request: Live, n_tokens: int) -> None:
        """Order copies of the blocks among the first `n_tokens` tokens, all computed, that were not considered yet."""
        first, last = request.n_considered, min(n_tokens // self._block_tokens, len(request.job.blocks))
        if last <= first or self.host.store_allowance <= 0:
            return
        blocks = request.device_blocks[first:last]
        order = self.host.store(request.key, request.job.blocks, first, last, blocks.tolist(), request.session)
        request.n_considered += order.n_considered
        if order.transfer is None:
            return
        # Held until the copy is confirmed, whatever becomes of the request.
        stored = blocks.copy() if order.transfer.n_blocks == blocks.size else request.device_blocks[list(order.places)]
        self._device.touch(stored)
        self._storing[order.transfer.number] = stored
        self._to_store.append(order.transfer)
        if self.disk is not None:
            admitted = self.disk.tier.admitted(request.key, request.job.blocks, order.places)
            if admitted:
                self._to_write[order.transfer.number] = (admitted, request.session)

    # A step

    def before_step(self, has_other_work: bool, now_s: float) -> None:
        """A step is about to be scheduled. Without other work, requests that wait for the disk are asked to decide."""
        if self.disk is None:
            return
        self.sessions.takes_all_new = self.disk.tier.is_worth_a_row
        self.disk.pump(now_s)
        if not has_other_work and self.disk.tier.n_waiting:
            self.disk.tier.take_turns(now_s)

    def take_waited(self) -> list[str]:
        """Return the keys of the requests that wait for the disk no more, since the last call; some may have begun."""
        waited = self._waited.copy()
        self._waited.clear()
        return waited

    def prioritise_reads(self, request: Live, priority: float) -> None:
        """Read for the request before those of a greater number."""
        if self.disk is not None:
            self.disk.tier.prefetcher.set_priority(request.key, priority)

    def n_tokens_coming(self, request: Live) -> int:
        """Return how many tokens of the request are still to be read from disk."""
        return 0 if self.disk is None else self.disk.tier.prefetcher.n_left(request.key) * self._block_tokens

    @property
    def n_only_on_device(self) -> int:
        """Blocks of the device that host memory has refused so far; 0 with vLLM's own connector, which waits for nobody
        because of them."""
        return self.host.counts["store_blocks_dropped"] if self._offloading is None else 0

    @property
    def is_loading(self) -> bool:
        """Whether a request's blocks are on their way to the device."""
        return bool(self._loading or self._to_load)

    def is_waiting_for_disk(self, request: Live) -> bool:
        """Return whether the request should step aside while it is read for."""
        return self.disk is not None and self.disk.tier.is_waiting(request.key)

    def plan_step(self, now_s: float) -> None:
        """The step is scheduled: withdraw what was offered in vain, order what was computed before to be stored, and
        start the copies."""
        if self._has_offers:
            self.host.end_offers()
            self._has_offers = False
        for _ in range(len(self._uncovered)):
            if self.host.store_allowance <= 0:
                break
            request = self._uncovered.popleft()
            if request.n_device_blocks == 0:
                continue  # it has ended or was preempted: what it had computed was considered then
            # Not what is being loaded, nor what this step is to compute.
            n_computed = min(request.n_computed, request.n_registered * self._block_tokens)
            self.store_completed(request, n_computed)
            if request.n_considered < n_computed // self._block_tokens:
                self._uncovered.append(request)
        for request, load in self._to_load:
            n_bytes = load.n_blocks * self._block_bytes
            self.costs.observe_load(n_bytes, self.loads.start(request.number, n_bytes, now_s))
            self._loading[request.number] = request
        for transfer in self._to_store:
            self.stores.start(transfer.number, transfer.n_blocks * self._block_bytes, now_s)
        self._to_load.clear()
        self._to_store.clear()
        if now_s - self._checked_s >= _OVERDUE_CHECK_S:
            self._checked_s = now_s
            self.host.overdue(now_s)

    def take_loaded(self, now_s: float) -> list[Live]:
        """Return the requests whose load has ended by now."""
        requests = [self._loading.pop(number) for number in self.loads.take_ended(now_s)]
        for request in requests:
            self.host.loaded(request.key)
        return requests

    def take_stored(self, now_s: float) -> bool:
        """Take in the stores that have ended by now: their device blocks are given back; returns whether any were."""
        numbers = self.stores.take_ended(now_s)
        for number in numbers:
            self.host.stored(number, 1, now_s)
            self._device.release(self._storing.pop(number))
            admitted = self._to_write.pop(number, None)
            if admitted is not None and self.disk is not None:
                self.disk.tier.admit(*admitted)
        return bool(numbers)

    def observe_step(self, n_prompt_tokens: int, pairs: float, seconds: float) -> None:
        """A step computed so many prompt tokens, which looked at `pairs` tokens before them in all."""
        if n_prompt_tokens:
            self.costs.observe_step(n_prompt_tokens, pairs, seconds)

    @property
    def next_load_s(self) -> float:
        """When the next load ends; infinite without one."""
        return self.loads.next_end_s

    @property
    def next_store_s(self) -> float:
        """When the next store ends; infinite without one."""
        return self.stores.next_end_s

    @property
    def next_disk_s(self) -> float:
        """When the next operation of the disk ends; infinite without one."""
        return self.disk.next_end_s if self.disk is not None else math.inf

    @property
    def has_uncovered(self) -> bool:
        """Whether completed blocks are still to be considered for storing."""
        return bool(self._uncovered)

    def _read_for(self, request: Live, found: Found, n_ahead: int, wait_s: float, now_s: float) -> int:
        """Begin to read what is worth it; returns how many blocks need not be computed then."""
        assert self.disk is not None
        usable = request.job.blocks[: (request.job.n_prompt_tokens - 1) // self._block_tokens]
        n_on_device = 0
        if ((found.host_rows < 0) & (found.disk_rows >= 0)).any():
            n_on_device = self._device.n_resident(usable)
        number = float(self._line.number(request.key))
        return self.disk.tier.read_for(request.key, usable, found, n_on_device, number, n_ahead, wait_s, now_s)
