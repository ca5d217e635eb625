"""How long a waiting request waits for its turn, from how fast those before it were admitted.

Knows no clock: the time comes in as an argument.
"""

_HALF_LIFE_OBSERVATIONS = 16


class ServiceRate:
    """Requests admitted per second while others waited. Without a queue, admissions only show when requests arrive."""

    def __init__(self) -> None:
        self._n_admitted = self._seconds = 0.0
        self._busy_since_s: float | None = None

    def admitted(self, n_admitted: int, n_waiting: int, now_s: float) -> None:
        """So many requests were admitted at `now_s`, and after that `n_waiting` wait.

        Call it also with `n_admitted` 0 when the last waiting request has left another way.
        """
        if self._busy_since_s is not None and n_admitted > 0:
            keep = 0.5 ** (1 / _HALF_LIFE_OBSERVATIONS)
            self._n_admitted = keep * self._n_admitted + n_admitted
            self._seconds = keep * self._seconds + max(0.0, now_s - self._busy_since_s)
        if n_waiting == 0:
            self._busy_since_s = None
        elif n_admitted > 0:
            self._busy_since_s = now_s

    def wait_s(self, n_ahead: int) -> float:
        """Return the seconds until `n_ahead` requests have been admitted; 0.0 before anything was measured."""
        return n_ahead * self._seconds / self._n_admitted if self._n_admitted else 0.0
