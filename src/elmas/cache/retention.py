"""The interface of retention policies, and the policies by name.

A policy decides which rows of a tier to give up. It sees rows as small integers (0 .. capacity - 1) in batches: a batch
is part of one request's prefix, in prefix order, so a policy can give up a tail before the head that others share. It
is told which session asks, and the blocks that rows are filled with, so that it may remember what it gave up. Whether a
row may go is the index's business.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from elmas.cache.arc import Arc
from elmas.cache.lru import Lru
from elmas.cache.next_use import NextUse
from elmas.cache.rows import BlockHash, Rows
from elmas.cache.s3fifo import S3Fifo
from elmas.cache.sessions import Sessions


class RetentionPolicy(Protocol):
    """Decides what a tier gives up. Each held row is known to the policy from `insert` until `remove` or `victims`.

    `session` is the slot that `Sessions` gave the asking request, NO_SESSION where it is not known.
    """

    def insert(self, rows: Rows, blocks: Sequence[BlockHash], session: int, now_s: float) -> None:
        """Rows were filled with these blocks of one prefix and may be given up from now on."""

    def use(self, rows: Rows, session: int, now_s: float) -> None:
        """Held rows, the resident part of a prefix in prefix order, were read by one request."""

    def remove(self, rows: Rows) -> None:
        """Held rows were emptied for another reason than `victims`."""

    def victims(self, n_rows: int, n_pins: NDArray[np.int32], wanted: Sequence[BlockHash], session: int) -> Rows:
        """Return up to `n_rows` held rows to give up for the `wanted` blocks of a session, the least valuable first,
        and forget them.

        `n_pins[row]` is the number of pins on a row: a pinned row is never returned. Fewer rows come back when the
        others are pinned, or worth more than what is to take their place.
        """

    def worth(self, rows: Rows) -> NDArray[np.float64]:
        """Return what it is worth to keep each of the held rows, 0 or more, comparable within the tier at one time."""


POLICIES: dict[str, Callable[[int, Sessions], RetentionPolicy]] = {
    "lru": lambda n_rows, _: Lru(n_rows),
    "arc": lambda n_rows, _: Arc(n_rows),
    "s3fifo": lambda n_rows, _: S3Fifo(n_rows),
    "next-use": NextUse,
}
"""Policies by the name users give; each is made with the tier's capacity in rows and the server's sessions."""
