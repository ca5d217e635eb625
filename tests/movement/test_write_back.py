"""Writes stay within their budgets, hold rows only while they are under way, and show a block only once it is there.

A random life of the write-back against a plain model: blocks are admitted and evicted, operations end late, in random
order, and fail; the disk is smaller than what is written to it.
"""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elmas.cache.rows import NO_ROW, BlockHash
from elmas.cache.segments import SegmentIndex
from elmas.movement.host_tier import HostTier
from elmas.movement.write_back import Budget, OpenOrder, SealOrder, WriteBack, WriteOrder
from tests.movement.disks import chain, make_disk, make_host, put_in_host

RECORD_BYTES = 100
BLOCKS = [chain([number])[0] for number in range(60)]


def make_write_back(
    host: HostTier,
    index: SegmentIndex,
    max_run_records: int = 4,
    max_queued: int = 100,
    rate: float | None = None,
    per_day: int | None = None,
) -> WriteBack:
    return WriteBack(
        index,
        host,
        record_bytes=RECORD_BYTES,
        max_run_records=max_run_records,
        max_queued=max_queued,
        rate_bytes_per_s=rate,
        bytes_per_day=per_day,
        now_s=0.0,
    )


class Life:
    """Plays admissions, evictions and ends of operations, and knows what must be where."""

    def __init__(self, rng: random.Random, failure_share: float) -> None:
        self.rng = rng
        self.failure_share = failure_share
        self.now_s = 0.0
        self.n_segments = rng.randint(2, 4)
        self.max_queued = rng.choice([5, 20, 100])
        self.max_run_records = rng.randint(1, 5)
        self.rate = rng.choice([None, 150.0, 1000.0])
        self.per_day = rng.choice([None, 5000])
        self.host = make_host(rng.choice([4, 12, 40]))
        self.index = make_disk(rng.randint(2, 9), self.n_segments)
        self.write_back = make_write_back(
            self.host, self.index, self.max_run_records, self.max_queued, self.rate, self.per_day
        )
        self.writes: dict[int, WriteOrder] = {}
        self.others: dict[int, OpenOrder | SealOrder] = {}
        self.on_disk: dict[BlockHash, tuple[int, int]] = {}
        self.next_slot: dict[int, int] = {}
        self.segments: set[int] = set()
        self.spent: list[tuple[float, int]] = []
        self.n_written = self.n_lost = self.n_wanted = 0

    @property
    def under_way(self) -> list[BlockHash]:
        return [block for order in self.writes.values() for block in order.run.keys]

    def admit(self) -> None:
        blocks = self.rng.sample(BLOCKS, self.rng.randint(1, 10))
        if self.rng.random() < 0.7:
            held = self.host.index
            put_in_host(self.host, [block for block in blocks if not held.is_held(block)])
        before = self.n_settled()
        n_new = len(set(blocks) - set(self.on_disk) - set(self.under_way))
        n_before = self.write_back.n_queued
        self.write_back.admit(blocks)
        n_added = self.write_back.n_queued - n_before + self.n_settled() - before
        assert 0 <= n_added <= n_new, "what is on disk or on its way there is not queued again"
        self.n_wanted += n_added

    def n_settled(self) -> int:
        """Blocks that left the queue without being written."""
        return self.write_back.counts["disk_writes_missed"] + self.write_back.counts["disk_writes_overflowed"]

    def order(self) -> bool:
        may_write = self.write_back.wait_s(self.now_s) == 0
        n_missed, n_queued = self.write_back.counts["disk_writes_missed"], self.write_back.n_queued
        order = self.write_back.next_order(self.now_s)
        n_missed = self.write_back.counts["disk_writes_missed"] - n_missed
        n_taken = order.run.n_records if isinstance(order, WriteOrder) else 0
        assert self.write_back.n_queued == n_queued - n_taken - n_missed
        assert order is None or may_write or isinstance(order, SealOrder), "a budget or a pause was not respected"
        if isinstance(order, WriteOrder):
            self.check_write(order)
            self.writes[order.number] = order
            self.spent.append((self.now_s, order.run.n_records * RECORD_BYTES))
        elif isinstance(order, OpenOrder):
            assert not self.writes, "writes to a segment that was given up are still under way"
            assert self.segments.issuperset(order.removed)
            self.segments -= set(order.removed)
            self.segments.add(order.segment)
            self.on_disk = {block: place for block, place in self.on_disk.items() if place[0] in self.segments}
            self.next_slot[order.segment] = 0
            self.others[order.number] = order
        elif isinstance(order, SealOrder):
            assert not self.writes
            assert self.next_slot[order.segment] == self.index.n_slots, "a segment is sealed when it is full"
            held = {place[1]: block for block, place in self.on_disk.items() if place[0] == order.segment}
            assert np.flatnonzero(order.present).tolist() == sorted(held)
            assert all(order.keys[slot].tobytes() == block for slot, block in held.items())
            self.others[order.number] = order
        return order is not None

    def check_write(self, order: WriteOrder) -> None:
        run = order.run
        assert 1 <= run.n_records <= self.max_run_records
        assert not set(run.keys).intersection(self.under_way, self.on_disk), "a block is written twice"
        assert self.host.index.lookup(run.keys).tolist() == run.rows.tolist()
        assert run.first_slot == self.next_slot[run.segment]
        self.next_slot[run.segment] += run.n_records
        assert self.next_slot[run.segment] <= self.index.n_slots

    def end(self) -> None:
        number = self.rng.choice([*self.writes, *self.others])
        failed = self.rng.random() < self.failure_share
        self.write_back.done(number, failed, self.now_s)
        write = self.writes.pop(number, None)
        if write is None:
            del self.others[number]
        elif failed:
            self.n_lost += write.run.n_records
        else:
            self.n_written += write.run.n_records
            for slot, block in enumerate(write.run.keys, start=write.run.first_slot):
                self.on_disk[block] = (write.run.segment, slot)
        if failed:
            assert self.write_back.wait_s(self.now_s) > 0
            assert not self.index.is_open, "nothing more is written to a segment after an error"

    def check(self) -> None:
        found = [None if row < 0 else self.index.place_of(row) for row in self.index.lookup(BLOCKS).tolist()]
        assert found == [self.on_disk.get(block) for block in BLOCKS], "found is what was written, and nothing else"
        self.index.check_integrity()
        self.host.index.check_integrity()
        assert self.host.index.occupancy().n_pinned == len(self.under_way), "pinned are the rows being written"
        assert (self.host.index.lookup(self.under_way) >= 0).all()
        assert self.write_back.n_queued <= self.max_queued
        assert self.write_back.is_busy == bool(self.writes or self.others)
        assert len(self.writes) <= 2
        assert self.index.n_segments == len(self.segments) <= self.n_segments
        counts = self.write_back.counts
        assert counts["disk_write_blocks"] == self.n_written
        n_left = self.write_back.n_queued + len(self.under_way)
        assert self.n_wanted == self.n_written + self.n_lost + self.n_settled() + n_left, "a block was lost count of"

    def check_budgets(self) -> None:
        largest = self.max_run_records * RECORD_BYTES
        for per_s, burst in ((self.rate, self.rate), (self.per_day and self.per_day / 86400, self.per_day)):
            if per_s is None or burst is None:
                continue
            for first, (begin_s, _) in enumerate(self.spent):
                n_bytes = 0
                for at_s, size in self.spent[first:]:
                    n_bytes += size
                    assert n_bytes <= burst + (at_s - begin_s) * per_s + largest + 1e-6


@settings(max_examples=100, derandomize=True)
@given(seed=st.integers(0, 2**32), failure_share=st.sampled_from([0.0, 0.1, 0.5]))
def test_a_life_of_writes_matches_the_model(seed: int, failure_share: float) -> None:
    life = Life(random.Random(seed), failure_share)
    for _ in range(120):
        action = life.rng.random()
        if action < 0.25:
            life.admit()
        elif action < 0.35:
            put_in_host(life.host, chain([life.rng.random() for _ in range(3)]))
        elif action < 0.7:
            while life.order() and life.rng.random() < 0.7:
                pass
        elif life.writes or life.others:
            life.end()
        life.now_s += life.rng.choice([0.0, 0.0, 0.01, 0.3, 5.0])
        life.check()
    life.check_budgets()
    while life.writes or life.others:
        life.end()
    life.check()
    assert life.host.index.occupancy().n_pinned == 0


@settings(max_examples=100, derandomize=True)
@given(
    per_s=st.floats(1.0, 1e9),
    burst_s=st.floats(0.1, 10.0),
    steps=st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 3.0)), max_size=40),
)
def test_a_budget_allows_its_rate_and_a_burst_and_says_how_long_to_wait(
    per_s: float, burst_s: float, steps: list[tuple[float, float]]
) -> None:
    budget, now_s, spent = Budget(per_s, per_s * burst_s, 0.0), 0.0, 0.0
    for pause_s, size_s in steps:
        now_s += pause_s
        wait_s = budget.wait_s(now_s)
        if wait_s > 0:
            assert budget.wait_s(now_s + 0.99 * wait_s) > 0
            now_s += 1.01 * wait_s + 1e-6
            assert budget.wait_s(now_s) == 0
        assert spent <= per_s * (burst_s + now_s) * (1 + 1e-9), "the debt was not waited off"
        budget.spend(size_s * per_s)
        spent += size_s * per_s


# By hand


def admitted(write_back: WriteBack, host: HostTier, blocks: list[BlockHash]) -> None:
    put_in_host(host, blocks)
    write_back.admit(blocks)


def open_segment(write_back: WriteBack, now_s: float = 0.0) -> OpenOrder:
    order = write_back.next_order(now_s)
    assert isinstance(order, OpenOrder)
    write_back.done(order.number, False, now_s)
    return order


def next_write(write_back: WriteBack, now_s: float = 0.0) -> WriteOrder:
    order = write_back.next_order(now_s)
    assert isinstance(order, WriteOrder)
    return order


def test_the_oldest_give_way_in_a_full_queue() -> None:
    host = make_host(60)
    write_back = make_write_back(host, make_disk(8, 2), max_queued=5)
    put_in_host(host, BLOCKS[:12])
    write_back.admit(BLOCKS[:4])
    write_back.admit(BLOCKS[2:12])
    assert write_back.n_queued == 5
    assert write_back.counts["disk_writes_overflowed"] == 7
    open_segment(write_back)
    assert next_write(write_back).run.keys == tuple(BLOCKS[7:11])


def test_a_block_that_was_evicted_before_its_turn_is_skipped_and_counted() -> None:
    host = make_host(4)
    write_back = make_write_back(host, make_disk(8, 2))
    admitted(write_back, host, BLOCKS[:2])
    admitted(write_back, host, BLOCKS[2:4])
    put_in_host(host, BLOCKS[10:12])  # in the place of the first two
    open_segment(write_back)
    assert next_write(write_back).run.keys == tuple(BLOCKS[2:4])
    assert write_back.counts["disk_writes_missed"] == 2


def test_rows_being_written_are_kept_until_the_write_has_ended() -> None:
    host = make_host(4)
    write_back = make_write_back(host, make_disk(8, 2))
    admitted(write_back, host, BLOCKS[:4])
    open_segment(write_back)
    write = next_write(write_back)
    assert put_in_host(host, BLOCKS[10:14]).size == 0
    write_back.done(write.number, True, 0.0)
    assert put_in_host(host, BLOCKS[10:14]).size == 4


def test_a_block_under_way_is_not_queued_again_and_one_whose_write_failed_may_be() -> None:
    host, index = make_host(8), make_disk(8, 2)
    write_back = make_write_back(host, index)
    admitted(write_back, host, BLOCKS[:2])
    open_segment(write_back)
    write = next_write(write_back)
    write_back.admit(BLOCKS[:2])
    assert write_back.n_queued == 0
    write_back.done(write.number, True, 0.0)
    assert (index.lookup(BLOCKS[:2]) == NO_ROW).all()
    write_back.admit(BLOCKS[:2])
    assert write_back.n_queued == 2


def test_a_full_segment_is_sealed_though_nothing_else_is_to_be_written() -> None:
    host, index = make_host(8), make_disk(4, 2)
    write_back = make_write_back(host, index, rate=10.0)
    admitted(write_back, host, BLOCKS[:4])
    open_segment(write_back)
    write = next_write(write_back)
    assert write_back.next_order(0.0) is None
    write_back.done(write.number, False, 0.0)
    assert isinstance(write_back.next_order(0.0), SealOrder)
    assert not index.is_open
    assert write_back.next_order(0.0) is None


def test_pauses_grow_while_writes_fail_although_files_can_be_created() -> None:
    host, index = make_host(40), make_disk(8, 2)
    write_back = make_write_back(host, index)
    now_s, pauses = 0.0, []
    for _ in range(9):
        admitted(write_back, host, BLOCKS[:8])
        open_segment(write_back, now_s)
        writes = [next_write(write_back, now_s), next_write(write_back, now_s)]
        for write in writes:  # what was under way together is one failure
            write_back.done(write.number, True, now_s)
        pauses.append(write_back.wait_s(now_s))
        assert write_back.next_order(now_s + 0.99 * pauses[-1]) is None
        now_s += pauses[-1]
        host.index.clear()
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    admitted(write_back, host, BLOCKS[:8])
    open_segment(write_back, now_s)
    good, bad = next_write(write_back, now_s), next_write(write_back, now_s)
    write_back.done(good.number, False, now_s)
    write_back.done(bad.number, True, now_s)
    assert write_back.wait_s(now_s) == 1.0, "a write that succeeds ends the series"


def test_writes_that_keep_failing_cost_one_segment_at_most() -> None:
    host, index = make_host(40), make_disk(4, 4)
    write_back = make_write_back(host, index)
    now_s = 0.0
    for number in range(4):
        keys = np.frombuffer(b"".join(BLOCKS[4 * number : 4 * number + 4]), dtype=np.uint8).reshape(4, 32)
        assert index.restore(number, keys, np.ones(4, dtype=np.bool_)), "as after a restart: nothing was used yet"
    for _ in range(10):
        admitted(write_back, host, BLOCKS[40:44])
        open_segment(write_back, now_s)
        write_back.done(next_write(write_back, now_s).number, True, now_s)
        now_s += write_back.wait_s(now_s)
        host.index.clear()
    assert index.n_blocks == 12


def test_a_disk_that_cannot_create_files_costs_one_segment_at_most() -> None:
    host, index = make_host(40), make_disk(4, 3)
    write_back = make_write_back(host, index)
    now_s = 0.0
    for number in range(3):
        admitted(write_back, host, BLOCKS[4 * number : 4 * number + 4])
        open_segment(write_back)
        write_back.done(next_write(write_back).number, False, 0.0)
        seal = write_back.next_order(0.0)
        assert isinstance(seal, SealOrder)
        write_back.done(seal.number, False, 0.0)
    admitted(write_back, host, BLOCKS[40:44])
    for _ in range(10):
        order = write_back.next_order(now_s)
        assert isinstance(order, OpenOrder)
        write_back.done(order.number, True, now_s)
        now_s += write_back.wait_s(now_s)
    assert index.n_blocks == 8
    assert write_back.counts["disk_write_errors"] == 10
    assert write_back.n_queued == 4


@pytest.mark.parametrize("first_rate", [100.0, 1000.0])
def test_a_measured_rate_holds_whatever_was_measured_before(first_rate: float) -> None:
    host = make_host(2000)
    write_back = make_write_back(host, make_disk(1000, 2), max_run_records=1, max_queued=2000)
    write_back.limit_rate(first_rate, 0.0)
    blocks = chain(range(2000))
    admitted(write_back, host, blocks)
    open_segment(write_back)
    n_written: Counter[bool] = Counter()
    for step in range(30):  # steps of half a second
        now_s = step / 2
        write_back.limit_rate(2000.0, now_s)
        while (order := write_back.next_order(now_s)) is not None:
            write_back.done(order.number, False, now_s)
            n_written[step >= 10] += 1
    # 20 records a second, 20 at once at most.
    assert 190 <= n_written[True] <= 201


def test_what_is_cleared_is_not_written() -> None:
    host = make_host(8)
    write_back = make_write_back(host, make_disk(8, 2))
    admitted(write_back, host, BLOCKS[:4])
    write_back.clear()
    assert write_back.n_queued == 0
    assert write_back.next_order(0.0) is None
