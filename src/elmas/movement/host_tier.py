"""What a server does with its host tier over a request's life: offer, load, store, confirm.

The caller tells it what happens to requests (vLLM's scheduler through the adapter, or the simulator) and carries out
the transfers it returns. The order for one request:

    expect     what is resident of its prefix is pinned while it waits: a guess never evicts a sure hit
    offer      the resident run after the device's own hit is pinned, and may be loaded
    accept     device blocks were allocated for it: the load is ordered   (or end_offers: they were not, unpin)
    loaded     all ranks have copied it: unpin
    store      blocks were completed: those not held yet are ordered to be copied to host memory
    stored     all ranks have copied them: they can be found from now on
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from elmas.cache.index import TierIndex, resident_run
from elmas.cache.rows import BlockHash, Rows
from elmas.cache.sessions import NO_SESSION
from elmas.movement.transfers import Transfer, TransferLedger

LOAD_DEADLINE_S = 30.0
"""A load that takes longer is reported: at 1 GB/s this is 30 GB."""

EXPECTATION_DEADLINE_S = 600.0
"""The rows of a request that waits longer lose their protection."""

_EXPECTATION = "expected by "


class Offer(NamedTuple):
    """The blocks of a request that may be loaded, from block `first` on, and the rows of its whole prefix."""

    first: int
    run: Rows
    prefix: Rows


class Acceptance(NamedTuple):
    """The outcome of `accept`: how many of the request's first blocks are resident, the load, if any, and how many of
    its blocks came from disk for this."""

    n_resident: int
    load: Transfer | None
    n_from_disk: int = 0


class StoreOrder(NamedTuple):
    """The outcome of `store`: how far the request's blocks were considered, and what is to be copied, if anything.

    `places` are the positions in the request of the blocks that are copied.
    """

    n_considered: int
    transfer: Transfer | None
    places: tuple[int, ...] = ()


class HostTier:
    """Decisions about one host tier. One thread owns it.

    `max_store_blocks` bounds the device blocks that wait for their copy, since the device cannot reuse them before.
    `counts` holds monotonic event counts by name.
    """

    def __init__(self, index: TierIndex, n_ranks: int, max_store_blocks: int) -> None:
        self.index = index
        self.counts: Counter[str] = Counter()
        self._max_store_blocks = max_store_blocks
        self._offers: dict[str, Offer] = {}
        self._expected: set[str] = set()
        self._loads: set[str] = set()
        self._stores = TransferLedger(n_ranks)
        self._is_from_disk: NDArray[np.bool_] = np.zeros(index.n_rows, dtype=np.bool_)
        self._n_loads_ordered = 0

    @property
    def n_loading(self) -> int:
        """Requests whose load is on its way."""
        return len(self._loads)

    @property
    def n_storing(self) -> int:
        """Store transfers on their way."""
        return len(self._stores)

    @property
    def store_allowance(self) -> int:
        """Device blocks that may still be held for their copy."""
        return self._max_store_blocks - self._stores.n_blocks_in_flight

    def is_loading(self, request: str) -> bool:
        """Return whether the request's load is on its way."""
        return request in self._loads

    def expect(self, request: str, rows: Rows, now_s: float) -> None:
        """Keep resident rows for a waiting request until it is accepted or dismissed. May be called repeatedly."""
        if rows.size == 0:
            return
        if request in self._expected:
            self.index.extend_pin(_expectation(request), rows)
        else:
            self._expected.add(request)
            self.index.pin(_expectation(request), rows, now_s + EXPECTATION_DEADLINE_S)

    def dismiss(self, request: str) -> None:
        """The request waits no more: what was kept for it may be evicted."""
        if request in self._expected:
            self._expected.remove(request)
            self.index.unpin(_expectation(request))

    def overdue(self, now_s: float) -> list[str]:
        """Return the requests whose load is past its deadline, and dismiss those that wait for too long."""
        owners = self.index.overdue(now_s)
        loads = [owner for owner in owners if owner in self._loads]
        for owner in owners:
            if owner.startswith(_EXPECTATION):
                self.dismiss(owner.removeprefix(_EXPECTATION))
        return loads

    def offer(self, request: str, hashes: Sequence[BlockHash], first: int, now_s: float) -> int:
        """Return how many blocks from position `first` on can be loaded, and pin them until the offer ends.

        `hashes` are the blocks of the request that may be loaded at all; those before `first` are on the device.
        """
        self._withdraw(request)
        found = self.index.lookup(hashes)
        run = resident_run(found, first)
        self._offers[request] = Offer(first, run, found)
        if run.size:
            self.index.pin(request, run, now_s + LOAD_DEADLINE_S)
        return int(run.size)

    def accept(
        self, request: str, n_blocks: int, device_blocks: Sequence[int], now_s: float, session: int = NO_SESSION
    ) -> Acceptance:
        """The request will run: order the load of the first `n_blocks` offered blocks (0: it runs without a load).

        `device_blocks` are all blocks allocated for the request, by position. The whole resident prefix counts as used,
        also where the device has it too: otherwise the head of a busy prefix would grow old in the tier.
        """
        self.dismiss(request)
        offer = self._offers.pop(request, None)
        if offer is None:
            return Acceptance(0, None)
        self.index.use(offer.prefix[offer.prefix >= 0], now_s, session)
        n_resident = int(resident_run(offer.prefix, 0).size)
        if n_blocks == 0:
            self.index.unpin(request)
            return Acceptance(n_resident, None)
        rows = offer.run[:n_blocks]
        self._loads.add(request)
        self.counts["load_blocks"] += n_blocks
        self._n_loads_ordered += 1
        targets = device_blocks[offer.first : offer.first + n_blocks]
        n_from_disk = int(np.count_nonzero(self._is_from_disk[rows]))
        self._is_from_disk[rows] = False
        return Acceptance(n_resident, Transfer(self._n_loads_ordered, request, rows, targets), n_from_disk)

    def end_offers(self) -> None:
        """Withdraw the offers that were not accepted in this scheduling step."""
        for request in list(self._offers):
            self._withdraw(request)

    def loaded(self, request: str) -> bool:
        """All ranks have copied the request's load; returns whether there was one."""
        if request not in self._loads:
            return False
        self._loads.remove(request)
        self.index.unpin(request)
        return True

    def store(
        self,
        request: str,
        hashes: Sequence[BlockHash],
        first: int,
        last: int,
        device_blocks: Sequence[int],
        session: int = NO_SESSION,
    ) -> StoreOrder:
        """Order copies of the completed blocks `first .. last - 1`, held in `device_blocks`, that are not held yet.

        Considers fewer when too many copies are on their way; the caller comes back with the rest. What finds no row is
        dropped together with everything after it, which could not be reached without it.
        """
        allowance = self.store_allowance
        if allowance <= 0:
            return StoreOrder(0, None)
        blocks = hashes[first:last]
        wanted = self.index.missing(blocks)[:allowance]
        end = last if len(wanted) < allowance else first + wanted[-1] + 1
        if not wanted:
            return StoreOrder(end - first, None)
        rows = self.index.reserve([blocks[i] for i in wanted], hashes[: first + wanted[0]], session)
        n_dropped = len(wanted) - int(rows.size)
        if n_dropped:
            self.counts["store_blocks_dropped"] += n_dropped
            end = last
        if rows.size == 0:
            return StoreOrder(end - first, None)
        sources = [device_blocks[i] for i in wanted[: rows.size]]
        places = tuple([first + i for i in wanted[: rows.size]])
        return StoreOrder(end - first, self._stores.open(request, rows, sources), places)

    def stored(self, number: int, n_ranks: int, now_s: float) -> Transfer | None:
        """`n_ranks` more ranks have copied a store; returns it when that were all, and its blocks can now be found."""
        transfer = self._stores.confirm(number, n_ranks)
        if transfer is not None:
            self.index.commit(transfer.rows, now_s)
            self._is_from_disk[transfer.rows] = False
            self.counts["store_blocks"] += transfer.n_blocks
        return transfer

    def landed(self, rows: Rows, now_s: float) -> None:
        """Reserved rows were read from disk and verified: their blocks can be found from now on."""
        self.index.commit(rows, now_s)
        self._is_from_disk[rows] = True

    def _withdraw(self, request: str) -> None:
        offer = self._offers.pop(request, None)
        if offer is not None and offer.run.size:
            self.index.unpin(request)


def _expectation(request: str) -> str:
    """The owner of the pin that keeps a waiting request's rows; its offer and load pin under its own name."""
    return _EXPECTATION + request
