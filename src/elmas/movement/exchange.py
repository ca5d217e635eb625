"""What makes device and host memory hold different blocks when both are full.

A block that a running request has on the device needs no row in host memory as long as it runs. So when requests wait
for the device, the rows of those that began last are given to those that began first, for what of them host memory
would not take: they will be the first to leave the device. Where nobody waits, nothing leaves the device, and nothing
is exchanged. At the end of a round of agents the device then holds agents that host memory does not, where otherwise it
would hold copies (exclusive caching: Wong and Wilkes, "My Cache or Yours?", 2002).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from elmas.cache.rows import BlockHash, Rows, no_rows
from elmas.movement.host_tier import HostTier, StoreOrder

_MUCH_LARGER = 2.0
_MOST_TAKERS = 32
"""So many of those that will leave the device first are looked at, at a time."""


OnDevice = Callable[[str], Sequence[BlockHash] | None]
"""Returns the blocks of a running request that are complete on the device, in prefix order; None when that is not known
just now."""


@dataclass(frozen=True)
class Need:
    """Blocks `first .. last - 1` of a running request that host memory does not hold, for which it has rows now."""

    request: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Complete:
    """Blocks of a request that are all held, as is known since so many blocks of the tier had been dropped."""

    n_dropped: int
    blocks: frozenset[BlockHash]


class Exchange:
    """See the module; the device has `n_device_blocks`."""

    def __init__(self, tier: HostTier, n_device_blocks: int, on_device: OnDevice) -> None:
        self._tier = tier
        # In a small host tier those that begin late have no rows, and whoever gave some would miss them for nothing:
        # there only the last ones of a round give, which nobody makes leave the device.
        self._ends_rounds_only = tier.index.n_rows < _MUCH_LARGER * n_device_blocks
        self._on_device = on_device
        # With their sessions, in the order in which they began.
        self._running: dict[str, int] = {}
        self._n_of_session: Counter[int] = Counter()
        self._has_changed = False
        # Those known to have no rows to spare, and those known to lack none, as of so many dropped blocks.
        self._drained: set[str] = set()
        self._complete: dict[str, _Complete] = {}
        self._n_dropped = 0

    @property
    def n_only_on_device(self) -> int:
        """Blocks that host memory has refused or given up so far though the device had them."""
        counts = self._tier.counts
        return counts["exchanged_blocks"] + counts["store_blocks_dropped"]

    def began(self, request: str, session: int) -> None:
        """The request, of this session, has got device blocks."""
        self.ended(request)
        self._running[request] = session
        self._n_of_session[session] += 1
        self._has_changed = True

    def loaded(self) -> None:
        """A request has its blocks on the device: its rows are free to be given away."""
        self._has_changed = True

    def considered(self, request: str, order: StoreOrder) -> None:
        """Blocks of the request were considered for storing: host memory took some of them, or not all."""
        if order.transfer is not None:
            self._drained.discard(request)
        if order.n_dropped:
            self._complete.pop(request, None)
            self._has_changed = True

    def ended(self, request: str) -> None:
        """The request runs no more; it need not have begun."""
        session = self._running.pop(request, None)
        if session is not None:
            self._n_of_session[session] -= 1
            if not self._n_of_session[session]:
                del self._n_of_session[session]
        self._drained.discard(request)
        self._complete.pop(request, None)

    def plan(self, n_waiting: int) -> list[Need]:
        """Take rows from requests that began late, for those that will leave the device when `n_waiting` more begin;
        returns what can be stored in them, which the caller must order at once."""
        if not (n_waiting and self._has_changed) or (self._ends_rounds_only and n_waiting > len(self._running)):
            return []
        self._has_changed = False
        order = list(self._running)
        needs: list[Need] = []
        spare, giver = no_rows(), len(order)
        for taker, request in enumerate(order[: min(n_waiting, _MOST_TAKERS)]):
            if taker >= giver:
                break
            first, last = self._wanted(request)
            if first == last:
                continue
            while spare.size < last - first and giver > taker + 1:
                giver -= 1
                given = self._spare(order[giver])
                if given.size:
                    spare = np.concatenate((spare, given))
            n = min(last - first, spare.size)
            if n == 0:
                break
            self._tier.index.give_up(spare[:n])
            self._tier.counts["exchanged_blocks"] += n
            spare = spare[n:]
            needs.append(Need(request, first, first + n))
        return needs

    def _wanted(self, request: str) -> tuple[int, int]:
        """The first blocks of the request that are not held; an empty span when all are, as far as they are known."""
        index = self._tier.index
        if index.n_dropped != self._n_dropped:
            self._forget_incomplete()
        known = self._complete.get(request)
        if known is not None and known.n_dropped == index.n_dropped:
            return 0, 0
        hashes = self._on_device(request)
        if hashes is None:
            return 0, 0
        if known is not None and len(known.blocks) == len(hashes):
            self._complete[request] = _Complete(index.n_dropped, known.blocks)
            return 0, 0
        first, last = index.missing_run(hashes)
        if first == last:
            self._complete[request] = _Complete(index.n_dropped, frozenset(hashes))
        return first, last

    def _forget_incomplete(self) -> None:
        """Blocks were dropped: forget those requests that have lost one."""
        dropped = self._tier.index.dropped_since(self._n_dropped)
        self._n_dropped = self._tier.index.n_dropped
        if dropped is None:
            self._complete.clear()
            return
        for request in [request for request, known in self._complete.items() if not known.blocks.isdisjoint(dropped)]:
            del self._complete[request]

    def _spare(self, request: str) -> Rows:
        """The rows that the request can spare, the last of its prefix first."""
        session = self._running[request]
        # Requests of one session have rows in common, of which none can be spared.
        if request in self._drained or self._tier.is_loading(request) or self._n_of_session[session] > 1:
            return no_rows()
        hashes = self._on_device(request)
        if hashes is None:
            return no_rows()
        rows = self._tier.spare(hashes, session)
        if not rows.size:
            self._drained.add(request)
        return rows
