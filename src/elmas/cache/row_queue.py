"""A queue of rows, the building block of policies: append or move to the end in batches, take from the front.

All entries are in one array; those of rows that moved or left are skipped when they reach the front, and swept out when
the array is full. Rows that are passed over because they are pinned gather before the others, in their order, and are
looked at again a piece at a call: waiting requests may pin hundreds of thousands, which must not be walked every time.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from elmas.cache.rows import Rows, no_rows

_NO_PLACE = -1
_FIRST_LOOK = 64
_LONGEST_LOOK = 8192
PASSED_LOOK = 1024
"""Passed rows that one call looks at again."""

RowTest = Callable[[Rows], NDArray[np.bool_]]
"""Says of each of some rows whether something holds."""


class RowQueue:
    """A queue of rows 0 .. capacity - 1, each at most once; 12 bytes per row of capacity.

    An entry counts if it stands where `_place` says of its row.
    """

    def __init__(self, capacity_rows: int) -> None:
        self.n_held = 0
        self._place: NDArray[np.int32] = np.full(capacity_rows, _NO_PLACE, dtype=np.int32)
        self._entries: NDArray[np.int32] = np.zeros(2 * capacity_rows, dtype=np.int32)
        # Passed rows stand in 0 .. _n_passed - 1, the others in _head .. _tail - 1; _n_passed <= _head.
        self._n_passed = 0
        self._passed_cursor = 0
        self._head = 0
        self._tail = 0

    def push(self, rows: Rows) -> None:
        """Append rows, or move them to the end; the first of them leaves first."""
        if self._tail + rows.size > self._entries.size:
            self._compact()
        self.n_held += int(np.count_nonzero(self._place[rows] == _NO_PLACE))
        self._write(self._tail, rows)
        self._tail += rows.size

    def remove(self, rows: Rows) -> None:
        """Take held rows out of the queue."""
        self._place[rows] = _NO_PLACE
        self.n_held -= rows.size

    def order(self, rows: Rows) -> NDArray[np.float64]:
        """Return where held rows stand: towards 0 leave first, below 1."""
        return np.asarray(self._place[rows] / max(1, self._tail))

    def pop(
        self,
        n_rows: int,
        n_pins: NDArray[np.int32],
        stays: RowTest | None = None,
        max_walked: int | None = None,
        all_passed: bool = False,
    ) -> Rows:
        """Take out unpinned rows, first ones first, until `n_rows` were taken; those that `stays` holds for do not
        count. Takes `max_walked` at most.

        A row that was pinned when its turn came is taken some calls after it is unpinned where there are many such;
        `all_passed` makes sure that none is left.
        """
        n_walked = self.n_held if max_walked is None else max_walked
        chosen: list[Rows] = []
        look = _FIRST_LOOK
        is_passed = self._n_passed > 0
        while n_rows > 0 and n_walked > 0 and (is_passed or self._head < self._tail):
            end = min(self._tail, self._head + look)
            if not is_passed:
                places = self._free_places(self._head, end, n_pins)
            elif all_passed:
                places = self._free_passed(n_pins)
            else:
                places = self._free_places(self._passed_cursor, self._passed_end, n_pins)
            rows = self._entries[places[:n_walked]].astype(np.int64)
            leaving = np.arange(rows.size) if stays is None else np.flatnonzero(~stays(rows))
            if leaving.size >= n_rows:
                leaving = leaving[:n_rows]
                rows = rows[: leaving[-1] + 1]
            chosen.append(rows)
            self._place[rows] = _NO_PLACE
            self.n_held -= rows.size
            n_rows -= leaving.size
            n_walked -= rows.size
            is_done = n_rows == 0 or n_walked == 0
            if not is_passed:
                self._pass_up_to(int(places[rows.size - 1]) + 1 if is_done else end)
                look = min(2 * look, _LONGEST_LOOK)
            elif not (is_done or all_passed):
                self._next_piece()
            is_passed = False
        return np.concatenate(chosen) if chosen else no_rows()

    @property
    def _passed_end(self) -> int:
        return min(self._n_passed, self._passed_cursor + PASSED_LOOK)

    def _free_places(self, start: int, end: int, n_pins: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the places of unpinned rows among the entries `start .. end - 1`."""
        return start + np.flatnonzero(self._is_current(start, end) & (n_pins[self._entries[start:end]] == 0))

    def _free_passed(self, n_pins: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the places of all passed rows that are unpinned by now, found by row: few are, where it is asked."""
        places = self._place[np.flatnonzero(n_pins == 0)].astype(np.int64)
        return np.sort(places[(places != _NO_PLACE) & (places < self._n_passed)])

    def _next_piece(self) -> None:
        """The current piece of the passed rows was looked at: go on behind it, or close the gaps and begin again."""
        self._passed_cursor = self._passed_end
        if self._passed_cursor == self._n_passed:
            is_current = self._is_current(0, self._n_passed)
            if not is_current.all():
                self._write(0, self._entries[: self._n_passed][is_current])
                self._n_passed = int(np.count_nonzero(is_current))
            self._passed_cursor = 0

    def _pass_up_to(self, end: int) -> None:
        """Go on at place `end`; what is still held before it is pinned."""
        pinned = self._entries[self._head : end][self._is_current(self._head, end)]
        if pinned.size:
            self._write(self._n_passed, pinned)
            self._n_passed += pinned.size
        self._head = end

    def _is_current(self, start: int, end: int) -> NDArray[np.bool_]:
        return np.equal(self._place[self._entries[start:end]], np.arange(start, end, dtype=np.int32))

    def _write(self, start: int, rows: NDArray[np.signedinteger]) -> None:
        end = start + rows.size
        self._entries[start:end] = rows
        self._place[rows] = np.arange(start, end, dtype=np.int32)

    def _compact(self) -> None:
        passed = self._entries[: self._n_passed][self._is_current(0, self._n_passed)]
        others = self._entries[self._head : self._tail][self._is_current(self._head, self._tail)]
        self._write(0, passed)
        self._write(passed.size, others)
        self._n_passed = self._head = passed.size
        self._passed_cursor = 0
        self._tail = passed.size + others.size
