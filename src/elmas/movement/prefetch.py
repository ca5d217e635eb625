"""Which blocks move from disk to host memory, for which waiting requests, in which order.

A request's blocks are read in prefix order, in runs of adjacent records. Requests that need the same block share one
read. Host rows are reserved only when a read is handed out, so a long queue of wishes holds no memory; what is resident
and pinned for a request that waits is never evicted for a wish.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count, repeat

import numpy as np
from numpy.typing import NDArray

from elmas.cache.records import RecordRun
from elmas.cache.rows import BlockHash, Rows
from elmas.cache.segments import SegmentIndex
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

    `run_ends[i]` is where the run of adjacent records that block i belongs to ends. `n_reading` counts the blocks it
    waits for.
    """

    blocks: Sequence[BlockHash]
    disk_rows: Rows
    run_ends: NDArray[np.int64]
    priority: float
    cursor: int = 0
    n_reading: int = 0

    @property
    def n_left(self) -> int:
        """Blocks that have not landed."""
        return len(self.blocks) - self.cursor + self.n_reading

    def give_up_rest(self) -> None:
        """Hand out no more: without a block that is missing, those after it are of no use."""
        self.blocks = self.blocks[: self.cursor]


@dataclass
class _Reading:
    """A read under way, and for each request that waits for it the positions of the blocks it needs."""

    run: RecordRun
    waiters: dict[str, list[int]] = field(default_factory=dict)


class Prefetcher:
    """See the module. `max_rows` bounds the host rows being read to, or read and not yet used, for all requests."""

    def __init__(self, index: SegmentIndex, host: HostTier, max_run_records: int, max_rows: int) -> None:
        self._index = index
        self._host = host
        self._max_run_records = max_run_records
        self._max_rows = max_rows
        self._wishes: dict[str, _Wish] = {}
        self._queue: list[tuple[float, int, str]] = []
        self._reading: dict[int, _Reading] = {}
        self._number_of: dict[BlockHash, int] = {}
        self._landed: dict[str, int] = {}
        self._n_landed = 0
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
        return len(self._number_of)

    @property
    def n_blocks_left(self) -> int:
        """Blocks that all waiting requests together still lack."""
        return sum(wish.n_left for wish in self._wishes.values())

    def is_pending(self, request: str) -> bool:
        """Return whether reads for the request are outstanding."""
        return request in self._wishes

    def n_left(self, request: str) -> int:
        """Return how many blocks the request still lacks of those it asked for."""
        wish = self._wishes.get(request)
        return 0 if wish is None else wish.n_left

    def start(self, request: str, blocks: Sequence[BlockHash], disk_rows: Rows, priority: float) -> None:
        """The request wants these blocks, in prefix order, which are in these rows of the disk tier."""
        if not blocks:
            return
        wish = _Wish(blocks, disk_rows, self._index.run_ends(disk_rows), priority)
        self._wishes[request] = wish
        heapq.heappush(self._queue, (priority, next(self._numbers), request))

    def stop(self, request: str) -> list[int]:
        """The request wants nothing more (it runs, or is gone); returns the reads that nobody waits for any more.

        Those may be cancelled; if that succeeds, `dropped` must be called, else `done` as for any read.
        """
        self._n_landed -= self._landed.pop(request, 0)
        if self._wishes.pop(request, None) is None:
            return []
        idle = []
        for number, reading in self._reading.items():
            if reading.waiters.pop(request, None) is not None and not reading.waiters:
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

    def n_records(self, number: int) -> int:
        """Return how many records a read brings."""
        return self._reading[number].run.n_records

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
            n_allowed = min(self._max_run_records, self._max_rows - self._n_landed - len(self._number_of))
            order = self._next_run(request, wish, n_allowed) if n_allowed > 0 else None
            if order is not None:
                return order
            if wish.cursor < len(wish.blocks):  # no row could be had
                if self._reading or self._n_landed > self._landed.get(request, 0):
                    return None  # others will use theirs, and leave them
                wish.give_up_rest()
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
            wish.n_reading -= len(positions)
            fine = good[positions]
            landed = rows[positions][fine]
            host.expect(request, landed, now_s)
            self._landed[request] = self._landed.get(request, 0) + int(landed.size)
            self._n_landed += int(landed.size)
            if not fine.all():
                wish.give_up_rest()
            self._end_if_complete(request, wish)

    def _forget(self, number: int) -> _Reading:
        reading = self._reading.pop(number)
        for key in reading.run.keys:
            del self._number_of[key]
        return reading

    def _end_if_complete(self, request: str, wish: _Wish) -> None:
        if wish.n_left == 0:
            del self._wishes[request]
            self._ended.append(request)

    def _skip_shared(self, request: str, wish: _Wish, now_s: float) -> None:
        """Pass over blocks that another request's read brings, or that came to host memory meanwhile."""
        while wish.cursor < len(wish.blocks):
            block = wish.blocks[wish.cursor]
            number = self._number_of.get(block)
            if number is not None:
                reading = self._reading[number]
                reading.waiters.setdefault(request, []).append(reading.run.keys.index(block))
                wish.n_reading += 1
            elif self._host.index.is_held(block):
                row = self._host.index.lookup([block])
                self._host.expect(request, row[row >= 0], now_s)
            else:
                return
            wish.cursor += 1

    def _next_run(self, request: str, wish: _Wish, n_most: int) -> ReadOrder | None:
        first = wish.cursor
        last = min(int(wish.run_ends[first]), len(wish.blocks), first + n_most)
        blocks = list(wish.blocks[first:last])
        is_held = self._host.index.is_held
        for place, block in enumerate(blocks):
            if block in self._number_of or is_held(block):
                del blocks[place:]
                break
        wanted = wish.disk_rows[first : first + len(blocks)]
        present = self._index.lookup(blocks) == wanted
        if not present.all():  # their segment was reclaimed since the request asked
            del blocks[int(np.argmin(present)) :]
            if not blocks:
                wish.give_up_rest()
                return None
        rows = self._host.index.reserve(blocks, wish.blocks[:first])
        if rows.size == 0:
            return None
        blocks = blocks[: rows.size]
        segment, slot = self._index.place_of(int(wanted[0]))
        order = ReadOrder(next(self._numbers), wish.priority, RecordRun(segment, slot, tuple(blocks), rows))
        self._reading[order.number] = _Reading(order.run, {request: list(range(len(blocks)))})
        self._number_of.update(zip(blocks, repeat(order.number)))
        wish.cursor += len(blocks)
        wish.n_reading += len(blocks)
        return order
