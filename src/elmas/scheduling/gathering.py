"""Waiting a moment for the rest of a burst, so that the order has something to choose from.

When all agents of a round come back at once, the server sees them one after the other: the first ones would begin
before those have come whose blocks are on the device, and evict these. So where bursts are to be expected, and host
memory does not hold all that the device does, requests that need room for blocks from elsewhere wait until the burst
has come, which takes as long as the front end needs for it. Those that are on the device begin at once. A server that
sees single requests, or whose host memory holds all it is asked for, waits for nothing. Nor does one whose bursts take
so long to come that the wait would end before those are there who are waited for.
"""

from dataclasses import dataclass

MAX_WAIT_S = 0.5
"""Nobody waits longer than this for others."""

_LEAST_BURST = 8
_MOST_INTERVAL_S = 0.01
"""Fewer requests, or such as come less often on average, are no burst: they come from users who do not know of each
other, and of whom none should wait for others."""

_PAUSE_FACTOR = 10.0
_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.01, 0.05
"""Nobody waits on when nobody has come for so many times the usual interval, within these limits. A front end takes
milliseconds for a long prompt, and lets requests through one by one; on an H200 one paused for 19 ms after 70 of 96."""

_BURST_ENDS_S = 0.1
"""Whoever comes later than this after the one before belongs to no burst."""

_COMPLETE_SHARE = 0.95


@dataclass
class _Burst:
    """Arrivals close to each other, the first of which found an idle server: when they came, and when the scheduler saw
    them, which is later the more there are."""

    begun_s: float
    last_s: float
    first_seen_s: float
    last_seen_s: float
    n_only_on_device: int
    n_arrived: int = 1

    @property
    def interval_s(self) -> float:
        return (self.last_s - self.begun_s) / max(1, self.n_arrived - 1)

    @property
    def is_worth_waiting_for(self) -> bool:
        """Whether the next one should be waited for."""
        is_short = self.last_s - self.begun_s <= MAX_WAIT_S
        return self.n_arrived >= _LEAST_BURST and self.interval_s <= _MOST_INTERVAL_S and is_short

    def goes_on(self, came_s: float) -> bool:
        """Whether one that comes now belongs to it."""
        return came_s - self.last_s <= _BURST_ENDS_S


class Gathering:
    """See the module. Expects a burst to be like the one before it; times are seconds of one clock."""

    def __init__(self) -> None:
        self._expected: _Burst | None = None
        self._now: _Burst | None = None

    def arrived(self, came_s: float, now_s: float, is_idle: bool, n_only_on_device: int) -> None:
        """The scheduler sees a request that came to the server at `came_s`. `is_idle` says that no other one waits or
        runs, `n_only_on_device` how many blocks of the device host memory has refused so far."""
        burst = self._now
        if burst is not None and (is_idle or not burst.goes_on(came_s)):
            self._expected, self._now = burst, None
        if is_idle:
            self._now = _Burst(came_s, came_s, now_s, now_s, n_only_on_device)
        elif self._now is not None:
            self._now.last_s, self._now.last_seen_s = max(came_s, self._now.last_s), now_s
            self._now.n_arrived += 1

    def holds_until_s(self, now_s: float) -> float:
        """Return until when a request that is not on the device should wait as of now; a time that has passed if it
        should not."""
        burst, expected = self._now, self._expected
        if burst is None or expected is None or not expected.is_worth_waiting_for:
            return now_s
        if (
            burst.n_only_on_device == expected.n_only_on_device
            or burst.n_arrived >= _COMPLETE_SHARE * expected.n_arrived
        ):
            return now_s
        pause_s = _PAUSE_FACTOR * max(expected.interval_s, burst.interval_s)
        pause_s = min(_MOST_PAUSE_S, max(_LEAST_PAUSE_S, pause_s))
        return min(burst.last_seen_s + pause_s, burst.first_seen_s + MAX_WAIT_S)
