"""The scheduler half: tells the host tier what happens to vLLM's requests, and the workers what to copy.

It runs on the engine's critical thread, so it looks at a request only when something happens to it.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elmas.cache.costs import CostModel
from elmas.cache.index import TierIndex
from elmas.cache.retention import POLICIES
from elmas.cache.rows import BlockHash
from elmas.cache.sessions import NO_SESSION, Sessions
from elmas.cache.waiting_line import WaitingLine
from elmas.movement.disk_tier import Found
from elmas.movement.host_tier import HostTier
from elmas.movement.transfers import Transfer
from elmas.settings import CacheSettings
from elmas.tiers.host import RegionHandle
from elmas.vllm.disk_half import DiskHalf
from elmas.vllm.log import logger
from elmas.vllm.metadata import Confirmations, Handshake, StepOrders
from elmas.vllm.session_half import SessionHalf
from elmas.vllm.tracing import Trace

STORE_SHARE = 0.25
"""Share of the device's blocks that may wait for their copy to host memory."""

OVERDUE_CHECK_S = 1.0

RETURN_S = 30.0
"""What is kept for a session that was said to be about to return is kept for this long."""

IDLE_WAIT_S = 0.005
"""How long a step that runs nothing waits for the disk: no longer than anyone notices."""

_LEAST_CHUNK = 16
"""Requests that compute fewer tokens than this in a step are decoding."""

MakeDisk = Callable[[HostTier, Mapping[int, Handshake], CostModel, Sessions], DiskHalf]


@dataclass
class _Tracked:
    """A live request, how many of its blocks were considered for storing, and whether it begins in this step.

    vLLM lets a request that begins use device blocks that another one computes in the same step. Until that step is
    done, what counts as computed may not be there yet.
    """

    request: Any
    session: int = NO_SESSION
    n_considered: int = 0
    begins: bool = False


@dataclass(frozen=True)
class _Step:
    """A step under way: what it computes of prompts, and when it was planned."""

    n_prefill_tokens: int
    context_token_sum: float
    planned_s: float


class SchedulerHalf:
    """One per engine, called by the engine's thread only. `make_disk` is called once there is a host tier."""

    def __init__(
        self, block_size: int, n_ranks: int, settings: CacheSettings, make_disk: MakeDisk | None = None
    ) -> None:
        self.tier: HostTier | None = None
        self.disk: DiskHalf | None = None
        self.costs = CostModel()
        self.sessions = Sessions(block_tokens=block_size, is_behind_device=True)
        self.is_off = False
        self.on_disk_wait_over: Callable[[str], None] | None = None
        """Told of each request that waits for the disk no more."""
        self.trace: Trace | None = None
        """Where the order of requests is recorded, with --profiling."""
        self.region: RegionHandle | None = None
        """The workers' region of host memory."""
        self.block_size = block_size
        self._n_ranks = n_ranks
        self._settings = settings
        self._make_disk = make_disk
        self._line = WaitingLine()
        self._asked: set[str] = set()
        self._to_write: dict[int, tuple[list[BlockHash], int]] = {}
        self._n_tokens_from_disk: dict[str, int] = {}
        self._steps: deque[_Step] = deque()
        self._last_step_s = 0.0
        self._manager: Any = None
        self._tracked: dict[str, _Tracked] = {}
        self._loads: list[Transfer] = []
        self._stores: list[Transfer] = []
        self._load_confirmations: Counter[str] = Counter()
        self._next_overdue_check_s = 0.0
        self._returns: deque[tuple[float, str]] = deque()
        self._n_returns = 0

    def bind(self, kv_cache_manager: Any) -> None:
        """vLLM's block manager, from which block ids and the device's block pool come."""
        self._manager = kv_cache_manager

    def connect(self, handshakes: Mapping[int, Handshake]) -> None:
        """The workers, by rank, have mapped the region: the tier exists from now on."""
        self.region = handshakes[0].region
        n_rows = self.region.n_rows
        index = TierIndex(n_rows, POLICIES[self._settings.policy](n_rows, self.sessions))
        n_device_blocks = self._manager.block_pool.num_gpu_blocks
        self.tier = HostTier(index, self._n_ranks, max(1, int(n_device_blocks * STORE_SHARE)))
        self._session_half = SessionHalf(self.sessions, self._settings.hints, self.tier.counts)
        if self._make_disk is not None:
            self.disk = self._make_disk(self.tier, handshakes, self.costs, self.sessions)

    # A request's life

    def add(self, request: Any) -> None:
        """A request has arrived: what is resident of its prefix is kept for it, what is on disk begins to move."""
        request_id = request.request_id
        tracked = self._tracked[request_id] = _Tracked(request)
        if self.tier is None or self.is_off:
            return
        now_s = time.monotonic()
        hints = self._session_half.hints_of(request)
        tracked.session = self._session_half.arrive(request, hints, now_s)
        self._expect_return(self._session_half.to_prefetch(request, hints), now_s)
        n_ahead, wait_s = len(self._line), self._line.arrive(request_id)
        reads = self._settings.load and not request.skip_reading_prefix_cache
        hashes = request.block_hashes
        disk = self.disk.tier if self.disk is not None else None
        # The hash of an adapter's block has the adapter's name only: another start may mean another adapter by it.
        if disk is None or request.lora_request is not None:
            if reads:
                rows = self.tier.index.lookup(hashes)
                self.tier.expect(request_id, rows[rows >= 0], now_s)
            return
        found = disk.arrive(request_id, hashes, tracked.session)
        if not reads:
            return
        if self._settings.prefetch:
            n_covered = self.block_size * self._read_for(request, found, n_ahead, wait_s)
            self._line.set_work(request_id, self.costs.prefill_s(n_covered, request.num_tokens - n_covered) or 0.0)
        else:
            self.tier.expect(request_id, found.host_rows[found.host_rows >= 0], now_s)

    def offer(self, request: Any, n_device_tokens: int) -> int | None:
        """Return how many tokens after the device's own hit can be loaded; at least one token is left to compute.

        None: not now, the request waits for its reads.
        """
        if self.tier is None or self.is_off or not self._settings.load or request.skip_reading_prefix_cache:
            return 0
        now_s = time.monotonic()
        if self.disk is not None and self._waits_for_disk(request, now_s):
            return None
        n_blocks = self._n_usable_blocks(request)
        first = n_device_tokens // self.block_size
        return self.block_size * self.tier.offer(request.request_id, request.block_hashes[:n_blocks], first, now_s)

    def accept(self, request: Any, block_ids: Sequence[int], n_load_tokens: int) -> None:
        """Device blocks were allocated: `n_load_tokens` of the offer are to be loaded (0: none)."""
        if self.tier is None:
            return
        n_blocks = n_load_tokens // self.block_size
        now_s = time.monotonic()
        tracked = self._tracked.get(request.request_id)
        session = NO_SESSION if tracked is None else tracked.session
        acceptance = self.tier.accept(request.request_id, n_blocks, block_ids, now_s, session)
        if acceptance.load is not None:
            self._loads.append(acceptance.load)
            self._n_tokens_from_disk[request.request_id] = acceptance.n_from_disk * self.block_size
        has_begun = self._line.begin(request.request_id, now_s)
        if self.disk is not None and self.disk.tier is not None:
            self.disk.tier.leave(request.request_id)
            if has_begun:
                self.disk.tier.begun(now_s)
        if tracked is not None:
            tracked.begins = True
            # What is resident now needs no look when it is computed or loaded.
            tracked.n_considered = max(tracked.n_considered, acceptance.n_resident)

    def take_tokens_from_disk(self, request: Any) -> int:
        """Return how many of the tokens of the request's load came from disk for it."""
        return self._n_tokens_from_disk.pop(request.request_id, 0)

    def finish(self, request: Any) -> None:
        """The request has ended; its device blocks are still its own during this call."""
        request_id = request.request_id
        tracked = self._tracked.pop(request_id, None)
        self._line.leave(request_id, time.monotonic())
        self._asked.discard(request_id)
        self._n_tokens_from_disk.pop(request_id, None)
        if tracked is None or self.tier is None:
            return
        self.tier.dismiss(request_id)
        self._session_half.end(tracked.session, request, time.monotonic())
        # Blocks of a request whose load is on its way do not hold yet what their hashes say.
        if not (self._settings.async_copies and self.tier.is_loading(request_id)):
            self._store_completed(tracked)
        if self.disk is not None and self.disk.tier is not None:
            if request.lora_request is None:
                self.disk.tier.note_tail(request.block_hashes)
            self.disk.tier.forget(request_id)

    # A step

    def before_step(self, has_other_work: bool) -> None:
        """A step is about to be scheduled. Without other work, requests that wait for the disk are asked to decide."""
        if self.disk is None or self.is_off:
            return
        now_s = time.monotonic()
        if self.disk.tier is not None:
            self.disk.tier.on_wait_over = self.on_disk_wait_over
        self._pump(now_s)
        if self.disk.tier is not None and not has_other_work and self.disk.tier.n_waiting:
            self.disk.tier.take_turns(now_s)

    def prioritise_reads(self, request: Any, priority: float) -> None:
        """Read for the request before those of a greater number."""
        if self.disk is not None and self.disk.tier is not None:
            self.disk.tier.prefetcher.set_priority(request.request_id, priority)

    def n_blocks_coming(self, request: Any) -> int:
        """Return how many blocks are still to be read from disk for the request."""
        return self.disk.tier.prefetcher.n_left(request.request_id) if self.disk and self.disk.tier else 0

    def is_waiting_for_disk(self, request_id: str) -> bool:
        """Return whether a request should step aside while it is read for."""
        return self.disk is not None and self.disk.tier is not None and self.disk.tier.is_waiting(request_id)

    @property
    def n_waiting_for_disk(self) -> int:
        """Requests that should step aside."""
        return self.disk.tier.n_waiting if self.disk is not None and self.disk.tier is not None else 0

    def plan_step(self, scheduled: Mapping[str, int]) -> None:
        """Withdraw what was offered in vain and plan the stores; `scheduled` are the requests that run, with tokens."""
        if self.tier is None:
            return
        self.tier.end_offers()
        now_s = time.monotonic()
        n_prefill_tokens, context_token_sum = 0, 0.0
        for request_id, n_tokens in scheduled.items():
            tracked = self._tracked.get(request_id)
            if tracked is None:
                continue
            if n_tokens >= _LEAST_CHUNK:
                n_prefill_tokens += n_tokens
                context_token_sum += n_tokens * max(0.0, tracked.request.num_computed_tokens - n_tokens / 2)
            if tracked.begins:
                tracked.begins = False
            else:
                self._store_completed(tracked)
        self._steps.append(_Step(n_prefill_tokens, context_token_sum, now_s))
        self._report_overdue()
        if self.disk is not None and not self.is_off:
            if not scheduled and self.disk.is_reading:
                self.disk.wait_for_any(IDLE_WAIT_S)
            self._pump(time.monotonic())

    def step_done(self) -> None:
        """The oldest step under way is done: its time tells what computing costs."""
        if not self._steps:
            return
        step, now_s = self._steps.popleft(), time.monotonic()
        # With several steps under way, one begins to compute when the one before it is done.
        seconds = now_s - max(step.planned_s, self._last_step_s)
        self._last_step_s = now_s
        if step.n_prefill_tokens:
            self.costs.observe_step(step.n_prefill_tokens, step.context_token_sum, seconds)

    def take_orders(self, is_idle: bool) -> StepOrders:
        """Return the copies to start in this step."""
        orders = StepOrders(self._loads, self._stores, is_idle)
        self._loads, self._stores = [], []
        return orders

    def loaded(self, request_ids: Iterable[str]) -> None:
        """All workers have loaded these requests."""
        if self.tier is not None:
            for request_id in request_ids:
                self.tier.loaded(request_id)

    def confirmed(self, confirmations: Confirmations) -> None:
        """Some workers have ended copies: once all have, device blocks may be reused and rows be found."""
        assert self.tier is not None
        for request_id, n_ranks in confirmations.loads.items():
            self._load_confirmations[request_id] += n_ranks
            if self._load_confirmations[request_id] >= self._n_ranks:
                del self._load_confirmations[request_id]
                self.tier.loaded(request_id)
        if confirmations.load_s > 0:
            self.costs.observe_load(confirmations.loaded_bytes, confirmations.load_s)
        pool = self._manager.block_pool
        for number, n_ranks in confirmations.stores.items():
            transfer = self.tier.stored(number, n_ranks, time.monotonic())
            if transfer is not None:
                # The tail is handed back first, so that the device evicts it before the prefix that others share.
                pool.free_blocks(pool.blocks[block] for block in reversed(transfer.device_blocks))
                to_write = self._to_write.pop(number, None)
                if to_write and self.disk is not None and self.disk.tier is not None:
                    self.disk.tier.admit(*to_write)

    def turn_off(self) -> None:
        """Offer and store nothing from now on; what is under way is still carried to its end."""
        self.is_off = True
        self.disk = None  # its threads may still write to the rows they have, which nobody will read
        if self.tier is not None:
            self.tier.counts["errors"] += 1

    def note_order_error(self) -> None:
        """The order of requests has failed; the cache has not."""
        if self.tier is not None:
            self.tier.counts["order_errors"] += 1

    @property
    def n_only_on_device(self) -> int:
        """Blocks of the device that host memory has refused so far."""
        return self.tier.counts["store_blocks_dropped"] if self.tier is not None else 0

    @property
    def has_work(self) -> bool:
        """Whether the engine must go on stepping: device blocks wait for their copy, or the disk is busy."""
        if self.tier is not None and self.tier.n_storing > 0:
            return True
        return self.disk is not None and self.disk.tier is not None and self.disk.tier.has_work(time.monotonic())

    def clear(self) -> bool:
        """Drop everything that is not in use; returns whether the tiers are empty."""
        is_empty = self.disk is None or self.disk.clear(time.monotonic())
        return (self.tier is None or self.tier.index.clear()) and is_empty

    def close(self) -> None:
        """The engine ends."""
        if self.disk is not None:
            self.disk.close()

    def _n_usable_blocks(self, request: Any) -> int:
        """At least one token is left to compute."""
        return min(len(request.block_hashes), (int(request.num_tokens) - 1) // self.block_size)

    def _read_for(self, request: Any, found: Found, n_ahead: int, queue_wait_s: float) -> int:
        """Begin to read what is worth it; returns how many blocks need not be computed then."""
        assert self.disk is not None
        assert self.disk.tier is not None
        n_device_tokens = 0
        if ((found.host_rows < 0) & (found.disk_rows >= 0)).any():
            coordinator = self._manager.coordinator
            n_device_tokens = int(coordinator.find_longest_cache_hit(request.block_hashes, request.num_tokens - 1)[1])
        return self.disk.tier.read_for(
            request.request_id,
            request.block_hashes[: self._n_usable_blocks(request)],
            found,
            n_device_tokens // self.block_size,
            float(self._line.number(request.request_id)),
            n_ahead,
            queue_wait_s,
            time.monotonic(),
        )

    def _waits_for_disk(self, request: Any, now_s: float) -> bool:
        """The request's turn has come: return whether it had better wait for its reads."""
        assert self.disk is not None
        disk, request_id = self.disk.tier, request.request_id
        if disk is None:
            return False
        if not self._settings.prefetch and request_id not in self._asked and request.lora_request is None:
            self._asked.add(request_id)
            self._read_for(request, disk.find(request.block_hashes), 0, 0.0)
        if disk.is_waiting(request_id):
            disk.take_turn(request_id, 0, now_s)
        return disk.is_waiting(request_id)

    def _pump(self, now_s: float) -> None:
        """Take in what the disk has done, hand out what it is to do, and ask whether new blocks go through to it."""
        assert self.disk is not None
        self.disk.pump(now_s)
        if self.disk.tier is not None:
            self.sessions.takes_all_new = self.disk.tier.is_worth_a_row

    def _store_completed(self, tracked: _Tracked) -> None:
        """Order copies of the blocks that were completed in earlier steps."""
        assert self.tier is not None
        request = tracked.request
        # The newest token has no KV yet; with several steps in flight the count of computed tokens runs ahead.
        n_tokens = min(request.num_computed_tokens, request.num_tokens - 1)
        last = min(n_tokens // self.block_size, len(request.block_hashes))
        first = tracked.n_considered
        if last <= first or self.is_off or not self._settings.store or self.tier.store_allowance <= 0:
            return
        blocks = self._manager.get_blocks(request.request_id).blocks[0][first:last]
        ids = [block.block_id for block in blocks]
        order = self.tier.store(request.request_id, request.block_hashes, first, last, ids, tracked.session)
        tracked.n_considered += order.n_considered
        if order.transfer is not None:
            pool = self._manager.block_pool
            # Held until the copy is confirmed, whatever becomes of the request.
            pool.touch([pool.blocks[block] for block in order.transfer.device_blocks])
            self._stores.append(order.transfer)
            if self.disk is not None and self.disk.tier is not None:
                to_write = self.disk.tier.admitted(request.request_id, request.block_hashes, order.places)
                if to_write:
                    self._to_write[order.transfer.number] = (to_write, tracked.session)

    def _expect_return(self, blocks: Sequence[BlockHash], now_s: float) -> None:
        """A session is about to return: what is left of its blocks is kept, and brought to host memory, for a while."""
        if not blocks or self.tier is None:
            return
        self._n_returns += 1
        name = f"return {self._n_returns}"
        self._returns.append((now_s + RETURN_S, name))
        if self.disk is not None and self.disk.tier is not None:
            self.disk.tier.prefetch(name, blocks, float(self._line.number(name)), now_s)
        else:
            rows = self.tier.index.lookup(blocks)
            self.tier.expect(name, rows[rows >= 0], now_s)

    def _forget_returns(self, now_s: float) -> None:
        """Nobody came, or they came and have what they need: what was kept for returns may go."""
        assert self.tier is not None
        while self._returns and self._returns[0][0] <= now_s:
            _, name = self._returns.popleft()
            self.tier.dismiss(name)
            if self.disk is not None and self.disk.tier is not None:
                self.disk.tier.leave(name)

    def _report_overdue(self) -> None:
        assert self.tier is not None
        now_s = time.monotonic()
        self._forget_returns(now_s)
        if now_s < self._next_overdue_check_s:
            return
        self._next_overdue_check_s = now_s + OVERDUE_CHECK_S
        overdue = self.tier.overdue(now_s)
        if overdue:
            self.tier.counts["overdue_loads"] += len(overdue)
            logger.warning_once("elmas: %d loads are past their deadline, the first of %s", len(overdue), overdue[0])
