"""The disk tier reads and writes what has a reason, lets nobody wait beyond its deadline, and leaves nothing behind.

By hand here; test_disk_tier_life.py plays many requests.
"""

import random
from collections.abc import Sequence

import numpy as np
import pytest

from elmas.cache.costs import CostModel, Reason
from elmas.cache.rows import BlockHash
from elmas.cache.seen import SeenBlocks
from elmas.movement.disk_tier import DiskLimits, DiskTier
from elmas.movement.host_tier import HostTier
from elmas.movement.prefetch import ReadOrder
from elmas.movement.write_back import OpenOrder, WriteOrder, WriterOrder
from tests.movement.disks import chain, make_disk, make_host, put_in_host, write_to_disk

BLOCK_TOKENS = 16
ROW_BYTES = 1000
MAX_WAIT_S = 2.0
PROMPT = chain(range(8))


class Machine:
    """A disk tier with its host tier, and the operations under way. The costs are those of `costs`, unknown if None."""

    def __init__(
        self,
        n_rows: int = 40,
        n_slots: int = 16,
        n_segments: int = 8,
        costs: CostModel | None = None,
        max_run_records: int = 4,
        **switches: bool,
    ) -> None:
        self.host: HostTier = make_host(n_rows)
        self.index = make_disk(n_slots, n_segments)
        self.costs = costs or CostModel()
        limits = DiskLimits(BLOCK_TOKENS, ROW_BYTES, max_run_records, MAX_WAIT_S, **switches)
        self.tier = DiskTier(self.index, self.host, self.costs, SeenBlocks(4096), SeenBlocks(256), limits, 0.0)
        self.reads: dict[int, ReadOrder] = {}
        self.writes: dict[int, WriterOrder] = {}
        self.n_arrived = 0

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.tier.counts)

    def write_now(self, blocks: Sequence[BlockHash]) -> None:
        """Put blocks on disk by hand."""
        write_to_disk(self.index, blocks)
        if self.index.is_open:
            self.index.close_open()

    def arrive(self, name: str, hashes: Sequence[BlockHash], now_s: float = 0.0, queue_wait_s: float = 0.0) -> int:
        """A request arrives, with nobody before it, and is read for."""
        self.n_arrived += 1
        found = self.tier.arrive(name, hashes)
        return self.tier.read_for(name, hashes, found, 0, float(self.n_arrived), 0, queue_wait_s, now_s)

    def take_orders(self, now_s: float = 0.0) -> tuple[list[ReadOrder], list[WriterOrder]]:
        orders = self.tier.take_orders(now_s)
        self.reads.update((order.number, order) for order in orders.reads)
        self.writes.update((order.number, order) for order in orders.writes)
        return orders.reads, orders.writes

    def end_read(self, number: int, now_s: float = 0.0, is_good: bool = True, failed: bool = False) -> None:
        good = np.full(self.reads.pop(number).run.n_records, is_good and not failed)
        self.tier.read_done(number, good, failed, now_s)

    def end_write(self, number: int, now_s: float = 0.0, failed: bool = False) -> None:
        del self.writes[number]
        self.tier.write_back.done(number, failed, now_s)

    def end_all(self, now_s: float = 0.0) -> None:
        """Carry out everything until there is nothing more to do."""
        while True:
            self.take_orders(now_s)
            if not self.reads and not self.writes:
                return
            for number in list(self.reads):
                self.end_read(number, now_s)
            for number in list(self.writes):
                self.end_write(number, now_s)

    def cancel(self, share: float = 1.0, rng: random.Random | None = None) -> list[int]:
        """Drop the reads nobody waits for, or a share of them: the others have begun."""
        cancelled = sorted(set(self.tier.take_cancelled()))
        if rng is not None:
            cancelled = [number for number in cancelled if rng.random() < share]
        self.tier.prefetcher.dropped(cancelled)
        for number in cancelled:
            del self.reads[number]
        return cancelled

    def written(self, blocks: Sequence[BlockHash]) -> list[bool]:
        return (self.index.lookup(blocks) >= 0).tolist()

    def run(self, name: str, hashes: Sequence[BlockHash], now_s: float = 0.0) -> int:
        """The request runs and ends; returns how many blocks were loaded. What it computes goes to host memory."""
        n_loaded = self.host.offer(name, hashes, 0, now_s)
        self.host.accept(name, n_loaded, list(range(len(hashes))), now_s)
        self.host.loaded(name)
        self.tier.leave(name)
        self.tier.begun(now_s)
        order = self.host.store(name, hashes, 0, len(hashes), list(range(len(hashes))))
        if order.transfer is not None:
            blocks = self.tier.admitted(name, hashes, order.places)
            self.host.stored(order.transfer.number, 1, now_s)
            self.tier.admit(blocks)
        self.forget(name)
        return n_loaded

    def forget(self, name: str) -> None:
        self.host.dismiss(name)
        self.tier.forget(name)

    def assert_nothing_is_left(self) -> None:
        self.host.index.check_integrity()
        self.index.check_integrity()
        occupancy, prefetcher = self.host.index.occupancy(), self.tier.prefetcher
        assert (occupancy.n_writing, occupancy.n_pinned) == (0, 0)
        assert (self.tier.n_waiting, prefetcher.n_pending, prefetcher.n_reads, prefetcher.n_rows_ahead) == (0, 0, 0, 0)


def slow_disk(bytes_per_s: float = 1.0) -> CostModel:
    costs = CostModel()
    costs.observe_step(1600, 0.0, 1.0)  # 100 blocks a second are computed
    costs.set_read_rate(bytes_per_s)
    return costs


# What is written


def test_blocks_are_written_when_they_were_asked_for_before() -> None:
    machine = Machine()
    machine.arrive("first", PROMPT)
    machine.run("first", PROMPT)
    machine.end_all()
    assert not any(machine.written(PROMPT))
    other = chain([*range(4), "x", "y"])
    machine.arrive("second", other)
    machine.run("second", other)
    machine.end_all()
    assert machine.written(other) == [True] * 4 + [False] * 2, "what both had asked for, and no more"
    machine.assert_nothing_is_left()


def test_all_of_a_session_that_comes_back_is_written() -> None:
    machine = Machine()
    machine.arrive("first", PROMPT)
    machine.run("first", PROMPT)
    machine.tier.note_tail(answered := chain([*range(8), "answer"]))
    going_on = chain([*range(8), "answer", "next", "question"])
    machine.arrive("second", going_on)
    machine.run("second", going_on)
    machine.end_all()
    assert all(machine.written(going_on))
    assert answered[-1] == going_on[8]


def test_answers_are_written_only_for_sessions_that_came_back() -> None:
    machine = Machine()
    whole = [*PROMPT, *chain([*range(8), "a", "b"])[8:]]
    machine.arrive("first", PROMPT)
    assert machine.tier.admitted("first", whole, range(10)) == []
    machine.tier.forget("first")
    machine.arrive("second", PROMPT)
    assert machine.tier.admitted("second", whole, [2, 8, 9]) == [whole[2], whole[8], whole[9]]
    machine.tier.forget("second")
    assert machine.tier.admitted("second", whole, range(10)) == [], "nothing is known of a request that is gone"


@pytest.mark.parametrize(("switches", "is_written"), [({"admits_all": True}, True), ({"writes": False}, False)])
def test_switches_write_everything_or_nothing(switches: dict[str, bool], is_written: bool) -> None:
    machine = Machine(**switches)
    for name in ("first", "second"):
        machine.arrive(name, PROMPT)
        machine.run(name, PROMPT)
        machine.end_all()
        assert machine.written(PROMPT) == [is_written] * 8
    assert not machine.tier.has_work(0.0)


@pytest.mark.parametrize(
    ("bytes_per_s", "switches", "is_worth_it"),
    [
        (60_000.0, {}, True),
        (40_000.0, {}, False),
        (40_000.0, {"judges_cost": False}, True),
        (40_000.0, {"admits_all": True}, True),
        (60_000.0, {"writes": False}, False),
    ],
)
def test_nothing_goes_through_host_memory_to_a_disk_much_slower_than_computing(
    bytes_per_s: float, switches: dict[str, bool], is_worth_it: bool
) -> None:
    tier = Machine(costs=slow_disk(bytes_per_s), **switches).tier
    assert tier.is_worth_a_row == is_worth_it
    assert tier.write_share == (0.5 if is_worth_it else 0.1)


def test_nothing_is_written_while_anything_is_read_for_a_moment() -> None:
    machine = Machine()
    machine.write_now(PROMPT)
    put_in_host(machine.host, new := chain("new"))
    machine.tier.admit(new)
    machine.arrive("a", PROMPT)
    reads, writes = machine.take_orders()
    assert [order.run.n_records for order in reads] == [4, 4]
    assert writes == []
    machine.end_read(reads[0].number)
    assert machine.take_orders()[1] == []
    machine.end_read(reads[1].number)
    assert [type(order) for order in machine.take_orders()[1]] == [OpenOrder, WriteOrder]
    assert machine.tier.has_work(0.0)


def test_where_reading_never_ends_something_is_written_every_second() -> None:
    machine = Machine()
    machine.write_now(PROMPT)
    put_in_host(machine.host, new := chain("new"))
    machine.tier.admit(new)
    machine.arrive("a", PROMPT)
    assert machine.take_orders(0.0)[1] == []
    assert [type(order) for order in machine.take_orders(1.0)[1]] == [OpenOrder]
    machine.end_write(next(iter(machine.writes)))
    assert machine.take_orders(1.9)[1] == []
    assert [type(order) for order in machine.take_orders(2.0)[1]] == [WriteOrder]


# What is read


def test_what_host_memory_lacks_is_read_and_then_loaded() -> None:
    machine = Machine()
    machine.write_now(PROMPT[2:])
    put_in_host(machine.host, PROMPT[:2])
    assert machine.arrive("a", PROMPT) == 8
    assert machine.tier.is_waiting("a")
    machine.end_all()
    assert not machine.tier.is_waiting("a")
    assert machine.run("a", PROMPT) == 8
    assert machine.counts["disk_landed"] == machine.counts["disk_prefetches"] == 1
    assert machine.counts["disk_read_blocks"] == 6
    machine.assert_nothing_is_left()


def test_nothing_is_read_behind_a_block_that_is_nowhere_or_before_the_devices_own() -> None:
    machine = Machine()
    machine.write_now([*PROMPT[:5], *PROMPT[6:]])
    found = machine.tier.arrive("a", PROMPT)
    assert machine.tier.read_for("a", PROMPT, found, 3, 0.0, 0, 0.0, 0.0) == 5
    reads, _ = machine.take_orders()
    assert [block for order in reads for block in order.run.keys] == PROMPT[3:5]


@pytest.mark.parametrize(
    ("read_rate", "queue_wait_s", "reason", "n_read"),
    [
        (None, 0.0, Reason.UNMEASURED, 8),
        (1e6, 0.0, Reason.CHEAPER, 8),
        (1e3, 100.0, Reason.IN_TIME, 8),
        (1e3, 4.5, Reason.PARTIAL, 4),
        (1e3, 0.0, Reason.SLOW, 0),
    ],
)
def test_every_decision_is_counted_by_its_reason(
    read_rate: float | None, queue_wait_s: float, reason: Reason, n_read: int
) -> None:
    machine = Machine(costs=None if read_rate is None else slow_disk(read_rate))
    machine.write_now(PROMPT)
    assert machine.arrive("a", PROMPT, queue_wait_s=queue_wait_s) == n_read
    assert {name: n for name, n in machine.counts.items() if name.startswith("disk_plan")} == {f"disk_plan_{reason}": 1}
    assert machine.tier.is_waiting("a") == (n_read > 0)
    assert machine.tier.prefetcher.n_left("a") == n_read


def test_without_judgement_of_costs_everything_is_read() -> None:
    machine = Machine(costs=slow_disk(), judges_cost=False)
    machine.write_now(PROMPT)
    assert machine.arrive("a", PROMPT) == 8
    machine.tier.take_turns(0.0)
    assert machine.tier.is_waiting("a")


# Who waits, and for how long


def test_a_request_goes_on_at_its_deadline_which_runs_from_its_turn() -> None:
    machine = Machine()
    machine.write_now(PROMPT)
    machine.arrive("a", PROMPT)
    machine.take_orders()
    for tenth in range(1000):
        machine.tier.look(tenth / 10)
    assert machine.tier.is_waiting("a"), "nobody has passed it"
    machine.tier.begun(100.0)
    machine.tier.look(101.9)
    assert machine.tier.is_waiting("a")
    for tenth in range(20, 60):
        machine.tier.look(100 + tenth / 10)
    assert not machine.tier.is_waiting("a")
    assert machine.counts["disk_gone_deadline"] == 1
    assert len(machine.cancel()) == 2
    assert machine.run("a", PROMPT) == 0
    machine.assert_nothing_is_left()


def test_long_steps_move_the_deadline() -> None:
    machine = Machine()
    machine.write_now(PROMPT)
    machine.arrive("a", PROMPT)
    machine.tier.begun(0.0)
    machine.tier.look(2.5)  # a step of 2.5 s, in which no read could be handed out or noticed
    assert machine.tier.is_waiting("a")


def test_a_request_goes_on_when_the_device_is_free_and_recomputing_is_cheaper() -> None:
    costs = CostModel()
    machine = Machine(costs=costs)
    machine.write_now(PROMPT)
    machine.arrive("a", PROMPT)
    machine.tier.take_turns(0.0)
    assert machine.tier.is_waiting("a"), "nothing is known yet"
    costs.observe_step(1600, 0.0, 1.0)
    costs.set_read_rate(1e3)
    machine.tier.take_turns(0.0)
    assert not machine.tier.is_waiting("a")
    assert machine.counts["disk_gone_cheaper"] == 1


def test_one_request_goes_on_to_find_out_what_recomputing_costs() -> None:
    costs = CostModel()
    costs.set_read_rate(1e3)  # 8 s for the first prompt
    machine = Machine(costs=costs)
    prompts = {name: chain(range(first, first + 8)) for first, name in enumerate("abc")}
    machine.write_now([block for blocks in prompts.values() for block in blocks])
    for name, blocks in prompts.items():
        machine.arrive(name, blocks)

    def waiting() -> list[str]:
        return [name for name in prompts if machine.tier.is_waiting(name)]

    machine.tier.take_turns(0.0)
    assert waiting() == ["b", "c"]
    machine.tier.take_turns(0.5)
    assert waiting() == ["b", "c"], "the first is still computing"
    machine.tier.take_turns(1.0)
    assert waiting() == ["c"], "the first is gone: another tries"
    costs.observe_step(1600, 0.0, 1.0)
    machine.tier.take_turns(1.1)
    assert waiting() == []
    assert (machine.counts["disk_gone_to_measure"], machine.counts["disk_gone_cheaper"]) == (2, 1)


def test_a_request_waits_for_what_comes_soon_though_costs_are_unknown() -> None:
    costs = CostModel()
    costs.set_read_rate(1e6)
    machine = Machine(costs=costs)
    machine.write_now(PROMPT)
    machine.arrive("a", PROMPT)
    machine.tier.take_turns(0.0)
    assert machine.tier.is_waiting("a")


def test_a_request_that_goes_on_is_not_counted_as_read_before_the_next() -> None:
    costs = CostModel()
    early, late = chain(range(32)), chain(range(1000, 1101))
    machine = Machine(costs=costs, n_rows=300)
    machine.write_now([*early, late[-1]])
    put_in_host(machine.host, late[:-1])
    machine.arrive("early", early)
    machine.arrive("late", late)
    for context in (0, 1600, 3200) * 3:  # attention to what is before is most of the cost
        costs.observe_step(1000, 1000.0 * context, 1e-3 + 1e-3 * context)
    costs.set_read_rate(1e5)  # 10 ms for a block
    assert not costs.should_wait(0, 32 * ROW_BYTES, 0, 32 * BLOCK_TOKENS)
    assert costs.should_wait(0, ROW_BYTES, 100 * BLOCK_TOKENS, BLOCK_TOKENS)
    machine.tier.take_turns(0.0)
    assert [machine.tier.is_waiting(name) for name in ("early", "late")] == [False, True]


def test_leaving_cancels_the_reads_that_nobody_else_waits_for() -> None:
    machine = Machine()
    machine.write_now(PROMPT)
    machine.arrive("a", PROMPT)
    machine.arrive("b", PROMPT[:4])
    reads, _ = machine.take_orders()
    assert [order.run.keys for order in reads] == [tuple(PROMPT[:4]), tuple(PROMPT[4:])]
    machine.forget("a")
    assert machine.cancel() == [reads[1].number]
    machine.end_all()
    assert machine.run("b", PROMPT[:4]) == 4
    machine.assert_nothing_is_left()


def test_a_read_that_somebody_wants_again_is_not_cancelled() -> None:
    machine = Machine()
    machine.write_now(PROMPT)
    machine.arrive("a", PROMPT)
    machine.take_orders()
    machine.forget("a")
    machine.arrive("b", PROMPT)
    assert machine.take_orders()[0] == [], "it shares the reads that were under way"
    assert machine.cancel() == []
    machine.end_all()
    assert machine.run("b", PROMPT) == 8


def test_rows_of_a_request_that_goes_on_count_as_read_ahead_until_it_runs() -> None:
    machine = Machine(n_rows=16)
    other = chain(range(100, 108))
    machine.write_now([*PROMPT, *other])
    machine.arrive("a", PROMPT)
    reads, _ = machine.take_orders()
    machine.end_read(reads[0].number)
    machine.tier.begun(0.0)
    for tenth in range(60):
        machine.tier.look(tenth / 10)
    assert machine.counts["disk_gone_deadline"] == 1
    machine.cancel()
    machine.arrive("b", other)
    assert sum(order.run.n_records for order in machine.take_orders()[0]) == 4, "half of the rows are the share"
    assert machine.run("a", PROMPT) == 4
    assert machine.tier.prefetcher.n_rows_ahead == 0


# Errors


def test_reads_pause_after_errors_in_a_row_and_resume() -> None:
    machine = Machine(max_run_records=1, n_rows=100)
    prompts = [chain([number, "x"]) for number in range(40)]
    machine.write_now([block for prompt in prompts for block in prompt])
    n_tried, now_s, pauses = 0, 0.0, []
    for _ in range(3):
        while machine.counts.get("disk_plan_paused", 0) == 0:
            machine.arrive(f"request-{n_tried}", prompts[n_tried], now_s)
            n_tried += 1
            for order in machine.take_orders(now_s)[0]:
                machine.end_read(order.number, now_s, failed=True)
        begin_s = now_s
        while machine.counts.get("disk_plan_paused"):
            now_s += 0.125
            machine.tier.counts.clear()
            machine.arrive("probe", prompts[39], now_s)
            machine.forget("probe")
            machine.take_orders(now_s)
            machine.cancel()
        pauses.append(now_s - begin_s)
    assert pauses == [1.0, 2.0, 4.0]
    machine.arrive("good", prompts[38], now_s)
    machine.end_all(now_s)
    machine.arrive("bad", prompts[37], now_s)
    for order in machine.take_orders(now_s)[0]:
        machine.end_read(order.number, now_s, failed=True)
    assert machine.arrive("last", prompts[36], now_s) == 2, "a read that succeeds ends the series"


def test_reads_that_were_under_way_together_are_one_failure() -> None:
    machine = Machine(max_run_records=1, n_slots=32)
    long = chain(range(30))
    machine.write_now(long)
    machine.arrive("a", long[:8])
    for order in machine.take_orders()[0]:
        machine.end_read(order.number, failed=True)
    assert machine.counts["disk_read_errors"] == 8
    machine.forget("a")
    machine.write_now(long[:8])
    assert machine.arrive("b", long, 0.9) == 0
    assert machine.arrive("c", long, 1.0) == 30


def test_a_bad_record_is_a_miss_and_no_error_of_the_disk() -> None:
    machine = Machine(max_run_records=1)
    machine.write_now(PROMPT)
    machine.arrive("a", PROMPT)
    for order in machine.take_orders()[0]:
        machine.end_read(order.number, is_good=order.run.first_slot < 2)
    assert not machine.tier.is_waiting("a")
    assert machine.run("a", PROMPT) == 2
    assert machine.counts.get("disk_read_errors", 0) == 0
    assert machine.written(PROMPT) == [True, True] + [False] * 6
    machine.assert_nothing_is_left()


# Clearing


def test_clearing_waits_for_what_is_under_way_and_then_forgets_everything() -> None:
    machine = Machine()
    machine.write_now(PROMPT)
    machine.arrive("a", PROMPT)
    machine.take_orders()
    assert machine.tier.clear() is None
    assert not machine.tier.is_waiting("a")
    machine.cancel()
    put_in_host(machine.host, new := chain("new"))
    machine.tier.admit(new)
    machine.take_orders()
    assert machine.tier.clear() is None
    for number in list(machine.writes):
        machine.end_write(number)
    assert machine.tier.clear() == (0, 1)
    assert machine.index.n_blocks == machine.index.n_bytes_used == 0
    assert not machine.tier.has_work(0.0)
    machine.forget("a")
    machine.assert_nothing_is_left()
