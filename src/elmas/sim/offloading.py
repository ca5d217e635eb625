"""How vLLM's own OffloadingConnector retains blocks in host memory, to compare with and to fit the simulator to.

From vLLM 0.32, `v1/kv_offload/cpu/policies/lru.py`: least recently used, but a request's blocks count as used when it
*ends*, not when it begins, and all of them then, also those whose copies are still under way. So the blocks of running
requests, which were loaded and are not needed for now, are the oldest, and go first; and nothing is kept for those that
wait.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from elmas.cache.lru import Lru
from elmas.cache.rows import BlockHash, Rows


class OffloadingLru:
    """The retention policy of vLLM's OffloadingConnector; `ended` is to be called for each request that ends."""

    def __init__(self, capacity_rows: int) -> None:
        self._lru = Lru(capacity_rows)
        self._row_of: dict[BlockHash, int] = {}
        self._block_in: dict[int, BlockHash] = {}
        self._ended: dict[int, Sequence[BlockHash]] = {}
        """The blocks of the last request that ended, by session."""

    def insert(self, rows: Rows, blocks: Sequence[BlockHash], session: int, now_s: float) -> None:
        """Held from now on, as the most recently used. Where the request has ended, all of its blocks are."""
        self._lru.insert(rows, blocks, session, now_s)
        self._row_of |= zip(blocks, rows.tolist(), strict=True)
        self._block_in |= zip(rows.tolist(), blocks, strict=True)
        ended = self._ended.get(session)
        if ended is not None and blocks[-1] in ended:
            self._use(ended)

    def use(self, rows: Rows, session: int, now_s: float) -> None:
        """Changes nothing: the request has only begun."""

    def ended(self, blocks: Sequence[BlockHash], session: int) -> None:
        """A request that had these blocks has ended: most recently used from now on, its tail first to go."""
        self._ended[session] = blocks
        self._use(blocks)

    def remove(self, rows: Rows) -> None:
        """Forget the rows."""
        self._lru.remove(rows)
        self._forget(rows)

    def worth(self, rows: Rows) -> NDArray[np.float64]:
        """Return how recently each row was used."""
        return self._lru.worth(rows)

    def victims(self, n_rows: int, n_pins: NDArray[np.int32], wanted: Sequence[BlockHash], session: int) -> Rows:
        """Return up to `n_rows` unpinned rows, least recently used first, and forget them."""
        rows = self._lru.victims(n_rows, n_pins, wanted, session)
        self._forget(rows)
        return rows

    def _use(self, blocks: Sequence[BlockHash]) -> None:
        rows = [row for row in map(self._row_of.get, blocks) if row is not None]
        self._lru.use(np.array(rows, dtype=np.int64), 0, 0.0)

    def _forget(self, rows: Rows) -> None:
        for row in rows.tolist():
            self._row_of.pop(self._block_in.pop(row), None)
