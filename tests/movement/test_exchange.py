"""Rows change hands only where nothing is lost: from requests that have the blocks on the device, to older ones."""

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from elmas.cache.index import TierIndex
from elmas.cache.lru import Lru
from elmas.cache.rows import BlockHash
from elmas.movement.exchange import Exchange
from elmas.movement.host_tier import HostTier

N_ROWS, N_DEVICE_BLOCKS = 24, 8


def chain(session: int, n_blocks: int, n_shared: int) -> list[BlockHash]:
    """A prompt whose first blocks all sessions have in common."""
    return [b"shared %d" % i if i < n_shared else b"%d of %d" % (i, session) for i in range(n_blocks)]


class Play:
    """Requests that begin, are loaded, complete blocks and end on a host tier, with exchanges between."""

    def __init__(self, n_rows: int = N_ROWS, n_device_blocks: int = N_DEVICE_BLOCKS) -> None:
        self.tier = HostTier(TierIndex(n_rows, Lru(n_rows)), 1, 100)
        self.exchange = Exchange(self.tier, n_device_blocks, self.on_device)
        self.running: dict[str, tuple[list[BlockHash], int, int]] = {}

    def on_device(self, request: str) -> list[BlockHash] | None:
        if request not in self.running:
            return None
        hashes, n_complete, _ = self.running[request]
        return hashes[:n_complete]

    def begin(self, request: str, hashes: list[BlockHash], session: int) -> None:
        n = self.tier.offer(request, hashes, 0, 0.0)
        self.tier.accept(request, n, range(len(hashes)), 0.0, session)
        self.running[request] = (hashes, n, session)
        self.exchange.began(request, session)

    def loaded(self, request: str) -> None:
        if self.tier.loaded(request):
            self.exchange.loaded()

    def complete(self, request: str) -> None:
        hashes, n_complete, session = self.running[request]
        self.running[request] = (hashes, len(hashes), session)
        if n_complete < len(hashes):
            self.store(request, n_complete, len(hashes))

    def store(self, request: str, first: int, last: int) -> None:
        hashes, _, session = self.running[request]
        order = self.tier.store(request, hashes, first, last, range(first, last), session)
        self.exchange.considered(request, order)
        if order.transfer is not None:
            self.tier.stored(order.transfer.number, 1, 0.0)

    def held(self, request: str) -> list[bool]:
        return [self.tier.index.is_held(block) for block in self.running[request][0]]

    def run_exchange(self, n_waiting: int) -> list[str]:
        needs = self.exchange.plan(n_waiting)
        for need in needs:
            self.store(need.request, need.first, need.last)
        return [need.request for need in needs]

    def end(self, request: str) -> None:
        self.tier.loaded(request)
        del self.running[request]
        self.exchange.ended(request)


def full_tier(n_device_blocks: int = N_DEVICE_BLOCKS) -> Play:
    """A tier full of what running sessions have."""
    play = Play(N_ROWS, n_device_blocks)
    for session in range(4):
        play.begin(f"early {session}", chain(session, 6, 0), session)
        play.complete(f"early {session}")
    return play


def refuse(play: Play, request: str, session: int) -> None:
    """A request that computes its blocks and finds all rows pinned, as those of others that wait."""
    rows = np.arange(N_ROWS)
    play.tier.index.pin("others", rows, 1e9)
    play.begin(request, chain(session, 6, 0), session)
    play.complete(request)
    play.tier.index.unpin("others")
    assert not any(play.held(request))


def test_the_first_to_leave_gets_rows_of_the_last_to_begin() -> None:
    play = full_tier()
    play.end("early 3")
    refuse(play, "old", 9)
    play.begin("young", chain(3, 6, 0), 3)
    play.loaded("young")
    assert play.run_exchange(n_waiting=5) == ["old"]
    assert all(play.held("old"))
    assert not any(play.held("young"))
    play.tier.index.check_integrity()


def test_nothing_is_exchanged_while_nobody_waits_or_a_load_is_under_way() -> None:
    play = full_tier()
    play.end("early 3")
    refuse(play, "old", 9)
    play.begin("young", chain(3, 6, 0), 3)
    assert play.run_exchange(n_waiting=5) == []
    play.loaded("young")
    assert play.run_exchange(n_waiting=0) == []


def test_what_sessions_share_is_not_given_away() -> None:
    play = Play(n_rows=20)
    play.begin("first", chain(0, 8, 3), 0)
    play.complete("first")
    play.begin("second", chain(1, 8, 3), 1)
    play.loaded("second")
    play.complete("second")
    assert play.tier.spare(chain(1, 8, 3), 1).size == 5
    assert play.tier.spare(chain(0, 8, 3), 0).size == 5


def test_a_small_tier_exchanges_at_the_end_of_a_round_only() -> None:
    for n_waiting, expected in ((50, []), (1, ["old"])):
        play = full_tier(n_device_blocks=N_ROWS)
        play.end("early 3")
        refuse(play, "old", 9)
        for session in (0, 1, 2):
            play.end(f"early {session}")
        play.begin("young", chain(3, 6, 0), 3)
        play.loaded("young")
        assert play.run_exchange(n_waiting) == expected


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_the_books_balance_and_only_older_ones_take(seed: int, n_steps: int) -> None:
    rng = random.Random(seed)
    play = Play(n_rows=rng.choice([6, 12, 24]), n_device_blocks=rng.choice([2, 8, 30]))
    for step in range(n_steps):
        session = rng.randrange(6)
        request = f"request {step}"
        play.begin(request, chain(session, rng.randint(1, 8), rng.randint(0, 2)), session)
        for other in list(play.running):
            if rng.random() < 0.7:
                play.loaded(other)
            if rng.random() < 0.5 and not play.tier.is_loading(other):
                play.complete(other)
        if rng.random() < 0.3:
            rows = play.tier.index.lookup(chain(rng.randrange(6), 8, 2))
            play.tier.index.pin(f"pin {step}", rows[rows >= 0], 1e9)
        before = {name: play.held(name) for name in play.running}
        takers = play.run_exchange(rng.choice([0, 1, 100]))
        play.tier.index.check_integrity()
        for taker in takers:
            assert sum(play.held(taker)) > sum(before[taker]), "a taker has no more than before"
        for name in list(play.running):
            if rng.random() < 0.2:
                play.end(name)


def test_a_request_that_ended_neither_gives_nor_takes() -> None:
    play = full_tier()
    play.end("early 3")
    refuse(play, "old", 9)
    play.begin("young", chain(3, 6, 0), 3)
    play.loaded("young")
    play.end("old")
    assert play.run_exchange(n_waiting=5) == []
    assert all(play.held("young"))
