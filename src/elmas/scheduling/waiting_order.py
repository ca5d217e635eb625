"""The order of waiting requests: the cheapest of a window first, within bounds on how they overtake each other.

Running what is resident first turns a tier's capacity into hits: when all agents of a round wait at once, first come
first served would evict each prefix shortly before its turn (the cyclic scan that defeats LRU). That is the longest
prefix first of RadixAttention (SGLang, 2024) with work instead of length, so that a long prompt with a long prefix does
not pass a short one that needs less; a bound on overtaking takes the place of ageing (Preble, 2025).

Estimates are kept, not made anew: the one that is to run next is looked at before it does, and requests that lack the
same block are looked at again when one of them has begun, since the others are then cheaper and follow it. A request
whose next block another one is just bringing waits for that (the delayed hit of Strata, 2025).
"""

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from elmas.cache.rows import BlockHash
from elmas.scheduling.order import Bounds

_LOOKS_PER_CHOICE = 4
_LOOKS_PER_STEP = 24
"""Estimates made anew when a request is chosen, and all others of a step."""

_ROUND_LOOKS = 2
"""Of these, estimates of requests one after the other: what nobody noticed is found in the end."""


@dataclass(frozen=True)
class Estimate:
    """What a request needs as of now: `cost` in any unit, and the first of its blocks that the device lacks.

    `is_coming` says that a request that has begun brings most of what it lacks: run now, it would do that work again.
    """

    cost: float
    next_block: BlockHash | None = None
    is_coming: bool = False


class _State(Enum):
    BEYOND = auto()  # the window
    READY = auto()
    DELAYED = auto()  # another request brings its blocks
    ASIDE = auto()
    TAKEN = auto()


_Entry = tuple[int, float, int, str]


@dataclass
class _Request:
    """A request that has not begun; `entry` is its place in the order, `looked` the moment of its estimate."""

    number: int
    priority: int
    arrived_s: float
    state: _State = _State.BEYOND
    entry: _Entry | None = None
    next_block: BlockHash | None = None
    looked: int = -1


class WaitingOrder:
    """Requests by name, from their arrival until they begin. `estimate` says what a request needs.

    In a step, `next` is asked for a request and `take` told that it was tried, until there is room for no more. Those
    that could not run are `put_back`; `end_step` counts the others as begun. A lower `priority` goes first, but the
    bounds hold across priorities. Adding, moving and removing one takes O(log n) and a move of a list's tail in memory.
    """

    def __init__(self, bounds: Bounds, window_size: int, estimate: Callable[[str], Estimate]) -> None:
        self._bounds = bounds
        self._window_size = window_size
        self._estimate = estimate
        self._requests: dict[str, _Request] = {}
        self._n_arrived = 0
        self._beyond: list[tuple[int, str]] = []
        self._by_arrival: list[tuple[int, str]] = []
        self._by_cost: list[_Entry] = []
        self._delayed: OrderedDict[str, None] = OrderedDict()
        self._groups: dict[BlockHash, OrderedDict[str, None]] = {}
        self._changed: OrderedDict[BlockHash, None] = OrderedDict()
        self._taken: list[tuple[int, str]] = []
        # The greatest numbers of those that have begun: as many as a request may be overtaken by.
        self._begun: list[int] = []
        self._n_aside = 0
        self._moment = 0
        self._n_looks = _LOOKS_PER_STEP
        self._place = 0

    def __len__(self) -> int:
        return len(self._requests) - len(self._taken)

    @property
    def n_aside(self) -> int:
        """Requests that stepped aside."""
        return self._n_aside

    # A request's life

    def arrive(self, name: str, now_s: float, priority: int = 0, aside: bool = False) -> None:
        """A request has arrived, and stepped `aside` at once or not. KeyError when one of this name waits."""
        if name in self._requests:
            raise KeyError(f"{name} waits already")
        request = self._requests[name] = _Request(self._n_arrived, priority, now_s)
        self._n_arrived += 1
        if aside:
            request.state = _State.ASIDE
            self._n_aside += 1
        else:
            self._line_up(name, request)

    def number(self, name: str) -> int:
        """Return the request's number by arrival."""
        return self._requests[name].number

    def step_aside(self, name: str) -> None:
        """The request waits for something else: the others run meanwhile, which does not count as overtaking now."""
        request = self._requests[name]
        if request.state is not _State.ASIDE:
            self._remove(name, request)
            request.state = _State.ASIDE
            self._n_aside += 1
            self._fill()

    def come_back(self, name: str) -> None:
        """The request may run again; those that passed it count."""
        request = self._requests[name]
        if request.state is _State.ASIDE:
            self._remove(name, request)
            self._line_up(name, request)

    def leave(self, name: str) -> bool:
        """The request is gone without having begun; returns whether it waited."""
        request = self._requests.get(name)
        if request is None:
            return False
        self._remove(name, request)
        del self._requests[name]
        self._fill()
        return True

    # A step

    def next(self, now_s: float) -> str | None:
        """Return who should run next; None when all that wait are aside or delayed."""
        if not self._by_arrival:
            return None
        # Whoever arrived first has waited longest, and was overtaken by all that passed any other.
        number, oldest = self._by_arrival[0]
        request = self._requests[oldest]
        n_overtaken = len(self._begun) - bisect_right(self._begun, number)
        n_overtaken += len(self._taken) - bisect_right(self._taken, (number, oldest))
        is_due = n_overtaken >= self._bounds.max_overtaken or now_s - request.arrived_s >= self._bounds.max_wait_s
        if is_due or self._window_size == 1:
            return oldest
        self._look_around()
        for _ in range(_LOOKS_PER_CHOICE):
            if not self._by_cost:
                return None
            name = self._by_cost[0][3]
            request = self._requests[name]
            if request.looked == self._moment:
                return name
            self._look(name, request)
        return self._by_cost[0][3] if self._by_cost else None

    def take(self, name: str) -> None:
        """The request is tried: it is out of the order until it is put back, or has begun by the end of the step."""
        request = self._requests[name]
        self._remove(name, request, keep_entry=True)
        request.state = _State.TAKEN
        insort(self._taken, (request.number, name))
        self._moment += 1
        if request.next_block is not None and request.next_block in self._groups:
            self._changed[request.next_block] = None
        self._fill()

    def put_back(self, name: str) -> None:
        """The request that was taken in this step could not run."""
        request = self._requests[name]
        self._remove(name, request, keep_entry=True)
        self._line_up(name, request)

    def end_step(self) -> list[str]:
        """Those taken have begun; returns them by arrival."""
        names = [name for _, name in self._taken]
        for number, name in self._taken:
            insort(self._begun, number)
            del self._requests[name]
        self._taken.clear()
        del self._begun[: max(0, len(self._begun) - self._bounds.max_overtaken)]
        self._moment += 1
        self._n_looks = _LOOKS_PER_STEP
        return names

    # The window

    def _line_up(self, name: str, request: _Request) -> None:
        """Into the window or beyond it: the window has the first ones by arrival, else the bounds would not hold."""
        request.state = _State.BEYOND
        insort(self._beyond, (request.number, name))
        self._fill()
        if self._beyond and self._beyond[0] < self._by_arrival[-1]:
            _, last = self._by_arrival[-1]
            self._remove(last, self._requests[last], keep_entry=True)
            self._fill()
            self._requests[last].state = _State.BEYOND
            insort(self._beyond, (self._requests[last].number, last))

    def _fill(self) -> None:
        while self._beyond and len(self._by_arrival) < self._window_size:
            _, name = self._beyond.pop(0)
            self._enter(name, self._requests[name])

    def _enter(self, name: str, request: _Request) -> None:
        insort(self._by_arrival, (request.number, name))
        request.state = _State.READY
        if request.entry is not None:
            insort(self._by_cost, request.entry)
            self._join_group(name, request)
        elif self._window_size == 1:
            request.entry = (request.priority, 0.0, request.number, name)
            insort(self._by_cost, request.entry)
        else:
            self._look(name, request)

    def _remove(self, name: str, request: _Request, keep_entry: bool = False) -> None:
        """Out of wherever it is."""
        if request.state is _State.BEYOND:
            del self._beyond[bisect_left(self._beyond, (request.number, name))]
        elif request.state is _State.ASIDE:
            self._n_aside -= 1
        elif request.state is _State.TAKEN:
            del self._taken[bisect_left(self._taken, (request.number, name))]
        else:
            del self._by_arrival[bisect_left(self._by_arrival, (request.number, name))]
            if request.state is _State.READY:
                assert request.entry is not None
                del self._by_cost[bisect_left(self._by_cost, request.entry)]
            else:
                del self._delayed[name]
            self._leave_group(name, request)
        if not keep_entry:
            request.entry, request.next_block = None, None

    # Estimates

    def _look(self, name: str, request: _Request) -> None:
        """Estimate a request of the window anew, and move it to its place."""
        estimate = self._estimate(name)
        request.looked = self._moment
        if estimate.next_block != request.next_block:
            self._leave_group(name, request)
            if request.next_block in self._groups:
                self._changed[request.next_block] = None
            request.next_block = estimate.next_block
        self._join_group(name, request)
        entry = None if estimate.is_coming else (request.priority, estimate.cost, request.number, name)
        if entry == request.entry and entry is not None:
            return
        if request.entry is not None and request.state is _State.READY:
            del self._by_cost[bisect_left(self._by_cost, request.entry)]
        self._delayed.pop(name, None)
        request.entry = entry
        if entry is None:
            request.state = _State.DELAYED
            self._delayed[name] = None
        else:
            request.state = _State.READY
            insort(self._by_cost, entry)

    def _look_around(self) -> None:
        """Estimate some anew: a few at the beginning of a step, and those that lack what another one has just got."""
        if self._n_looks == _LOOKS_PER_STEP:
            for _ in range(min(_ROUND_LOOKS, len(self._by_arrival))):
                self._place = (self._place + 1) % len(self._by_arrival)
                self._look_for_once(self._by_arrival[self._place][1])
            for _ in range(min(len(self._delayed), self._n_looks // 2)):
                name, _ = self._delayed.popitem(last=False)
                self._delayed[name] = None
                self._look_for_once(name)
        while self._changed and self._n_looks > 0:
            block = next(iter(self._changed))
            group = self._groups.get(block)
            first = next(iter(group)) if group else None
            if first is not None:
                self._look_for_once(first)
            # Where nothing has changed for the first one, the others can wait until they are looked at anyway.
            if first is None or self._requests[first].next_block == block:
                del self._changed[block]

    def _look_for_once(self, name: str) -> None:
        self._n_looks -= 1
        self._look(name, self._requests[name])

    def _join_group(self, name: str, request: _Request) -> None:
        if request.next_block is not None:
            self._groups.setdefault(request.next_block, OrderedDict())[name] = None

    def _leave_group(self, name: str, request: _Request) -> None:
        group = self._groups.get(request.next_block) if request.next_block is not None else None
        if group is not None and name in group:
            del group[name]
            if not group:
                del self._groups[request.next_block]  # type: ignore[arg-type]
