"""Files that fail as disks do: by a plan, on top of others."""

import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from elmas.tiers.disk.files import Files
from elmas.tiers.disk.format import Bytes


@dataclass(frozen=True)
class Fault:
    """What happens to calls of one operation of Files (`create`, `preadv`, ...).

    It happens to the `nth` call (from 1 on), or to every call when that is None: the call takes `latency_s` longer;
    only the first `n_most` bytes, whole pages, are moved (a read then looks as if the file ended there, a write claims
    to be complete, as after a loss of power); the byte at `flip_at` of what was read has its bits flipped; or, without
    anything being done, the call raises OSError with `error_number`.
    """

    operation: str
    nth: int | None = None
    error_number: int | None = None
    n_most: int | None = None
    flip_at: int | None = None
    latency_s: float = 0.0


class FaultyFiles:
    """`inner` with faults. `calls` counts the calls of each operation, the failed ones too."""

    def __init__(self, inner: Files, faults: Sequence[Fault] = ()) -> None:
        self.calls: Counter[str] = Counter()
        self._inner = inner
        self._faults = tuple(faults)
        self._lock = threading.Lock()

    @property
    def is_direct(self) -> bool:
        """See Files."""
        return self._inner.is_direct

    def list_files(self) -> list[tuple[str, int]]:
        """See Files."""
        self._begin("list_files")
        return self._inner.list_files()

    def create(self, name: str, n_bytes: int) -> int:
        """See Files."""
        self._begin("create")
        return self._inner.create(name, n_bytes)

    def open(self, name: str, writable: bool) -> int:
        """See Files."""
        self._begin("open")
        return self._inner.open(name, writable)

    def preadv(self, fd: int, buffers: Sequence[Bytes], offset: int) -> int:
        """See Files."""
        faults = self._begin("preadv")
        n_read = self._inner.preadv(fd, _first(buffers, faults), offset)
        for fault in faults:
            if fault.flip_at is not None and fault.flip_at < n_read:
                _flip(buffers, fault.flip_at)
        return n_read

    def pwritev(self, fd: int, buffers: Sequence[Bytes], offset: int) -> None:
        """See Files."""
        self._inner.pwritev(fd, _first(buffers, self._begin("pwritev")), offset)

    def fdatasync(self, fd: int) -> None:
        """See Files."""
        self._begin("fdatasync")
        self._inner.fdatasync(fd)

    def close(self, fd: int) -> None:
        """See Files."""
        self._inner.close(fd)  # before a failure, which leaves nothing open
        self._begin("close")

    def unlink(self, name: str) -> None:
        """See Files."""
        self._begin("unlink")
        self._inner.unlink(name)

    def _begin(self, operation: str) -> list[Fault]:
        """Count the call, wait and raise as planned; returns the faults that concern it."""
        with self._lock:
            self.calls[operation] += 1
            number = self.calls[operation]
        faults = [fault for fault in self._faults if fault.operation == operation and fault.nth in (None, number)]
        time.sleep(sum(fault.latency_s for fault in faults))
        for fault in faults:
            if fault.error_number is not None:
                raise OSError(fault.error_number, os.strerror(fault.error_number))
        return faults


def _first(buffers: Sequence[Bytes], faults: Sequence[Fault]) -> Sequence[Bytes]:
    """Return the part of the buffers that the faults let through."""
    limits = [fault.n_most for fault in faults if fault.n_most is not None]
    if not limits:
        return buffers
    n_left, taken = min(limits), []
    for buffer in buffers:
        if n_left > 0:
            taken.append(buffer[:n_left])
        n_left -= buffer.nbytes
    return taken


def _flip(buffers: Sequence[Bytes], place: int) -> None:
    for buffer in buffers:
        if place < buffer.nbytes:
            buffer[place] ^= np.uint8(0xFF)
            return
        place -= buffer.nbytes
