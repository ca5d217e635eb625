"""Which blocks move from host memory to disk, and when: admitted ones, in the background, within budgets.

Blocks wait in a bounded queue without a pin: a block that is evicted from host memory before its turn is not written.
At most a few writes are under way, so that none stands in the way of a read for long.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import compress, count, groupby, islice

import numpy as np
from numpy.typing import NDArray

from elmas.cache.records import RecordRun
from elmas.cache.rows import BlockHash, Rows
from elmas.cache.segments import SegmentIndex
from elmas.cache.sessions import NO_SESSION
from elmas.movement.host_tier import HostTier

WRITE_DEADLINE_S = 120.0
"""What every pin has; the rows of a write stay pinned until it ends, however long that takes."""

_MOST_WRITES = 2
"""Writes handed out at once: the writer has work until the next step, and a read never waits for more than one."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_DAY_S = 86400.0


@dataclass(frozen=True)
class WriteOrder:
    """Write these records to the open segment."""

    number: int
    run: RecordRun


@dataclass(frozen=True)
class OpenOrder:
    """Remove these segments, then create a new one."""

    number: int
    segment: int
    removed: tuple[int, ...]


@dataclass(frozen=True)
class SealOrder:
    """The segment is complete: write its footer. `keys` is (slots, 32), `present` says which slots hold a block."""

    number: int
    segment: int
    keys: NDArray[np.uint8]
    present: NDArray[np.bool_]


WriterOrder = WriteOrder | OpenOrder | SealOrder


class Budget:
    """A token bucket: at most `per_s` bytes per second on average, `burst` at once."""

    def __init__(self, per_s: float, burst: float, now_s: float) -> None:
        self.per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._at_s = now_s

    def wait_s(self, now_s: float) -> float:
        """Return how long nothing may be spent."""
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self.per_s)
        self._at_s = now_s
        return max(0.0, -self._tokens / self.per_s) if self._tokens <= 0 else 0.0

    def spend(self, n_bytes: float) -> None:
        """Spend, possibly into debt, which later calls wait off."""
        self._tokens -= n_bytes

    def change(self, per_s: float, burst: float, now_s: float) -> None:
        """Other limits hold from now on."""
        self.wait_s(now_s)
        self.per_s, self._burst = per_s, burst


class WriteBack:
    """See the module. `rate_bytes_per_s` and `bytes_per_day` are limits, None for none."""

    def __init__(
        self,
        index: SegmentIndex,
        host: HostTier,
        *,
        record_bytes: int,
        max_run_records: int,
        max_queued: int,
        rate_bytes_per_s: float | None,
        bytes_per_day: int | None,
        now_s: float,
    ) -> None:
        self.counts: Counter[str] = host.counts
        self._index = index
        self._host = host
        self._record_bytes = record_bytes
        self._max_run_records = max_run_records
        self._max_queued = max_queued
        self._queue: dict[BlockHash, int] = {}
        self._writing: dict[int, tuple[WriteOrder, Rows, list[int]]] = {}
        self._under_way: set[BlockHash] = set()
        self._other: set[int] = set()
        self._numbers = count()
        self._rate = None if rate_bytes_per_s is None else Budget(rate_bytes_per_s, rate_bytes_per_s, now_s)
        self._daily = None if bytes_per_day is None else Budget(bytes_per_day / _DAY_S, bytes_per_day, now_s)
        self._pause_s = 0.0
        self._paused_until_s = now_s

    @property
    def n_queued(self) -> int:
        """Blocks that wait to be written."""
        return len(self._queue)

    @property
    def is_busy(self) -> bool:
        """Whether operations are under way."""
        return bool(self._writing or self._other)

    def limit_rate(self, bytes_per_s: float, now_s: float) -> None:
        """Set the byte rate, which was not given: the disk's own speed has become known, or another."""
        if self._rate is None:
            self._rate = Budget(bytes_per_s, bytes_per_s, now_s)
        self._rate.change(bytes_per_s, bytes_per_s, now_s)

    def admit(self, blocks: Iterable[BlockHash], session: int = NO_SESSION) -> None:
        """Queue blocks of a session to be written, except those on disk or queued already; the oldest give way when
        the queue is full."""
        new = [block for block in blocks if block not in self._queue]
        if not new:
            return
        absent = (self._index.lookup(new) < 0).tolist()
        under_way = self._under_way
        self._queue.update(
            (block, session) for block, is_new in zip(new, absent, strict=True) if is_new and block not in under_way
        )
        n_excess = len(self._queue) - self._max_queued
        if n_excess > 0:
            for block in list(islice(self._queue, n_excess)):
                del self._queue[block]
            self.counts["disk_writes_overflowed"] += n_excess

    def wait_s(self, now_s: float) -> float:
        """Return how long writing has to wait for a budget or after an error; 0 when it may go on."""
        waits = [max(0.0, self._paused_until_s - now_s)]
        waits += [budget.wait_s(now_s) for budget in (self._rate, self._daily) if budget is not None]
        return max(waits)

    def next_order(self, now_s: float) -> WriterOrder | None:
        """Return the next operation for the writer, None while there is nothing to do or it has to wait."""
        if self._index.is_open and self._index.n_left == 0:
            return self.seal()
        if len(self._writing) >= _MOST_WRITES or not self._queue or self.wait_s(now_s) > 0:
            return None
        if not self._index.is_open:
            return self._open()
        run = self._next_run(min(self._max_run_records, self._index.n_left))
        if run is None:
            return None
        blocks, host_rows, sessions = run
        slots = self._index.reserve(len(blocks))
        order = WriteOrder(next(self._numbers), RecordRun(slots.segment, slots.first_slot, tuple(blocks), host_rows))
        self._host.index.pin(_owner(order.number), host_rows, now_s + WRITE_DEADLINE_S)
        self._writing[order.number] = (order, slots.rows, sessions)
        self._under_way.update(blocks)
        for budget in (self._rate, self._daily):
            if budget is not None:
                budget.spend(len(blocks) * self._record_bytes)
        return order

    def seal(self) -> SealOrder | None:
        """End the open segment, if there is one that no write is going to."""
        if not self._index.is_open or self._writing:
            return None
        closing = self._index.close_open()
        order = SealOrder(next(self._numbers), closing.segment, closing.keys, closing.present)
        self._other.add(order.number)
        return order

    def done(self, number: int, failed: bool, now_s: float) -> None:
        """An operation has ended. After a failure the open segment takes no more, and writing pauses for a while."""
        if number in self._writing:
            order, disk_rows, sessions = self._writing.pop(number)
            self._under_way.difference_update(order.run.keys)
            self._host.index.unpin(_owner(number))
            if failed:
                self._index.abort(disk_rows)
            else:
                first = 0
                for session, group in groupby(sessions):
                    last = first + sum(1 for _ in group)
                    self._index.commit(disk_rows[first:last], order.run.keys[first:last], now_s, session)
                    first = last
                self.counts["disk_write_blocks"] += order.run.n_records
                # Not after other operations: a disk may create files and fail to write to them.
                self._pause_s = 0.0
        else:
            self._other.remove(number)
        if not failed:
            return
        self.counts["disk_write_errors"] += 1
        if now_s >= self._paused_until_s:  # what was under way when a pause began does not prolong it
            self._pause_s = min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, 2 * self._pause_s))
            self._paused_until_s = now_s + self._pause_s
        if self._index.is_open:
            self._index.abandon_open()

    def clear(self) -> None:
        """Forget what waits."""
        self._queue.clear()

    def _open(self) -> OpenOrder | None:
        if self._writing:
            return None  # to a segment that was given up: its place must not be taken before they have ended
        opening = self._index.open_next()
        if opening is None:
            return None
        self.counts["disk_segments_removed"] += len(opening.removed)
        order = OpenOrder(next(self._numbers), opening.segment, opening.removed)
        self._other.add(order.number)
        return order

    def _next_run(self, n_most: int) -> tuple[list[BlockHash], Rows, list[int]] | None:
        """Take the oldest queued blocks that are still in host memory; returns their rows and sessions too."""
        while self._queue:
            blocks = list(islice(self._queue, n_most))
            sessions = [self._queue.pop(block) for block in blocks]
            rows = self._host.index.lookup(blocks)
            missing = int(np.count_nonzero(rows < 0))
            self.counts["disk_writes_missed"] += missing
            if missing:
                is_there = (rows >= 0).tolist()
                blocks, sessions = list(compress(blocks, is_there)), list(compress(sessions, is_there))
                rows = rows[rows >= 0]
            if blocks:
                return blocks, rows, sessions
        return None


def _owner(number: int) -> str:
    """The owner of the pin on the rows of a write."""
    return f"disk write {number}"
