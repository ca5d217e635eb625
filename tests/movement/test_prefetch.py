"""Reads go in the order of priority and prefix, once for all that need them, within their share of the host tier."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elmas.cache.rows import NO_ROW, BlockHash
from elmas.cache.segments import SegmentIndex
from elmas.movement.prefetch import Prefetcher, ReadOrder
from tests.movement.disks import chain, disk_with, give_up_a_segment, is_part, make_host, put_in_host, wanted_of

PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=7)


def start(prefetcher: Prefetcher, index: SegmentIndex, name: str, blocks: list[BlockHash], priority: float) -> None:
    prefetcher.start(name, blocks, index.lookup(blocks), priority)


def all_orders(prefetcher: Prefetcher) -> list[ReadOrder]:
    orders = []
    while (order := prefetcher.next_order(0.0)) is not None:
        orders.append(order)
    return orders


def end_all(prefetcher: Prefetcher, orders: list[ReadOrder]) -> None:
    for order in orders:
        prefetcher.done(order.number, np.ones(order.run.n_records, dtype=np.bool_), 0.0)


@settings(max_examples=100, derandomize=True)
@given(
    prompts=st.lists(st.tuples(PROMPTS, st.integers(0, 5)), min_size=1, max_size=12),
    max_run_records=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_the_most_urgent_request_is_read_for_first_in_prefix_order(
    prompts: list[tuple[list[int], int]], max_run_records: int, seed: int
) -> None:
    rng = random.Random(seed)
    index, host = disk_with(*(chain(prompt) for prompt, _ in prompts), n_slots=4), make_host(300)
    prefetcher = Prefetcher(index, host, max_run_records, 300)
    waiting: dict[str, tuple[list[BlockHash], int]] = {}
    under_way: list[ReadOrder] = []
    n_read = 0
    while prompts or under_way or prefetcher.n_pending:
        if prompts and rng.random() < 0.4:
            prompt, priority = prompts.pop()
            name, hashes = f"request-{len(waiting)}", chain(prompt)
            wanted = wanted_of(hashes, index, host, name)
            start(prefetcher, index, name, wanted, float(priority))
            waiting[name] = wanted, priority
        elif under_way and rng.random() < 0.5:
            end_all(prefetcher, [under_way.pop(rng.randrange(len(under_way)))])
        elif (order := prefetcher.next_order(0.0)) is not None:
            for name, (wanted, priority) in waiting.items():
                if priority < order.priority:
                    assert all(map(host.index.is_held, wanted)), f"{name} is more urgent and was not read for"
            owners = [wanted for wanted, priority in waiting.values() if priority == order.priority]
            assert any(
                is_part(list(order.run.keys), wanted)
                and all(map(host.index.is_held, wanted[: wanted.index(order.run.keys[0])]))
                for wanted in owners
            ), "the blocks before these were not read first"
            under_way.append(order)
            n_read += order.run.n_records
    assert sorted(prefetcher.take_ended()) == sorted(name for name, (wanted, _) in waiting.items() if wanted)
    assert n_read == len({block for wanted, _ in waiting.values() for block in wanted}), "each block is read once"


def test_adjacent_records_are_read_at_once_as_far_as_one_operation_goes() -> None:
    hashes = chain(range(10))
    index = disk_with(hashes, n_slots=6)
    prefetcher = Prefetcher(index, make_host(20), 4, 20)
    start(prefetcher, index, "a", hashes, 0.0)
    runs = [(order.run.segment, order.run.first_slot, order.run.n_records) for order in all_orders(prefetcher)]
    assert runs == [(0, 0, 4), (0, 4, 2), (1, 0, 4)]


def test_requests_that_need_the_same_block_share_one_read() -> None:
    shared = chain(range(4))
    index = disk_with(shared)
    host = make_host(20)
    prefetcher = Prefetcher(index, host, 8, 20)
    start(prefetcher, index, "a", shared, 0.0)
    start(prefetcher, index, "b", shared, 1.0)
    orders = all_orders(prefetcher)
    assert [order.run.n_records for order in orders] == [4]
    assert prefetcher.stop("a") == [], "b still waits for it"
    end_all(prefetcher, orders)
    assert prefetcher.take_ended() == ["b"]
    put_in_host(host, chain(range(100, 140)))
    assert (host.index.lookup(shared) >= 0).all(), "what was read for b stays until it runs"


def test_what_others_brought_to_host_memory_is_kept_for_a_request_and_counts_in_the_share() -> None:
    shared, own = chain(range(4)), chain([*range(4), "own"])
    index, host = disk_with(shared, own), make_host(8)
    prefetcher = Prefetcher(index, host, 8, 8)
    start(prefetcher, index, "b", own, 1.0)
    start(prefetcher, index, "a", shared, 0.0)
    read = prefetcher.next_order(0.0)
    assert read is not None
    end_all(prefetcher, [read])
    end_all(prefetcher, all_orders(prefetcher))
    assert prefetcher.take_ended() == ["a", "b"]
    host.dismiss("a")
    prefetcher.stop("a")
    assert prefetcher.n_rows_ahead == 5
    put_in_host(host, chain(range(100, 108)))
    assert (host.index.lookup(own) >= 0).all(), "b still needs what was read for a"
    host.dismiss("b")
    prefetcher.stop("b")
    assert put_in_host(host, chain(range(200, 208))).size == 8


def test_a_read_does_not_evict_the_prefix_that_a_store_brought_meanwhile() -> None:
    hashes, other = chain(range(6)), chain(range(100, 102))
    index, host = disk_with(hashes), make_host(6)
    prefetcher = Prefetcher(index, host, 2, 6)
    start(prefetcher, index, "a", hashes, 0.0)
    store = host.store("b", hashes, 0, 2, [0, 1]).transfer
    assert store is not None
    orders = [prefetcher.next_order(0.0)]
    assert host.stored(store.number, 1, 0.0) is not None
    put_in_host(host, other)
    orders += [prefetcher.next_order(0.0)]
    assert [order.run.keys for order in orders if order is not None] == [tuple(hashes[2:4]), tuple(hashes[4:])]
    assert (host.index.lookup(hashes[:2]) >= 0).all(), "without it what is read could not be reached"


def test_a_bad_block_ends_the_wish_after_its_prefix_and_is_forgotten() -> None:
    hashes = chain(range(9))
    index, host = disk_with(hashes), make_host(20)
    prefetcher = Prefetcher(index, host, 2, 20)
    start(prefetcher, index, "a", hashes, 0.0)
    orders = [prefetcher.next_order(0.0), prefetcher.next_order(0.0)]
    assert orders[0] is not None
    assert orders[1] is not None
    prefetcher.done(orders[1].number, np.array([False, True]), 0.0)
    assert prefetcher.next_order(0.0) is None, "what follows the bad block is of no use"
    assert prefetcher.n_left("a") == 2
    assert prefetcher.take_ended() == []
    prefetcher.done(orders[0].number, np.array([True, True]), 0.0)
    assert prefetcher.take_ended() == ["a"]
    assert index.lookup(hashes[:4]).tolist() == [0, 1, NO_ROW, 3]
    assert (host.index.lookup(hashes[:4]) >= 0).tolist() == [True, True, False, True]


def test_a_wish_ends_before_a_block_whose_segment_is_gone() -> None:
    hashes = chain(range(16))
    index, host = disk_with(hashes, n_slots=8), make_host(20)
    prefetcher = Prefetcher(index, host, 4, 20)
    index.use(index.lookup(hashes[:8]), 1.0)
    start(prefetcher, index, "a", hashes, 0.0)
    assert give_up_a_segment(index, chain("x")) == (1,)
    orders = all_orders(prefetcher)
    assert [block for order in orders for block in order.run.keys] == hashes[:8]
    end_all(prefetcher, orders)
    assert prefetcher.take_ended() == ["a"]


def test_a_block_that_has_moved_on_disk_is_not_read_from_its_old_place() -> None:
    hashes = chain(range(4))
    index, host = disk_with(hashes, chain("wxyz"), n_slots=4), make_host(20)
    prefetcher = Prefetcher(index, host, 4, 20)
    start(prefetcher, index, "a", hashes, 0.0)
    assert give_up_a_segment(index, [*chain("x"), *hashes[:3]]) == (0,)
    assert (index.lookup(hashes[:3]) >= 0).all()
    assert prefetcher.next_order(0.0) is None
    assert prefetcher.take_ended() == ["a"]


def test_a_read_never_evicts_what_is_kept_for_a_waiting_request() -> None:
    sure, guess = chain(range(6)), chain(range(10, 20))
    index, host = disk_with(guess), make_host(8)
    host.expect("sure", put_in_host(host, sure), 0.0)
    prefetcher = Prefetcher(index, host, 4, 8)
    start(prefetcher, index, "guess", guess, 0.0)
    orders = all_orders(prefetcher)
    assert sum(order.run.n_records for order in orders) == 2, "as many as there are rows that nobody waits for"
    end_all(prefetcher, orders)
    assert prefetcher.next_order(0.0) is None
    assert prefetcher.take_ended() == ["guess"], "it goes on with what it has"
    assert (host.index.lookup(sure) >= 0).all()


def test_rows_read_ahead_stay_within_the_share_until_their_requests_leave() -> None:
    prompts = {name: chain(name * 4) for name in "abcd"}
    index, host = disk_with(*prompts.values()), make_host(100)
    prefetcher = Prefetcher(index, host, 4, 10)
    for priority, (name, blocks) in enumerate(prompts.items()):
        start(prefetcher, index, name, blocks, float(priority))
    end_all(prefetcher, all_orders(prefetcher))
    assert prefetcher.n_rows_ahead == 10
    assert prefetcher.take_ended() == ["a", "b"]
    assert prefetcher.wait_no_more("c") == []
    assert prefetcher.next_order(0.0) is None, "c does not wait any more, but what it has is still to be used"
    prefetcher.stop("a")
    end_all(prefetcher, all_orders(prefetcher))
    assert prefetcher.n_rows_ahead == 10
    assert prefetcher.take_ended() == ["d"]
    for name in "bcd":
        prefetcher.stop(name)
    assert prefetcher.n_rows_ahead == 0


def test_a_row_that_many_wait_for_counts_once_in_the_share() -> None:
    prompts = {f"request-{number}": chain([*range(4), f"own {number}"]) for number in range(10)}
    index, host = disk_with(*prompts.values()), make_host(100)
    prefetcher = Prefetcher(index, host, 8, 14)
    for priority, (name, blocks) in enumerate(prompts.items()):
        start(prefetcher, index, name, blocks, float(priority))
    end_all(prefetcher, all_orders(prefetcher))
    assert prefetcher.take_ended() == list(prompts), "4 shared rows and 10 of their own are 14"
    for n_left, name in zip(range(9, -1, -1), prompts, strict=True):
        prefetcher.stop(name)
        assert prefetcher.n_rows_ahead == (4 + n_left if n_left else 0)


@pytest.mark.parametrize("max_rows", [1, 8, 9, 15])
def test_requests_that_have_part_of_what_they_need_do_not_wait_for_each_other_forever(max_rows: int) -> None:
    prompts = {name: chain(name * 8) for name in "ba"}
    index, host = disk_with(*prompts.values()), make_host(16)
    prefetcher = Prefetcher(index, host, 1, max_rows)
    orders = []
    for priority, (name, blocks) in zip((2.0, 1.0), prompts.items(), strict=True):
        start(prefetcher, index, name, blocks, priority)
        orders += [order for order in (prefetcher.next_order(0.0) for _ in range(4)) if order is not None]
    ended: list[str] = []
    for _ in range(40):
        end_all(prefetcher, orders)
        for name in prefetcher.take_ended():
            host.dismiss(name)
            prefetcher.stop(name)
            ended.append(name)
        orders = all_orders(prefetcher)
    assert sorted(ended + prefetcher.take_ended()) == ["a", "b"]


def test_rows_of_reads_that_were_cancelled_can_be_had_again() -> None:
    first, second = chain(range(8)), chain(range(100, 108))
    index, host = disk_with(first, second), make_host(8)
    prefetcher = Prefetcher(index, host, 4, 8)
    start(prefetcher, index, "first", first, 0.0)
    start(prefetcher, index, "second", second, 1.0)
    orders = all_orders(prefetcher)
    assert [order.priority for order in orders] == [0.0, 0.0]
    idle = prefetcher.stop("first")
    assert idle == [order.number for order in orders]
    assert all(map(prefetcher.is_idle, idle))
    prefetcher.dropped(idle[1:])  # the first one had begun
    assert [order.run.keys for order in all_orders(prefetcher)] == [tuple(second[:4])]
    assert prefetcher.n_blocks_left == 8
    end_all(prefetcher, [orders[0]])
    assert [order.run.keys for order in all_orders(prefetcher)] == [tuple(second[4:])]


# A host tier smaller than what all waiting requests want


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n_shared", [0, 6], ids=["distinct", "with a common beginning"])
def test_nothing_is_read_in_vain_where_host_memory_is_smaller_than_the_demand(seed: int, n_shared: int) -> None:
    rng = random.Random(seed)
    n_requests, n_blocks, n_rows = 50, 20, 60
    common = [f"common {place}" for place in range(n_shared)]
    prompts = {
        f"request-{number}": chain([*common, *(f"{number} {place}" for place in range(n_blocks - n_shared))])
        for number in range(n_requests)
    }
    index, host = disk_with(*prompts.values(), n_slots=32), make_host(n_rows)
    prefetcher = Prefetcher(index, host, 4, n_rows // 2)
    for number, (name, blocks) in enumerate(prompts.items()):
        start(prefetcher, index, name, wanted_of(blocks, index, host, name), float(number))
    reads: list[ReadOrder] = []
    n_times_read: dict[BlockHash, int] = {}
    unused: set[BlockHash] = set()
    ready: list[str] = []
    finished: list[str] = []
    for _ in range(2000):
        while prefetcher.n_blocks_reading < 32 and (order := prefetcher.next_order(0.0)) is not None:
            reads.append(order)
        rng.shuffle(reads)
        for order in [reads.pop() for _ in range(min(len(reads), rng.randint(0, 5)))]:
            end_all(prefetcher, [order])
            for block in order.run.keys:
                n_times_read[block] = n_times_read.get(block, 0) + 1
                unused.add(block)
        ready += prefetcher.take_ended()
        ready.sort(key=lambda name: int(name.split("-")[1]))
        for name in [ready.pop(0) for _ in range(min(len(ready), rng.randint(0, 2)))]:
            hashes = prompts[name]
            n_offered = host.offer(name, hashes, 0, 0.0)
            assert n_offered == n_blocks, f"{name} lost what was read for it"
            assert host.accept(name, n_offered, list(range(n_blocks)), 0.0).load is not None
            prefetcher.stop(name)
            host.loaded(name)
            unused.difference_update(hashes)
            answer = chain([*hashes, "answer"])[-1:]
            stored = host.store(name, answer, 0, 1, [0]).transfer
            if stored is not None:
                host.stored(stored.number, 1, 0.0)
            finished.append(name)
        assert prefetcher.n_rows_ahead + prefetcher.n_blocks_reading <= n_rows // 2
        assert (host.index.lookup(list(unused)) >= 0).all(), "a block was evicted before its use"
        host.index.check_integrity()
    assert sorted(finished) == sorted(prompts), "somebody was forgotten"
    n_demanded = n_requests * n_blocks
    assert sum(n_times_read.values()) <= n_demanded
    if n_shared == 0:
        assert set(n_times_read.values()) == {1}
    occupancy = host.index.occupancy()
    assert (occupancy.n_writing, occupancy.n_pinned) == (0, 0)


def test_a_changed_priority_holds_for_the_reads_that_were_not_handed_out() -> None:
    first, second = chain([0, 0, 0, 0, 0, 0]), chain([1, 1, 1, 1, 1, 1])
    index, host = disk_with(first, second, n_slots=4), make_host(300)
    prefetcher = Prefetcher(index, host, 2, 300)
    start(prefetcher, index, "first", first, 1.0)
    start(prefetcher, index, "second", second, 2.0)
    order = prefetcher.next_order(0.0)
    assert order is not None
    prefetcher.set_priority("first", 3.0)
    prefetcher.set_priority("unknown", 0.0)
    owners = [read.run.keys[0] in second for read in all_orders(prefetcher)]
    assert owners == sorted(owners, reverse=True)
    assert sum(owners) == 3
