"""Row numbers: how the index, the policies and the transfers name places in a tier."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
"""Row numbers 0 .. capacity - 1, in prefix order, without repeats."""

NO_ROW = -1
"""Stands where a block has no row."""

BlockHash = bytes
"""vLLM's chained prefix hash of one block: equal hashes mean equal tokens, LoRA and salt from the start on."""


_NO_ROWS: Rows = np.empty(0, dtype=np.int64)


def no_rows() -> Rows:
    """Return an empty batch of rows."""
    return _NO_ROWS


def as_rows(values: Sequence[int]) -> Rows:
    """Return `values` as a batch of rows."""
    return np.array(values, dtype=np.int64)
