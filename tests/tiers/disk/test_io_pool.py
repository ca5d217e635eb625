"""Every operation is carried out once, reads by priority and before writes, and the pool survives what a store does."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from elmas.cache.records import RecordRun
from elmas.cache.rows import as_rows
from elmas.tiers.disk.format import Verdict
from elmas.tiers.disk.io_pool import Done, IoPool

GOOD = Verdict.GOOD
N_ROWS, ROW_BYTES = 64, 8
PATIENCE_S = 10.0


class FakeStore:
    """Segments in memory, a log of what was done, and an event that holds reads or writes up."""

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []
        self.contents: dict[tuple[int, int], bytes] = {}
        self.reads_may_go, self.writes_may_go = threading.Event(), threading.Event()
        self.reads_may_go.set()
        self.writes_may_go.set()
        self.n_reading = 0
        self.failure: Exception | None = None

    def create(self, segment: int) -> None:
        self.log.append(("create", segment))

    def remove(self, segment: int) -> None:
        if self.failure is not None:
            raise self.failure
        self.log.append(("remove", segment))

    def seal(self, segment: int, keys: NDArray[np.uint8], present: NDArray[np.bool_]) -> None:
        self.log.append(("seal", segment, keys.shape, int(present.sum())))

    def write(
        self, segment: int, first_slot: int, keys: Sequence[bytes], payloads: Sequence[NDArray[np.uint8]]
    ) -> None:
        self.log.append(("begin write", segment, first_slot, self.n_reading))
        assert self.writes_may_go.wait(PATIENCE_S)
        if self.failure is not None:
            raise self.failure
        for slot, payload in enumerate(payloads, first_slot):
            self.contents[segment, slot] = payload.tobytes()
        self.log.append(("write", segment, first_slot))

    def read(
        self, segment: int, first_slot: int, keys: Sequence[bytes], payloads: Sequence[NDArray[np.uint8]]
    ) -> list[Verdict]:
        self.log.append(("begin read", segment, first_slot))
        self.n_reading += 1
        assert self.reads_may_go.wait(PATIENCE_S)
        self.n_reading -= 1
        if self.failure is not None:
            raise self.failure
        for slot, payload in enumerate(payloads, first_slot):
            payload[:] = np.frombuffer(self.contents.get((segment, slot), bytes(ROW_BYTES)), dtype=np.uint8)
        self.log.append(("read", segment, first_slot))
        return [GOOD] * len(keys)


def run_of(segment: int, first_slot: int, rows: Sequence[int]) -> RecordRun:
    return RecordRun(segment, first_slot, tuple(bytes([row]) * 32 for row in rows), as_rows(rows))


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it never happened"
        time.sleep(0.001)


def collect(pool: IoPool, n: int) -> list[Done]:
    done: list[Done] = []
    while len(done) < n:
        assert pool.wait_for_any(PATIENCE_S), f"only {done} ended"
        done += pool.poll()
    return done


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def rows() -> NDArray[np.uint8]:
    return np.arange(N_ROWS * ROW_BYTES, dtype=np.uint32).astype(np.uint8).reshape(N_ROWS, ROW_BYTES)


@pytest.fixture
def pool(store: FakeStore, rows: NDArray[np.uint8]) -> Iterator[IoPool]:
    pool = IoPool(store, rows, n_readers=1)
    yield pool
    store.reads_may_go.set()
    store.writes_may_go.set()
    assert pool.close(PATIENCE_S)


def hold_reader(pool: IoPool, store: FakeStore, number: int = 1000) -> None:
    """Give the only reader something that lasts until reads may go."""
    store.reads_may_go.clear()
    pool.read(number, 0.0, run_of(99, 0, [0]))
    until(lambda: store.n_reading == 1)


def test_what_was_written_comes_back_into_other_rows(pool: IoPool, rows: NDArray[np.uint8]) -> None:
    expected = rows[[5, 3, 8]].copy()
    pool.open_segment(0, 7, removed=[])
    pool.write(1, run_of(7, 2, [5, 3, 8]))
    assert [(done.number, done.is_read) for done in collect(pool, 2)] == [(0, False), (1, False)]
    assert pool.take_write_rate()[0] == 24
    pool.read(0, 0.0, run_of(7, 2, [20, 22, 21]))
    (done,) = collect(pool, 1)
    assert (done.number, done.is_read, done.error) == (0, True, None)
    assert done.verdicts == [GOOD] * 3
    assert np.array_equal(rows[[20, 22, 21]], expected)


def test_a_long_read_is_carried_out_in_pieces_by_several_readers(store: FakeStore, rows: NDArray[np.uint8]) -> None:
    pool = IoPool(store, rows, n_piece_records=2, n_readers=3)
    pool.write(0, run_of(7, 0, [1, 2, 3, 4, 5]))
    collect(pool, 1)
    expected = rows[[1, 2, 3, 4, 5]].copy()
    store.reads_may_go.clear()
    pool.read(0, 0.0, run_of(7, 0, [21, 22, 23, 24, 25]))
    until(lambda: store.n_reading == 3)
    assert pool.cancel([0]) == set(), "what has begun ends"
    store.reads_may_go.set()
    (done,) = collect(pool, 1)
    assert (done.verdicts, done.error) == ([GOOD] * 5, None)
    assert np.array_equal(rows[[21, 22, 23, 24, 25]], expected)
    assert pool.take_read_rate()[0] == 5 * ROW_BYTES
    assert pool.close(PATIENCE_S)


def test_a_piece_that_fails_does_not_spoil_the_others(rows: NDArray[np.uint8]) -> None:
    class Spotted(FakeStore):
        def read(self, segment: int, first_slot: int, *arguments: Any) -> list[Verdict]:
            if first_slot == 2:
                raise OSError(5, "a bad spot")
            return super().read(segment, first_slot, *arguments)

    pool = IoPool(Spotted(), rows, n_piece_records=2, n_readers=2)
    pool.write(0, run_of(7, 0, [1, 2, 3, 4, 5]))
    collect(pool, 1)
    pool.read(0, 0.0, run_of(7, 0, [21, 22, 23, 24, 25]))
    (done,) = collect(pool, 1)
    assert done.verdicts == [GOOD, GOOD, None, None, GOOD]
    assert isinstance(done.error, OSError)
    assert pool.close(PATIENCE_S)


def test_reads_go_by_priority_and_then_in_order(pool: IoPool, store: FakeStore) -> None:
    hold_reader(pool, store)
    for number, priority in enumerate([2.0, 1.0, 2.0, 0.5, 1.0]):
        pool.read(number, priority, run_of(1, number, [number]))
    store.reads_may_go.set()
    assert [done.number for done in collect(pool, 6)] == [1000, 3, 1, 4, 0, 2]


def test_only_what_has_not_begun_is_cancelled_and_that_never_ends(pool: IoPool, store: FakeStore) -> None:
    hold_reader(pool, store)
    for number in range(4):
        pool.read(number, 1.0, run_of(1, number, [number]))
    assert pool.cancel([1, 3, 1000, 555]) == {1, 3}
    assert pool.cancel([1]) == set()
    store.reads_may_go.set()
    assert [done.number for done in collect(pool, 3)] == [1000, 0, 2]
    assert ("begin read", 1, 1) not in store.log
    assert pool.poll() == []


def test_cancelled_reads_do_not_pile_up(pool: IoPool, store: FakeStore) -> None:
    hold_reader(pool, store)
    for number in range(5000):
        pool.read(number, 1.0, run_of(1, 0, [1]))
        pool.cancel([number])
    assert len(pool._heap) < 200


@pytest.mark.parametrize("failure", [OSError(5, "no such luck"), RuntimeError("a bug"), MemoryError()])
def test_an_exception_ends_the_operation_and_not_the_thread(pool: IoPool, store: FakeStore, failure: Exception) -> None:
    store.failure = failure
    pool.read(0, 0.0, run_of(1, 0, [1]))
    pool.write(1, run_of(1, 0, [1]))
    pool.open_segment(2, 5, removed=[1, 2])
    for done in collect(pool, 3):
        assert done.error is failure
        assert done.verdicts == ([None] if done.is_read else [])
    assert ("create", 5) not in store.log
    assert pool.take_read_rate()[0] == pool.take_write_rate()[0] == 0
    store.failure = None
    pool.read(0, 0.0, run_of(1, 0, [1]))
    pool.write(1, run_of(1, 0, [1]))
    assert [done.error for done in collect(pool, 2)] == [None, None]


def test_a_segment_that_cannot_be_removed_does_not_keep_the_others() -> None:
    class Stubborn(FakeStore):
        def remove(self, segment: int) -> None:
            if segment == 2:
                raise OSError(13, "not this one")
            super().remove(segment)

    store = Stubborn()
    pool = IoPool(store, np.zeros((1, ROW_BYTES), dtype=np.uint8))
    pool.remove_segments(0, [1, 2, 3])
    (done,) = collect(pool, 1)
    assert isinstance(done.error, OSError)
    assert store.log == [("remove", 1), ("remove", 3)]
    assert pool.close(PATIENCE_S)


def test_records_are_written_between_the_opening_and_the_sealing_of_their_segment(
    pool: IoPool, store: FakeStore
) -> None:
    for number in range(0, 40, 4):
        pool.open_segment(number, number, removed=[number + 100])
        pool.write(number + 1, run_of(number, 0, [1]))
        pool.write(number + 2, run_of(number, 1, [2]))
        pool.seal(number + 3, number, np.zeros((2, 32), dtype=np.uint8), np.array([True, True]))
    collect(pool, 40)
    log = [entry for entry in store.log if entry[0] != "begin write"]
    for number in range(0, 40, 4):
        opened, written, sealed = log[:2], log[2:4], log[4]
        del log[:5]
        assert opened == [("remove", number + 100), ("create", number)]
        assert sorted(written) == [("write", number, 0), ("write", number, 1)]
        assert sealed == ("seal", number, (2, 32), 2)


def test_writes_run_together_and_nothing_else_beside_them(pool: IoPool, store: FakeStore) -> None:
    store.writes_may_go.clear()
    pool.write(0, run_of(4, 0, [1]))
    pool.write(1, run_of(4, 1, [2]))
    pool.seal(2, 4, np.zeros((2, 32), dtype=np.uint8), np.array([True, True]))
    until(lambda: sum(entry[0] == "begin write" for entry in store.log) == 2)
    assert pool.poll() == []
    store.writes_may_go.set()
    assert collect(pool, 3)[-1].number == 2


def test_the_write_rate_counts_writes_that_run_together_once(pool: IoPool, store: FakeStore) -> None:
    store.writes_may_go.clear()
    begin_s = time.monotonic()
    pool.write(0, run_of(4, 0, [1]))
    pool.write(1, run_of(4, 1, [2]))
    until(lambda: sum(entry[0] == "begin write" for entry in store.log) == 2)
    time.sleep(0.05)
    store.writes_may_go.set()
    collect(pool, 2)
    n_bytes, busy_s = pool.take_write_rate()
    assert n_bytes == 2 * ROW_BYTES
    assert 0.05 <= busy_s <= time.monotonic() - begin_s


def test_writes_wait_for_reads_that_run_or_are_queued(pool: IoPool, store: FakeStore) -> None:
    hold_reader(pool, store)
    pool.write(0, run_of(1, 0, [1]))
    pool.read(1, 1.0, run_of(1, 5, [2]))
    time.sleep(0.05)
    assert not any(entry[0] == "begin write" for entry in store.log)
    store.reads_may_go.set()
    collect(pool, 3)
    assert store.log.index(("begin write", 1, 0, 0)) > store.log.index(("read", 1, 5))


def test_a_write_begins_at_once_when_the_last_queued_read_is_cancelled(
    store: FakeStore, rows: NDArray[np.uint8]
) -> None:
    pool = IoPool(store, rows, n_readers=0)  # so that no reader takes the read meanwhile
    pool.read(0, 1.0, run_of(1, 5, [2]))
    pool.write(1, run_of(1, 1, [1]))
    assert not pool.wait_for_any(0.05)
    pool.cancel([0])
    assert pool.wait_for_any(1.0)
    assert pool.close(PATIENCE_S)


def test_reads_that_never_end_do_not_starve_writes_for_ever(store: FakeStore, rows: NDArray[np.uint8]) -> None:
    pool = IoPool(store, rows, n_readers=1, max_write_delay_s=0.1)
    hold_reader(pool, store)
    begin_s = time.monotonic()
    pool.write(0, run_of(1, 0, [1]))
    collect(pool, 1)
    assert 0.1 <= time.monotonic() - begin_s < PATIENCE_S / 2
    store.reads_may_go.set()
    assert pool.close(PATIENCE_S)


def test_close_drops_queued_reads_and_finishes_queued_writes(store: FakeStore, rows: NDArray[np.uint8]) -> None:
    pool = IoPool(store, rows, n_readers=1)
    hold_reader(pool, store)
    pool.read(1, 1.0, run_of(1, 1, [1]))
    for number in range(20):
        pool.write(number, run_of(2, number, [number]))
    threading.Timer(0.05, store.reads_may_go.set).start()
    assert pool.close(PATIENCE_S)
    done = pool.poll()
    assert sorted(each.number for each in done if not each.is_read) == list(range(20))
    assert [each.number for each in done if each.is_read] == [1000]
    with pytest.raises(ValueError, match="closed"):
        pool.read(5, 0.0, run_of(1, 0, [0]))


def test_close_returns_in_time_when_the_store_hangs_and_nothing_begins_later(
    store: FakeStore, rows: NDArray[np.uint8]
) -> None:
    pool = IoPool(store, rows, n_readers=2, n_writers=1)
    store.writes_may_go.clear()
    pool.write(0, run_of(1, 0, [1]))
    pool.write(1, run_of(1, 1, [1]))
    until(lambda: ("begin write", 1, 0, 0) in store.log)
    hold_reader(pool, store)
    begin_s = time.monotonic()
    assert not pool.close(0.2)
    assert time.monotonic() - begin_s < 1.0
    store.reads_may_go.set()
    store.writes_may_go.set()
    assert pool.close(PATIENCE_S)
    assert ("begin write", 1, 1, 0) not in store.log


def test_thousands_of_operations_end_exactly_once(store: FakeStore, rows: NDArray[np.uint8]) -> None:
    pool = IoPool(store, rows, n_readers=4, max_write_delay_s=0.01)
    n_reads, n_writes = 3000, 1000
    expected: list[tuple[bool, int]] = []
    cancelled: set[int] = set()
    done: list[Done] = []
    for number in range(n_reads):
        pool.read(number, number % 7, run_of(3, number, [number % 32]))
        if number % 3 == 0:
            pool.write(number // 3, run_of(4, number, [32 + number % 32]))
        if number % 10 == 9:
            cancelled |= pool.cancel([number - 1, number])
            done += pool.poll()
    expected = [(True, n) for n in range(n_reads) if n not in cancelled] + [(False, n) for n in range(n_writes)]
    done += collect(pool, len(expected) - len(done))
    assert pool.close(PATIENCE_S)
    assert sorted((each.is_read, each.number) for each in done) == sorted(expected)
    assert pool.poll() == []


def test_the_read_rate_counts_the_time_with_a_read_under_way(pool: IoPool, store: FakeStore) -> None:
    assert pool.take_read_rate() == (0, 0.0)
    hold_reader(pool, store)
    time.sleep(0.05)
    n_bytes, busy_s = pool.take_read_rate()
    assert n_bytes == 0
    assert 0.05 <= busy_s < PATIENCE_S
    store.reads_may_go.set()
    collect(pool, 1)
    until(lambda: store.n_reading == 0)
    assert pool.take_read_rate()[0] == ROW_BYTES
    time.sleep(0.05)
    assert pool.take_read_rate() == (0, 0.0)


def test_waiting_ends_at_the_timeout_when_nothing_happens(pool: IoPool) -> None:
    begin_s = time.monotonic()
    assert not pool.wait_for_any(0.05)
    assert time.monotonic() - begin_s >= 0.05
