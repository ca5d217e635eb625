"""Least recently used, by batches.

The reference policy: it keeps nothing of a cyclic scan that is larger than the tier, which is why others exist. A use
of a prefix stamps all its rows at once and appends one batch to a queue, so the cost of a use does not grow with
Python's per-row overhead; a row counts only in the batch that carries its newest stamp, older entries are skipped when
they reach the front. Rows that are passed over because they are pinned are set aside as one batch, in the order in
which they would be given up: waiting requests may pin thousands of batches, which must not be walked at every look.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from elmas.cache.rows import BlockHash, Rows, no_rows

_ABSENT = 0
_COMPACT_FACTOR = 4
"""The queue may hold this many entries per row of the tier before the skipped ones are swept out."""


class Lru:
    """Gives up the rows that were used longest ago; within one use, the tail of the prefix first."""

    def __init__(self, capacity_rows: int) -> None:
        self._stamp: NDArray[np.int64] = np.full(capacity_rows, _ABSENT, dtype=np.int64)
        self._batches: deque[tuple[int, Rows]] = deque()
        self._n_queued = 0
        self._passed: Rows = no_rows()
        self._passed_stamps: NDArray[np.int64] = no_rows()
        self._clock = _ABSENT

    def insert(self, rows: Rows, blocks: Sequence[BlockHash], session: int, now_s: float) -> None:
        """Held from now on, as the most recently used."""
        self.use(rows, session, now_s)

    def use(self, rows: Rows, session: int, now_s: float) -> None:
        """Most recently used from now on. The order of calls is the order of use; who uses them, and when, is not
        needed."""
        if rows.size == 0:
            return
        self._clock += 1
        self._stamp[rows] = self._clock
        self._batches.append((self._clock, rows))
        self._n_queued += rows.size
        if self._n_queued > _COMPACT_FACTOR * self._stamp.size:
            self._compact()

    def remove(self, rows: Rows) -> None:
        """Forget the rows; their queue entries lose their meaning with the stamp."""
        self._stamp[rows] = _ABSENT

    def worth(self, rows: Rows) -> NDArray[np.float64]:
        """Return how recently each row was used: 1 for the newest use, towards 0 for the oldest."""
        return np.asarray(self._stamp[rows] / max(1, self._clock))

    def victims(self, n_rows: int, n_pins: NDArray[np.int32], wanted: Sequence[BlockHash], session: int) -> Rows:
        """Return up to `n_rows` unpinned rows, least recently used first, and forget them. Never refuses a session."""
        chosen = [self._victims_passed(n_rows, n_pins)] if self._passed.size else []
        n_rows -= sum(taken.size for taken in chosen)
        passed: list[tuple[int, Rows]] = []
        while n_rows > 0 and self._batches:
            stamp, rows = self._batches.popleft()
            self._n_queued -= rows.size
            current = rows[self._stamp[rows] == stamp]
            positions = np.flatnonzero(n_pins[current] == 0)[-n_rows:]
            taken = current[positions][::-1]
            if taken.size:
                self._stamp[taken] = _ABSENT
                chosen.append(taken)
                n_rows -= taken.size
                current = np.delete(current, positions)
            if current.size and n_rows > 0:
                passed.append((stamp, current))
            elif current.size:
                self._batches.appendleft((stamp, current))
                self._n_queued += current.size
        if passed:
            self._passed = np.concatenate((self._passed, *(rows[::-1] for _, rows in passed)))
            self._passed_stamps = np.concatenate(
                (self._passed_stamps, *(np.full(rows.size, stamp, dtype=np.int64) for stamp, rows in passed))
            )
        return np.concatenate(chosen) if chosen else no_rows()

    def _victims_passed(self, n_rows: int, n_pins: NDArray[np.int32]) -> Rows:
        """See `victims`, for the rows that were set aside: all others were used later."""
        is_current = self._stamp[self._passed] == self._passed_stamps
        positions = np.flatnonzero(is_current & (n_pins[self._passed] == 0))[:n_rows]
        taken = self._passed[positions]
        self._stamp[taken] = _ABSENT
        is_current[positions] = False
        if not is_current.all():
            self._passed, self._passed_stamps = self._passed[is_current], self._passed_stamps[is_current]
        return taken

    def _compact(self) -> None:
        live = ((stamp, rows[self._stamp[rows] == stamp]) for stamp, rows in self._batches)
        self._batches = deque((stamp, rows) for stamp, rows in live if rows.size)
        self._n_queued = sum(rows.size for _, rows in self._batches)
