"""What it costs to compute, to load and to read, learned while serving; and whether reading from disk is worth it.

Knows no clock: durations come in as arguments. A decision takes microseconds.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from elmas.cache.speeds import Channel, PrefillSpeed

_MIN_PARTIAL_BLOCKS = 4
_MIN_PARTIAL_TOKENS = 256
_SLOWEST_HELP = 2.0
"""A disk that takes so many times as long as computing does can still bring a third of the blocks."""
_PROBE_INTERVAL = 64
"""Every so many refusals in a row, a few blocks are read all the same: else a disk that recovered would stay unused."""


class Reason(StrEnum):
    """Why a prefetch is as long as it is."""

    IN_TIME = "in_time"
    """All of it lands before the request's turn."""
    CHEAPER = "cheaper"
    """Waiting for all of it is cheaper than recomputing."""
    PARTIAL = "partial"
    """Only its beginning is worth it."""
    SLOW = "slow"
    """Recomputing is cheaper than waiting for any of it."""
    PROBE = "probe"
    """As slow, but its speed was not measured for long."""
    UNMEASURED = "unmeasured"
    """Not known yet: everything is read, which measures it."""


@dataclass(frozen=True)
class PrefetchPlan:
    """How many of the first disk blocks to read, and why."""

    n_blocks: int
    reason: Reason


class CostModel:
    """Speeds of prefill, of loads (host to device) and of the disk, and the decisions that follow from them."""

    def __init__(self) -> None:
        self._prefill = PrefillSpeed()
        self._loads = Channel()
        self._reads = Channel()
        self._writes = Channel()
        self._n_refused = 0

    # Learning

    def observe_step(self, n_prefill_tokens: int, context_token_sum: float, seconds: float) -> None:
        """A scheduling step computed prefill tokens; the numbers of tokens before each of them sum to the second."""
        self._prefill.observe(n_prefill_tokens, context_token_sum, seconds)

    def observe_load(self, n_bytes: int, seconds: float) -> None:
        """So many bytes went from host memory to the device in `seconds`."""
        self._loads.observe(n_bytes, seconds)

    def observe_read(self, n_bytes: int, seconds: float) -> None:
        """So many bytes were read from disk in `seconds` with at least one read under way; also when it were none."""
        self._reads.observe(n_bytes, seconds)

    def observe_write(self, n_bytes: int, seconds: float) -> None:
        """So many bytes were written to disk in `seconds` of writing."""
        self._writes.observe(n_bytes, seconds)

    def set_read_rate(self, bytes_per_s: float) -> None:
        """Begin with the read speed that a probe at start-up found."""
        self._reads.set_rate(bytes_per_s)

    # Asking

    def read_rate(self) -> float | None:
        """Return bytes per second that the disk reads, None before it was measured."""
        return 1 / self._reads.s_per_byte if self._reads.is_measured else None

    def write_rate(self) -> float | None:
        """Return bytes per second that the disk writes, None before it was measured."""
        return 1 / self._writes.s_per_byte if self._writes.is_measured else None

    @property
    def knows_prefill(self) -> bool:
        """Whether the prefill speed was measured."""
        return self._prefill.coefficients() is not None

    def prefill_s(self, first_token: int, n_tokens: int) -> float | None:
        """Return the seconds to compute `n_tokens` after `first_token` others, None before it was measured."""
        return self._prefill.seconds(first_token, n_tokens)

    def landing_s(self, queued_bytes: int, n_bytes: int) -> float | None:
        """Return after how long `n_bytes` have come from disk behind `queued_bytes` of other reads; None: unknown."""
        if not self._reads.is_measured:
            return None
        return self._reads.latency_s + (queued_bytes + n_bytes) * self._reads.s_per_byte

    def is_disk_a_help(self, n_bytes: int, n_tokens: int) -> bool:
        """Return whether the disk reads blocks of so many bytes and tokens fast enough, beside what computes them, to
        take a good part of the work. True while a speed is unknown."""
        computed_s = self._prefill.seconds(0, n_tokens)
        if computed_s is None or not self._reads.is_measured:
            return True
        return n_bytes * self._reads.s_per_byte < _SLOWEST_HELP * computed_s

    def should_wait(self, bytes_ahead: int, n_bytes: int, first_token: int, n_tokens: int) -> bool:
        """Return whether a request whose turn has come should wait for `n_bytes` that are still being read.

        `bytes_ahead` are read before them; `n_tokens` from `first_token` on would be computed instead. True while a
        speed is unknown: the caller bounds the time.
        """
        computed_s = self._prefill.seconds(first_token, n_tokens)
        if computed_s is None or not self._reads.is_measured:
            return True
        return (bytes_ahead + n_bytes) * self._reads.s_per_byte + n_bytes * self._loads.s_per_byte < computed_s

    def plan_prefetch(
        self,
        n_blocks: int,
        block_tokens: int,
        row_bytes: int,
        first_token: int,
        queue_wait_s: float,
        queued_bytes: int,
    ) -> PrefetchPlan:
        """Return how many of the first `n_blocks` blocks on disk are worth reading for a request.

        Its turn comes in `queue_wait_s`; `queued_bytes` are read before; `first_token` is where the blocks begin. A
        number k of blocks is worth it when they land before the turn, or when the time to wait for them after it, and
        to load them, is shorter than computing their tokens.
        """
        speed = self._prefill.coefficients()
        if speed is None or not self._reads.is_measured:
            return PrefetchPlan(n_blocks, Reason.UNMEASURED)
        block_read_s = row_bytes * self._reads.s_per_byte
        late_s = self._reads.latency_s + queued_bytes * self._reads.s_per_byte - queue_wait_s
        block_s = block_read_s + row_bytes * self._loads.s_per_byte
        # Computing k blocks takes quadratic * k**2 + linear * k.
        per_token_s, per_context_s = speed
        linear = block_tokens * (per_token_s + per_context_s * first_token)
        quadratic = per_context_s * block_tokens**2 / 2

        if late_s + n_blocks * block_read_s <= 0:
            return self._accept(n_blocks, Reason.IN_TIME)
        if late_s + n_blocks * block_s < n_blocks * (linear + n_blocks * quadratic):
            return self._accept(n_blocks, Reason.CHEAPER)
        # All n are not worth it: what is gained, a convex function of k, is negative there. What is worth it is then
        # what lands in time and what comes before the smaller root, of which there is one only if no time is lost.
        n_worth = 0
        if late_s <= 0:
            n_in_time = -late_s / block_read_s
            n_worth = math.floor(max(n_in_time, _smaller_root(quadratic, linear - block_s, -late_s)))
        if n_worth >= _MIN_PARTIAL_BLOCKS or n_worth * block_tokens >= _MIN_PARTIAL_TOKENS:
            return self._accept(min(n_worth, n_blocks), Reason.PARTIAL)
        self._n_refused += 1
        if self._n_refused % _PROBE_INTERVAL == 0:
            return PrefetchPlan(min(n_blocks, _MIN_PARTIAL_BLOCKS), Reason.PROBE)
        return PrefetchPlan(0, Reason.SLOW)

    def _accept(self, n_blocks: int, reason: Reason) -> PrefetchPlan:
        self._n_refused = 0
        return PrefetchPlan(n_blocks, reason)


def _smaller_root(quadratic: float, linear: float, constant: float) -> float:
    """Return the smaller root of quadratic * x**2 + linear * x + constant, which is not positive for some x > 0.

    `constant` and `quadratic` are not negative, so `linear` is not positive. The form avoids a difference of close
    numbers.
    """
    if linear >= 0:
        return 0.0
    discriminant = linear * linear - 4 * quadratic * constant
    return 2 * constant / (-linear + math.sqrt(max(0.0, discriminant)))
