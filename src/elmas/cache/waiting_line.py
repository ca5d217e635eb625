"""The requests that have not begun: who is before whom, and how long a new one will wait.

Knows no clock: the time comes in as an argument.
"""

from dataclasses import dataclass

from elmas.cache.service_rate import ServiceRate


@dataclass
class _Place:
    """A request that has not begun: its number by arrival, and the seconds it will compute by estimate."""

    number: int
    work_s: float = 0.0


class WaitingLine:
    """Requests by arrival, until they begin."""

    def __init__(self) -> None:
        self._service = ServiceRate()
        self._places: dict[str, _Place] = {}
        self._n_arrived = 0
        self._work_s = 0.0

    def __len__(self) -> int:
        return len(self._places)

    def arrive(self, request: str) -> float:
        """A request joins; returns the seconds until its turn, by estimate.

        That is what those before it will compute at least, or what as many took to begin lately, whichever is longer:
        the first is known from the start, the second knows what else delays them.
        """
        n_ahead, work_ahead_s = len(self._places), self._work_s
        self._n_arrived += 1
        self._places[request] = _Place(self._n_arrived)
        return max(work_ahead_s, self._service.wait_s(n_ahead))

    def set_work(self, request: str, seconds: float) -> None:
        """The request will compute for so long once it begins."""
        place = self._places[request]
        self._work_s += seconds - place.work_s
        place.work_s = seconds

    def number(self, request: str) -> int:
        """Return the request's number by arrival: the next one's for a request that is not in line."""
        place = self._places.get(request)
        return place.number if place is not None else self._n_arrived + 1

    def begin(self, request: str, now_s: float) -> bool:
        """The request begins to run; returns whether it was in line."""
        if not self._remove(request):
            return False
        self._service.admitted(1, len(self._places), now_s)
        return True

    def leave(self, request: str, now_s: float) -> None:
        """The request is gone without having begun, if it was in line."""
        if self._remove(request) and not self._places:
            self._service.admitted(0, 0, now_s)

    def _remove(self, request: str) -> bool:
        place = self._places.pop(request, None)
        if place is None:
            return False
        # Starting anew from an empty line keeps rounding errors from adding up.
        self._work_s = self._work_s - place.work_s if self._places else 0.0
        return True
