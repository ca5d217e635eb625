"""Loads bring back exactly what was stored, however requests, confirmations and evictions interleave.

A small model of a server plays requests whose prompts share prefixes. Host rows and device blocks hold the hash of the
block they contain, so wrong KV shows as a wrong hash. Copies happen at a random later moment, as on a real machine.
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elmas.cache.index import TierIndex
from elmas.cache.lru import Lru
from elmas.movement.host_tier import HostTier
from elmas.movement.transfers import Transfer, TransferLedger


def make_tier(n_rows: int, n_ranks: int = 1, max_store_blocks: int = 8) -> HostTier:
    return HostTier(TierIndex(n_rows, Lru(n_rows)), n_ranks, max_store_blocks)


def chain(prompt: tuple[int, ...]) -> list[bytes]:
    """Return the chained hashes of a prompt of one token per block."""
    return [repr(prompt[: end + 1]).encode() for end in range(len(prompt))]


class Server:
    """Plays requests on a tier: copies run late, in random order, one rank after the other."""

    def __init__(self, tier: HostTier, n_ranks: int, rng: random.Random) -> None:
        self.tier = tier
        self.n_ranks = n_ranks
        self.rng = rng
        self.rows: dict[int, bytes] = {}
        self.blocks: dict[int, bytes] = {}
        self.n_blocks = 0
        self.waiting_stores: list[tuple[Transfer, list[bytes], int]] = []
        self.waiting_loads: list[tuple[Transfer, list[bytes]]] = []

    def arrive(self, name: str, prompt: tuple[int, ...], n_on_device: int) -> None:
        hashes = chain(prompt)
        n_on_device = min(n_on_device, len(hashes))
        device = list(range(self.n_blocks, self.n_blocks + len(hashes)))
        self.n_blocks += len(hashes)
        for block, content in zip(device[:n_on_device], hashes, strict=False):
            self.blocks[block] = content
        n_offered = self.tier.offer(name, hashes, n_on_device, 0.0)
        if self.rng.random() < 0.2:  # no room on the device: the request is asked again later, or never
            self.tier.end_offers()
            return
        n_loaded = n_offered if self.rng.random() < 0.8 else 0
        load = self.tier.accept(name, n_loaded, device, 0.0).load
        assert (load is not None) == (n_loaded > 0)
        if load is not None:
            self.waiting_loads.append((load, hashes[n_on_device : n_on_device + n_loaded]))
        for position in range(n_on_device + n_loaded, len(hashes)):
            self.blocks[device[position]] = hashes[position]
        considered = 0
        while load is None and considered < len(hashes):
            last = self.rng.randint(considered + 1, len(hashes))
            order = self.tier.store(name, hashes, considered, last, device[considered:last])
            if order.transfer is not None:
                contents = [self.blocks[block] for block in order.transfer.device_blocks]
                self.waiting_stores.append((order.transfer, contents, self.n_ranks))
            if order.n_considered == 0:
                self.copy_something()
            considered += order.n_considered

    def copy_something(self) -> None:
        self.rng.shuffle(self.waiting_stores)
        self.rng.shuffle(self.waiting_loads)
        if self.waiting_loads and self.rng.random() < 0.5:
            transfer, expected = self.waiting_loads.pop()
            assert [self.rows[row] for row in transfer.rows.tolist()] == expected
            assert self.tier.loaded(transfer.owner)
        elif self.waiting_stores:
            transfer, contents, n_ranks_left = self.waiting_stores.pop()
            if n_ranks_left == self.n_ranks:
                self.rows.update(zip(transfer.rows.tolist(), contents, strict=True))
            done = self.tier.stored(transfer.number, 1, 0.0)
            assert (done is transfer) == (n_ranks_left == 1)
            if n_ranks_left > 1:
                self.waiting_stores.append((transfer, contents, n_ranks_left - 1))


@settings(max_examples=200)
@given(st.integers(1, 12), st.integers(1, 3), st.integers(1, 8), st.integers(0, 2**32))
def test_a_load_brings_back_what_was_stored(n_rows: int, n_ranks: int, max_store_blocks: int, seed: int) -> None:
    rng = random.Random(seed)
    tier = make_tier(n_rows, n_ranks, max_store_blocks)
    server = Server(tier, n_ranks, rng)
    for number in range(60):
        prompt = tuple(rng.randint(0, 1) for _ in range(rng.randint(1, 8)))
        server.arrive(f"request-{number}", prompt, rng.choice([0, 0, 1, 3]))
        for _ in range(rng.randint(0, 3)):
            server.copy_something()
        tier.index.check_integrity()
    while server.waiting_loads or server.waiting_stores:
        server.copy_something()
    tier.end_offers()
    occupancy = tier.index.occupancy()
    assert (occupancy.n_writing, occupancy.n_pinned, tier.n_loading, tier.n_storing) == (0, 0, 0, 0)


def store_all(tier: HostTier, name: str, hashes: list[bytes]) -> None:
    order = tier.store(name, hashes, 0, len(hashes), list(range(len(hashes))))
    if order.transfer is not None:
        tier.stored(order.transfer.number, 1, 0.0)


def test_a_tier_smaller_than_one_request_keeps_its_head() -> None:
    tier = make_tier(n_rows=3, max_store_blocks=100)
    hashes = chain((1, 2, 3, 4, 5))
    store_all(tier, "a", hashes)
    assert tier.offer("b", hashes, 0, 0.0) == 3
    assert tier.counts["store_blocks_dropped"] == 2


def test_stores_wait_when_too_many_device_blocks_are_held() -> None:
    tier = make_tier(n_rows=10, max_store_blocks=2)
    hashes = chain((1, 2, 3, 4))
    first = tier.store("a", hashes, 0, 4, [7, 8, 9, 10])
    assert first.n_considered == 2
    assert first.transfer is not None
    assert list(first.transfer.device_blocks) == [7, 8]
    assert tier.store("a", hashes, 2, 4, [9, 10]).n_considered == 0
    tier.stored(first.transfer.number, 1, 0.0)
    assert tier.store("a", hashes, 2, 4, [9, 10]).n_considered == 2


def test_what_is_being_stored_is_not_stored_twice_and_not_offered() -> None:
    tier = make_tier(n_rows=10)
    hashes = chain((1, 2))
    tier.store("a", hashes, 0, 2, [0, 1])
    again = tier.store("b", hashes, 0, 2, [2, 3])
    assert again.transfer is None
    assert again.n_considered == 2
    assert tier.offer("c", hashes, 0, 0.0) == 0


def test_an_offer_made_twice_holds_one_pin() -> None:
    tier = make_tier(n_rows=4)
    hashes = chain((1, 2, 3))
    store_all(tier, "a", hashes)
    assert tier.offer("b", hashes, 1, 0.0) == 2
    assert tier.offer("b", hashes, 0, 0.0) == 3
    tier.end_offers()
    assert tier.index.occupancy().n_pinned == 0
    assert tier.accept("b", 3, [0, 1, 2], 0.0).load is None, "a withdrawn offer cannot be accepted"


def test_use_keeps_the_head_that_the_device_already_has() -> None:
    tier = make_tier(n_rows=4, max_store_blocks=100)
    shared, other = chain((1, 2)), chain((8, 9))
    store_all(tier, "a", shared)
    store_all(tier, "b", other)
    tier.offer("c", shared, 2, 0.0)  # all of it is on the device
    assert tier.accept("c", 0, [], 0.0).n_resident == 2
    store_all(tier, "d", chain((5, 6)))
    assert tier.offer("e", shared, 0, 0.0) == 2
    assert tier.offer("f", other, 0, 0.0) == 0


def test_a_transfer_is_done_when_every_rank_has_confirmed_it() -> None:
    ledger = TransferLedger(n_ranks=2)
    index = TierIndex(4, Lru(4))
    transfer = ledger.open("a", index.reserve([b"x", b"y"], []), [1, 2])
    assert ledger.n_blocks_in_flight == 2
    assert ledger.confirm(transfer.number) is None
    assert ledger.confirm(transfer.number) is transfer
    assert ledger.n_blocks_in_flight == 0
    with pytest.raises(KeyError):
        ledger.confirm(transfer.number)
