"""S3-FIFO gives up what the paper's algorithm would, with bounded queues, and a scan passes by what is reused."""

import numpy as np
from hypothesis import given, settings

from elmas.cache.lru import Lru
from elmas.cache.rows import as_rows
from elmas.cache.s3fifo import S3Fifo
from elmas.cache.sessions import NO_SESSION
from tests.cache.histories import CAPACITY, GhostModel, Tier, block, histories, hits_after_a_scan, play

N_SMALL = 1  # a tenth of the tier
N_GHOSTS = CAPACITY - N_SMALL


class S3FifoModel:
    """Yang and others' queues as Python lists, the next to leave first."""

    def __init__(self) -> None:
        self.small: list[int] = []
        self.main: list[int] = []
        self.ghosts = GhostModel(N_GHOSTS)
        self.n_uses: dict[int, int] = {}
        self.block_of: dict[int, bytes] = {}

    def insert(self, rows: list[int], blocks: list[bytes]) -> None:
        for row, name in reversed(list(zip(rows, blocks, strict=True))):  # the tail of the prefix enters first
            self.block_of[row], self.n_uses[row] = name, 0
            (self.small if self.ghosts.blocks.pop(name, None) is None else self.main).append(row)

    def use(self, rows: list[int]) -> None:
        for row in rows:
            self.n_uses[row] = min(3, self.n_uses[row] + 1)

    def remove(self, rows: list[int]) -> None:
        self.small = [row for row in self.small if row not in rows]
        self.main = [row for row in self.main if row not in rows]

    def victims(self, n_rows: int, pinned: set[int]) -> list[int]:
        given_up: list[int] = []
        self.evict_small(given_up, n_rows, pinned, N_SMALL)
        self.evict_main(given_up, n_rows, pinned)
        self.evict_small(given_up, n_rows, pinned, 1)  # below its share: the main queue has none left
        self.evict_main(given_up, n_rows, pinned)
        return given_up

    def evict_small(self, given_up: list[int], n_rows: int, pinned: set[int], n_least: int) -> None:
        while len(given_up) < n_rows and len(self.small) >= n_least:
            row = next((row for row in self.small if row not in pinned), None)
            if row is None:
                return
            self.small.remove(row)
            if self.n_uses[row] > 1:
                self.main.append(row)
                self.n_uses[row] = 0
            else:
                self.ghosts.add(self.block_of[row])
                given_up.append(row)

    def evict_main(self, given_up: list[int], n_rows: int, pinned: set[int]) -> None:
        while len(given_up) < n_rows:
            row = next((row for row in self.main if row not in pinned), None)
            if row is None:
                return
            self.main.remove(row)
            if self.n_uses[row] > 0:
                self.main.append(row)
                self.n_uses[row] -= 1
            else:
                given_up.append(row)


@settings(max_examples=400)
@given(histories)
def test_gives_up_what_the_paper_would(history) -> None:
    policy, model = S3Fifo(CAPACITY), S3FifoModel()

    def check() -> None:
        assert policy.n_ghosts == len(model.ghosts.blocks) <= CAPACITY
        for queue in (model.small, model.main):
            unused = as_rows([row for row in queue if model.n_uses[row] == 0])
            assert (np.diff(policy.worth(unused)) > 0).all(), "what goes later is worth more"
        if model.small and model.main:
            going = as_rows([row for row in model.small if model.n_uses[row] < 2])
            assert (policy.worth(going) < policy.worth(as_rows(model.main)).min()).all()

    play(history, policy, model, check)


def test_a_scan_does_not_drive_out_what_was_reused() -> None:
    assert hits_after_a_scan(Lru(100)) == 0
    assert hits_after_a_scan(S3Fifo(100)) == 50


def test_a_scan_stays_within_the_small_share() -> None:
    tier = Tier(S3Fifo(100), 100)
    for _ in range(3):
        tier.ask(range(80))
    for first in range(1000, 2000, 10):
        tier.ask(range(first, first + 10))
    assert all(number in tier.held for number in range(80))


def test_what_comes_back_as_a_ghost_outlives_what_came_once() -> None:
    tier = Tier(S3Fifo(100), 100)
    tier.ask(range(100))
    tier.ask(range(100, 150))
    assert not any(number in tier.held for number in range(50, 100))
    tier.ask(range(50, 90))
    for first in range(200, 290, 10):
        tier.ask(range(first, first + 10))
    assert all(number in tier.held for number in range(50, 90))
    assert not any(number in tier.held for number in range(100, 150))


def test_the_tail_goes_before_the_head() -> None:
    policy, n_pins = S3Fifo(8), np.zeros(8, dtype=np.int32)
    policy.insert(as_rows([0, 1, 2, 3]), [block(number) for number in range(4)], NO_SESSION, 0.0)
    assert policy.victims(4, n_pins, [], NO_SESSION).tolist() == [3, 2, 1, 0]


def test_queues_stay_bounded() -> None:
    policy, n_pins = S3Fifo(20), np.zeros(20, dtype=np.int32)
    n_pins[:5] = 1
    policy.insert(as_rows(range(20)), [block(number) for number in range(20)], NO_SESSION, 0.0)
    for turn in range(1, 2000):
        rows = policy.victims(3, n_pins, [], NO_SESSION)
        policy.insert(rows, [block(3 * turn + place + 100) for place in range(3)], NO_SESSION, 0.0)
        policy.use(rows[:2], NO_SESSION, 0.0)
        policy.use(rows[:1], NO_SESSION, 0.0)
    assert policy._small.n_held + policy._main.n_held == 20
    assert policy.n_ghosts <= 18
