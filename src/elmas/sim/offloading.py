"""How vLLM's own OffloadingConnector retains blocks in host memory, to compare with and to fit the simulator to.

From vLLM 0.32, `v1/kv_offload/cpu/policies/lru.py`: least recently used, but a request's blocks count as used when it
*ends*, not when it begins. So the blocks of running requests, which were loaded and are not needed for now, are the
oldest, and go first; and nothing is kept for those that wait.
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

    def insert(self, rows: Rows, blocks: Sequence[BlockHash], session: int, now_s: float) -> None:
        """Held from now on, as the most recently used."""
        self._lru.insert(rows, blocks, session, now_s)

    def use(self, rows: Rows, session: int, now_s: float) -> None:
        """Changes nothing: the request has only begun."""

    def ended(self, rows: Rows, session: int, now_s: float) -> None:
        """A request that had these rows has ended: most recently used from now on, its tail first to go."""
        self._lru.use(rows, session, now_s)

    def remove(self, rows: Rows) -> None:
        """Forget the rows."""
        self._lru.remove(rows)

    def worth(self, rows: Rows) -> NDArray[np.float64]:
        """Return how recently each row was used."""
        return self._lru.worth(rows)

    def victims(self, n_rows: int, n_pins: NDArray[np.int32], wanted: Sequence[BlockHash], session: int) -> Rows:
        """Return up to `n_rows` unpinned rows, least recently used first, and forget them."""
        return self._lru.victims(n_rows, n_pins, wanted, session)
