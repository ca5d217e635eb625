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
            start, end = (
                self._passed_piece(all_passed) if is_passed else (self._head, min(self._tail, self._head + look))
            )
            entries = self._entries[start:end]
            is_current = self._is_current(start, end)
            places = np.flatnonzero(is_current & (n_pins[entries] == 0))[:n_walked]
            rows = entries[places].astype(np.int64)
            leaving = np.arange(rows.size) if stays is None else np.flatnonzero(~stays(rows))
            if leaving.size >= n_rows:
                leaving = leaving[:n_rows]
                rows = rows[: leaving[-1] + 1]
            places = places[: rows.size]
            chosen.append(rows)
            self._place[rows] = _NO_PLACE
            self.n_held -= rows.size
            n_rows -= leaving.size
            n_walked -= rows.size
            is_done = n_rows == 0 or n_walked == 0
            if is_passed:
                if not is_done:
                    self._passed_seen(end)
                is_passed = False
            else:
                is_current[places] = False
                n_seen = int(places[-1]) + 1 if is_done else entries.size
                self._set_aside(entries[:n_seen][is_current[:n_seen]])
                self._head += n_seen
                look = min(2 * look, _LONGEST_LOOK)
        return np.concatenate(chosen) if chosen else no_rows()

    def _passed_piece(self, all_passed: bool) -> tuple[int, int]:
        if all_passed:
            return 0, self._n_passed
        return self._passed_cursor, min(self._n_passed, self._passed_cursor + PASSED_LOOK)

    def _passed_seen(self, end: int) -> None:
        """The passed rows were looked at up to `end`: go on there, or close the gaps and begin again."""
        self._passed_cursor = end
        if end == self._n_passed:
            kept = self._entries[:end][self._is_current(0, end)]
            if kept.size < end:
                self._write(0, kept)
            self._n_passed = kept.size
            self._passed_cursor = 0

    def _set_aside(self, rows: NDArray[np.int32]) -> None:
        if rows.size:
            self._write(self._n_passed, rows)
            self._n_passed += rows.size

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
