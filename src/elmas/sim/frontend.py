"""The server's front end in virtual time: what requests pass before the engine sees them.

It is one event loop, which works on all requests that have come in turns (processor sharing; Kleinrock, 1967). So those
that come at once reach the engine at once, when it is done with all of them, and not one after the other.
"""

import math
from collections import deque

from elmas.sim.requests import Job


class FrontEnd:
    """See the module. Each request takes `request_s` of the loop's time."""

    def __init__(self, request_s: float) -> None:
        self._request_s = request_s
        self._jobs: deque[tuple[float, Job]] = deque()
        """With how much work for each request must have been done when the request is through."""
        self._done_s = 0.0
        """Seconds that the loop has worked on each request there all the time."""
        self._clock_s = 0.0

    @property
    def next_s(self) -> float:
        """When the next request is through, if no other one comes before; infinite without one."""
        if not self._jobs:
            return math.inf
        return self._clock_s + max(0.0, self._jobs[0][0] - self._done_s) * len(self._jobs)

    def arrive(self, job: Job, now_s: float) -> None:
        """A request has come; times of calls never decrease, and no request is through before `now_s`."""
        if self._jobs:
            self._done_s += max(0.0, now_s - self._clock_s) / len(self._jobs)
        self._clock_s = max(self._clock_s, now_s)
        self._jobs.append((self._done_s + self._request_s, job))

    def take(self) -> Job:
        """Return the next request that is through, which the clock then shows the time of."""
        self._clock_s = self.next_s
        target_s, job = self._jobs.popleft()
        self._done_s = max(self._done_s, target_s)
        return job
