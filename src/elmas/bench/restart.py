"""How long a server looks for its blocks when it starts: the scan of a full disk directory, and the index made of it.

Segments are as large as a server's, but sparse: their records take no space and are not looked at, since a start
believes footers and leaves payloads to whoever reads them. The newest segment has real records and no footer, as after
a crash.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from elmas.bench.machine import describe_machine, describe_versions
from elmas.cache.segments import SegmentIndex
from elmas.errors import UserError
from elmas.tiers.disk.files import DirectFiles, aligned_pages
from elmas.tiers.disk.format import KEY_BYTES, PAGE_BYTES, Namespace
from elmas.tiers.disk.store import DiskStore
from elmas.units import format_bytes

BUDGET_S = 5.0
"""What a start may take for a million blocks."""

MOST_BYTES_PER_BLOCK = 160
"""What the index may take of memory per block."""

_MARGIN_BYTES = 2 << 30
"""For segments as large as those of a large store."""

_NAMESPACE = Namespace({"benchmark": "restart"})


@dataclass(frozen=True)
class RestartResult:
    """Seconds of the scan and of entering what it found, for `n_blocks` in `n_segments` of `segment_bytes`; the memory
    of the index."""

    n_blocks: int
    n_segments: int
    segment_bytes: int
    scan_s: float
    index_s: float
    index_bytes: int

    @property
    def bytes_per_block(self) -> float:
        """Memory of the index per block."""
        return self.index_bytes / self.n_blocks

    @property
    def meets_goal(self) -> bool:
        """Whether a million blocks would take no longer and no more than they may."""
        seconds = (self.scan_s + self.index_s) * 1e6 / self.n_blocks
        return seconds <= BUDGET_S and self.bytes_per_block <= MOST_BYTES_PER_BLOCK

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "benchmark": "restart",
            "machine": describe_machine(),
            "versions": describe_versions(),
            **asdict(self),
            "bytes_per_block": self.bytes_per_block,
        }


class _SparseFiles(DirectFiles):
    """Files whose space is not allocated."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._where = directory

    def create(self, name: str, n_bytes: int) -> int:
        """See Files."""
        fd = os.open(self._where / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.ftruncate(fd, n_bytes)
        return fd


def measure_restart(
    directory: Path, n_blocks: int, block_bytes: int, on_segment: Callable[[], None] = lambda: None
) -> RestartResult:
    """Fill a temporary directory below `directory` with `n_blocks` blocks of `block_bytes`, and find them again.

    `on_segment` is called after each segment that was made. Raises OSError when an operation fails, UserError when a
    store of that capacity does not fit the file system, sparse or not.
    """
    capacity_bytes = (n_blocks + 1) * (block_bytes + 2 * PAGE_BYTES) + _MARGIN_BYTES
    n_free = shutil.disk_usage(directory).free
    if capacity_bytes > n_free:
        raise UserError(
            f"{directory} has {format_bytes(n_free)} free, and a store of {format_bytes(capacity_bytes)} is measured: "
            "pass smaller --n-blocks or --block-bytes"
        )
    with tempfile.TemporaryDirectory(prefix="elmas-bench-", dir=directory) as name:
        path = Path(name)
        store = DiskStore(path, _NAMESPACE, block_bytes, capacity_bytes, _SparseFiles(path))
        shape = store.shape
        source = np.random.default_rng(0)
        for segment, first in enumerate(range(0, n_blocks, shape.n_slots)):
            n = min(shape.n_slots, n_blocks - first)
            keys = np.zeros((shape.n_slots, KEY_BYTES), dtype=np.uint8)
            keys[:n] = np.frombuffer(source.bytes(n * KEY_BYTES), dtype=np.uint8).reshape(n, KEY_BYTES)
            store.create(segment)
            if first + n < n_blocks:
                store.seal(segment, keys, np.arange(shape.n_slots) < n)
            else:
                payload = aligned_pages(block_bytes // PAGE_BYTES).reshape(-1)
                payload[:] = 1
                for slot in range(n):
                    store.write(segment, slot, [keys[slot].tobytes()], [payload])
            on_segment()
        store.close()

        begin_s = time.perf_counter()
        store = DiskStore(path, _NAMESPACE, block_bytes, capacity_bytes, _SparseFiles(path))
        found = store.scan()
        scan_s = time.perf_counter() - begin_s
        index = SegmentIndex(shape.n_slots, shape.segment_bytes, capacity_bytes)
        for blocks in found.segments:
            index.restore(blocks.segment, blocks.keys, blocks.present)
        index_s = time.perf_counter() - begin_s - scan_s
        store.close()
    if index.n_blocks != n_blocks:
        raise ValueError(f"{index.n_blocks} of {n_blocks} blocks were found")
    return RestartResult(n_blocks, len(found.segments), shape.segment_bytes, scan_s, index_s, index.nbytes)
