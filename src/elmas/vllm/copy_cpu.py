"""Copies by one background thread, for a device whose memory is host memory.

The copies run beside the model's forward pass: NumPy releases the interpreter lock for each piece it copies. Loads
overtake stores between two blocks, since a request waits for them.
"""

import ctypes
import errno
import threading
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from elmas.movement.transfers import Transfer
from elmas.tiers.host import HostRegion
from elmas.vllm.copy_engine import Finished
from elmas.vllm.geometry import Geometry, Segment
from elmas.vllm.log import logger

_BLOCKS_PER_TURN = 4
"""Blocks of a store that are copied before looking whether a load has come in."""


class ThreadCopyEngine:
    """See CopyEngine."""

    starts_early = True

    def __init__(self, geometry: Geometry, region: HostRegion, shard_offset: int) -> None:
        region.populate_in_background(_report_unbacked)
        self._pairs = list(_views(geometry, region, shard_offset))
        self._changed = threading.Condition()
        self._loads: deque[Transfer] = deque()
        self._stores: deque[Transfer] = deque()
        self._n_under_way = 0
        self._finished = Finished()
        self._closing = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="elmas-copy", daemon=True)
        self._thread.start()

    def submit(self, loads: Sequence[Transfer], stores: Sequence[Transfer]) -> None:
        """Queue copies for the thread."""
        if not loads and not stores:
            return
        with self._changed:
            self._loads.extend(loads)
            self._stores.extend(stores)
            self._n_under_way += len(loads) + len(stores)
            self._changed.notify_all()

    def poll(self) -> Finished:
        """Return what has finished; raises the thread's error if it died (the transfers it had will never finish)."""
        with self._changed:
            if self._error is not None:
                raise RuntimeError("the copy thread died") from self._error
            finished, self._finished = self._finished, Finished()
            return finished

    def wait_for_any(self, timeout_s: float) -> None:
        """Wait until there is something to poll."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._finished.loads or self._finished.stores or not self._n_under_way or self._error, timeout_s
            )

    def wait_for_all(self) -> None:
        """Wait until the queues are empty."""
        with self._changed:
            self._changed.wait_for(lambda: not self._n_under_way or self._error)

    def close(self) -> None:
        """Copy what is queued, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            while (transfer := self._next()) is not None:
                if transfer[1]:
                    self._load(transfer[0])
                else:
                    self._store(transfer[0])
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next(self) -> tuple[Transfer, bool] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._loads or self._stores or self._closing)
            if self._loads:
                return self._loads.popleft(), True
            return (self._stores.popleft(), False) if self._stores else None

    def _load(self, transfer: Transfer) -> None:
        for row, block in zip(transfer.rows.tolist(), transfer.device_blocks, strict=True):
            for device, host in self._pairs:
                device[block] = host[row]
        with self._changed:
            self._n_under_way -= 1
            self._finished.loads.add(transfer.owner)
            self._changed.notify_all()

    def _store(self, transfer: Transfer) -> None:
        for n_copied, (row, block) in enumerate(zip(transfer.rows.tolist(), transfer.device_blocks, strict=True)):
            if n_copied % _BLOCKS_PER_TURN == 0:
                self._load_what_waits()
            for device, host in self._pairs:
                host[row] = device[block]
        with self._changed:
            self._n_under_way -= 1
            self._finished.stores.append(transfer.number)
            self._changed.notify_all()

    def _load_what_waits(self) -> None:
        # Appending and popping at the ends of a deque is atomic, and only this thread pops.
        while self._loads:
            self._load(self._loads.popleft())


def _report_unbacked(error: OSError) -> None:
    if error.errno == errno.EINVAL:
        return  # an old kernel: pages are backed when they are first written
    logger.error("elmas: the memory of the host tier is not there (%s): lower --host-memory", error.strerror)


def _views(
    geometry: Geometry, region: HostRegion, shard_offset: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield, per segment, the device's blocks (n_blocks, n_bytes) and the host's rows (n_rows, n_bytes)."""
    offset = shard_offset
    for segment in geometry.segments:
        yield _device_view(segment, geometry.n_blocks), region.rows[:, offset : offset + segment.n_bytes]
        offset += segment.n_bytes


def _device_view(segment: Segment, n_blocks: int) -> NDArray[np.uint8]:
    span = (n_blocks - 1) * segment.stride_bytes + segment.n_bytes
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * span).from_address(segment.address))
    return np.lib.stride_tricks.as_strided(memory, (n_blocks, segment.n_bytes), (segment.stride_bytes, 1))
