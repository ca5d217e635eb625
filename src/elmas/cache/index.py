"""Which block is in which row of a tier: residency, reservations for writing, pins, eviction.

A row is free, being written, or resident. Only resident rows can be found; a row being written becomes findable with
`commit`, so a reader never sees half a block. A pinned row is never evicted; every pin has an owner and a deadline.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from elmas.cache.retention import RetentionPolicy
from elmas.cache.rows import NO_ROW, BlockHash, Rows, as_rows, no_rows
from elmas.cache.sessions import NO_SESSION


class Pin(NamedTuple):
    """Rows that one owner is reading, in one or more batches. After `deadline_s` the pin is reported as overdue; it
    still holds."""

    batches: list[Rows]
    deadline_s: float


@dataclass(frozen=True)
class Occupancy:
    """How the rows of a tier are used; free + writing + resident is the capacity."""

    n_free: int
    n_writing: int
    n_resident: int
    n_pinned: int


class TierIndex:
    """The index of one tier of `n_rows` rows.

    Everything runs at C speed per block. Not thread-safe: one thread owns an index.
    """

    def __init__(self, n_rows: int, policy: RetentionPolicy) -> None:
        if n_rows < 1:
            raise ValueError(f"a tier needs at least one row, not {n_rows}")
        self.n_rows = n_rows
        self.n_evicted = 0
        self._policy = policy
        self._resident: dict[BlockHash, int] = {}
        self._writing: dict[BlockHash, int] = {}
        self._hash_of = np.full(n_rows, None, dtype=object)
        self._free: list[int] = list(range(n_rows - 1, -1, -1))
        self._n_pins: NDArray[np.int32] = np.zeros(n_rows, dtype=np.int32)
        self._n_pinned = 0
        self._pins: dict[str, Pin] = {}
        self._writer: NDArray[np.int32] = np.full(n_rows, NO_SESSION, dtype=np.int32)

    # Reading

    def lookup(self, hashes: Sequence[BlockHash]) -> Rows:
        """Return the row of each block, NO_ROW where it is not resident. Changes nothing."""
        found = map(self._resident.get, hashes, repeat(NO_ROW))
        return np.fromiter(found, dtype=np.int64, count=len(hashes))

    def is_held(self, block: BlockHash) -> bool:
        """Return whether the block is resident or being written."""
        return block in self._resident or block in self._writing

    def missing(self, blocks: Sequence[BlockHash]) -> list[int]:
        """Return the places of those blocks that are neither resident nor being written."""
        resident, writing = self._resident, self._writing
        return [place for place, block in enumerate(blocks) if block not in resident and block not in writing]

    def holds_any(self, blocks: Sequence[BlockHash]) -> bool:
        """Return whether one of the blocks is resident or being written."""
        return not (self._resident.keys().isdisjoint(blocks) and self._writing.keys().isdisjoint(blocks))

    def use(self, rows: Rows, now_s: float, session: int = NO_SESSION) -> None:
        """Tell the policy that a request reads these resident rows, or has their blocks on the device."""
        self._policy.use(rows, session, now_s)

    def blocks_in(self, rows: Rows) -> list[BlockHash]:
        """Return the blocks of rows that are resident or being written."""
        blocks: list[BlockHash] = self._hash_of[rows].tolist()
        return blocks

    def pin(self, owner: str, rows: Rows, deadline_s: float) -> None:
        """Keep resident rows from eviction until `unpin(owner)`. One pin per owner at a time: KeyError otherwise."""
        if owner in self._pins:
            raise KeyError(f"{owner} holds a pin already")
        self._pins[owner] = Pin([rows], deadline_s)
        self._add_pins(rows)

    def extend_pin(self, owner: str, rows: Rows) -> None:
        """Add resident rows to the owner's pin; a row may be in several batches. KeyError when it holds none."""
        self._pins[owner].batches.append(rows)
        self._add_pins(rows)

    def unpin(self, owner: str) -> bool:
        """Drop the owner's pin; returns whether there was one."""
        pin = self._pins.pop(owner, None)
        if pin is None:
            return False
        for rows in pin.batches:
            self._drop_pins(rows)
        return True

    def overdue(self, now_s: float) -> list[str]:
        """Return the owners whose pins are past their deadline."""
        return [owner for owner, pin in self._pins.items() if pin.deadline_s < now_s]

    # Writing

    def reserve(self, blocks: Sequence[BlockHash], prefix: Sequence[BlockHash], session: int = NO_SESSION) -> Rows:
        """Reserve rows to write `blocks` of a session to, evicting what the policy values least; returns one row for
        each of the first blocks that could be placed. None of the blocks may be held already (ValueError).

        What is resident of `prefix`, the blocks before these, is not evicted for them: without it they could not be
        reached.
        """
        n_missing = len(blocks) - len(self._free)
        if n_missing > 0:
            found = self.lookup(prefix)
            keep = found[found >= 0]
            n_pins = self._n_pins[keep]
            if self._n_pinned + keep.size - np.count_nonzero(n_pins) < len(self._resident):
                self._n_pins[keep] = n_pins + 1
                victims = self._policy.victims(n_missing, self._n_pins, blocks, session)
                self._n_pins[keep] = n_pins
                if victims.size:
                    self._evict(victims)
        n_placed = min(len(blocks), len(self._free))
        if n_placed == 0:
            return no_rows()
        placed = blocks[:n_placed]
        if self.holds_any(placed):
            raise ValueError("a block is held already: look it up before reserving")
        # In rising order, as a device that was not used yet hands out its blocks: neighbours can be copied together.
        rows = self._free[-n_placed:][::-1]
        del self._free[-n_placed:]
        self._writing.update(zip(placed, rows, strict=True))
        if len(self._writing) + len(self._resident) + len(self._free) != self.n_rows:
            raise ValueError("a block is twice in the batch")
        numbers = as_rows(rows)
        self._hash_of[numbers] = placed
        self._writer[numbers] = session
        return numbers

    def commit(self, rows: Rows, now_s: float) -> None:
        """Make written rows findable. They were reserved together."""
        blocks = self._end_writing(rows)
        self._resident.update(zip(blocks, rows.tolist(), strict=True))
        if blocks:
            self._policy.insert(rows, blocks, self._writer.item(rows[0]), now_s)

    def abort(self, rows: Rows) -> None:
        """Give up writing: the rows are free again."""
        self._end_writing(rows)
        self._release(rows)

    def clear(self) -> bool:
        """Drop every resident block that is not pinned; returns whether nothing is held any more."""
        rows = as_rows(list(self._resident.values()))
        unpinned = rows[self._n_pins[rows] == 0]
        self._policy.remove(unpinned)
        self._drop(unpinned)
        return not self._resident and not self._writing

    # Accounting

    def occupancy(self) -> Occupancy:
        """Return how the rows are used."""
        return Occupancy(len(self._free), len(self._writing), len(self._resident), self._n_pinned)

    def check_integrity(self) -> None:
        """Raise AssertionError with the figures if the books do not balance. For tests and idle time: O(rows)."""
        now = self.occupancy()
        total = now.n_free + now.n_writing + now.n_resident
        assert total == self.n_rows, f"free + writing + resident = {now} is {total}, not {self.n_rows}"
        for block, row in (*self._resident.items(), *self._writing.items()):
            assert self._hash_of[row] == block, f"row {row} is booked for another block"
        assert all(self._hash_of[row] is None for row in self._free), "a free row still has a block"
        pins = np.zeros_like(self._n_pins)
        for pin in self._pins.values():
            for rows in pin.batches:
                pins[rows] += 1
        assert np.array_equal(pins, self._n_pins), "pin counts do not match the pins"
        assert np.count_nonzero(pins) == self._n_pinned, "the number of pinned rows does not match the pins"
        resident = np.zeros(self.n_rows, dtype=bool)
        resident[list(self._resident.values())] = True
        assert resident[np.flatnonzero(pins)].all(), "a pinned row is not resident"

    def _add_pins(self, rows: Rows) -> None:
        n_pins = self._n_pins[rows] + 1
        self._n_pins[rows] = n_pins
        self._n_pinned += int(np.count_nonzero(n_pins == 1))

    def _drop_pins(self, rows: Rows) -> None:
        n_pins = self._n_pins[rows] - 1
        self._n_pins[rows] = n_pins
        self._n_pinned -= int(np.count_nonzero(n_pins == 0))

    def _end_writing(self, rows: Rows) -> list[BlockHash]:
        blocks = self.blocks_in(rows)
        found = list(map(self._writing.pop, blocks, repeat(NO_ROW)))
        if found != rows.tolist():
            raise ValueError(f"among rows {rows.tolist()} one is not being written")
        return blocks

    def _evict(self, rows: Rows) -> None:
        self.n_evicted += rows.size
        self._drop(rows)

    def _drop(self, rows: Rows) -> None:
        deque(map(self._resident.__delitem__, self.blocks_in(rows)), maxlen=0)
        self._release(rows)

    def _release(self, rows: Rows) -> None:
        self._hash_of[rows] = None
        self._free.extend(rows.tolist())


def resident_run(rows: Rows, first: int) -> Rows:
    """Return the unbroken run of resident rows of a lookup that starts at position `first`."""
    if first >= rows.size or rows[first] < 0:
        return no_rows()
    run = rows[first:] if first else rows
    is_missing = run < 0
    n: int = is_missing.argmax().item()
    return run[:n] if n else run
