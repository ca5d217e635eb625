"""S3-FIFO (Yang, Zhang, Qiu, Yue and Rashmi, SOSP 2023), by rows.

Three queues, first in, first out. New blocks enter the small queue, a tenth of the tier. At its end, those that were
used at least twice move on to the main queue, the others are given up and remembered as ghosts. At the end of the main
queue, a row that was used since it entered goes round again, up to three times. A block that comes back while it is a
ghost enters the main queue. So what is read once, a scan, passes through a tenth of the tier only.

A use only counts; rows of one insert stand in a queue tail first, so a prefix is given up from its end.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from elmas.cache.ghosts import Ghosts
from elmas.cache.row_queue import RowQueue
from elmas.cache.rows import BlockHash, Rows, no_rows

SMALL_SHARE = 0.1
"""The small queue's share of the tier."""

MAX_USES = 3
"""Uses are counted up to here (two bits)."""

MIN_USES_TO_MOVE = 2
"""Uses in the small queue that let a row move on to the main queue."""


class S3Fifo:
    """Gives up rows from the end of the small queue while that has its share, else from the end of the main queue."""

    def __init__(self, capacity_rows: int) -> None:
        self._small_rows = max(1, round(SMALL_SHARE * capacity_rows))
        self._small = RowQueue(capacity_rows)
        self._main = RowQueue(capacity_rows)
        self._is_small: NDArray[np.bool_] = np.zeros(capacity_rows, dtype=np.bool_)
        self._n_uses: NDArray[np.int8] = np.zeros(capacity_rows, dtype=np.int8)
        self._block_of = np.full(capacity_rows, None, dtype=object)
        self._ghosts = Ghosts(capacity_rows - self._small_rows)

    @property
    def n_ghosts(self) -> int:
        """Blocks that were given up and are remembered: at most the main queue's share of the tier, as in the paper."""
        return len(self._ghosts)

    def insert(self, rows: Rows, blocks: Sequence[BlockHash], session: int, now_s: float) -> None:
        """Held from now on and not used yet: in the main queue where the block is a ghost, in the small one else."""
        was_ghost = self._ghosts.recall(blocks)
        self._block_of[rows] = blocks
        self._n_uses[rows] = 0
        self._is_small[rows] = ~was_ghost
        self._main.push(rows[was_ghost][::-1])
        self._small.push(rows[~was_ghost][::-1])

    def use(self, rows: Rows, session: int, now_s: float) -> None:
        """Count the use. The rows stay where they are."""
        self._n_uses[rows] = np.minimum(self._n_uses[rows] + 1, MAX_USES)

    def remove(self, rows: Rows) -> None:
        """Forget the rows, without ghosts: their blocks did not go for want of room."""
        is_small = self._is_small[rows]
        self._small.remove(rows[is_small])
        self._main.remove(rows[~is_small])
        self._forget(rows)

    def worth(self, rows: Rows) -> NDArray[np.float64]:
        """Return the rounds that each row will stay, and its place in the queue as the fraction.

        0 to 1: to be given up by the small queue; 1 to 2: by the main queue's next round; up to 5. Rows that will move
        on to the main queue count as its last ones.
        """
        n_uses = self._n_uses[rows]
        is_small = self._is_small[rows]
        in_small = np.where(n_uses < MIN_USES_TO_MOVE, self._small.order(rows), 2.0)
        return np.where(is_small, in_small, 1.0 + n_uses + self._main.order(rows))

    def victims(self, n_rows: int, n_pins: NDArray[np.int32], wanted: Sequence[BlockHash], session: int) -> Rows:
        """Return up to `n_rows` unpinned rows and forget them. Never refuses a session.

        The small queue gives rows below its share only where the main queue has none to give.
        """
        n_above_share = max(0, self._small.n_held - self._small_rows + 1)
        chosen = [self._give_up_small(n_rows, n_pins, n_above_share)]
        chosen.append(self._give_up_main(n_rows - chosen[0].size, n_pins))
        n_missing = n_rows - chosen[0].size - chosen[1].size
        if n_missing > 0:
            chosen.append(self._give_up_small(n_missing, n_pins, all_passed=True))
            chosen.append(self._give_up_main(n_missing - chosen[2].size, n_pins, all_passed=True))
        rows = np.concatenate(chosen)
        self._forget(rows)
        return rows

    def _give_up_small(
        self, n_rows: int, n_pins: NDArray[np.int32], max_walked: int | None = None, all_passed: bool = False
    ) -> Rows:
        """Walk over the small queue: used rows move on, up to `n_rows` others are given up."""
        popped = self._small.pop(n_rows, n_pins, self._moves_on, max_walked, all_passed)
        moves = self._moves_on(popped)
        moving, leaving = popped[moves], popped[~moves]
        if moving.size:
            self._is_small[moving] = False
            self._n_uses[moving] = 0
            self._main.push(moving)
        self._ghosts.add(self._block_of[leaving].tolist())
        return leaving

    def _give_up_main(self, n_rows: int, n_pins: NDArray[np.int32], all_passed: bool = False) -> Rows:
        """Walk over the main queue until `n_rows` rows are given up: used ones go round again, with one use less."""
        chosen: list[Rows] = [no_rows()]
        while n_rows > 0:
            popped = self._main.pop(n_rows, n_pins, self._goes_round, all_passed=all_passed)
            if popped.size == 0:
                break
            stays = self._goes_round(popped)
            staying, leaving = popped[stays], popped[~stays]
            self._n_uses[staying] -= 1
            self._main.push(staying)
            chosen.append(leaving)
            n_rows -= leaving.size
        return np.concatenate(chosen)

    def _moves_on(self, rows: Rows) -> NDArray[np.bool_]:
        return np.greater_equal(self._n_uses[rows], MIN_USES_TO_MOVE)

    def _goes_round(self, rows: Rows) -> NDArray[np.bool_]:
        return np.greater(self._n_uses[rows], 0)

    def _forget(self, rows: Rows) -> None:
        self._is_small[rows] = False
        self._block_of[rows] = None
