"""ARC, the adaptive replacement cache (Megiddo and Modha, FAST 2003), by rows.

Two LRU lists share the tier: T1 holds blocks that were asked for once since they came, T2 those that were asked for
again. Ghosts of what each list gave up (B1, B2) tell which of the two should have been longer: when a block comes back
that T1 gave up, T1's target length grows, when T2 gave it up it shrinks. A scan passes through T1 and leaves T2 alone.

What differs from the paper is the order of events in a tier: room is made first, for blocks that are written and
inserted later. So a block that comes back moves the target when it is inserted, and the tie of the paper's REPLACE
(T1 as long as its target, the missed block in B2) is always decided for T1. Within one use the tail of the prefix is
the older.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from elmas.cache.ghosts import Ghosts
from elmas.cache.row_queue import RowQueue
from elmas.cache.rows import BlockHash, Rows


class Arc:
    """Gives up the least recently used row of T1 while that is longer than its target, else of T2.

    `target_rows` is the target length of T1, 0 .. capacity, the `p` of the paper.
    """

    def __init__(self, capacity_rows: int) -> None:
        self.target_rows = 0.0
        self._capacity = capacity_rows
        self._once = RowQueue(capacity_rows)
        self._again = RowQueue(capacity_rows)
        self._is_once: NDArray[np.bool_] = np.zeros(capacity_rows, dtype=np.bool_)
        self._block_of = np.full(capacity_rows, None, dtype=object)
        self._ghosts_once = Ghosts(capacity_rows)
        self._ghosts_again = Ghosts(capacity_rows)

    @property
    def n_ghosts(self) -> int:
        """Blocks that were given up and are remembered, at most the capacity."""
        return len(self._ghosts_once) + len(self._ghosts_again)

    def insert(self, rows: Rows, blocks: Sequence[BlockHash], session: int, now_s: float) -> None:
        """Held from now on: in T2 where the block is a ghost, which moves the target, in T1 else."""
        n_once, n_again = len(self._ghosts_once), len(self._ghosts_again)
        was_once = self._ghosts_once.recall(blocks)
        was_again = self._ghosts_again.recall(blocks)
        was_ghost = was_once | was_again
        if was_ghost.any():
            self._adapt(was_once[was_ghost].tolist(), n_once, n_again)
        new = rows[~was_ghost]
        self._block_of[rows] = blocks
        self._is_once[new] = True
        self._once.push(new[::-1])
        self._again.push(rows[was_ghost][::-1])
        self._trim_ghosts()

    def use(self, rows: Rows, session: int, now_s: float) -> None:
        """Most recently used of T2 from now on."""
        leaving = rows[self._is_once[rows]]
        if leaving.size:
            self._is_once[leaving] = False
            self._once.remove(leaving)
        self._again.push(rows[::-1])

    def remove(self, rows: Rows) -> None:
        """Forget the rows, without ghosts: their blocks did not go for want of room."""
        is_once = self._is_once[rows]
        self._once.remove(rows[is_once])
        self._again.remove(rows[~is_once])
        self._is_once[rows] = False
        self._block_of[rows] = None

    def worth(self, rows: Rows) -> NDArray[np.float64]:
        """Return how recently each row was used: 0 to 1 in T1, 1 to 2 in T2."""
        return np.where(self._is_once[rows], self._once.order(rows), 1.0 + self._again.order(rows))

    def victims(self, n_rows: int, n_pins: NDArray[np.int32], wanted: Sequence[BlockHash], session: int) -> Rows:
        """Return up to `n_rows` unpinned rows and forget them; their blocks become ghosts. Never refuses a session.

        Rows of one list take the place of the other's where those are pinned.
        """
        n_above_target = max(0, int(np.ceil(self._once.n_held - self.target_rows)))
        chosen = [self._give_up_once(min(n_rows, n_above_target), n_pins)]
        chosen.append(self._give_up_again(n_rows - chosen[0].size, n_pins))
        n_missing = n_rows - chosen[0].size - chosen[1].size
        if n_missing > 0:
            chosen.append(self._give_up_once(n_missing, n_pins, all_passed=True))
            chosen.append(self._give_up_again(n_missing - chosen[2].size, n_pins, all_passed=True))
        rows = np.concatenate(chosen)
        self._block_of[rows] = None
        self._trim_ghosts()
        return rows

    def _give_up_once(self, n_rows: int, n_pins: NDArray[np.int32], all_passed: bool = False) -> Rows:
        """Take up to `n_rows` unpinned rows from T1, and remember their blocks in B1."""
        rows = self._once.pop(n_rows, n_pins, all_passed=all_passed)
        self._is_once[rows] = False
        self._ghosts_once.add(self._block_of[rows].tolist())
        return rows

    def _give_up_again(self, n_rows: int, n_pins: NDArray[np.int32], all_passed: bool = False) -> Rows:
        """Take up to `n_rows` unpinned rows from T2, and remember their blocks in B2."""
        rows = self._again.pop(n_rows, n_pins, all_passed=all_passed)
        self._ghosts_again.add(self._block_of[rows].tolist())
        return rows

    def _adapt(self, was_once: list[bool], n_once: int, n_again: int) -> None:
        """Move the target for each ghost that came back, from B1 (True) or B2; the sizes are those before."""
        for came_from_once in was_once:
            if came_from_once:
                self.target_rows = min(self._capacity, self.target_rows + max(1.0, n_again / n_once))
                n_once -= 1
            else:
                self.target_rows = max(0.0, self.target_rows - max(1.0, n_once / n_again))
                n_again -= 1

    def _trim_ghosts(self) -> None:
        """Keep T1 and B1 together within the capacity, and B1 and B2."""
        self._ghosts_once.trim(self._capacity - self._once.n_held)
        self._ghosts_again.trim(self._capacity - len(self._ghosts_once))
