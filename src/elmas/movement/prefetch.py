"""Which blocks move from disk to host memory, for which waiting requests, in which order.

A request's blocks are read in prefix order, in runs of adjacent records. Requests that need the same block share one
read. Host rows are reserved only when a read is handed out, so a long queue of wishes holds no memory; what is resident
and pinned for a request that waits is never evicted for a wish.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray

from elmas.cache.records import RecordRun
from elmas.cache.rows import BlockHash, Rows
from elmas.cache.segments import SegmentIndex
from elmas.cache.sessions import NO_SESSION
from elmas.movement.host_tier import HostTier


@dataclass(frozen=True)
class ReadOrder:
    """One disk read to carry out; smaller `priority` goes first."""

    number: int
    priority: float
    run: RecordRun


@dataclass
class _Wish:
    """A waiting request: the blocks it lacks, in prefix order, of which those before `cursor` were handed out.

    `run_ends[i]` is where the run of adjacent records that block i belongs to ends. `n_drops` is the index's count when
    the rows were looked up. `n_reading` counts the blocks it waits for, `reads` are the reads that bring them.
    `borrowed` are blocks that a store was bringing to host memory when they were passed over: nothing pins them.
    """

    blocks: Sequence[BlockHash]
    disk_rows: Rows
    run_ends: NDArray[np.int64]
    priority: float
    n_drops: int
    session: int
    cursor: int = 0
    n_reading: int = 0
    reads: set[int] = field(default_factory=set)
    borrowed: list[BlockHash] = field(default_factory=list)

    @property
    def n_left(self) -> int:
        """Blocks that have not landed."""
        return len(self.blocks) - self.cursor + self.n_reading


@dataclass
class _Reading:
    """A read under way, and for each request that waits for it the positions of the blocks it needs."""

    run: RecordRun
    waiters: dict[str, list[int]] = field(default_factory=dict)


class _Claims:
    """Host rows that were read ahead and not yet used, by the requests that are to use them. Some are shared."""

    def __init__(self, n_rows: int) -> None:
        self.n_claimed = 0
        self._n_owners: NDArray[np.int32] = np.zeros(n_rows, dtype=np.int32)
        self._batches: dict[str, list[Rows]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._batches)

    def add(self, request: str, rows: Rows) -> None:
        """The request is to use these rows."""
        if rows.size:
            self.n_claimed += int(np.count_nonzero(self._n_owners[rows] == 0))
            self._n_owners[rows] += 1
            self._batches.setdefault(request, []).append(rows)

    def join(self, request: str, rows: Rows) -> None:
        """The request is to use those of the rows that were read for others and are not used yet."""
        self.add(request, rows[self._n_owners[rows] > 0])

    def drop(self, request: str) -> None:
        """The request has used its rows, or never will."""
        for rows in self._batches.pop(request, ()):
            self._n_owners[rows] -= 1
            self.n_claimed -= int(np.count_nonzero(self._n_owners[rows] == 0))


class Prefetcher:
    """See the module. `max_rows` bounds the host rows being read to, or read and not yet used, for all requests.

    `max_run_records` bounds the records of one read; it may be changed at any time.
    """

    def __init__(self, index: SegmentIndex, host: HostTier, max_run_records: int, max_rows: int) -> None:
        self._index = index
        self._host = host
        self.max_run_records = max_run_records
        self._max_rows = max_rows
        self._wishes: dict[str, _Wish] = {}
        self._queue: list[tuple[float, int, str]] = []
        self._reading: dict[int, _Reading] = {}
        self._place_of: dict[BlockHash, tuple[int, int]] = {}
        self._claims = _Claims(host.index.n_rows)
        self.n_blocks_left = 0
        """Blocks that all waiting requests together still lack."""
        self._ended: list[str] = []
        self._numbers = count()

    @property
    def n_pending(self) -> int:
        """Requests that wait for a read."""
        return len(self._wishes)

    @property
    def n_reads(self) -> int:
        """Reads that were handed out and are not done."""
        return len(self._reading)

    @property
    def n_blocks_reading(self) -> int:
        """Blocks of the reads under way."""
        return len(self._place_of)

    @property
    def n_rows_ahead(self) -> int:
        """Host rows that were read ahead and not yet used."""
        return self._claims.n_claimed

    def is_pending(self, request: str) -> bool:
        """Return whether reads for the request are outstanding."""
        return request in self._wishes

    def n_left(self, request: str) -> int:
        """Return how many blocks the request still lacks of those it asked for."""
        wish = self._wishes.get(request)
        return 0 if wish is None else wish.n_left

    def start(
        self,
        request: str,
        blocks: Sequence[BlockHash],
        disk_rows: Rows,
        priority: float,
        session: int = NO_SESSION,
    ) -> None:
        """The request wants these blocks, in prefix order, which are in these rows of the disk tier now."""
        if not blocks:
            return
        wish = _Wish(blocks, disk_rows, self._index.run_ends(disk_rows), priority, self._index.n_drops, session)
        self._wishes[request] = wish
        self.n_blocks_left += wish.n_left
        heapq.heappush(self._queue, (priority, next(self._numbers), request))

    def set_priority(self, request: str, priority: float) -> None:
        """The request's further reads have this priority; nothing happens where it wants none."""
        wish = self._wishes.get(request)
        if wish is not None and wish.priority != priority:
            wish.priority = priority
            # Its former entry is passed over, since it does not fit any more.
            heapq.heappush(self._queue, (priority, next(self._numbers), request))

    def stop(self, request: str) -> list[int]:
        """The request wants nothing more (it runs, or is gone); returns the reads that nobody waits for any more.

        Those may be cancelled; if that succeeds, `dropped` must be called, else `done` as for any read.
        """
        self._claims.drop(request)
        return self.wait_no_more(request)

    def wait_no_more(self, request: str) -> list[int]:
        """Like `stop`, for a request that does not run yet: what has landed for it is still to be used."""
        wish = self._wishes.pop(request, None)
        if wish is None:
            return []
        self.n_blocks_left -= wish.n_left
        idle = []
        for number in wish.reads:
            waiters = self._reading[number].waiters
            del waiters[request]
            if not waiters:
                idle.append(number)
        return idle

    def take_ended(self) -> list[str]:
        """Return the requests that have got all they can get since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def dropped(self, numbers: Iterable[int]) -> None:
        """These reads will not happen: their rows are free again."""
        for number in numbers:
            self._host.index.abort(self._forget(number).run.rows)

    def is_idle(self, number: int) -> bool:
        """Return whether a read is under way for nobody."""
        return number in self._reading and not self._reading[number].waiters

    def next_order(self, now_s: float) -> ReadOrder | None:
        """Return the next read by priority, its host rows reserved; None when there is none or no row can be had."""
        while self._queue:
            priority, _, request = self._queue[0]
            wish = self._wishes.get(request)
            if wish is None or wish.priority != priority or wish.cursor >= len(wish.blocks):
                heapq.heappop(self._queue)
                continue
            self._skip_shared(request, wish, now_s)
            if wish.cursor >= len(wish.blocks):
                heapq.heappop(self._queue)
                self._end_if_complete(request, wish)
                continue
            n_allowed = min(self.max_run_records, self._max_rows - self._claims.n_claimed - len(self._place_of))
            order = self._next_run(request, wish, n_allowed) if n_allowed > 0 else None
            if order is not None:
                return order
            if wish.cursor < len(wish.blocks):  # no row could be had
                # Those that wait for no read will use theirs, and leave them. Others could wait for each other forever.
                if self._reading or any(other not in self._wishes for other in self._claims):
                    return None
                self._give_up_rest(wish)
            self._end_if_complete(request, wish)
        return None

    def done(self, number: int, good: NDArray[np.bool_], now_s: float) -> None:
        """A read has ended; `good` says which of its blocks were verified. The others are forgotten by the index."""
        reading = self._forget(number)
        rows, host = reading.run.rows, self._host
        if good.all():
            host.landed(rows, now_s)
        else:
            host.landed(rows[good], now_s)
            host.index.abort(rows[~good])
            disk_rows = self._index.lookup([key for key, fine in zip(reading.run.keys, good, strict=True) if not fine])
            self._index.drop(disk_rows[disk_rows >= 0])
        for request, positions in reading.waiters.items():
            wish = self._wishes[request]
            wish.reads.remove(number)
            wish.n_reading -= len(positions)
            self.n_blocks_left -= len(positions)
            fine = good[positions]
            landed = rows[positions][fine]
            host.expect(request, landed, now_s)
            self._claims.add(request, landed)
            if not fine.all():
                self._give_up_rest(wish)
            self._end_if_complete(request, wish)

    def _forget(self, number: int) -> _Reading:
        reading = self._reading.pop(number)
        for key in reading.run.keys:
            del self._place_of[key]
        return reading

    def _end_if_complete(self, request: str, wish: _Wish) -> None:
        if wish.n_left == 0:
            del self._wishes[request]
            self._ended.append(request)

    def _skip_shared(self, request: str, wish: _Wish, now_s: float) -> None:
        """Pass over blocks that another request's read brings, or that came to host memory meanwhile."""
        held: list[BlockHash] = []
        while wish.cursor < len(wish.blocks):
            block = wish.blocks[wish.cursor]
            place = self._place_of.get(block)
            if place is not None:
                number, position = place
                self._reading[number].waiters.setdefault(request, []).append(position)
                wish.reads.add(number)
                wish.n_reading += 1
            elif self._host.index.is_held(block):
                held.append(block)
            else:
                break
            wish.cursor += 1
        if held:
            self.n_blocks_left -= len(held)
            rows = self._host.index.lookup(held)
            resident = rows[rows >= 0]
            self._host.expect(request, resident, now_s)
            self._claims.join(request, resident)
            if resident.size < rows.size:
                wish.borrowed += [block for block, row in zip(held, rows.tolist(), strict=True) if row < 0]

    def _give_up_rest(self, wish: _Wish) -> None:
        """Hand out no more for a request: without a block that is missing, those after it are of no use."""
        self.n_blocks_left -= len(wish.blocks) - wish.cursor
        wish.blocks = wish.blocks[: wish.cursor]

    def _next_run(self, request: str, wish: _Wish, n_most: int) -> ReadOrder | None:
        first = wish.cursor
        last = min(int(wish.run_ends[first]), len(wish.blocks), first + n_most)
        blocks = list(wish.blocks[first:last])
        host = self._host.index
        if host.holds_any(blocks) or not self._place_of.keys().isdisjoint(blocks):
            others = (place for place, block in enumerate(blocks) if block in self._place_of or host.is_held(block))
            del blocks[next(others) :]
        wanted = wish.disk_rows[first : first + len(blocks)]
        if self._index.n_drops != wish.n_drops:
            present = self._index.lookup(blocks) == wanted
            if not present.all():  # their segment was reclaimed since the request asked
                del blocks[int(np.argmin(present)) :]
                if not blocks:
                    self._give_up_rest(wish)
                    return None
        # All else of its prefix that is resident is pinned for the request.
        rows = self._host.index.reserve(blocks, wish.borrowed, wish.session)
        if rows.size == 0:
            return None
        blocks = blocks[: rows.size]
        segment, slot = self._index.place_of(int(wanted[0]))
        order = ReadOrder(next(self._numbers), wish.priority, RecordRun(segment, slot, tuple(blocks), rows))
        self._reading[order.number] = _Reading(order.run, {request: list(range(len(blocks)))})
        self._place_of.update((block, (order.number, position)) for position, block in enumerate(blocks))
        wish.reads.add(order.number)
        wish.cursor += len(blocks)
        wish.n_reading += len(blocks)
        return order
