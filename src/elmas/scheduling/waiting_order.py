"""The order of waiting requests: the cheapest of a window first, within bounds on how they overtake each other.

Running what is resident first turns a tier's capacity into hits: when all agents of a round wait at once, first come
first served would evict each prefix shortly before its turn (the cyclic scan that defeats LRU). That is the longest
prefix first of RadixAttention (SGLang, 2024) with work instead of length, so that a long prompt with a long prefix does
not pass a short one that needs less.
"""

from dataclasses import dataclass
from enum import Enum, auto

from elmas.scheduling.bounds import Bounds, Overtaking
from elmas.scheduling.ranking import Candidate, Look, Ranking
from elmas.scheduling.sorted_numbers import SortedNumbers


class _State(Enum):
    BEYOND = auto()  # the window
    IN_WINDOW = auto()
    ASIDE = auto()
    TAKEN = auto()


@dataclass(slots=True)
class _Request(Candidate):
    """A request that has not begun."""

    arrived_s: float = 0.0
    state: _State = _State.BEYOND


class WaitingOrder:
    """Requests by name, from their arrival until they begin. `look` says what a request needs.

    In a step, `next` is asked for a request and `take` told that it was tried, until there is room for no more. Those
    that could not run are `put_back`; `end_step` counts the others as begun. A lower `priority` goes first, but the
    bounds hold across priorities. With a window of 1 it is first come first served, and nothing is estimated.
    """

    def __init__(self, bounds: Bounds, window_size: int, look: Look) -> None:
        self._bounds = bounds
        self._window_size = window_size
        self._requests: dict[str, _Request] = {}
        self._by_number: dict[int, _Request] = {}
        self._n_arrived = 0
        # Numbers by arrival.
        self._window: SortedNumbers = SortedNumbers()
        self._beyond: SortedNumbers = SortedNumbers()
        self._taken: dict[str, _Request] = {}
        self._overtaking = Overtaking(bounds.max_overtaken)
        self._ranking = Ranking(look, self._window, self._by_number) if window_size > 1 else None
        self._n_aside = 0

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
        request = _Request(name, self._n_arrived, priority, arrived_s=now_s)
        self._requests[name] = self._by_number[request.number] = request
        self._n_arrived += 1
        if aside:
            request.state = _State.ASIDE
            self._n_aside += 1
        else:
            self._line_up(request)

    def number(self, name: str) -> int:
        """Return the request's number by arrival."""
        return self._requests[name].number

    def step_aside(self, name: str) -> None:
        """The request waits for something else: the others run meanwhile, which does not count as overtaking now."""
        request = self._requests[name]
        if request.state is not _State.ASIDE:
            self._remove(request)
            request.state = _State.ASIDE
            self._n_aside += 1
            self._fill()

    def come_back(self, name: str) -> None:
        """The request may run again; those that passed it count."""
        request = self._requests[name]
        if request.state is _State.ASIDE:
            self._remove(request)
            request.key = None
            self._line_up(request)

    def leave(self, name: str) -> bool:
        """The request is gone without having begun; returns whether it waited."""
        request = self._requests.get(name)
        if request is None:
            return False
        self._remove(request)
        self._forget(request)
        self._fill()
        return True

    # A step

    def next(self, now_s: float) -> str | None:
        """Return who should run next; None when all that wait are aside or delayed."""
        number = self._window.first
        if number is None:
            return None
        # Whoever arrived first has waited longest, and was overtaken by all that passed any other.
        oldest = self._by_number[number]
        if self._ranking is None or self._is_due(oldest, now_s):
            return oldest.name
        best = self._ranking.best()
        return None if best is None else best.name

    def take(self, name: str) -> None:
        """The request is tried: it is out of the order until it is put back, or has begun by the end of the step."""
        request = self._requests[name]
        self._remove(request)
        request.state = _State.TAKEN
        self._taken[name] = request
        self._overtaking.begin(request.number)
        if self._ranking is not None:
            self._ranking.has_begun(request)
        self._fill()

    def put_back(self, name: str) -> None:
        """The request that was taken in this step could not run."""
        request = self._requests[name]
        self._remove(request)
        self._line_up(request)

    def end_step(self) -> list[str]:
        """Those taken have begun; returns them in the order in which they were."""
        names = list(self._taken)
        for request in self._taken.values():
            self._forget(request)
        self._taken.clear()
        self._overtaking.commit()
        if self._ranking is not None:
            self._ranking.end_step()
        return names

    def _is_due(self, request: _Request, now_s: float) -> bool:
        """Whether nobody may overtake the request any more."""
        return (
            now_s - request.arrived_s >= self._bounds.max_wait_s
            or self._overtaking.n_overtaken(request.number) >= self._bounds.max_overtaken
        )

    # The window

    def _line_up(self, request: _Request) -> None:
        """Into the window or beyond it: the window has the first ones by arrival, else the bounds would not hold."""
        request.state = _State.BEYOND
        self._beyond.add(request.number)
        self._fill()
        first = self._beyond.first
        if first is not None and first < self._window.last:
            last = self._by_number[self._window.last]
            self._remove(last)
            self._fill()
            last.state = _State.BEYOND
            self._beyond.add(last.number)

    def _fill(self) -> None:
        while (number := self._beyond.first) is not None and len(self._window) < self._window_size:
            request = self._by_number[number]
            self._beyond.remove(number)
            request.state = _State.IN_WINDOW
            self._window.add(number)
            if self._ranking is not None:
                self._ranking.add(request)

    def _remove(self, request: _Request) -> None:
        """Out of wherever it is."""
        if request.state is _State.BEYOND:
            self._beyond.remove(request.number)
        elif request.state is _State.ASIDE:
            self._n_aside -= 1
        elif request.state is _State.TAKEN:
            del self._taken[request.name]
            self._overtaking.abort(request.number)
        else:
            self._window.remove(request.number)
            if self._ranking is not None:
                self._ranking.remove(request)

    def _forget(self, request: _Request) -> None:
        del self._requests[request.name]
        del self._by_number[request.number]
