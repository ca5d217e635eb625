"""The index against a dictionary: what is found, what is pinned, and that the books balance after every step."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from elmas.cache.index import TierIndex, resident_run
from elmas.cache.lru import Lru
from elmas.cache.rows import as_rows

N_ROWS = 6
blocks = st.integers(0, 11).map(lambda n: bytes([n]) * 32)


class IndexMachine(RuleBasedStateMachine):
    """Random reservations, commits, aborts, pins and evictions."""

    reservations = Bundle("reservations")
    pins = Bundle("pins")

    def __init__(self) -> None:
        super().__init__()
        self.index = TierIndex(N_ROWS, Lru(N_ROWS))
        self.row_of: dict[bytes, int] = {}
        self.pinned: dict[str, list[int]] = {}
        self.n_owners = 0

    @rule(target=reservations, wanted=st.lists(blocks, min_size=1, max_size=8, unique=True), prefix=st.lists(blocks))
    def reserve(self, wanted: list[bytes], prefix: list[bytes]):
        wanted = [block for block in wanted if not self.index.is_held(block)]
        kept = [block for block in prefix if block in self.row_of]
        rows = self.index.reserve(wanted, prefix)
        assert len(set(rows.tolist())) == rows.size <= len(wanted)
        still = {b: r for b, r in self.row_of.items() if self.index.lookup([b])[0] >= 0}
        assert not set(rows.tolist()) & set(still.values()), "a resident row was handed out"
        assert all(block in still for block in kept), "the prefix of the new blocks was evicted"
        for rows_of_owner in self.pinned.values():
            assert set(rows_of_owner) <= set(still.values()), "a pinned row was evicted"
        self.row_of = still
        return (wanted[: rows.size], rows) if rows.size else multiple()

    @rule(reservation=consumes(reservations))
    def commit(self, reservation) -> None:
        written, rows = reservation
        self.index.commit(rows, 0.0)
        self.row_of.update(zip(written, rows.tolist(), strict=True))

    @rule(reservation=consumes(reservations))
    def abort(self, reservation) -> None:
        self.index.abort(reservation[1])

    @rule(target=pins, wanted=st.lists(blocks, max_size=8, unique=True))
    def pin(self, wanted: list[bytes]):
        rows = [self.row_of[block] for block in wanted if block in self.row_of]
        self.n_owners += 1
        owner = f"request-{self.n_owners}"
        self.index.pin(owner, as_rows(rows), deadline_s=1.0)
        self.pinned[owner] = rows
        return owner

    @rule(owner=consumes(pins))
    def unpin(self, owner: str) -> None:
        assert self.index.unpin(owner)
        del self.pinned[owner]
        assert not self.index.unpin(owner)

    @rule(wanted=st.lists(blocks, unique=True))
    def use(self, wanted: list[bytes]) -> None:
        self.index.use(as_rows([self.row_of[block] for block in wanted if block in self.row_of]), 0.0)

    @rule(wanted=st.lists(blocks, unique=True))
    def look_for_what_is_missing(self, wanted: list[bytes]) -> None:
        is_held = [self.index.is_held(block) for block in wanted]
        assert self.index.missing(wanted) == [place for place, held in enumerate(is_held) if not held]

    @rule()
    def clear(self) -> None:
        self.index.clear()
        pinned = {row for rows in self.pinned.values() for row in rows}
        self.row_of = {block: row for block, row in self.row_of.items() if row in pinned}

    @invariant()
    def finds_exactly_what_is_resident(self) -> None:
        every = [bytes([n]) * 32 for n in range(12)]
        assert self.index.lookup(every).tolist() == [self.row_of.get(block, -1) for block in every]
        self.index.check_integrity()


IndexMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
test_index_machine = IndexMachine.TestCase


def test_blocks_of_a_prefix_get_neighbouring_rows_in_its_order() -> None:
    index = TierIndex(N_ROWS, Lru(N_ROWS))
    prefix = [bytes([n]) * 32 for n in range(N_ROWS)]
    first, second = index.reserve(prefix[:4], []), index.reserve(prefix[4:], [])
    assert [*first, *second] == list(range(N_ROWS))
    index.commit(first, 0.0)
    # Also where others were evicted for them, the tail first.
    assert index.reserve([bytes([n]) * 32 for n in range(20, 24)], []).tolist() == [0, 1, 2, 3]


def test_overdue_pins_are_reported_and_still_hold() -> None:
    index = TierIndex(1, Lru(1))
    index.commit(index.reserve([b"a"], []), 0.0)
    index.pin("slow", as_rows([0]), deadline_s=10.0)
    assert index.overdue(9.0) == []
    assert index.overdue(11.0) == ["slow"]
    assert index.reserve([b"b"], []).size == 0


def test_misuse_is_refused() -> None:
    index = TierIndex(2, Lru(2))
    rows = index.reserve([b"a"], [])
    with pytest.raises(ValueError, match="held already"):
        index.reserve([b"a"], [])
    index.commit(rows, 0.0)
    with pytest.raises(ValueError, match="not being written"):
        index.commit(rows, 0.0)
    index.pin("owner", rows, 1.0)
    with pytest.raises(KeyError):
        index.pin("owner", rows, 1.0)
    with pytest.raises(ValueError, match="at least one row"):
        TierIndex(0, Lru(0))


@pytest.mark.parametrize(
    ("rows", "first", "run"),
    [([], 0, []), ([3, 4, -1, 5], 0, [3, 4]), ([3, 4, -1, 5], 2, []), ([3, 4, -1, 5], 3, [5]), ([1], 5, [])],
)
def test_resident_run(rows: list[int], first: int, run: list[int]) -> None:
    assert np.array_equal(resident_run(as_rows(rows), first), as_rows(run))
