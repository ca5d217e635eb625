"""Reads from disk serve every waiting request once and lose nothing, whatever happens meanwhile.

A random life of requests that share prefixes: reads end late, in random order and with random verdicts, requests leave
at any time, segments are given up under their wishes, and stores take rows.
"""

from dataclasses import dataclass, field

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from elmas.cache.rows import NO_ROW, BlockHash
from elmas.movement.prefetch import Prefetcher, ReadOrder
from tests.movement.disks import chain, disk_with, give_up_a_segment, is_part, make_host, wanted_of

PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=7)


@dataclass
class Request:
    """What a request asked for, what is resident for it, and whether it was told that its reads have ended."""

    hashes: list[BlockHash]
    wanted: list[BlockHash]
    has_ended: bool = False
    kept: set[BlockHash] = field(default_factory=set)


class PrefetchMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.requests: dict[str, Request] = {}
        self.reads: dict[int, ReadOrder] = {}
        self.stores: list[int] = []
        self.n_arrived = 0

    @initialize(
        on_disk=st.lists(PROMPTS, min_size=1, max_size=6),
        n_rows=st.integers(2, 16),
        max_run_records=st.integers(1, 4),
        max_rows=st.integers(1, 10),
    )
    def begin(self, on_disk: list[list[int]], n_rows: int, max_run_records: int, max_rows: int) -> None:
        self.disk = disk_with(*map(chain, on_disk), n_slots=4)
        self.host = make_host(n_rows)
        self.max_run_records, self.max_rows = max_run_records, max_rows
        self.prefetcher = Prefetcher(self.disk, self.host, max_run_records, max_rows)

    @rule(prompt=PROMPTS, priority=st.integers(0, 3))
    def arrive(self, prompt: list[int], priority: int) -> None:
        name, hashes = f"request-{self.n_arrived}", chain(prompt)
        self.n_arrived += 1
        rows = self.host.index.lookup(hashes)
        wanted = wanted_of(hashes, self.disk, self.host, name)
        self.requests[name] = request = Request(hashes, wanted, has_ended=not wanted)
        # Behind a block that is nowhere (or still being written) nothing is a sure hit.
        first_missing = next((place for place, row in enumerate(rows.tolist()) if row < 0), len(hashes))
        end = hashes.index(wanted[-1]) if wanted else first_missing
        request.kept = {block for block, row in zip(hashes[:end], rows[:end].tolist(), strict=True) if row >= 0}
        self.prefetcher.start(name, wanted, self.disk.lookup(wanted), float(priority))
        assert self.prefetcher.n_left(name) == len(wanted)

    @rule()
    def order(self) -> None:
        under_way = {block for order in self.reads.values() for block in order.run.keys}
        held = [block for request in self.requests.values() for block in request.wanted if self.holds(block)]
        order = self.prefetcher.next_order(0.0)
        self.take_ended()
        if order is None:
            return
        run = order.run
        assert 1 <= run.n_records <= self.max_run_records
        assert not under_way.intersection(run.keys), "a block is read twice at once"
        assert not set(held).intersection(run.keys), "a block is read that host memory holds"
        rows = self.disk.lookup(run.keys)
        assert rows.tolist() == list(range(rows[0], rows[0] + run.n_records)), "records of a read are not adjacent"
        assert self.disk.place_of(int(rows[0])) == (run.segment, run.first_slot)
        assert run.first_slot + run.n_records <= self.disk.n_slots
        assert any(is_part(list(run.keys), request.wanted) for request in self.requests.values())
        self.reads[order.number] = order

    @precondition(lambda self: self.reads)
    @rule(data=st.data(), is_good=st.lists(st.booleans(), min_size=4, max_size=4) | st.none())
    def end_read(self, data: st.DataObject, is_good: list[bool] | None) -> None:
        order = self.reads.pop(data.draw(st.sampled_from(sorted(self.reads))))
        n = order.run.n_records
        self.end(order, np.array((is_good or [True] * 4)[:n]))

    def end(self, order: ReadOrder, good: np.ndarray) -> None:
        self.prefetcher.done(order.number, good, 0.0)
        for key, is_good in zip(order.run.keys, good.tolist(), strict=True):
            assert (self.disk.lookup([key])[0] == NO_ROW) != is_good, "exactly the bad blocks are forgotten"
            assert self.holds(key) == is_good
        self.take_ended()

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), is_cancelled=st.booleans())
    def leave(self, data: st.DataObject, is_cancelled: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.requests)))
        self.leave_one(name, is_cancelled)

    def leave_one(self, name: str, is_cancelled: bool) -> None:
        del self.requests[name]
        self.host.dismiss(name)
        self.cancel(self.prefetcher.stop(name), is_cancelled)
        assert self.prefetcher.n_left(name) == 0

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), is_cancelled=st.booleans())
    def wait_no_more(self, data: st.DataObject, is_cancelled: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.requests)))
        self.requests[name].has_ended = True
        self.cancel(self.prefetcher.wait_no_more(name), is_cancelled)

    def cancel(self, idle: list[int], is_cancelled: bool) -> None:
        assert len(set(idle)) == len(idle)
        for number in idle:
            assert self.prefetcher.is_idle(number)
        if is_cancelled:
            self.prefetcher.dropped(idle)
            for number in idle:
                assert not any(map(self.holds, self.reads.pop(number).run.keys)), "a dropped read still has rows"

    @rule(prompt=PROMPTS)
    def store(self, prompt: list[int]) -> None:
        """Another request's blocks are on their way from the device, and take rows."""
        hashes = chain(prompt)
        order = self.host.store("other", hashes, 0, len(hashes), list(range(len(hashes))))
        if order.transfer is not None:
            self.stores.append(order.transfer.number)

    @precondition(lambda self: self.stores)
    @rule()
    def end_store(self) -> None:
        self.host.stored(self.stores.pop(0), 1, 0.0)

    @precondition(lambda self: not self.reads)
    @rule(prompt=PROMPTS)
    def give_up_a_segment(self, prompt: list[int]) -> None:
        """What is written instead may be what was given up: then it is in another place."""
        give_up_a_segment(self.disk, chain(prompt)[-4:])

    @invariant()
    def the_books_balance(self) -> None:
        if not hasattr(self, "prefetcher"):
            return
        self.host.index.check_integrity()
        self.disk.check_integrity()
        prefetcher = self.prefetcher
        assert prefetcher.n_rows_ahead + prefetcher.n_blocks_reading <= self.max_rows, "more than the share is taken"
        assert prefetcher.n_blocks_left == sum(map(prefetcher.n_left, self.requests))
        assert prefetcher.n_pending == sum(not request.has_ended for request in self.requests.values())
        assert prefetcher.n_reads == len(self.reads)
        assert prefetcher.n_blocks_reading == sum(order.run.n_records for order in self.reads.values())
        for request in self.requests.values():
            assert (self.host.index.lookup(list(request.kept)) >= 0).all(), "a sure hit was evicted"

    def teardown(self) -> None:
        """Without new requests all reads end, all requests are told, and nothing is left behind."""
        if not hasattr(self, "prefetcher"):
            return
        for number in self.stores:
            self.host.stored(number, 1, 0.0)
        while self.requests:
            n_before = len(self.requests)
            self.order_all()
            for number in sorted(self.reads):
                order = self.reads.pop(number)
                self.end(order, np.ones(order.run.n_records, dtype=np.bool_))
                self.order_all()
            for name in [name for name, request in self.requests.items() if request.has_ended]:
                self.leave_one(name, is_cancelled=False)
            assert len(self.requests) < n_before or self.reads, "nobody can go on"
        for order in list(self.reads.values()):
            self.prefetcher.done(order.number, np.ones(order.run.n_records, dtype=np.bool_), 0.0)
        assert self.prefetcher.next_order(0.0) is None
        occupancy = self.host.index.occupancy()
        assert (occupancy.n_writing, occupancy.n_pinned) == (0, 0)
        assert (self.prefetcher.n_rows_ahead, self.prefetcher.n_blocks_left, self.prefetcher.n_reads) == (0, 0, 0)
        assert self.prefetcher.take_ended() == []

    def order_all(self) -> None:
        n_before = -1
        while len(self.reads) > n_before:
            n_before = len(self.reads)
            self.order()

    def holds(self, block: BlockHash) -> bool:
        return self.host.index.is_held(block)

    def take_ended(self) -> None:
        for name in self.prefetcher.take_ended():
            request = self.requests.get(name)
            if request is not None and not self.prefetcher.is_pending(name):
                assert not request.has_ended, "a request ends once"
                request.has_ended = True
                # What came for it before the first block that is missing stays until it leaves.
                resident = self.host.index.lookup(request.wanted)
                pinned = [b for b, row in zip(request.wanted, resident.tolist(), strict=True) if row >= 0]
                request.kept.update(b for b in pinned if self.is_kept_for(name, b))

    def is_kept_for(self, name: str, block: BlockHash) -> bool:
        """Whether a row is pinned for a request: one that a store was bringing when it was passed over is not."""
        row = int(self.host.index.lookup([block])[0])
        pin = self.host.index._pins.get(f"expected by {name}")
        return pin is not None and any(row in batch.tolist() for batch in pin.batches)


PrefetchMachine.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestPrefetchMachine = PrefetchMachine.TestCase
