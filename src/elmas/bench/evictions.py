"""What it takes to make room in host memory while requests that wait have almost all of it pinned.

Then there is little or nothing to give up, and whoever stores must find that out quickly: it is asked at every store.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from elmas.cache.index import TierIndex
from elmas.cache.retention import POLICIES
from elmas.cache.rows import BlockHash, Rows
from elmas.cache.sessions import Sessions

_REQUEST_ROWS = 64
_STORE_ROWS = 16
_NEVER_S = float("inf")


@dataclass(frozen=True)
class EvictionCost:
    """Median microseconds to ask a tier of `n_rows` rows, all held, for 16 of which as many as given are unpinned."""

    policy: str
    n_rows: int
    n_unpinned: int
    microseconds: float

    @property
    def budget_microseconds(self) -> float:
        """What it may cost: a millisecond."""
        return 1000.0


def eviction_costs(n_rows: int, policies: Sequence[str] = tuple(POLICIES), n_trials: int = 15) -> list[EvictionCost]:
    """Return the costs for each policy, with nothing unpinned and with the rows of one request. `n_rows` is rounded
    down to whole requests of 64."""
    costs = []
    for policy in policies:
        tier = _PinnedTier(policy, n_rows // _REQUEST_ROWS)
        for n_unpinned in (0, _REQUEST_ROWS):
            spent_s = [tier.store(n_unpinned // _REQUEST_ROWS) for _ in range(n_trials)]
            costs.append(EvictionCost(policy, tier.index.n_rows, n_unpinned, 1e6 * median(spent_s)))
    return costs


class _PinnedTier:
    """A full tier, in which each of so many requests has its rows pinned."""

    def __init__(self, policy: str, n_requests: int) -> None:
        n_rows = n_requests * _REQUEST_ROWS
        self._sessions = Sessions()
        self.index = TierIndex(n_rows, POLICIES[policy](n_rows, self._sessions))
        self._n_blocks = 0
        self._n_owners = 0
        self._oldest = 0
        for _ in range(n_requests):
            self._fill(self._new_blocks(_REQUEST_ROWS))

    def store(self, n_unpinned_requests: int) -> float:
        """Store 16 blocks of a new session while so many requests have none of their rows pinned, and pin what was
        stored; returns the seconds to find room."""
        for _ in range(n_unpinned_requests):
            self.index.unpin(str(self._oldest))
            self._oldest += 1
        blocks = self._new_blocks(_STORE_ROWS)
        session = self._sessions.arrive(blocks, float(self._n_blocks))
        begin_s = time.thread_time()
        rows = self.index.reserve(blocks, [], session)
        spent_s = time.thread_time() - begin_s
        if rows.size:
            self.index.commit(rows, float(self._n_blocks))
            self._pin(rows)
        return spent_s

    def _fill(self, blocks: list[BlockHash]) -> None:
        session = self._sessions.arrive(blocks, float(self._n_blocks))
        rows = self.index.reserve(blocks, [], session)
        self.index.commit(rows, float(self._n_blocks))
        self._pin(rows)

    def _pin(self, rows: Rows) -> None:
        self.index.pin(str(self._n_owners), rows, _NEVER_S)
        self._n_owners += 1

    def _new_blocks(self, n: int) -> list[BlockHash]:
        first = self._n_blocks
        self._n_blocks += n
        return [number.to_bytes(32, "little") for number in range(first, self._n_blocks)]
