"""The scheduler half of a server that was started with --profiling: it does the same, and records what it decides."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from elmas.settings import CacheSettings
from elmas.vllm.metadata import StepOrders
from elmas.vllm.scheduler_half import MakeDisk, SchedulerHalf
from elmas.vllm.tracing import ADMISSIONS, PREFETCHES, STEPS, Trace

_PLANS = "disk_plan_"


class TracedSchedulerHalf(SchedulerHalf):
    """See SchedulerHalf. Its events travel to the workers with the orders of each step, where traces are written."""

    def __init__(
        self, block_size: int, n_ranks: int, settings: CacheSettings, make_disk: MakeDisk | None, trace: Trace
    ) -> None:
        super().__init__(block_size, n_ranks, settings, make_disk)
        self.trace: Trace = trace
        self._arrived_ns: dict[str, int] = {}
        self._prefetches: dict[str, tuple[int, int]] = {}
        """By request: when it began, and the blocks to read."""
        self._device_tokens: dict[str, int] = {}

    def add(self, request: Any) -> None:
        """A request has arrived, and what is on disk of it may begin to move."""
        request_id = request.request_id
        self._arrived_ns[request_id] = time.time_ns()
        before = self._plans()
        super().add(request)
        plans = [name.removeprefix(_PLANS) for name, n in self._plans().items() if n != before[name]]
        self._note_prefetch(request)
        arguments = {"prompt tokens": request.num_tokens, "blocks to read": self.n_blocks_coming(request)}
        self._mark("arrives", request_id, **arguments, **({"disk plan": plans[0]} if plans else {}))

    def offer(self, request: Any, n_device_tokens: int) -> int | None:
        """The request's turn has come: something to load, something to wait for, or nothing."""
        n_tokens = super().offer(request, n_device_tokens)
        request_id = request.request_id
        if n_tokens is None:
            if request_id not in self._prefetches:
                self._note_prefetch(request)
            self._mark("waits for the disk", request_id, **{"blocks to read": self.n_blocks_coming(request)})
        self._device_tokens[request_id] = n_device_tokens
        return n_tokens

    def accept(self, request: Any, block_ids: Sequence[int], n_load_tokens: int) -> None:
        """The request begins."""
        super().accept(request, block_ids, n_load_tokens)
        request_id = request.request_id
        n_device = self._device_tokens.pop(request_id, None)
        if n_device is None:
            # vLLM takes it up a second time once its load is there, and asks for no offer then.
            self._mark("has its load", request_id)
            return
        waited_ns = time.time_ns() - self._arrived_ns.get(request_id, time.time_ns())
        self._mark(
            "loads" if n_load_tokens else "computes",
            request_id,
            **{
                "tokens on the device": n_device,
                "tokens to load": n_load_tokens,
                "of them read from disk": self._n_tokens_from_disk.get(request_id, 0),
                "tokens to compute": request.num_tokens - n_device - n_load_tokens,
                "ms since its arrival": round(waited_ns / 1e6, 3),
            },
        )

    def finish(self, request: Any) -> None:
        """The request has ended."""
        super().finish(request)
        self._arrived_ns.pop(request.request_id, None)
        self._device_tokens.pop(request.request_id, None)
        self._mark("ends", request.request_id)

    def plan_step(self, scheduled: Mapping[str, int]) -> None:
        """A step is planned: how much it computes, and what is copied meanwhile."""
        begin_ns = time.time_ns()
        super().plan_step(scheduled)
        self._end_prefetches()
        copies = {
            "blocks to load": sum(transfer.n_blocks for transfer in self._loads),
            "blocks to store": sum(transfer.n_blocks for transfer in self._stores),
        }
        self.trace.slice(STEPS, "plan", begin_ns, requests=len(scheduled), tokens=sum(scheduled.values()), **copies)
        self.trace.count("requests", waiting=len(self._line), reading=len(self._prefetches), running=len(scheduled))
        if self.tier is not None:
            occupancy = self.tier.index.occupancy()
            self.trace.count("host blocks", resident=occupancy.n_resident, pinned=occupancy.n_pinned)

    def take_orders(self, is_idle: bool) -> StepOrders:
        """Return the copies of the step, and what was recorded since the last one."""
        orders = super().take_orders(is_idle)
        orders.trace = self.trace.take()
        return orders

    def _plans(self) -> Counter[str]:
        """Return how often each plan for a request's reads was made."""
        if self.tier is None:
            return Counter()
        return Counter({name: n for name, n in self.tier.counts.items() if name.startswith(_PLANS)})

    def _note_prefetch(self, request: Any) -> None:
        n_blocks = self.n_blocks_coming(request)
        if n_blocks:
            self._prefetches[request.request_id] = time.time_ns(), n_blocks

    def _end_prefetches(self) -> None:
        """Record the prefetches of the requests that wait for the disk no more, since the last step."""
        for request_id, (begin_ns, n_blocks) in list(self._prefetches.items()):
            if not self.is_waiting_for_disk(request_id):
                del self._prefetches[request_id]
                self.trace.slice(PREFETCHES, f"{n_blocks} blocks", begin_ns, request=request_id, blocks=n_blocks)

    def _mark(self, name: str, request_id: str, **arguments: Any) -> None:
        self.trace.mark(ADMISSIONS, name, request=request_id, **arguments)
