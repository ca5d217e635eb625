"""Ghosts: the blocks that a policy gave up lately, so that it notices when one of them comes back.

A ring of hashes in the order in which they were given up, and a dictionary from a hash to its place. Nothing is ever
renumbered or moved, so no call takes longer than the blocks it is about, whatever the number of ghosts. A block that
comes back leaves a hole in the ring. About 200 bytes per ghost, most of them the hash and the dictionary's entry.
"""

from collections import deque
from collections.abc import Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from elmas.cache.rows import BlockHash

_NO_PLACE = -1
RING_FACTOR = 2
"""The ring has this many places per ghost, which leaves room for holes."""


class Ghosts:
    """Remembers at most `max_ghosts` blocks: of the last `RING_FACTOR * max_ghosts` that were added, those that have
    not come back."""

    def __init__(self, max_ghosts: int) -> None:
        self._size = RING_FACTOR * max(1, max_ghosts)
        self._max_ghosts = max_ghosts
        self._ring = np.full(self._size, None, dtype=object)
        self._place: dict[BlockHash, int] = {}
        # Places count up for ever; a place modulo the size is where it is in the ring.
        self._head = 0
        self._tail = 0

    def __len__(self) -> int:
        return len(self._place)

    def add(self, blocks: Sequence[BlockHash]) -> None:
        """Remember blocks, none of which is remembered yet, the last of them the longest."""
        blocks = blocks[-self._max_ghosts :] if self._max_ghosts else ()
        if not blocks:
            return
        self._forget_before(self._tail + len(blocks) - self._size)
        places = range(self._tail, self._tail + len(blocks))
        self._ring[np.arange(places.start, places.stop) % self._size] = blocks
        self._place.update(zip(blocks, places, strict=True))
        self._tail = places.stop
        self.trim(self._max_ghosts)

    def recall(self, blocks: Sequence[BlockHash]) -> NDArray[np.bool_]:
        """Return for each block whether it was remembered, and forget it."""
        if self._place.keys().isdisjoint(blocks):
            return np.zeros(len(blocks), dtype=np.bool_)
        found = map(self._place.pop, blocks, repeat(_NO_PLACE))
        places = np.fromiter(found, dtype=np.int64, count=len(blocks))
        was_ghost: NDArray[np.bool_] = np.not_equal(places, _NO_PLACE)
        self._ring[places[was_ghost] % self._size] = None
        return was_ghost

    def trim(self, max_ghosts: int) -> None:
        """Forget the oldest until at most `max_ghosts` are left."""
        while len(self._place) > max_ghosts:
            self._forget_before(self._head + len(self._place) - max_ghosts)

    def _forget_before(self, place: int) -> None:
        if place <= self._head:
            return
        slots = np.arange(self._head, place) % self._size
        blocks = [block for block in self._ring[slots].tolist() if block is not None]
        deque(map(self._place.__delitem__, blocks), maxlen=0)
        self._ring[slots] = None
        self._head = place
