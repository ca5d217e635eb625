"""When the turn of a request that is held back has come, while others pass it."""

import heapq
from collections import deque


class Turns:
    """Requests that are held back, in the order of their turns.

    A request's turn has come when one has passed it, which is when more requests have begun since its arrival than were
    before it then; or when the device has room and nobody else wants it. From then on it is held for `max_wait_s` at
    most.
    """

    def __init__(self, max_wait_s: float) -> None:
        self._max_wait_s = max_wait_s
        self._n_begun = 0
        self._turn_s: dict[str, float | None] = {}
        self._line: deque[tuple[int, str]] = deque()
        self._deadlines: list[tuple[float, str]] = []

    def hold(self, request: str, n_ahead: int) -> None:
        """Hold back a request with `n_ahead` others before it."""
        self._turn_s[request] = None
        self._line.append((self._n_begun + n_ahead, request))

    def release(self, request: str) -> None:
        """The request is not held any more."""
        self._turn_s.pop(request, None)

    def begun(self, now_s: float) -> None:
        """One more request has begun to run."""
        self._n_begun += 1
        # Numbers grow along the line but where requests ahead have gone without beginning: these are late by as many.
        while self._line and (self._line[0][0] < self._n_begun or self._line[0][1] not in self._turn_s):
            self.come(self._line.popleft()[1], now_s)

    def come(self, request: str, now_s: float) -> None:
        """The turn of a request has come, if it is held and that was not known yet."""
        if request in self._turn_s and self._turn_s[request] is None:
            self._turn_s[request] = now_s
            heapq.heappush(self._deadlines, (now_s + self._max_wait_s, request))

    def overdue(self, now_s: float, grace_s: float) -> list[str]:
        """Return the requests that are held past their deadline by more than `grace_s`, each once."""
        found = []
        while self._deadlines and self._deadlines[0][0] + grace_s <= now_s:
            deadline_s, request = heapq.heappop(self._deadlines)
            turn_s = self._turn_s.get(request)
            if turn_s is not None and turn_s + self._max_wait_s <= deadline_s:
                found.append(request)
        return found
