"""The scheduler half: tells the host tier what happens to vLLM's requests, and the workers what to copy.

It runs on the engine's critical thread, so it looks at a request only when something happens to it.
"""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from elmas.cache.index import TierIndex
from elmas.cache.retention import POLICIES
from elmas.movement.host_tier import HostTier
from elmas.movement.transfers import Transfer
from elmas.settings import CacheSettings
from elmas.vllm.log import logger
from elmas.vllm.metadata import Confirmations, Handshake, StepOrders

STORE_SHARE = 0.25
"""Share of the device's blocks that may wait for their copy to host memory."""

OVERDUE_CHECK_S = 1.0


@dataclass
class _Tracked:
    """A live request, how many of its blocks were considered for storing, and whether it begins in this step.

    vLLM lets a request that begins use device blocks that another one computes in the same step. Until that step is
    done, what counts as computed may not be there yet.
    """

    request: Any
    n_considered: int = 0
    begins: bool = False


class SchedulerHalf:
    """One per engine. All methods are called by the engine's thread."""

    def __init__(self, block_size: int, n_ranks: int, settings: CacheSettings) -> None:
        self.tier: HostTier | None = None
        self.is_off = False
        self.block_size = block_size
        self._n_ranks = n_ranks
        self._settings = settings
        self._manager: Any = None
        self._tracked: dict[str, _Tracked] = {}
        self._loads: list[Transfer] = []
        self._stores: list[Transfer] = []
        self._load_confirmations: Counter[str] = Counter()
        self._next_overdue_check_s = 0.0

    def bind(self, kv_cache_manager: Any) -> None:
        """vLLM's block manager, from which block ids and the device's block pool come."""
        self._manager = kv_cache_manager

    def connect(self, handshake: Handshake) -> None:
        """The workers have mapped the region: the tier exists from now on."""
        n_rows = handshake.region.n_rows
        index = TierIndex(n_rows, POLICIES[self._settings.policy](n_rows))
        n_device_blocks = self._manager.block_pool.num_gpu_blocks
        self.tier = HostTier(index, self._n_ranks, max(1, int(n_device_blocks * STORE_SHARE)))

    # A request's life

    def add(self, request: Any) -> None:
        """A request has arrived."""
        self._tracked[request.request_id] = _Tracked(request)

    def offer(self, request: Any, n_device_tokens: int) -> int:
        """Return how many tokens after the device's own hit can be loaded; at least one token is left to compute."""
        if self.tier is None or self.is_off or not self._settings.load or request.skip_reading_prefix_cache:
            return 0
        n_blocks = min(len(request.block_hashes), (request.num_tokens - 1) // self.block_size)
        first = n_device_tokens // self.block_size
        now_s = time.monotonic()
        return self.block_size * self.tier.offer(request.request_id, request.block_hashes[:n_blocks], first, now_s)

    def accept(self, request: Any, block_ids: Sequence[int], n_load_tokens: int) -> None:
        """Device blocks were allocated: `n_load_tokens` of the offer are to be loaded (0: none)."""
        if self.tier is None:
            return
        n_blocks = n_load_tokens // self.block_size
        acceptance = self.tier.accept(request.request_id, n_blocks, block_ids, time.monotonic())
        if acceptance.load is not None:
            self._loads.append(acceptance.load)
        tracked = self._tracked.get(request.request_id)
        if tracked is not None:
            tracked.begins = True
            # What is resident now needs no look when it is computed or loaded.
            tracked.n_considered = max(tracked.n_considered, acceptance.n_resident)

    def finish(self, request: Any) -> None:
        """The request has ended; its device blocks are still its own during this call."""
        tracked = self._tracked.pop(request.request_id, None)
        if tracked is None or self.tier is None:
            return
        if self._settings.async_copies and self.tier.is_loading(request.request_id):
            return  # its blocks do not hold yet what their hashes say
        self._store_completed(tracked)

    # A step

    def plan_step(self, scheduled: Iterable[str]) -> None:
        """Withdraw what was offered in vain and plan the stores; `scheduled` are the requests that run in this step."""
        if self.tier is None:
            return
        self.tier.end_offers()
        for request_id in scheduled:
            tracked = self._tracked.get(request_id)
            if tracked is None:
                continue
            if tracked.begins:
                tracked.begins = False
            else:
                self._store_completed(tracked)
        self._report_overdue()

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
        pool = self._manager.block_pool
        for number, n_ranks in confirmations.stores.items():
            transfer = self.tier.stored(number, n_ranks, time.monotonic())
            if transfer is not None:
                # The tail is handed back first, so that the device evicts it before the prefix that others share.
                pool.free_blocks(pool.blocks[block] for block in reversed(transfer.device_blocks))

    def turn_off(self) -> None:
        """Offer and store nothing from now on; what is under way is still carried to its end."""
        self.is_off = True
        if self.tier is not None:
            self.tier.counts["errors"] += 1

    @property
    def is_storing(self) -> bool:
        """Whether device blocks wait for their copy, so that the engine must go on stepping."""
        return self.tier is not None and self.tier.n_storing > 0

    def clear(self) -> bool:
        """Drop everything that is not in use; returns whether the tier is empty."""
        return self.tier is None or self.tier.index.clear()

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
        order = self.tier.store(request.request_id, request.block_hashes, first, last, ids)
        tracked.n_considered += order.n_considered
        if order.transfer is not None:
            pool = self._manager.block_pool
            # Held until the copy is confirmed, whatever becomes of the request.
            pool.touch([pool.blocks[block] for block in order.transfer.device_blocks])
            self._stores.append(order.transfer)

    def _report_overdue(self) -> None:
        assert self.tier is not None
        now_s = time.monotonic()
        if now_s < self._next_overdue_check_s:
            return
        self._next_overdue_check_s = now_s + OVERDUE_CHECK_S
        overdue = self.tier.index.overdue(now_s)
        if overdue:
            self.tier.counts["overdue_loads"] += len(overdue)
            logger.warning_once("elmas: %d loads are past their deadline, the first of %s", len(overdue), overdue[0])
