"""Copies that were ordered and are not yet confirmed by every rank."""

from collections.abc import Sequence
from dataclasses import dataclass

from elmas.cache.rows import Rows


@dataclass(frozen=True)
class Transfer:
    """One batch of block copies between device blocks and host rows; `device_blocks[i]` belongs to `rows[i]`."""

    number: int
    owner: str
    rows: Rows
    device_blocks: Sequence[int]

    @property
    def n_blocks(self) -> int:
        """How many blocks are copied."""
        return len(self.device_blocks)


class TransferLedger:
    """Transfers of one direction by number. A transfer is done when each of the `n_ranks` workers has confirmed it."""

    def __init__(self, n_ranks: int) -> None:
        self.n_blocks_in_flight = 0
        self._n_ranks = n_ranks
        self._next_number = 0
        self._open: dict[int, Transfer] = {}
        self._n_confirmed: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, owner: str, rows: Rows, device_blocks: Sequence[int]) -> Transfer:
        """Enter a new transfer and return it."""
        transfer = Transfer(self._next_number, owner, rows, device_blocks)
        self._next_number += 1
        self._open[transfer.number] = transfer
        self._n_confirmed[transfer.number] = 0
        self.n_blocks_in_flight += transfer.n_blocks
        return transfer

    def confirm(self, number: int, n_ranks: int = 1) -> Transfer | None:
        """Count `n_ranks` more confirmations; returns the transfer once all ranks have confirmed it, else None.

        Raises KeyError for a transfer that is not open: a confirmation must never be counted twice.
        """
        self._n_confirmed[number] += n_ranks
        if self._n_confirmed[number] < self._n_ranks:
            return None
        del self._n_confirmed[number]
        transfer = self._open.pop(number)
        self.n_blocks_in_flight -= transfer.n_blocks
        return transfer
