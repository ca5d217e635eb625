"""The host tier's memory: one region of equal rows, shared by the scheduler and the worker processes.

The region is an anonymous file in memory (memfd). It never has a name in a file system, so nothing is left behind
however the processes die, and the size of /dev/shm does not limit it. A process that needs it opens it through the
creator's /proc entry.
"""

import ctypes
import mmap
import os
import platform
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROW_ALIGNMENT_BYTES = 4096
"""Rows start on page boundaries, so that a row can also be read from and written to disk directly."""

_MADV_POPULATE_WRITE = 23
"""From Linux 5.14 on; Python does not name it."""

_POPULATE_BYTES = 64 << 20

_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
"""The number of the system call, which the C library does not have."""
_MPOL_PREFERRED = 1
_MOST_NODES = 1024

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class RegionHandle:
    """What another process of the same user and host needs to attach: plain numbers, safe to send."""

    pid: int
    fd: int
    n_rows: int
    row_bytes: int


class HostRegion:
    """`n_rows` rows of `row_bytes` bytes of shared memory. Pages are backed when they are first touched."""

    def __init__(self, fd: int, n_rows: int, row_bytes: int) -> None:
        self.n_rows = n_rows
        self.row_bytes = row_bytes
        self._fd = fd
        self._map = mmap.mmap(fd, n_rows * row_bytes, flags=mmap.MAP_SHARED)
        self.rows: NDArray[np.uint8] = np.frombuffer(self._map, dtype=np.uint8).reshape(n_rows, row_bytes)

    @classmethod
    def create(cls, n_rows: int, row_bytes: int) -> "HostRegion":
        """Make a new region. Raises ValueError for a size that is not whole pages, OSError when there is no memory."""
        if n_rows < 1 or row_bytes < 1 or row_bytes % ROW_ALIGNMENT_BYTES:
            raise ValueError(f"{n_rows} rows of {row_bytes} bytes: rows must be multiples of {ROW_ALIGNMENT_BYTES}")
        fd = os.memfd_create("elmas-host-tier", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, n_rows * row_bytes)
            return cls(fd, n_rows, row_bytes)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def attach(cls, handle: RegionHandle) -> "HostRegion":
        """Map the region of another process. Raises OSError when it is gone, ValueError when it has another size."""
        fd = os.open(f"/proc/{handle.pid}/fd/{handle.fd}", os.O_RDWR | os.O_CLOEXEC)
        try:
            n_bytes = os.fstat(fd).st_size
            if n_bytes != handle.n_rows * handle.row_bytes:
                raise ValueError(f"the region has {n_bytes} bytes, not {handle.n_rows} rows of {handle.row_bytes}")
            return cls(fd, handle.n_rows, handle.row_bytes)
        except BaseException:
            os.close(fd)
            raise

    @property
    def handle(self) -> RegionHandle:
        """What another process needs to attach while this one lives."""
        return RegionHandle(os.getpid(), self._fd, self.n_rows, self.row_bytes)

    @property
    def address(self) -> int:
        """Where the region starts in this process."""
        return int(self.rows.ctypes.data)

    def populate(self, first_row: int, n_rows: int) -> None:
        """Back the pages of some rows now, so that no copy has to wait for it later; contents stay as they are.

        Raises OSError when there is no memory (ENOMEM), or where the kernel is older than 5.14 (EINVAL).
        """
        start, n_bytes = self.address + first_row * self.row_bytes, n_rows * self.row_bytes
        # Not mmap.madvise: that would hold the interpreter lock meanwhile.
        if _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(n_bytes), _MADV_POPULATE_WRITE) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def populate_all(self, n_threads: int = 1, numa_node: int | None = None) -> None:
        """Back all pages, with memory of a NUMA node as far as it has any; returns when it is done. Raises OSError as
        `populate` does.

        A first touch of a page costs many times the copy into it: 0.37 s per GiB in one thread, 0.13 s in four.
        """
        n_pieces = -(-self.n_rows * self.row_bytes // _POPULATE_BYTES)
        rows_per_piece = max(1, -(-self.n_rows // n_pieces))
        firsts = range(0, self.n_rows, rows_per_piece)
        with ThreadPoolExecutor(n_threads, "elmas-populate", lambda: _prefer_node(numa_node)) as threads:
            list(threads.map(lambda first: self.populate(first, min(rows_per_piece, self.n_rows - first)), firsts))

    def populate_in_background(self, on_error: Callable[[OSError], None]) -> threading.Thread:
        """Back all pages from a thread of its own, which is returned; `on_error` is called there if it fails.

        The server is still starting when this begins.
        """

        def run() -> None:
            try:
                self.populate_all()
            except OSError as error:
                on_error(error)

        thread = threading.Thread(target=run, name="elmas-populate", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Close the file; the memory goes with the last process that maps it."""
        os.close(self._fd)


def _prefer_node(numa_node: int | None) -> None:
    """Take the memory that the calling thread touches first from this node, if it has any; no wish where the kernel
    knows no nodes."""
    number = _SET_MEMPOLICY.get(platform.machine())
    if numa_node is None or number is None or not 0 <= numa_node < _MOST_NODES:
        return
    mask = (ctypes.c_ulong * (_MOST_NODES // 64))()
    mask[numa_node // 64] = 1 << numa_node % 64
    _libc.syscall(number, _MPOL_PREFERRED, mask, _MOST_NODES)


def rows_in(capacity_bytes: int, row_bytes: int) -> int:
    """Return how many rows of `row_bytes` fit `capacity_bytes`."""
    return capacity_bytes // row_bytes


def align_row(n_bytes: int) -> int:
    """Return `n_bytes` rounded up to whole pages."""
    return -(-n_bytes // ROW_ALIGNMENT_BYTES) * ROW_ALIGNMENT_BYTES
