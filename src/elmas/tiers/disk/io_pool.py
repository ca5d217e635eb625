"""The threads that carry out disk operations on rows of the host region: the only ones in the disk tier.

Several readers take reads by priority; a few writers take everything else in order, and let reads go first. What ended
is polled by the thread that owns the pool's orders. Knows nothing about which block belongs where, or why.
"""

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from elmas.cache.records import RecordRun
from elmas.tiers.disk.format import Verdict


class Store(Protocol):
    """Where segments are kept. Everything may run in several threads, on one segment only reads, and writes of records;
    any of it may raise OSError."""

    def create(self, segment: int) -> None:
        """Make an empty segment that can be written to."""

    def write(
        self, segment: int, first_slot: int, keys: Sequence[bytes], payloads: Sequence[NDArray[np.uint8]]
    ) -> None:
        """Write adjacent records."""

    def seal(self, segment: int, keys: NDArray[np.uint8], present: NDArray[np.bool_]) -> None:
        """Complete a segment: `keys` is (n_slots, 32), `present` (n_slots,) says which slots hold a block."""

    def remove(self, segment: int) -> None:
        """Delete a segment."""

    def read(
        self, segment: int, first_slot: int, keys: Sequence[bytes], payloads: Sequence[NDArray[np.uint8]]
    ) -> list[Verdict]:
        """Read adjacent records into `payloads` and verify them; returns one verdict per record."""


@dataclass(frozen=True)
class Done:
    """An operation that has ended. Reads and writes are numbered apart, so `is_read` belongs to the number.

    `verdicts` has one for each record of a read, None where the read failed: then nothing is known about the row.
    `error` is what the operation raised, or the first of its pieces that did.
    """

    number: int
    is_read: bool
    verdicts: list[Verdict | None] = field(default_factory=list)
    error: Exception | None = None


@dataclass(eq=False)
class _Read:
    """A read under way or queued, in pieces; `verdicts` are those of each piece once it has ended."""

    number: int
    pieces: list[RecordRun]
    verdicts: list[list[Verdict | None]]
    n_queued: int
    n_left: int
    error: Exception | None = None


@dataclass(frozen=True, eq=False)
class _Write:
    """An operation of the writers on `segments`: it writes records, or it opens, completes or removes segments."""

    number: int
    n_bytes: int
    run: Callable[[], None]
    segments: frozenset[int]
    is_record_write: bool = False

    def has_to_follow(self, other: "_Write") -> bool:
        """Return whether this has to wait for the end of an earlier one."""
        return not (self.is_record_write and other.is_record_write) and not self.segments.isdisjoint(other.segments)


@dataclass
class _Meter:
    """Operations of one kind under way, and since the last `take` the bytes they moved and the time any was running."""

    n_running: int = 0
    n_bytes: int = 0
    busy_s: float = 0.0
    _since_s: float = 0.0

    def begin(self) -> None:
        self._advance()
        self.n_running += 1

    def end(self, n_bytes: int) -> None:
        self._advance()
        self.n_running -= 1
        self.n_bytes += n_bytes

    def take(self) -> tuple[int, float]:
        self._advance()
        taken = self.n_bytes, self.busy_s
        self.n_bytes, self.busy_s = 0, 0.0
        return taken

    def _advance(self) -> None:
        now_s = time.monotonic()
        if self.n_running:
            self.busy_s += now_s - self._since_s
        self._since_s = now_s


class IoPool:
    """Carries out operations on `store` with the rows of `rows`, shaped (n_rows, row_bytes).

    The rows of an operation belong to it from the order until its `Done` was polled or its cancellation confirmed.
    A read of more than `n_piece_records` records (None: any number) is carried out in pieces, by several readers. A
    write begins when no read is queued or running, or when it has waited `max_write_delay_s` at the head of its queue.
    Of the operations on one segment only writes of records run together, all others in their order; those on different
    segments, on up to `n_writers` threads, do not wait for each other. One thread gives orders and polls; the others
    are the pool's own, and never die of an exception.
    """

    def __init__(
        self,
        store: Store,
        rows: NDArray[np.uint8],
        n_piece_records: int | None = None,
        n_readers: int = 4,
        n_writers: int = 4,
        max_write_delay_s: float = 5.0,
    ) -> None:
        self._store = store
        self._rows = rows
        self._row_bytes = rows.shape[1]
        self._max_write_delay_s = max_write_delay_s
        self._lock = threading.Lock()
        self._has_reads = threading.Condition(self._lock)
        self._may_write = threading.Condition(self._lock)
        self._order = count()
        self._n_piece_records = n_piece_records
        self._not_begun: dict[int, _Read] = {}
        self._n_queued = 0
        self._heap: list[tuple[float, int, _Read, int]] = []
        self._writes: deque[_Write] = deque()
        self._reading, self._writing = _Meter(), _Meter()
        self._under_way: list[_Write] = []
        self._is_closing = False
        self._is_over = False
        self._done: deque[Done] = deque()
        self._has_done = threading.Event()
        targets = [(f"elmas-disk-read-{number}", self._read_forever) for number in range(n_readers)]
        targets += [(f"elmas-disk-write-{number}", self._write_forever) for number in range(n_writers)]
        self._threads = [threading.Thread(target=target, name=name, daemon=True) for name, target in targets]
        for thread in self._threads:
            thread.start()

    # Orders

    def read(self, number: int, priority: float, run: RecordRun) -> None:
        """Read a run into its rows. Smaller priorities go first, equal ones in the order of their submission."""
        with self._lock:
            self._check_open()
            pieces = _pieces(run, self._n_piece_records or run.n_records)
            read = _Read(number, pieces, [[] for _ in pieces], len(pieces), len(pieces))
            self._not_begun[number] = read
            self._n_queued += len(pieces)
            for place in range(len(pieces)):
                heapq.heappush(self._heap, (priority, next(self._order), read, place))
            self._has_reads.notify(len(pieces))

    def cancel(self, numbers: Iterable[int]) -> set[int]:
        """Drop those of the reads that have not begun, and return them: they will never be done."""
        with self._lock:
            dropped = {number: read for number in numbers if (read := self._not_begun.pop(number, None)) is not None}
            for read in dropped.values():
                self._n_queued -= read.n_queued
                read.n_queued = 0
            if len(self._heap) > 2 * self._n_queued + 64:
                self._heap = [entry for entry in self._heap if entry[2].n_queued]
                heapq.heapify(self._heap)
            if self._is_quiet():
                self._may_write.notify_all()
        return set(dropped)

    def write(self, number: int, run: RecordRun) -> None:
        """Write a run from its rows, once its segment is open."""

        def carry_out() -> None:
            self._store.write(run.segment, run.first_slot, run.keys, self._payloads(run))

        self._order_write(
            _Write(number, run.n_records * self._row_bytes, carry_out, frozenset([run.segment]), is_record_write=True)
        )

    def open_segment(self, number: int, segment: int, removed: Sequence[int]) -> None:
        """Remove segments, all that can be, and then create one, unless a removal failed."""

        def carry_out() -> None:
            self._remove(removed)
            self._store.create(segment)

        self._order_write(_Write(number, 0, carry_out, frozenset([segment, *removed])))

    def remove_segments(self, number: int, removed: Sequence[int]) -> None:
        """Remove segments, all that can be."""
        self._order_write(_Write(number, 0, lambda: self._remove(removed), frozenset(removed)))

    def seal(self, number: int, segment: int, keys: NDArray[np.uint8], present: NDArray[np.bool_]) -> None:
        """Complete a segment."""
        self._order_write(_Write(number, 0, lambda: self._store.seal(segment, keys, present), frozenset([segment])))

    # Results

    def poll(self) -> list[Done]:
        """Return what has ended since the last call. Never waits, and takes no lock."""
        done = self._done
        return [done.popleft() for _ in range(len(done))]

    def wait_for_any(self, timeout_s: float) -> bool:
        """Wait until something can be polled; returns whether it can."""
        deadline_s = time.monotonic() + timeout_s
        while not self._done:
            self._has_done.clear()
            # Again, for what ended just before the flag was cleared.
            if not self._done and not self._has_done.wait(deadline_s - time.monotonic()):
                break
        return bool(self._done)

    def take_read_rate(self) -> tuple[int, float]:
        """Return the bytes read, and the seconds in which at least one read ran, since the last call."""
        with self._lock:
            return self._reading.take()

    def take_write_rate(self) -> tuple[int, float]:
        """Return the bytes written, and the seconds in which at least one write ran, since the last call."""
        with self._lock:
            return self._writing.take()

    def close(self, timeout_s: float) -> bool:
        """Drop the queued reads, finish the queued writes within the time, and end the threads.

        Returns whether all have ended. Those that hang in an operation end with the process, and begin no other.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._lock:
            self._is_closing = True
            for _, _, read, _ in self._heap:
                read.n_queued = 0
            self._not_begun.clear()
            self._heap.clear()
            self._n_queued = 0
            self._has_reads.notify_all()
            self._may_write.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        with self._lock:
            self._is_over = True
        return not any(thread.is_alive() for thread in self._threads)

    # Readers

    def _read_forever(self) -> None:
        while (taken := self._begin_read()) is not None:
            read, place = taken
            piece, verdicts, error = read.pieces[place], None, None
            try:
                verdicts = self._store.read(piece.segment, piece.first_slot, piece.keys, self._payloads(piece))
            except Exception as caught:
                error = caught
            if self._end_read(read, place, verdicts, error):
                self._report(Done(read.number, True, list(chain.from_iterable(read.verdicts)), read.error))

    def _begin_read(self) -> tuple[_Read, int] | None:
        with self._lock:
            while not self._is_closing:
                while self._heap:
                    _, _, read, place = heapq.heappop(self._heap)
                    if not read.n_queued:
                        continue  # cancelled
                    self._not_begun.pop(read.number, None)
                    read.n_queued -= 1
                    self._n_queued -= 1
                    self._reading.begin()
                    return read, place
                self._has_reads.wait()
        return None

    def _end_read(self, read: _Read, place: int, verdicts: list[Verdict] | None, error: Exception | None) -> bool:
        """A piece has ended; returns whether that was the last of its read."""
        with self._lock:
            self._reading.end(len(verdicts or ()) * self._row_bytes)
            read.verdicts[place] = [None] * read.pieces[place].n_records if verdicts is None else list(verdicts)
            read.error = read.error or error
            read.n_left -= 1
            if self._is_quiet():
                self._may_write.notify_all()
            return read.n_left == 0

    # Writers

    def _order_write(self, write: _Write) -> None:
        with self._lock:
            self._check_open()
            self._writes.append(write)
            self._may_write.notify_all()

    def _write_forever(self) -> None:
        while (write := self._begin_write()) is not None:
            error, n_bytes = None, 0
            try:
                write.run()
                n_bytes = write.n_bytes
            except Exception as caught:
                error = caught
            self._end_write(write, n_bytes)
            self._report(Done(write.number, False, error=error))

    def _begin_write(self) -> _Write | None:
        """Wait for the next write that may begin; returns it, or None when the pool is closed and all are done."""
        with self._lock:
            while True:
                self._may_write.wait_for(lambda: self._next_write() or (self._is_closing and not self._writes))
                write = self._next_write()
                if write is None:
                    return None
                self._may_write.wait_for(partial(self._need_not_wait, write), self._max_write_delay_s)
                if self._is_over:
                    return None
                if self._next_write() is not write:
                    continue  # another writer has it
                self._writes.remove(write)
                self._under_way.append(write)
                if write.is_record_write:
                    self._writing.begin()
                return write

    def _end_write(self, write: _Write, n_bytes: int) -> None:
        with self._lock:
            self._under_way.remove(write)
            if write.is_record_write:
                self._writing.end(n_bytes)
            self._may_write.notify_all()

    def _need_not_wait(self, write: _Write) -> bool:
        return self._is_quiet() or self._is_closing or self._next_write() is not write

    def _next_write(self) -> _Write | None:
        """Return the first write that nothing before it keeps from beginning, None when there is none."""
        before = self._under_way.copy()
        for write in self._writes:
            if not any(write.has_to_follow(other) for other in before):
                return write
            before.append(write)
        return None

    def _is_quiet(self) -> bool:
        return self._n_queued == 0 and self._reading.n_running == 0

    # Both

    def _check_open(self) -> None:
        if self._is_closing:
            raise ValueError("the pool is closed")

    def _payloads(self, run: RecordRun) -> list[NDArray[np.uint8]]:
        return [self._rows[row] for row in run.rows.tolist()]

    def _remove(self, segments: Sequence[int]) -> None:
        failure: Exception | None = None
        for segment in segments:
            try:
                self._store.remove(segment)
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _report(self, done: Done) -> None:
        self._done.append(done)
        self._has_done.set()


def _pieces(run: RecordRun, n_most: int) -> list[RecordRun]:
    """Return the run in pieces of at most `n_most` records."""
    if run.n_records <= n_most:
        return [run]
    return [
        RecordRun(
            run.segment, run.first_slot + first, run.keys[first : first + n_most], run.rows[first : first + n_most]
        )
        for first in range(0, run.n_records, n_most)
    ]
