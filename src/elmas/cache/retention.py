"""The interface of retention policies, and the policies by name.

A policy decides which rows of a tier to give up. It sees rows only as small integers (0 .. capacity - 1) in batches: a
batch is part of one request's prefix, in prefix order, so a policy can give up a tail before the head that others
share. What a row holds, and whether it may go, is the index's business.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from elmas.cache.lru import Lru
from elmas.cache.rows import Rows


class RetentionPolicy(Protocol):
    """Decides what a tier gives up. Each held row is known to the policy from `insert` until `remove` or `victims`."""

    def insert(self, rows: Rows, now_s: float) -> None:
        """Rows were filled with blocks of one prefix and may be given up from now on."""

    def use(self, rows: Rows, now_s: float) -> None:
        """Held rows were read by one request."""

    def remove(self, rows: Rows) -> None:
        """Held rows were emptied for another reason than `victims`."""

    def victims(self, n_rows: int, n_pins: NDArray[np.int32]) -> Rows:
        """Return up to `n_rows` held rows to give up, the least valuable first, and forget them.

        `n_pins[row]` is the number of pins on a row: a pinned row is never returned. Fewer rows come back when the
        others are pinned.
        """


POLICIES: dict[str, Callable[[int], RetentionPolicy]] = {"lru": Lru}
"""Policies by the name users give; each is made with the tier's capacity in rows."""
