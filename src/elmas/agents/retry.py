"""Which failed calls are worth repeating, and how long to wait before.

Exponential back-off with jitter: a server that is overloaded by many agents must not get all of them back at the same
moment. The jitter is seeded, so that a run can be repeated.
"""

import random
from dataclasses import dataclass

from elmas.agents.endpoint import RequestRecord

_PASSING_STATUSES = frozenset({408, 409, 425, 429})
"""Besides 5xx: the server is busy, starting or asks to come back. Any other 4xx would be refused again."""

_LONGEST_RETRY_AFTER_S = 60.0


@dataclass(frozen=True)
class RetryPolicy:
    """At most `max_attempts` calls for one answer. The wait doubles from `first_wait_s` up to `longest_wait_s`, and is
    shortened by up to a half at random; a server that names a wait (Retry-After) gets at least that, up to a minute."""

    max_attempts: int = 4
    first_wait_s: float = 0.5
    longest_wait_s: float = 20.0

    def wait_s(self, record: RequestRecord, n_attempts: int, draw: random.Random) -> float | None:
        """Return the seconds to wait after the `n_attempts`-th call came to `record`; None: no more calls."""
        if record.error is None or n_attempts >= self.max_attempts or not is_passing(record):
            return None
        wait_s = min(self.longest_wait_s, self.first_wait_s * 2.0 ** (n_attempts - 1)) * draw.uniform(0.5, 1.0)
        return max(wait_s, min(record.retry_after_s or 0.0, _LONGEST_RETRY_AFTER_S))


def is_passing(record: RequestRecord) -> bool:
    """Return whether the same request may be answered later: no answer, a broken one, or a server that is busy."""
    status = record.http_status
    return status is None or status == 200 or status >= 500 or status in _PASSING_STATUSES
