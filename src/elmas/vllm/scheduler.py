"""The scheduler vLLM is given with `--scheduler-cls elmas.vllm.scheduler.make_scheduler`.

It puts its own queue of waiting requests in the place of vLLM's and leaves everything else to vLLM's own scheduler,
synchronous or asynchronous. After any error of its own it stays first come first served.
"""

import time
from collections import deque
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from elmas.scheduling.bounds import Bounds
from elmas.scheduling.gathering import Gathering
from elmas.scheduling.waiting_order import WaitingOrder
from elmas.settings import CacheSettings
from elmas.vllm.same_process import ended_copies
from elmas.vllm.scheduler_half import SchedulerHalf
from elmas.vllm.tracing import ORDER
from elmas.vllm.waiting_queue import WaitingQueue
from elmas.vllm.work_estimates import WorkEstimates

_HELD_STEP_S = 0.005
"""How long a step takes in which nobody runs since those that wait are to wait for more."""


class ReorderingMixin:
    """Gives waiting requests a better order, and sets those aside that wait for the disk. Mixed into one of vLLM's
    schedulers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        vllm_config: Any = kwargs["vllm_config"]
        transfer = vllm_config.kv_transfer_config
        settings = CacheSettings.parse(transfer.kv_connector_extra_config if transfer is not None else {})
        half: SchedulerHalf | None = getattr(getattr(self, "connector", None), "scheduler_half", None)
        self._elmas_queue: WaitingQueue | None = None
        # vLLM's priority queue is a heap: its order is the user's own.
        if half is None or not isinstance(self.waiting, deque):  # type: ignore[has-type]
            return
        self._elmas_half = half
        self._elmas_max_overtaken = settings.scheduler_max_overtaken
        estimates = self._elmas_estimates = WorkEstimates(half, self.kv_cache_manager)  # type: ignore[attr-defined]
        bounds = Bounds(settings.scheduler_max_overtaken, settings.scheduler_max_wait_s)
        window_size = settings.scheduler_window_size if settings.reorder else 1
        requests = self.requests  # type: ignore[attr-defined]
        order = WaitingOrder(bounds, window_size, lambda name, before: estimates.estimate(requests[name], before))
        told = estimates if window_size > 1 else None
        self._elmas_gathering = Gathering() if window_size > 1 and settings.gather else None
        self._elmas_held_s = 0.0
        self._elmas_queue = WaitingQueue(
            order, self._has_room, half.is_waiting_for_disk, told, self._is_held, half.note_order_error
        )
        self.waiting = self._elmas_queue

    def add_request(self, request: Any) -> None:
        """A request has arrived: the connector hears of it first, then it gets its place."""
        queue = self._elmas_queue
        is_idle = not any(self.get_request_counts())  # type: ignore[attr-defined]
        super().add_request(request)  # type: ignore[misc]
        if queue is not None:
            self._contain(lambda: self._note_arrival(request, is_idle))
            self._contain(self._order_arrivals)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Take in what has been copied and read, then schedule as vLLM does."""
        queue = self._elmas_queue
        if queue is not None:
            self._elmas_held_s = 0.0
            self._hear_of_copies()
            self._contain(self._before_step)
        output = super().schedule(*args, **kwargs)  # type: ignore[misc]
        if queue is not None:
            if self._elmas_half.trace is not None:
                self._contain(self._record_order)
            self._contain(queue.end_step)
            if self._elmas_held_s > 0 and not output.total_num_scheduled_tokens:
                # Those that are waited for come through another thread. One empty step after the other would keep the
                # interpreter from it.
                time.sleep(min(_HELD_STEP_S, self._elmas_held_s))
        return output

    def _hear_of_copies(self) -> None:
        """Hear of ended copies at once where that is possible. An error here is not contained, as in vLLM: who is not
        told of a load waits for ever."""
        region = self._elmas_half.region
        ended = ended_copies(region) if region is not None else None
        if ended is not None:
            self._update_from_kv_xfer_finished(ended)  # type: ignore[attr-defined]

    def _has_room(self) -> bool:
        return bool(len(self.running) < self.max_num_running_reqs)  # type: ignore[attr-defined]

    def _note_arrival(self, request: Any, is_idle: bool) -> None:
        """A request has arrived, at the front end some time before the scheduler sees it."""
        if self._elmas_gathering is not None:
            now_s = time.monotonic()
            came_s = now_s - max(0.0, time.time() - request.arrival_time)
            self._elmas_gathering.arrived(came_s, now_s, is_idle, self._elmas_half.n_only_on_device)

    def _is_held(self, request: Any) -> bool:
        """Whether a request, the next one, should wait for the rest of a burst."""
        if self._elmas_gathering is None:
            return False
        now_s = time.monotonic()
        left_s = self._elmas_gathering.holds_until_s(now_s) - now_s
        if left_s <= 0 or not self._elmas_estimates.needs_room(request):
            return False
        self._elmas_held_s = left_s
        return True

    def _order_arrivals(self) -> None:
        """Read from disk about in the order in which requests will run.

        That is by arrival, but those that need computing after their reads will be overtaken, by the bound at most.
        """
        queue, half = self._elmas_queue, self._elmas_half
        assert queue is not None
        # What ended since the last step brings nothing any more: the same agent's next request must not wait for it.
        self._elmas_estimates.end_step()
        for request in queue.arrived():
            n_read = half.n_blocks_coming(request) * half.block_size
            cost = self._elmas_estimates.estimate(request).cost - n_read
            share = min(1.0, max(0.0, cost / request.num_tokens))
            half.prioritise_reads(request, queue.number(request.request_id) + share * self._elmas_max_overtaken)

    def _before_step(self) -> None:
        """Let requests that wait for the disk decide where there is nothing else to run, and take back those that do
        not wait any more."""
        queue, half = self._elmas_queue, self._elmas_half
        assert queue is not None
        half.on_disk_wait_over = queue.come_back
        half.before_step(has_other_work=len(queue) > queue.n_aside or not self._has_room())
        if half.n_waiting_for_disk != queue.n_aside:
            queue.check_aside()

    def _record_order(self) -> None:
        """Record who begins in this step, and how many that arrived before wait on."""
        queue, trace = self._elmas_queue, self._elmas_half.trace
        assert queue is not None
        assert trace is not None
        for name, n_passed in queue.begun():
            trace.mark(ORDER, "in order" if n_passed == 0 else f"passes {n_passed}", request=name, waiting=len(queue))

    def _contain(self, call: Any) -> None:
        queue = self._elmas_queue
        assert queue is not None
        try:
            call()
        except Exception:
            queue.give_up()


def make_scheduler(**kwargs: Any) -> Any:
    """Return vLLM's scheduler with the order of elmas; vLLM calls this as if it were the class.

    The base is chosen by what vLLM has decided: a fixed base would switch asynchronous scheduling off.
    """
    base = AsyncScheduler if kwargs["vllm_config"].scheduler_config.async_scheduling else Scheduler
    return type("ElmasScheduler", (ReorderingMixin, base), {})(**kwargs)
