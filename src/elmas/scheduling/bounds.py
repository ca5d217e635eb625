"""How much a waiting request may be overtaken, and how often it was.

A bound on overtaking takes the place of ageing (Preble, 2025): it needs no tuning to the load.
"""

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """No request is overtaken more than `max_overtaken` times, nor after it has waited `max_wait_s` seconds."""

    max_overtaken: int
    max_wait_s: float


class Overtaking:
    """Counts later arrivals that ran earlier. Requests are known by their numbers, which grow in order of arrival.

    Requests `begin` in a step, `abort` when they could not run after all, and the others of the step are committed.
    """

    def __init__(self, max_counted: int) -> None:
        self._max_counted = max_counted
        self._beginning: list[int] = []
        # The greatest numbers of those that have begun: no more are needed to count so far.
        self._begun: list[int] = []

    def n_overtaken(self, number: int) -> int:
        """Return how many requests with a greater number have begun, those of this step included; above
        `max_counted` it is only said to be that much."""
        begun, beginning = self._begun, self._beginning
        # Mostly there is none.
        n_begun = len(begun) - bisect_right(begun, number) if begun and begun[-1] > number else 0
        if beginning and beginning[-1] > number:
            n_begun += len(beginning) - bisect_right(beginning, number)
        return n_begun

    def begin(self, number: int) -> None:
        """The request is tried."""
        insort(self._beginning, number)

    def abort(self, number: int) -> None:
        """The request, which was tried in this step, could not run."""
        del self._beginning[bisect_left(self._beginning, number)]

    def commit(self) -> None:
        """The step is over: those that were tried have begun."""
        self._begun += self._beginning
        self._begun.sort()
        del self._begun[: max(0, len(self._begun) - self._max_counted)]
        self._beginning.clear()
