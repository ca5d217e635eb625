"""Runs of records: how the cache says which part of a disk segment belongs to which host rows."""

from dataclasses import dataclass

from elmas.cache.rows import BlockHash, Rows


@dataclass(frozen=True)
class RecordRun:
    """Adjacent records of one segment, from slot `first_slot` on: the block each holds, and its row in host memory.

    One run is one disk operation. `rows[i]` belongs to `keys[i]`; the rows need not be adjacent.
    """

    segment: int
    first_slot: int
    keys: tuple[BlockHash, ...]
    rows: Rows

    @property
    def n_records(self) -> int:
        """How many records the run has."""
        return len(self.keys)
