"""Files of a disk with a stated bandwidth and latency, on top of faster ones."""

import threading
import time
from collections.abc import Sequence

from elmas.tiers.disk.files import Files
from elmas.tiers.disk.format import Bytes


class ThrottledFiles:
    """`inner`, such that all reads and writes together move at most `bytes_per_s`, and each takes `latency_s` more.

    A transfer takes its turn on one clock that all callers share; latencies of different callers overlap. Other
    operations pass as they are, except for `fdatasync`, which takes the latency.
    """

    def __init__(self, inner: Files, bytes_per_s: float, latency_s: float) -> None:
        self._inner = inner
        self._bytes_per_s = bytes_per_s
        self._latency_s = latency_s
        self._lock = threading.Lock()
        self._free_s = time.monotonic()

    @property
    def is_direct(self) -> bool:
        """See Files."""
        return self._inner.is_direct

    def list_files(self) -> list[tuple[str, int]]:
        """See Files."""
        return self._inner.list_files()

    def create(self, name: str, n_bytes: int) -> int:
        """See Files."""
        return self._inner.create(name, n_bytes)

    def open(self, name: str, writable: bool) -> int:
        """See Files."""
        return self._inner.open(name, writable)

    def preadv(self, fd: int, buffers: Sequence[Bytes], offset: int) -> int:
        """See Files."""
        end_s = self._reserve(buffers)
        n_read = self._inner.preadv(fd, buffers, offset)
        _sleep_until(end_s)
        return n_read

    def pwritev(self, fd: int, buffers: Sequence[Bytes], offset: int) -> None:
        """See Files."""
        end_s = self._reserve(buffers)
        self._inner.pwritev(fd, buffers, offset)
        _sleep_until(end_s)

    def fdatasync(self, fd: int) -> None:
        """See Files."""
        end_s = self._reserve(())
        self._inner.fdatasync(fd)
        _sleep_until(end_s)

    def close(self, fd: int) -> None:
        """See Files."""
        self._inner.close(fd)

    def unlink(self, name: str) -> None:
        """See Files."""
        self._inner.unlink(name)

    def _reserve(self, buffers: Sequence[Bytes]) -> float:
        """Take the next turn for a transfer; returns when it ends."""
        n_bytes = sum(buffer.nbytes for buffer in buffers)
        with self._lock:
            self._free_s = max(self._free_s, time.monotonic()) + n_bytes / self._bytes_per_s
            return self._free_s + self._latency_s


def _sleep_until(end_s: float) -> None:
    time.sleep(max(0.0, end_s - time.monotonic()))
