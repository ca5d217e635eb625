"""A bounded memory of blocks that were asked for before, longer than any tier keeps them.

A direct-mapped table of 64-bit fingerprints: a newer block takes the place of an older one. It decides what is written
to disk, where a mistake costs a write and no more.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from elmas.cache.block_table import as_keys
from elmas.cache.rows import BlockHash


class SeenBlocks:
    """Remembers about `n_entries` blocks, at 8 bytes each; the number is rounded up to a power of two."""

    def __init__(self, n_entries: int) -> None:
        n_places = 1 << max(0, n_entries - 1).bit_length()
        self._mask = np.uint64(n_places - 1)
        # Written once now: the first touch of a page would otherwise cost the engine's thread a fault per block.
        self._marks: NDArray[np.uint64] = np.full(n_places, 0, dtype=np.uint64)

    def seen(self, hashes: Sequence[BlockHash]) -> NDArray[np.bool_]:
        """Return for each block whether it is remembered."""
        places, marks = self._places(hashes)
        return np.equal(self._marks[places], marks)

    def mark(self, hashes: Sequence[BlockHash]) -> None:
        """Remember these blocks."""
        places, marks = self._places(hashes)
        self._marks[places] = marks

    def observe(self, hashes: Sequence[BlockHash]) -> NDArray[np.bool_]:
        """Return for each block whether it was remembered, and remember it from now on."""
        places, marks = self._places(hashes)
        seen: NDArray[np.bool_] = np.equal(self._marks[places], marks)
        self._marks[places] = marks
        return seen

    def _places(self, hashes: Sequence[BlockHash]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        words = as_keys(hashes).view(np.uint64).reshape(len(hashes), 4)
        # The table's zeros are no block's mark.
        return (words[:, 0] & self._mask).astype(np.int64), words[:, 3] | np.uint64(1)
