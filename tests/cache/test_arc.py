"""ARC gives up what the paper's algorithm would, with bounded ghosts, and a scan does not drive out what is reused."""

import numpy as np
from hypothesis import given, settings

from elmas.cache.arc import Arc
from elmas.cache.lru import Lru
from elmas.cache.rows import as_rows
from elmas.cache.sessions import NO_SESSION
from tests.cache.histories import CAPACITY, GhostModel, Tier, block, histories, hits_after_a_scan, play


class ArcModel:
    """Megiddo and Modha's lists as Python lists, least recently used first."""

    def __init__(self) -> None:
        self.p = 0.0
        self.t1: list[int] = []
        self.t2: list[int] = []
        self.b1, self.b2 = GhostModel(CAPACITY), GhostModel(CAPACITY)
        self.block_of: dict[int, bytes] = {}

    def insert(self, rows: list[int], blocks: list[bytes]) -> None:
        to_t1, to_t2 = [], []
        for row, name in zip(rows, blocks, strict=True):
            self.block_of[row] = name
            n1, n2 = len(self.b1.blocks), len(self.b2.blocks)
            if name in self.b1.blocks:
                self.p = min(CAPACITY, self.p + max(1.0, n2 / n1))
                del self.b1.blocks[name]
                to_t2.append(row)
            elif name in self.b2.blocks:
                self.p = max(0.0, self.p - max(1.0, n1 / n2))
                del self.b2.blocks[name]
                to_t2.append(row)
            else:
                to_t1.append(row)
        self.t1 += reversed(to_t1)  # the tail of the prefix counts as the older
        self.t2 += reversed(to_t2)
        self.trim()

    def use(self, rows: list[int]) -> None:
        self.t1 = [row for row in self.t1 if row not in rows]
        self.t2 = [row for row in self.t2 if row not in rows] + rows[::-1]

    def remove(self, rows: list[int]) -> None:
        self.t1 = [row for row in self.t1 if row not in rows]
        self.t2 = [row for row in self.t2 if row not in rows]

    def victims(self, n_rows: int, pinned: set[int]) -> list[int]:
        given_up: list[int] = []
        while len(given_up) < n_rows:
            first_t1 = next((row for row in self.t1 if row not in pinned), None)
            first_t2 = next((row for row in self.t2 if row not in pinned), None)
            if first_t1 is not None and (len(self.t1) > self.p or first_t2 is None):
                self.t1.remove(first_t1)
                self.b1.add(self.block_of[first_t1])
                given_up.append(first_t1)
            elif first_t2 is not None:
                self.t2.remove(first_t2)
                self.b2.add(self.block_of[first_t2])
                given_up.append(first_t2)
            else:
                break
            self.trim()
        return given_up

    def trim(self) -> None:
        self.b1.trim(CAPACITY - len(self.t1))
        self.b2.trim(CAPACITY - len(self.b1.blocks))


@settings(max_examples=400)
@given(histories)
def test_gives_up_what_the_paper_would(history) -> None:
    policy, model = Arc(CAPACITY), ArcModel()

    def check() -> None:
        assert policy.target_rows == model.p
        assert policy.n_ghosts == len(model.b1.blocks) + len(model.b2.blocks) <= CAPACITY
        order = [*model.t1, *model.t2]
        worth = policy.worth(as_rows(order))
        assert (np.diff(worth) >= 0).all(), "what goes later is worth more"

    play(history, policy, model, check)


def test_a_scan_does_not_drive_out_what_was_reused() -> None:
    assert hits_after_a_scan(Lru(100)) == 0
    assert hits_after_a_scan(Arc(100)) == 50


def test_what_comes_back_soon_after_it_went_makes_the_first_list_longer() -> None:
    policy = Arc(100)
    tier = Tier(policy, 100)
    tier.ask(range(60))
    tier.ask(range(60))
    tier.ask(range(100, 140))
    tier.ask(range(200, 230))
    assert policy.target_rows == 0
    tier.ask(range(100, 140))
    assert policy.target_rows == 30


def test_the_tail_goes_before_the_head() -> None:
    policy, n_pins = Arc(8), np.zeros(8, dtype=np.int32)
    policy.insert(as_rows([0, 1, 2, 3]), [block(number) for number in range(4)], NO_SESSION, 0.0)
    policy.use(as_rows([0, 1]), NO_SESSION, 0.0)
    assert policy.victims(4, n_pins, [], NO_SESSION).tolist() == [3, 2, 1, 0]


def test_a_removed_block_leaves_no_ghost() -> None:
    policy = Arc(8)
    policy.insert(as_rows([0, 1]), [block(0), block(1)], NO_SESSION, 0.0)
    policy.remove(as_rows([0, 1]))
    assert policy.n_ghosts == 0
