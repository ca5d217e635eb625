"""Copies by the GPU's copy engines, in both directions at once.

The host region is registered with CUDA, so copies are asynchronous and need no staging. They go out in batched driver
calls of some 16 MiB. Their completion is an event that is polled, never waited for.

A copy engine works on one stream until that has nothing for it to do: a step of the model, which needs its inputs on
the device and its tokens on the host, would wait for all copies of its direction that were launched before, 70 ms for
3.8 GB. So each direction has two streams, and its calls go to them in turns, each waiting for the one before: at each
change the copy engine looks at the other streams. On an H200 three small copies wait 0.1 ms, and the bus is as fast.
"""

import errno
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from vllm import _custom_ops as ops

from elmas.cache.rows import Rows
from elmas.errors import UserError
from elmas.movement.transfers import Transfer
from elmas.tiers.host import HostRegion
from elmas.vllm.copy_engine import Finished
from elmas.vllm.geometry import Geometry
from elmas.vllm.tracing import LOADS, STORES, Trace

_REGISTER_BYTES = 16 << 30
"""The driver refuses to register very large pieces (the ceiling seen is 512 GiB per call)."""

_MOST_PIECE_BYTES = 2 << 20
"""Of one copy: it has 97% of the speed of the bus already."""

_POPULATE_THREADS = 4
"""More gain nothing: the kernel clears pages at the speed of memory then."""

_TURN_BYTES = 16 << 20
"""Of one call: 0.3 ms of the bus, for which a step of the model may have to wait, and 16 to 31 us to launch."""

_POLL_S = 0.0002

_CLOCK_NS = 10 * 10**9


@dataclass
class _Batch:
    """Transfers whose end is reported at once."""

    begun: torch.cuda.Event
    done: torch.cuda.Event
    loads: list[str]
    stores: list[int]
    n_blocks: int
    n_bytes: int


class _Recorder:
    """Records batches with the times at which the device began and ended them.

    The device's clock is known by an event whose moment is known. It is renewed while nothing is under way, since
    differences of events are single precision numbers of milliseconds.
    """

    def __init__(self, trace: Trace, stream: torch.cuda.Stream) -> None:
        self._trace = trace
        self._stream = stream
        self._reference = torch.cuda.Event(enable_timing=True)
        self._reference_ns = 0
        self.look_at_clocks()

    def look_at_clocks(self) -> None:
        """Renew what is known of the device's clock, when it is old; the stream has nothing to do."""
        if time.time_ns() - self._reference_ns < _CLOCK_NS:
            return
        self._reference = torch.cuda.Event(enable_timing=True)
        self._reference.record(self._stream)
        self._reference.synchronize()
        self._reference_ns = time.time_ns()

    def record(self, batch: _Batch) -> None:
        """A batch has ended."""
        begin_ns, end_ns = (
            self._reference_ns + int(self._reference.elapsed_time(event) * 1e6) for event in (batch.begun, batch.done)
        )
        of = {"requests": ", ".join(batch.loads)} if batch.loads else {"stores": len(batch.stores)}
        self._trace.slice(
            LOADS if batch.loads else STORES,
            f"{batch.n_blocks} blocks",
            begin_ns,
            end_ns,
            blocks=batch.n_blocks,
            bytes=batch.n_bytes,
            **of,
        )


class _Direction:
    """Two streams that calls go to in turns; see the module."""

    def __init__(self, device: torch.device) -> None:
        # The lowest priority: a copy must never delay the model's kernels.
        self.streams = tuple(torch.cuda.Stream(device, priority=0) for _ in range(2))
        # A stream waits for what an event stood for when it was told to, so these can be recorded again and again.
        self._ends = tuple(torch.cuda.Event() for _ in range(2))
        self._turn = 0

    def next_stream(self) -> torch.cuda.Stream:
        """Return the stream for the next call, which will begin when those before have ended."""
        end = self._ends[self._turn]
        end.record(self.streams[self._turn])
        self._turn = 1 - self._turn
        stream = self.streams[self._turn]
        stream.wait_event(end)
        return stream

    def synchronize(self) -> None:
        """Wait for all calls."""
        for stream in self.streams:
            stream.synchronize()


class StreamCopyEngine:
    """See CopyEngine."""

    def __init__(
        self,
        device: torch.device,
        geometry: Geometry,
        region: HostRegion,
        shard_offset: int,
        trace: Trace | None = None,
    ) -> None:
        self._device = device
        self._region = region
        self._n_bytes = np.array([segment.n_bytes for segment in geometry.segments], dtype=np.int64)
        self._device_start = np.array([segment.address for segment in geometry.segments], dtype=np.int64)
        self._device_stride = np.array([segment.stride_bytes for segment in geometry.segments], dtype=np.int64)
        self._host_start = region.address + shard_offset + np.cumsum(self._n_bytes) - self._n_bytes
        self._rows_per_piece = max(1, _MOST_PIECE_BYTES // region.row_bytes)
        n_pieces = max(1, _REGISTER_BYTES // (self._rows_per_piece * region.row_bytes))
        whole = self._n_bytes.tolist() == self._device_stride.tolist() == [region.row_bytes]
        self._has_whole_rows = whole and shard_offset == 0
        self._registered = _register(region, n_pieces * self._rows_per_piece, _numa_node(device))
        self._loads, self._stores = _Direction(device), _Direction(device)
        self._under_way: deque[_Batch] = deque()
        self._recorder = _Recorder(trace, self._loads.streams[0]) if trace is not None else None

    def submit(self, loads: Sequence[Transfer], stores: Sequence[Transfer]) -> None:
        """Launch the copies. A load is reported when its own blocks are there; small ones are put together."""
        n_least_blocks = -(-_TURN_BYTES // int(self._n_bytes.sum()))
        for batch in in_batches(loads, n_least_blocks):
            self._launch(self._loads, batch, to_device=True)
        for batch in in_batches(stores, n_least_blocks):
            self._launch(self._stores, batch, to_device=False)

    def poll(self) -> Finished:
        """Return the batches whose event has passed."""
        finished = Finished()
        waiting: deque[_Batch] = deque()
        for batch in self._under_way:
            if batch.done.query():
                finished.loads.update(batch.loads)
                finished.stores.extend(batch.stores)
                if batch.loads:
                    finished.loaded_bytes += batch.n_bytes
                    finished.load_s += batch.begun.elapsed_time(batch.done) / 1e3
                if self._recorder is not None:
                    self._recorder.record(batch)
            else:
                waiting.append(batch)
        self._under_way = waiting
        if self._recorder is not None and not waiting:
            self._recorder.look_at_clocks()
        return finished

    def wait_for_any(self, timeout_s: float) -> None:
        """Sleep in short turns until an event has passed."""
        end_s = time.monotonic() + timeout_s
        while self._under_way and time.monotonic() < end_s:
            if any(batch.done.query() for batch in self._under_way):
                return
            time.sleep(_POLL_S)

    def wait_for_all(self) -> None:
        """Synchronise with all streams."""
        self._loads.synchronize()
        self._stores.synchronize()

    def close(self) -> None:
        """Wait for the copies and give the registration back."""
        self.wait_for_all()
        for address in self._registered:
            torch.cuda.cudart().cudaHostUnregister(address)

    def _launch(self, direction: _Direction, transfers: Sequence[Transfer], to_device: bool) -> None:
        rows = np.concatenate([transfer.rows for transfer in transfers])
        blocks = np.concatenate([np.asarray(transfer.device_blocks, dtype=np.int64) for transfer in transfers])
        host, device, sizes = self._pieces(rows, blocks)
        n_pieces = np.diff(turn_starts(sizes, _TURN_BYTES), append=sizes.size).tolist()
        source, target = (host, device) if to_device else (device, host)
        calls = zip(*(torch.from_numpy(values).split(n_pieces) for values in (source, target, sizes)), strict=True)
        begun, done = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        models_stream = torch.cuda.current_stream(self._device)
        stream = direction.next_stream()
        stream.wait_stream(models_stream)
        begun.record(stream)
        try:
            for number, (source_pieces, target_pieces, piece_sizes) in enumerate(calls):
                if number > 0:
                    stream = direction.next_stream()
                # The model waits for this thread: what `with torch.cuda.stream` does besides takes as long as the call.
                torch.cuda.set_stream(stream)
                ops.swap_blocks_batch(
                    source_pieces,
                    target_pieces,
                    piece_sizes,
                    # Host rows are not written while they are read; device blocks may just have been.
                    is_src_access_order_any=to_device,
                )
        finally:
            torch.cuda.set_stream(models_stream)
        done.record(stream)
        loads = [transfer.owner for transfer in transfers] if to_device else []
        stores = [] if to_device else [transfer.number for transfer in transfers]
        self._under_way.append(_Batch(begun, done, loads, stores, rows.size, int(sizes.sum())))

    def _pieces(self, rows: Rows, blocks: Rows) -> tuple[Rows, Rows, Rows]:
        """Return host addresses, device addresses and sizes of what is copied at once: a segment of a block, or a run
        of whole blocks."""
        n_blocks = np.ones(rows.size, dtype=np.int64)
        if self._has_whole_rows:
            first = run_starts(rows, blocks, self._rows_per_piece)
            n_blocks = np.diff(first, append=rows.size)
            rows, blocks = rows[first], blocks[first]
        host = (rows[:, None] * self._region.row_bytes + self._host_start).ravel()
        device = (blocks[:, None] * self._device_stride + self._device_start).ravel()
        return host, device, (n_blocks[:, None] * self._n_bytes).ravel()


def in_batches(transfers: Sequence[Transfer], n_least_blocks: int) -> Iterator[list[Transfer]]:
    """Yield the transfers in their order, in batches of at least so many blocks; the last one may be smaller."""
    batch: list[Transfer] = []
    n_blocks = 0
    for transfer in transfers:
        batch.append(transfer)
        n_blocks += transfer.n_blocks
        if n_blocks >= n_least_blocks:
            yield batch
            batch, n_blocks = [], 0
    if batch:
        yield batch


def turn_starts(sizes: Rows, most_bytes: int) -> Rows:
    """Return the places in `sizes` (bytes of pieces) at which calls begin, each of so many bytes or up to one piece
    more."""
    begins = np.cumsum(sizes) - sizes
    return np.flatnonzero(np.diff(begins // most_bytes, prepend=-1) != 0)


def run_starts(rows: Rows, blocks: Rows, rows_per_piece: int) -> Rows:
    """Return the places in `rows` at which runs begin, of consecutive rows that belong to consecutive blocks.

    Fewer and larger copies come closer to the speed of the bus. A run has `rows_per_piece` at most, and never reaches
    over two registrations, which are made of whole pieces.
    """
    goes_on = (np.diff(rows) == 1) & (np.diff(blocks) == 1) & (rows[1:] % rows_per_piece != 0)
    return np.flatnonzero(np.concatenate((np.ones(min(1, rows.size), dtype=np.bool_), ~goes_on)))


def _numa_node(device: torch.device) -> int | None:
    """Return the NUMA node that the GPU hangs on, None where the system does not say."""
    properties = torch.cuda.get_device_properties(device)
    address = f"{properties.pci_domain_id:04x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}.0"
    try:
        node = int(Path(f"/sys/bus/pci/devices/{address}/numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def _register(region: HostRegion, rows_per_registration: int, numa_node: int | None) -> list[int]:
    """Register the region by so many rows at a time; returns the addresses. No copy may reach over two registrations.

    The driver backs pages in one thread (0.38 s per GiB), and pins those that are backed ten times as fast. Raises
    UserError when there is not enough memory.
    """
    try:
        region.populate_all(_POPULATE_THREADS, numa_node)
    except OSError as error:
        if error.errno != errno.EINVAL:  # not an old kernel, where the driver backs the pages
            raise UserError(
                f"the memory of the host tier is not there ({error.strerror}): lower --host-memory"
            ) from None
    addresses = []
    for first in range(0, region.n_rows, rows_per_registration):
        n_bytes = min(rows_per_registration, region.n_rows - first) * region.row_bytes
        address = region.address + first * region.row_bytes
        status = torch.cuda.cudart().cudaHostRegister(address, n_bytes, 0)
        if int(status) != 0:
            raise UserError(f"CUDA could not pin {n_bytes} bytes of host memory ({status}): lower --host-memory")
        addresses.append(address)
    return addresses
