"""Copies by one background thread, for a device whose memory is host memory.

The copies run beside the model's forward pass: NumPy releases the interpreter lock for each piece it copies. The pieces
are large, runs of blocks with all their layers, because the model's thread pays for every time the lock changes hands.
Loads overtake stores between two pieces, since a request waits for them.
"""

import ctypes
import errno
import itertools
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from elmas.movement.transfers import Transfer
from elmas.tiers.host import HostRegion
from elmas.vllm.copy_engine import Finished
from elmas.vllm.geometry import Geometry, Segment
from elmas.vllm.log import logger
from elmas.vllm.tracing import LOADS, STORES, Trace

_BLOCKS_PER_PIECE = 8
"""Blocks that are copied at once at most; a load waits for one piece of a store."""


class ThreadCopyEngine:
    """See CopyEngine."""

    def __init__(self, geometry: Geometry, region: HostRegion, shard_offset: int, trace: Trace | None = None) -> None:
        self._trace = trace
        region.populate_in_background(_report_unbacked)
        self._block_bytes = geometry.block_bytes
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
        begin_s = time.monotonic()
        for rows, blocks in _pieces(transfer):
            for device, host in self._pairs:
                device[blocks] = host[rows]
        seconds = time.monotonic() - begin_s
        self._record(LOADS, transfer, begin_s)
        with self._changed:
            self._n_under_way -= 1
            self._finished.loads.add(transfer.owner)
            self._finished.loaded_bytes += transfer.n_blocks * self._block_bytes
            self._finished.load_s += seconds
            self._changed.notify_all()

    def _store(self, transfer: Transfer) -> None:
        begin_s = time.monotonic()
        for rows, blocks in _pieces(transfer):
            self._load_what_waits()
            for device, host in self._pairs:
                host[rows] = device[blocks]
        self._record(STORES, transfer, begin_s)
        with self._changed:
            self._n_under_way -= 1
            self._finished.stores.append(transfer.number)
            self._changed.notify_all()

    def _record(self, track: str, transfer: Transfer, begin_s: float) -> None:
        if self._trace is None:
            return
        n_bytes = transfer.n_blocks * self._block_bytes
        end_ns = time.time_ns()
        begin_ns = end_ns - int((time.monotonic() - begin_s) * 1e9)
        self._trace.slice(
            track,
            f"{transfer.n_blocks} blocks",
            begin_ns,
            end_ns,
            request=transfer.owner,
            blocks=transfer.n_blocks,
            bytes=n_bytes,
        )

    def _load_what_waits(self) -> None:
        # Appending and popping at the ends of a deque is atomic, and only this thread pops.
        while self._loads:
            self._load(self._loads.popleft())


def _report_unbacked(error: OSError) -> None:
    if error.errno == errno.EINVAL:
        return  # an old kernel: pages are backed when they are first written
    logger.error("elmas: the memory of the host tier is not there (%s): lower --host-memory", error.strerror)


def _pieces(transfer: Transfer) -> Iterator[tuple[slice, slice]]:
    """Yield the transfer as runs of consecutive rows and consecutive blocks."""
    rows, blocks = transfer.rows.tolist(), transfer.device_blocks
    if len(rows) != len(blocks):
        raise ValueError(f"{len(rows)} rows for {len(blocks)} blocks")
    first = 0
    for end in range(1, len(rows) + 1):
        goes_on = end < len(rows) and rows[end] == rows[end - 1] + 1 and blocks[end] == blocks[end - 1] + 1
        if not goes_on or end - first == _BLOCKS_PER_PIECE:
            n_blocks = end - first
            yield slice(rows[first], rows[first] + n_blocks), slice(blocks[first], blocks[first] + n_blocks)
            first = end


def _views(
    geometry: Geometry, region: HostRegion, shard_offset: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield the device's blocks and the host's rows as arrays of shape (blocks or rows, layers, bytes).

    There is one pair of arrays if all layers lie at equal distances, as in one allocation, else one for each layer.
    """
    segments = geometry.segments
    distance = segments[1].address - segments[0].address if len(segments) > 1 else 0
    is_even = all(
        (later.address - earlier.address, later.n_bytes, later.stride_bytes)
        == (distance, earlier.n_bytes, earlier.stride_bytes)
        for earlier, later in itertools.pairwise(segments)
    )
    offset = shard_offset
    for group in [segments] if is_even else [(segment,) for segment in segments]:
        n_bytes = sum(segment.n_bytes for segment in group)
        host = region.rows[:, offset : offset + n_bytes]
        shape = (region.n_rows, len(group), group[0].n_bytes)
        strides = (region.row_bytes, group[0].n_bytes, 1)
        yield _device_view(group, geometry.n_blocks, distance), np.lib.stride_tricks.as_strided(host, shape, strides)
        offset += n_bytes


def _device_view(segments: Sequence[Segment], n_blocks: int, distance: int) -> NDArray[np.uint8]:
    first = segments[0]
    span = (n_blocks - 1) * first.stride_bytes + (len(segments) - 1) * distance + first.n_bytes
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * span).from_address(first.address))
    shape, strides = (n_blocks, len(segments), first.n_bytes), (first.stride_bytes, distance, 1)
    return np.lib.stride_tricks.as_strided(memory, shape, strides)
