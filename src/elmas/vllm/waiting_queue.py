"""vLLM's queue of waiting requests, in the order of elmas.

Takes the place of the first-come-first-served queue of vLLM's scheduler, behind the same methods, so nothing is
rebuilt in a step: the order is asked for one request when vLLM has room for one. Preempted requests go before all
others, as in vLLM. After any error of the order it is first come first served.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any

from vllm.v1.core.sched.request_queue import RequestQueue

from elmas.scheduling.waiting_order import WaitingOrder
from elmas.vllm.log import logger
from elmas.vllm.work_estimates import WorkEstimates


class WaitingQueue(RequestQueue):
    """See the module. `has_room` says whether vLLM could take up a request at all; without room nothing is chosen.

    `is_waiting_for_disk` says whether a request should step aside; `estimates`, if the order needs any, are told who
    begins; `holds` says of the next request whether it should wait a moment for others to come; `on_error` hears of the
    error that ends the order. Requests come in with `add_request` and are ordered from `arrived` on, when the connector
    knows them.
    """

    def __init__(
        self,
        order: WaitingOrder,
        has_room: Callable[[], bool],
        is_waiting_for_disk: Callable[[str], bool],
        estimates: WorkEstimates | None,
        holds: Callable[[Any], bool] = lambda request: False,
        on_error: Callable[[], None] = lambda: None,
    ) -> None:
        self._order: WaitingOrder | None = order
        self._has_room = has_room
        self._is_waiting_for_disk = is_waiting_for_disk
        self._estimates = estimates
        self._holds = holds
        self._on_error = on_error
        self._front: deque[Any] = deque()
        self._new: deque[Any] = deque()
        self._ordered: dict[str, Any] = {}
        self._taken: dict[str, Any] = {}
        self._chosen: str | None = None

    @property
    def n_aside(self) -> int:
        """Requests that have stepped aside."""
        return self._order.n_aside if self._order is not None else 0

    # What the scheduler of elmas tells

    def arrived(self) -> list[Any]:
        """Order the requests that were added since the last call; returns those that stepped aside at once."""
        aside = []
        now_s = monotonic()
        while self._new and self._order is not None:
            request = self._new.popleft()
            name = request.request_id
            self._ordered[name] = request
            is_aside = self._is_waiting_for_disk(name)
            self._guard(WaitingOrder.arrive, name, now_s, request.priority, is_aside)
            if is_aside:
                aside.append(request)
        return aside

    def come_back(self, name: str) -> None:
        """The request waits for the disk no more; it may be gone."""
        if name in self._ordered:
            self._guard(WaitingOrder.come_back, name)

    def check_aside(self) -> None:
        """Take back whoever does not wait for the disk, though nobody has said so: the disk may be gone."""
        for name in [name for name in self._ordered if not self._is_waiting_for_disk(name)]:
            self.come_back(name)

    def number(self, name: str) -> int:
        """Return the request's number by arrival, 0 without an order."""
        return self._order.number(name) if self._order is not None else 0

    def begun(self) -> list[tuple[str, int]]:
        """Return the requests that were taken in this step so far and not put back, each with how many that arrived
        before it wait on."""
        waiting = [self.number(name) for name in self._ordered]
        return [(name, sum(number < self.number(name) for number in waiting)) for name in self._taken]

    def end_step(self) -> None:
        """vLLM has scheduled a step: what was taken and not put back has begun."""
        self._taken.clear()
        self._chosen = None
        if self._estimates is not None:
            self._estimates.end_step()
        self._guard(WaitingOrder.end_step)

    # What vLLM's scheduler does with its queue

    def add_request(self, request: Any) -> None:
        """A request has arrived."""
        (self._new if self._order is not None else self._front).append(request)

    def peek_request(self) -> Any:
        """Return the next request. IndexError without one."""
        if self._front:
            return self._front[0]
        name = self._choose()
        if self._front:  # the order has just failed
            return self._front[0]
        if name is None:
            raise IndexError("peek from an empty queue")
        return self._ordered[name]

    def pop_request(self) -> Any:
        """Take the next request out. IndexError without one."""
        request = self.peek_request()
        if self._front:
            return self._front.popleft()
        name = request.request_id
        del self._ordered[name]
        self._taken[name] = request
        self._chosen = None
        self._guard(self._take, request)
        return request

    def prepend_request(self, request: Any) -> None:
        """Put a request at the front: it was preempted."""
        self._front.appendleft(request)

    def prepend_requests(self, requests: Iterable[Any]) -> None:
        """Put requests back that could not run in this step, the last one of them first."""
        for request in requests:
            name = request.request_id
            if self._order is not None and name in self._taken:
                self._ordered[name] = self._taken.pop(name)
                if self._estimates is not None:
                    self._estimates.has_not_begun(name)
                self._guard(WaitingOrder.put_back, name)
                if self._is_waiting_for_disk(name):
                    self._guard(WaitingOrder.step_aside, name)
            else:
                self._front.appendleft(request)

    def remove_request(self, request: Any) -> None:
        """Take a request out, wherever it is. ValueError when it is not here."""
        name = request.request_id
        if self._ordered.pop(name, None) is not None:
            self._chosen = None
            self._guard(WaitingOrder.leave, name)
        elif request in self._new:
            self._new.remove(request)
        else:
            self._front.remove(request)

    def remove_requests(self, requests: Iterable[Any]) -> None:
        """Take those of the requests out that are here."""
        for request in requests:
            if request.request_id in self._ordered or request in self._new or request in self._front:
                self.remove_request(request)

    def give_up(self) -> None:
        """First come first served from now on; to be called where an error of the order was caught."""
        if self._order is None:
            return
        logger.exception("elmas: internal error in the order of requests; first come first served from now on")
        self._on_error()
        self._front.extend(self._by_arrival())
        self._front.extend(self._new)
        self._order, self._chosen = None, None
        self._ordered.clear()
        self._new.clear()

    def __bool__(self) -> bool:
        """Whether a request may run, as far as there is room for one."""
        if self._front or self._new:
            return True
        if not self._ordered or not self._has_room():
            return bool(self._ordered)
        return self._choose() is not None or bool(self._front)

    def __len__(self) -> int:
        """The number of requests that wait, those that stepped aside included."""
        return len(self._front) + len(self._ordered) + len(self._new)

    def __iter__(self) -> Iterator[Any]:
        """Preempted requests first, then the others by arrival."""
        yield from self._front
        yield from self._by_arrival()
        yield from self._new

    def _by_arrival(self) -> list[Any]:
        return sorted(self._ordered.values(), key=lambda request: request.arrival_time)

    def _choose(self) -> str | None:
        if self._new:
            self.arrived()
        if self._chosen is None:
            self._chosen = self._guard(self._next)
        return self._chosen

    def _next(self, order: WaitingOrder) -> str | None:
        """Return who should run next, none when that one is to wait for others."""
        name = order.next(monotonic())
        return None if name is None or self._holds(self._ordered[name]) else name

    def _take(self, order: WaitingOrder, request: Any) -> None:
        """The request is tried."""
        if self._estimates is not None:
            self._estimates.has_begun(request)
        order.take(request.request_id)

    def _guard(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call something with the order; when it fails, all requests go by arrival from now on."""
        if self._order is None:
            return None
        try:
            return call(self._order, *args)
        except Exception:
            self.give_up()
            return None
