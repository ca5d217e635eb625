"""The ways to a disk that its benchmark compares: the store, and plain direct I/O."""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from elmas.cache.records import RecordRun
from elmas.errors import UserError
from elmas.tiers.disk.format import Namespace, Verdict
from elmas.tiers.disk.io_pool import IoPool
from elmas.tiers.disk.store import DiskStore

_LEAST_CAPACITY_BYTES = 4 << 30
"""Enough for segments of the usual size; what is not used takes no space."""

_TIMEOUT_S = 300.0
_KEY_BYTES = 32

Rows = NDArray[np.uint8]
"""Host rows, (n_rows, row_bytes): the buffers of every arm."""


class Arm(Protocol):
    """One way to bring rows to files and back."""

    def write(self) -> None:
        """Write all rows, to files that did not exist, and see to it that they are on the disk."""

    def read(self) -> None:
        """Read them back."""

    def close(self) -> None:
        """Let go of the files."""


class PlainArm:
    """One preallocated file, read and written directly by `queue_depth` threads, `blocks_per_operation` at a time."""

    def __init__(self, directory: Path, rows: Rows, blocks_per_operation: int, queue_depth: int) -> None:
        self._path = directory / "plain"
        self._rows = rows
        self._step = blocks_per_operation
        self._queue_depth = queue_depth

    def write(self) -> None:
        """See Arm."""
        with self._opened(os.O_RDWR | os.O_CREAT | os.O_EXCL) as fd:
            os.posix_fallocate(fd, 0, self._rows.nbytes)
            self._in_threads(lambda buffer, offset: os.pwritev(fd, [buffer.data], offset))
            os.fdatasync(fd)

    def read(self) -> None:
        """See Arm."""
        with self._opened(os.O_RDONLY) as fd:
            self._in_threads(lambda buffer, offset: os.preadv(fd, [buffer.data], offset))

    def close(self) -> None:
        """See Arm; the file is closed after each use."""

    @contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        try:
            fd = os.open(self._path, flags | os.O_DIRECT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UserError(
                f"{self._path.parent.parent} takes no direct I/O ({error.strerror}): name one on a local disk"
            ) from None
        try:
            yield fd
        finally:
            os.close(fd)

    def _in_threads(self, operation: Callable[[Rows, int], int]) -> None:
        n_rows, row_bytes = self._rows.shape
        firsts = iter(range(0, n_rows, self._step))  # next() of a built-in iterator is atomic
        errors: list[Exception] = []

        def work() -> None:
            try:
                for first in firsts:
                    buffer = self._rows[first : first + self._step].reshape(-1)
                    n_bytes = operation(buffer, first * row_bytes)
                    if n_bytes != buffer.size:
                        raise OSError(f"{n_bytes} of {buffer.size} bytes were moved")
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(self._queue_depth)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]


class StoreArm:
    """The disk store with its threads. Data is on the disk when a segment was sealed, and verified when it was read."""

    def __init__(self, directory: Path, rows: Rows, run_blocks: int, queue_depth: int) -> None:
        n_rows, row_bytes = rows.shape
        capacity_bytes = _LEAST_CAPACITY_BYTES + 2 * rows.nbytes
        self._store = DiskStore(directory, Namespace({"benchmark": "disk"}), row_bytes, capacity_bytes)
        self._n_slots = self._store.shape.n_slots
        self._keys = np.arange(n_rows * _KEY_BYTES, dtype=np.uint32).astype(np.uint8).reshape(n_rows, _KEY_BYTES)
        self._keys[:, :8] = np.arange(n_rows, dtype=np.uint64).view(np.uint8).reshape(n_rows, 8)
        self._segments = [range(first, min(first + self._n_slots, n_rows)) for first in range(0, n_rows, self._n_slots)]
        self._run_blocks = run_blocks
        self._pool = IoPool(self._store, rows, n_readers=queue_depth, n_writers=queue_depth)

    def write(self) -> None:
        """See Arm."""
        numbers = itertools.count()
        for segment, rows in enumerate(self._segments):
            self._pool.open_segment(next(numbers), segment, removed=[])
            for run in self._runs(segment, rows):
                self._pool.write(next(numbers), run)
            keys = np.zeros((self._n_slots, _KEY_BYTES), dtype=np.uint8)
            keys[: len(rows)] = self._keys[rows.start : rows.stop]
            self._pool.seal(next(numbers), segment, keys, np.arange(self._n_slots) < len(rows))
        self._wait(next(numbers))

    def read(self) -> None:
        """See Arm."""
        runs = [run for segment, rows in enumerate(self._segments) for run in self._runs(segment, rows)]
        for number, run in enumerate(runs):
            self._pool.read(number, 0.0, run)
        self._wait(len(runs))

    def close(self) -> None:
        """See Arm; ends the threads too."""
        self._pool.close(_TIMEOUT_S)
        self._store.close()

    def _runs(self, segment: int, rows: range) -> Iterator[RecordRun]:
        for first in range(rows.start, rows.stop, self._run_blocks):
            some = np.arange(first, min(first + self._run_blocks, rows.stop))
            keys = tuple(self._keys[row].tobytes() for row in some)
            yield RecordRun(segment, first - rows.start, keys, some)

    def _wait(self, n_operations: int) -> None:
        deadline_s = time.monotonic() + _TIMEOUT_S
        while n_operations:
            if not self._pool.wait_for_any(deadline_s - time.monotonic()):
                raise UserError(f"the disk took more than {_TIMEOUT_S:.0f} s: pass a smaller --n-blocks")
            for done in self._pool.poll():
                n_operations -= 1
                if done.error is not None:
                    raise done.error
                if any(verdict is not Verdict.GOOD for verdict in done.verdicts):
                    raise ValueError("the store read back something else than was written")
