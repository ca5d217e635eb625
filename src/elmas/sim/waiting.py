"""The waiting requests of a simulated server, in the order in which they are asked for.

As in vLLM: requests whose load has ended come first, then preempted ones, then those that have not begun, in the order
of `elmas.scheduling.waiting_order`.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from elmas.scheduling.bounds import Bounds
from elmas.scheduling.ranking import Estimate
from elmas.scheduling.waiting_order import WaitingOrder
from elmas.sim.requests import Live


@dataclass(frozen=True)
class OrderPlan:
    """How waiting requests are ordered: a window of 1 is first come first served."""

    window_size: int = 1
    max_overtaken: int = 200
    max_wait_s: float = 60.0


class WaitingRequests:
    """See the module. `estimate` says what a request needs; it is not asked with a window of 1."""

    def __init__(self, plan: OrderPlan, estimate: Callable[[Live, Estimate | None], Estimate]) -> None:
        self._loaded: deque[Live] = deque()
        self._preempted: deque[Live] = deque()
        self._requests: dict[str, Live] = {}
        self._aside: dict[str, Live] = {}
        bounds = Bounds(plan.max_overtaken, plan.max_wait_s)
        self._order = WaitingOrder(bounds, plan.window_size, lambda key, before: estimate(self._requests[key], before))

    @property
    def n_ready(self) -> int:
        """Requests that could run: all but those that were set aside."""
        return len(self._loaded) + len(self._preempted) + len(self._requests) - len(self._aside)

    @property
    def n_waiting(self) -> int:
        """All requests that wait."""
        return len(self._loaded) + len(self._preempted) + len(self._requests)

    @property
    def n_aside(self) -> int:
        """Requests that were set aside."""
        return len(self._aside)

    def arrive(self, request: Live, is_aside: bool, now_s: float) -> None:
        """A request has arrived, and waits for the disk or not."""
        self._requests[request.key] = request
        if is_aside:
            self._aside[request.key] = request
        self._order.arrive(request.key, now_s, aside=is_aside)

    def loaded(self, request: Live) -> None:
        """The request's load has ended: it goes on before all others."""
        self._loaded.append(request)

    def preempted(self, request: Live) -> None:
        """The request was preempted: it goes on before all that have not begun."""
        self._preempted.appendleft(request)

    def set_aside(self, request: Live) -> None:
        """The request, which has not begun, is found to wait for the disk."""
        self._aside[request.key] = request
        self._order.step_aside(request.key)

    def bring_back(self, keys: Iterable[str]) -> bool:
        """Bring those of the requests back that were set aside; returns whether there were any."""
        back = [key for key in keys if self._aside.pop(key, None) is not None]
        for key in back:
            self._order.come_back(key)
        return bool(back)

    def next(self, now_s: float) -> Live | None:
        """Return the request that should run next, None when none should now."""
        if self._loaded:
            return self._loaded[0]
        if self._preempted:
            return self._preempted[0]
        key = self._order.next(now_s)
        return None if key is None else self._requests[key]

    def begin(self, request: Live) -> None:
        """The request, which is the next one, begins or goes on."""
        if self._loaded:
            self._loaded.popleft()
        elif self._preempted:
            self._preempted.popleft()
        else:
            self._order.take(request.key)
            del self._requests[request.key]

    def end_step(self) -> None:
        """No more requests begin in this step."""
        self._order.end_step()
