"""Which block is in which slot of which disk segment, and which segment has to go when there is no room for a new one.

A segment is written once, from its first slot to its last, and given up as a whole. A disk *row* is place * n_slots +
slot, where a place is one of the positions that fit the capacity and holds at most one segment at a time. At most one
segment is open for writing. Pure: files are somebody else's business.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elmas.cache.block_table import BlockTable, Keys, as_keys
from elmas.cache.lru import Lru
from elmas.cache.retention import RetentionPolicy
from elmas.cache.rows import BlockHash, Rows, no_rows
from elmas.cache.sessions import NO_SESSION

_NO_SEGMENT = -1


@dataclass(frozen=True)
class Opening:
    """A new segment, and the segments that must be removed before it is created."""

    segment: int
    removed: tuple[int, ...]


@dataclass(frozen=True)
class Slots:
    """Consecutive slots of the open segment that one write goes to, and their rows."""

    segment: int
    first_slot: int
    rows: Rows


@dataclass(frozen=True)
class Closing:
    """What a footer says: `keys` is (n_slots, 32), `present` tells which slots hold a block."""

    segment: int
    keys: Keys
    present: NDArray[np.bool_]


class SegmentIndex:
    """The index of the disk tier: `n_slots` blocks per segment of `segment_bytes`, all within `capacity_bytes`.

    A segment is worth what its blocks are worth together, by the policy that `make_policy` returns for a number of
    rows. Not thread-safe: one thread owns an index.
    """

    def __init__(
        self,
        n_slots: int,
        segment_bytes: int,
        capacity_bytes: int,
        make_policy: Callable[[int], RetentionPolicy] = Lru,
    ) -> None:
        self.n_slots = n_slots
        self.n_drops = 0
        """How often blocks were given up: as long as it stays the same, rows that were looked up are valid."""
        self.segment_bytes = segment_bytes
        self.capacity_bytes = capacity_bytes
        n_places = capacity_bytes // segment_bytes
        if n_places < 2:
            raise ValueError(f"{capacity_bytes} bytes hold less than two segments of {segment_bytes}")
        self._table = BlockTable(n_places * n_slots)
        self._is_present = np.zeros(n_places * n_slots, dtype=np.bool_)
        self._policy = make_policy(n_places * n_slots)
        self._segment_at: NDArray[np.int64] = np.full(n_places, _NO_SEGMENT, dtype=np.int64)
        self._free = list(range(n_places - 1, -1, -1))
        self._foreign: dict[int, int] = {}
        self._next_segment = 0
        self._open_place: int | None = None
        self._n_reserved = 0
        self._n_settled = 0

    # At start

    def restore(self, segment: int, keys: Keys, present: NDArray[np.bool_]) -> bool:
        """Enter a segment that was found, in increasing order of segments; False when it has no place.

        A block that is there already is taken from the newer segment from now on.
        """
        self._next_segment = max(self._next_segment, segment + 1)
        if not self._free or self.n_bytes_used + self.segment_bytes > self.capacity_bytes:
            return False
        place = self._free.pop()
        self._segment_at[place] = segment
        slots = np.flatnonzero(present)
        # Within a segment the last writing of a block counts.
        _, last = np.unique(keys[slots][::-1].view("V32").ravel(), return_index=True)
        slots = slots[slots.size - 1 - last]
        older = self._table.lookup_keys(keys[slots])
        self.drop(older[older >= 0])
        self._enter(place * self.n_slots + slots, keys[slots], NO_SESSION, 0.0)
        return True

    def restore_foreign(self, segment: int, n_bytes: int) -> None:
        """Count a segment that cannot be read; it is the first to go."""
        self._next_segment = max(self._next_segment, segment + 1)
        self._foreign[segment] = n_bytes

    # Reading

    def lookup(self, hashes: Sequence[BlockHash]) -> Rows:
        """Return the disk row of each block, NO_ROW where it is not on disk."""
        return self._table.lookup(hashes)

    def place_of(self, row: int) -> tuple[int, int]:
        """Return the segment and the slot of a row."""
        place, slot = divmod(row, self.n_slots)
        return int(self._segment_at[place]), slot

    def run_ends(self, rows: Rows) -> NDArray[np.int64]:
        """Return for each of the rows where the run of adjacent records that it belongs to ends, as a position."""
        if rows.size == 0:
            return no_rows()
        breaks = np.flatnonzero((np.diff(rows) != 1) | (rows[1:] % self.n_slots == 0)) + 1
        ends = np.append(breaks, rows.size)
        return ends[np.searchsorted(ends, np.arange(rows.size), side="right")]

    def use(self, rows: Rows, now_s: float, session: int = NO_SESSION) -> None:
        """A request of a session asks for these rows, in prefix order."""
        self._policy.use(rows, session, now_s)

    def drop(self, rows: Rows) -> None:
        """Forget rows whose record cannot be read."""
        if rows.size:
            self.n_drops += 1
            self._table.remove(rows)
            self._is_present[rows] = False
            self._policy.remove(rows)

    # Writing

    @property
    def is_open(self) -> bool:
        """Whether a segment is open for writing."""
        return self._open_place is not None

    @property
    def n_left(self) -> int:
        """Slots of the open segment that no write goes to yet."""
        return 0 if self._open_place is None else self.n_slots - self._n_reserved

    def open_next(self) -> Opening | None:
        """Open a new segment, giving up what must go: foreign segments, oldest first, then own ones of least value.

        None while one is open, or when nothing can be given up.
        """
        if self._open_place is not None:
            return None
        removed: list[int] = []
        while self.n_bytes_used + self.segment_bytes > self.capacity_bytes or not self._free:
            victim = self._give_up_one()
            if victim is None:
                break
            removed.append(victim)
        if not self._free or self.n_bytes_used + self.segment_bytes > self.capacity_bytes:
            return None
        place = self._free.pop()
        segment = self._next_segment
        self._next_segment += 1
        self._segment_at[place] = segment
        self._open_place, self._n_reserved, self._n_settled = place, 0, 0
        return Opening(segment, tuple(removed))

    def reserve(self, n: int) -> Slots:
        """Return the next slots of the open segment, at most `n`. ValueError when none is open or left."""
        if self._open_place is None or self.n_left == 0:
            raise ValueError("no slot is left: open a segment first")
        n = min(n, self.n_left)
        first = self._n_reserved
        self._n_reserved += n
        base = self._open_place * self.n_slots
        return Slots(int(self._segment_at[self._open_place]), first, np.arange(base + first, base + first + n))

    def commit(self, rows: Rows, hashes: Sequence[BlockHash], now_s: float, session: int = NO_SESSION) -> None:
        """Reserved rows were written with these blocks of a session: they can be found from now on, unless they were
        already."""
        self._settle(rows)
        keys = as_keys(hashes)
        new = self._table.lookup_keys(keys) < 0
        self._enter(rows[new], keys[new], session, now_s)

    def abort(self, rows: Rows) -> None:
        """Reserved rows were not written: these slots stay empty."""
        self._settle(rows)

    def close_open(self) -> Closing:
        """End the open segment. ValueError while a write is going to it."""
        place = self._open_place
        if place is None or self._n_settled < self._n_reserved:
            raise ValueError("no segment is open, or a write is going to it")
        rows = np.arange(place * self.n_slots, (place + 1) * self.n_slots)
        self._open_place = None
        return Closing(int(self._segment_at[place]), self._table.keys_of(rows), self._is_present[rows].copy())

    def abandon_open(self) -> None:
        """End the open segment after an error: what was committed stays, and writes under way may still settle."""
        self._open_place = None

    def clear(self) -> tuple[int, ...]:
        """Forget everything; returns all segments, foreign ones too."""
        removed = (*self._foreign, *self._segment_at[self._segment_at >= 0].tolist())
        self.drop(np.flatnonzero(self._is_present))
        self._foreign.clear()
        self._segment_at[:] = _NO_SEGMENT
        self._free = list(range(self._segment_at.size - 1, -1, -1))
        self._open_place = None
        return removed

    # Accounting

    @property
    def n_blocks(self) -> int:
        """Blocks that can be found."""
        return len(self._table)

    @property
    def n_segments(self) -> int:
        """Own segments, with the open one."""
        return self._segment_at.size - len(self._free)

    @property
    def n_bytes_used(self) -> int:
        """Bytes of all segments, foreign ones too."""
        return self.n_segments * self.segment_bytes + sum(self._foreign.values())

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the index takes, without its policy."""
        return self._table.nbytes + self._is_present.nbytes + self._segment_at.nbytes

    def check_integrity(self) -> None:
        """Raise AssertionError if the books do not balance. For tests: O(rows)."""
        rows = np.flatnonzero(self._is_present)
        assert rows.size == len(self._table), f"{rows.size} rows are present, {len(self._table)} are in the table"
        assert np.array_equal(self._table.lookup_keys(self._table.keys_of(rows)), rows), "a block is found elsewhere"
        assert (self._segment_at[rows // self.n_slots] >= 0).all(), "a block is in a segment that is gone"
        assert (self._segment_at[self._free] == _NO_SEGMENT).all(), "a free place has a segment"
        assert self.n_bytes_used <= self.capacity_bytes, "the segments exceed the capacity"

    def _enter(self, rows: Rows, keys: Keys, session: int, now_s: float) -> None:
        entered = self._table.insert(keys, rows)
        self._is_present[rows[entered]] = True
        self._policy.insert(rows[entered], [key.tobytes() for key in keys[entered]], session, now_s)

    def _settle(self, rows: Rows) -> None:
        if self._open_place is not None and rows[0] // self.n_slots == self._open_place:
            self._n_settled += rows.size

    def _give_up_one(self) -> int | None:
        if self._foreign:
            segment = min(self._foreign)
            del self._foreign[segment]
            return segment
        places = np.flatnonzero(self._segment_at >= 0)
        if places.size == 0:
            return None
        rows = np.flatnonzero(self._is_present)
        worth = np.bincount(rows // self.n_slots, self._policy.worth(rows), minlength=self._segment_at.size)[places]
        # An empty one, as failed writes leave it, costs nothing to lose. Among equals the oldest goes.
        is_used = self._is_present.reshape(-1, self.n_slots)[places].any(axis=1)
        place = int(places[np.lexsort((self._segment_at[places], worth, is_used))[0]])
        segment = int(self._segment_at[place])
        rows = np.arange(place * self.n_slots, (place + 1) * self.n_slots)
        self.drop(rows[self._is_present[rows]])
        self._segment_at[place] = _NO_SEGMENT
        self._free.append(place)
        return segment
