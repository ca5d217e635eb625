"""Least recently used: the reference policy. It keeps nothing of a cyclic scan that is larger than the tier, which is
why others exist."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from elmas.cache.row_queue import RowQueue
from elmas.cache.rows import BlockHash, Rows


class Lru:
    """Gives up the rows that were used longest ago; within one use, the tail of the prefix first."""

    def __init__(self, capacity_rows: int) -> None:
        self._queue = RowQueue(capacity_rows)

    def insert(self, rows: Rows, blocks: Sequence[BlockHash], session: int, now_s: float) -> None:
        """Held from now on, as the most recently used."""
        self._queue.push(rows[::-1])

    def use(self, rows: Rows, session: int, now_s: float) -> None:
        """Most recently used from now on. The order of calls is the order of use; who uses them, and when, is not
        needed."""
        self._queue.push(rows[::-1])

    def remove(self, rows: Rows) -> None:
        """Forget the rows."""
        self._queue.remove(rows)

    def worth(self, rows: Rows) -> NDArray[np.float64]:
        """Return how recently each row was used: towards 1 for the newest use, towards 0 for the oldest."""
        return self._queue.order(rows)

    def victims(self, n_rows: int, n_pins: NDArray[np.int32], wanted: Sequence[BlockHash], session: int) -> Rows:
        """Return up to `n_rows` unpinned rows, least recently used first, and forget them. Never refuses a session.

        A row that was pinned when its turn came may go a little later than that.
        """
        rows = self._queue.pop(n_rows, n_pins)
        if rows.size == n_rows:
            return rows
        return np.concatenate((rows, self._queue.pop(n_rows - rows.size, n_pins, all_passed=True)))
