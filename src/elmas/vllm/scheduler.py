"""The scheduler vLLM is given with `--scheduler-cls elmas.vllm.scheduler.make_scheduler`.

It holds back requests that wait for the disk, reorders the beginning of the waiting queue and leaves everything else to
vLLM's own scheduler, synchronous or asynchronous. After any error of its own it stays first come first served.
"""

import itertools
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus

from elmas.cache.index import resident_run
from elmas.scheduling.order import Bounds, Waiting, order
from elmas.settings import CacheSettings
from elmas.vllm.log import logger
from elmas.vllm.scheduler_half import SchedulerHalf

REFRESHES_PER_STEP = 8
"""Cost estimates made anew in a step: a look at both caches takes some 20 microseconds."""

LOAD_COST_SHARE = 0.02
"""The cost of loading a token, as a share of computing it: enough to prefer what is on the device already."""


@dataclass
class _Estimate:
    cost: float
    n_overtaken: int = 0


class ReorderingMixin:
    """Puts waiting requests in a better order before each step. Mixed into one of vLLM's schedulers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        vllm_config: Any = kwargs["vllm_config"]
        transfer = vllm_config.kv_transfer_config
        extra = transfer.kv_connector_extra_config if transfer is not None else {}
        settings = CacheSettings.parse(extra)
        half = getattr(getattr(self, "connector", None), "scheduler_half", None)
        self._elmas_half: SchedulerHalf | None = half
        self._window_size = settings.scheduler_window_size
        self._bounds = Bounds(settings.scheduler_max_overtaken, settings.scheduler_max_wait_s)
        self._estimates: dict[str, _Estimate] = {}
        # vLLM's priority queue is a heap: its order is the user's own.
        is_ours = half is not None and isinstance(self._queue(), deque)
        self._reorders = settings.reorder and is_ours
        self._holds = is_ours

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Hold back and reorder, then schedule as vLLM does, then count who was overtaken."""
        held = self._contain(self._hold_back) if self._holds else None
        window = self._contain(self._reorder) if self._reorders else None
        try:
            output = super().schedule(*args, **kwargs)  # type: ignore[misc]
        finally:
            if held:
                self._put_back(held)
        if window:
            self._contain(lambda: self._count_overtaken(window))
        return output

    def _hold_back(self) -> list[tuple[int, Any]]:
        """Take requests that wait for the disk out of the queue, so that vLLM does not ask each of them in every step.

        Returns them with their places.
        """
        half, queue = self._elmas_half, self._queue()
        assert half is not None
        n_ready = len(queue) - half.n_waiting_for_disk
        n_free = self.max_num_running_reqs - len(self.running)  # type: ignore[attr-defined]
        half.before_step(has_other_work=n_ready > 0 or n_free <= 0)
        if not half.n_waiting_for_disk:
            return []
        held = [(place, request) for place, request in enumerate(queue) if half.is_waiting_for_disk(request.request_id)]
        if held:
            ready = [request for request in queue if not half.is_waiting_for_disk(request.request_id)]
            queue.clear()
            queue.extend(ready)
        return held

    def _put_back(self, held: list[tuple[int, Any]]) -> None:
        """Put held requests back in the order of arrival, before the first later arrival that still waits."""
        queue = self._queue()
        if not queue:
            queue.extend(request for _, request in held)
            return
        waiting = list(queue)
        merged: list[Any] = []
        left = deque(request for _, request in held)
        for request in waiting:
            while left and left[0].arrival_time <= request.arrival_time:
                merged.append(left.popleft())
            merged.append(request)
        merged.extend(left)
        queue.clear()
        queue.extend(merged)

    def _queue(self) -> Any:
        return self.waiting  # type: ignore[attr-defined]

    def _contain(self, call: Any) -> Any:
        try:
            return call()
        except Exception:
            logger.exception("elmas: internal error in the order of requests; first come first served from now on")
            self._reorders = self._holds = False
            return None

    def _reorder(self) -> list[Any]:
        """Order the movable requests at the beginning of the queue; returns them by arrival."""
        queue = self._queue()
        if len(queue) < 2 or len(self.running) >= self.max_num_running_reqs:  # type: ignore[attr-defined]
            return []
        head = list(itertools.islice(queue, self._window_size))
        places = [place for place, request in enumerate(head) if _is_movable(request)]
        movable = sorted((head[place] for place in places), key=lambda request: request.arrival_time)
        self._refresh(movable)
        now_s = time.time()
        window = [
            Waiting(estimate.cost, estimate.n_overtaken, now_s - request.arrival_time)
            for request, estimate in ((request, self._estimates[request.request_id]) for request in movable)
        ]
        wanted = list(head)
        for place, position in zip(places, order(window, self._bounds), strict=True):
            wanted[place] = movable[position]
        if wanted != head:
            for _ in head:
                queue.popleft()
            queue.extendleft(reversed(wanted))
        return movable

    def _refresh(self, movable: list[Any]) -> None:
        """Estimate who has no estimate, and some of the others again: residency changes while they wait."""
        names = {request.request_id for request in movable}
        kept = {name: estimate for name, estimate in self._estimates.items() if name in names}
        by_name = {request.request_id: request for request in movable}
        # The dictionary's order is the order of the last look: the oldest estimates are made anew first.
        for name in list(kept)[:REFRESHES_PER_STEP]:
            estimate = kept.pop(name)
            estimate.cost = self._cost(by_name[name])
            kept[name] = estimate
        for request in movable:
            if request.request_id not in kept:
                kept[request.request_id] = _Estimate(self._cost(request))
        self._estimates = kept

    def _cost(self, request: Any) -> float:
        """Return the tokens to compute, and a little for those to load."""
        coordinator = self.kv_cache_manager.coordinator  # type: ignore[attr-defined]
        n_device = int(coordinator.find_longest_cache_hit(request.block_hashes, request.num_tokens - 1)[1])
        n_host = 0
        half = self._elmas_half
        if half is not None and half.tier is not None:
            block_size = half.block_size
            rows = half.tier.index.lookup(request.block_hashes)
            n_host = int(resident_run(rows, n_device // block_size).size) * block_size
        return float(max(0, request.num_tokens - n_device - n_host)) + LOAD_COST_SHARE * n_host

    def _count_overtaken(self, window: list[Any]) -> None:
        """Count, for those that still wait, the later arrivals that were taken up in this step."""
        n_later = 0
        for request in reversed(window):
            if request.status == RequestStatus.WAITING and request.num_computed_tokens == 0:
                self._estimates[request.request_id].n_overtaken += n_later
            else:
                n_later += 1


def _is_movable(request: Any) -> bool:
    """Only requests that have not begun may change places: others hold blocks or wait for something."""
    return bool(
        request.status == RequestStatus.WAITING and request.num_computed_tokens == 0 and request.num_preemptions == 0
    )


def make_scheduler(**kwargs: Any) -> Any:
    """Return vLLM's scheduler with the order of elmas; vLLM calls this as if it were the class.

    The base is chosen by what vLLM has decided: a fixed base would switch asynchronous scheduling off.
    """
    base = AsyncScheduler if kwargs["vllm_config"].scheduler_config.async_scheduling else Scheduler
    return type("ElmasScheduler", (ReorderingMixin, base), {})(**kwargs)
