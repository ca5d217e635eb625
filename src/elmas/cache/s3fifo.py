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
from elmas.cache.rows import BlockHash, Rows, no_rows

SMALL_SHARE = 0.1
"""The small queue's share of the tier."""

MAX_USES = 3
"""Uses are counted up to here (two bits)."""

MIN_USES_TO_MOVE = 2
"""Uses in the small queue that let a row move on to the main queue."""

_NO_PLACE = -1
_FIRST_LOOK = 64
_LONGEST_LOOK = 8192


class RowQueue:
    """A queue of distinct rows in one array, entries of removed rows included until they are passed.

    An entry counts if it stands where `_place` says of its row. Rows that are passed over because they are pinned
    gather before the others, in their order, so that the walk to the next free row begins behind them.
    """

    def __init__(self, capacity_rows: int) -> None:
        self.n_held = 0
        self._place: NDArray[np.int32] = np.full(capacity_rows, _NO_PLACE, dtype=np.int32)
        self._entries: NDArray[np.int32] = np.zeros(2 * capacity_rows, dtype=np.int32)
        # Passed rows stand in 0 .. _n_passed - 1, the others in _head .. _tail - 1; _n_passed <= _head.
        self._n_passed = 0
        self._head = 0
        self._tail = 0

    def push(self, rows: Rows) -> None:
        """Append rows that are not in the queue; the first of them leaves first."""
        if self._tail + rows.size > self._entries.size:
            self._compact()
        self._write(self._tail, rows)
        self._tail += rows.size
        self.n_held += rows.size

    def remove(self, rows: Rows) -> None:
        """Take rows out of the queue."""
        self._place[rows] = _NO_PLACE
        self.n_held -= rows.size

    def order(self, rows: Rows) -> NDArray[np.float64]:
        """Return where rows of the queue stand: towards 0 leave first, below 1."""
        return np.asarray(self._place[rows] / max(1, self._tail))

    def pop(
        self, n_rows: int, n_leaving: int, n_pins: NDArray[np.int32], n_uses: NDArray[np.int8], min_uses: int
    ) -> Rows:
        """Take out up to `n_rows` unpinned rows, first ones first, until `n_leaving` of them have fewer than `min_uses`
        uses. `n_pins` and `n_uses` are by row of the tier."""
        chosen: list[Rows] = []
        look = _FIRST_LOOK
        is_passed = self._n_passed > 0
        while n_rows > 0 and n_leaving > 0 and (is_passed or self._head < self._tail):
            start, end = (0, self._n_passed) if is_passed else (self._head, min(self._tail, self._head + look))
            entries = self._entries[start:end]
            is_current = self._is_current(start, end)
            taken = np.flatnonzero(is_current & (n_pins[entries] == 0))[:n_rows]
            leaving = np.flatnonzero(n_uses[entries[taken]] < min_uses)[:n_leaving]
            if leaving.size == n_leaving:
                taken = taken[: leaving[-1] + 1]
            rows = entries[taken].astype(np.int64)
            chosen.append(rows)
            n_rows -= rows.size
            n_leaving -= leaving.size
            self._place[rows] = _NO_PLACE
            self.n_held -= rows.size
            is_current[taken] = False
            if is_passed:
                self._keep_passed(0, entries[is_current])
                is_passed = False
            else:
                n_seen = int(taken[-1]) + 1 if n_rows == 0 or n_leaving == 0 else entries.size
                self._keep_passed(self._n_passed, entries[:n_seen][is_current[:n_seen]])
                self._head += n_seen
                look = min(2 * look, _LONGEST_LOOK)
        return np.concatenate(chosen) if chosen else no_rows()

    def _is_current(self, start: int, end: int) -> NDArray[np.bool_]:
        return np.equal(self._place[self._entries[start:end]], np.arange(start, end, dtype=np.int32))

    def _write(self, start: int, rows: NDArray[np.signedinteger]) -> None:
        end = start + rows.size
        self._entries[start:end] = rows
        self._place[rows] = np.arange(start, end, dtype=np.int32)

    def _keep_passed(self, start: int, rows: NDArray[np.int32]) -> None:
        """Let `rows` be the passed ones from place `start` on; those before stay as they are."""
        if start + rows.size != self._n_passed:
            self._write(start, rows)
            self._n_passed = start + rows.size

    def _compact(self) -> None:
        passed = self._entries[: self._n_passed][self._is_current(0, self._n_passed)]
        others = self._entries[self._head : self._tail][self._is_current(self._head, self._tail)]
        self._write(0, passed)
        self._write(passed.size, others)
        self._n_passed = self._head = passed.size
        self._tail = passed.size + others.size


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

    def victims(self, n_rows: int, n_pins: NDArray[np.int32], session: int) -> Rows:
        """Return up to `n_rows` unpinned rows and forget them. Never refuses a session.

        The small queue gives rows below its share only where the main queue has none left that are not pinned.
        """
        n_above_share = self._small.n_held - self._small_rows + 1
        chosen = [self._give_up_small(n_above_share, n_rows, n_pins)]
        chosen.append(self._give_up_main(n_rows - chosen[0].size, n_pins))
        n_missing = n_rows - chosen[0].size - chosen[1].size
        if n_missing > 0:
            chosen.append(self._give_up_small(self._small.n_held, n_missing, n_pins))
            chosen.append(self._give_up_main(n_missing - chosen[2].size, n_pins))
        rows = np.concatenate(chosen)
        self._forget(rows)
        return rows

    def _give_up_small(self, n_walked: int, n_rows: int, n_pins: NDArray[np.int32]) -> Rows:
        """Walk over up to `n_walked` rows of the small queue: used ones move on, up to `n_rows` others are given up."""
        popped = self._small.pop(n_walked, n_rows, n_pins, self._n_uses, MIN_USES_TO_MOVE)
        moves = self._n_uses[popped] >= MIN_USES_TO_MOVE
        moving, leaving = popped[moves], popped[~moves]
        self._is_small[moving] = False
        self._n_uses[moving] = 0
        self._main.push(moving)
        self._ghosts.add(self._block_of[leaving].tolist())
        return leaving

    def _give_up_main(self, n_rows: int, n_pins: NDArray[np.int32]) -> Rows:
        """Walk over the main queue until `n_rows` rows are given up: used ones go round again, with one use less."""
        chosen: list[Rows] = [no_rows()]
        while n_rows > 0:
            popped = self._main.pop(self._main.n_held, n_rows, n_pins, self._n_uses, min_uses=1)
            if popped.size == 0:
                break
            stays = self._n_uses[popped] > 0
            staying, leaving = popped[stays], popped[~stays]
            self._n_uses[staying] -= 1
            self._main.push(staying)
            chosen.append(leaving)
            n_rows -= leaving.size
        return np.concatenate(chosen)

    def _forget(self, rows: Rows) -> None:
        self._is_small[rows] = False
        self._block_of[rows] = None
