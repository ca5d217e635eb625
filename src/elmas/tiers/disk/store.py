"""The disk store: the segments of one directory, bound to one namespace and one payload size.

Carries out single operations, in the threads that call it; which block belongs where, and which segment has to go, is
decided elsewhere. Nothing that was read is to be used before its verdict is known.
"""

import errno
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elmas.tiers.disk.directory import DirectoryLock, check_space, prepare_directory, segment_name, segment_of
from elmas.tiers.disk.files import DirectFiles, Files, ScratchPages, opened
from elmas.tiers.disk.format import (
    KEY_BYTES,
    PAGE_BYTES,
    Bytes,
    Namespace,
    RecordFormat,
    Verdict,
    choose_shape,
    encode_footer,
    encode_segment_header,
)
from elmas.tiers.disk.scan import Condition, Found, FoundSegment, ScannedFile, scan_file

_RECORDS_AT_ONCE = 256
"""Bounds the memory for header pages to 1 MiB per thread."""

_SCAN_THREADS = 8
"""Hide the latency of a disk: a scan makes two small reads per segment."""


@dataclass
class _OpenSegment:
    """A segment that is being written: the descriptor, the checksum of its header, which the footer repeats, how many
    operations are using the descriptor, and whether it takes no more of them because it is about to be closed."""

    fd: int
    header_checksum: bytes
    n_users: int = 0
    is_ending: bool = False


@dataclass(frozen=True)
class _Batch:
    """Adjacent records of one transfer: `buffers` are header pages and payloads in turn."""

    first_slot: int
    keys: Sequence[bytes]
    payloads: Sequence[Bytes]
    pages: Bytes
    buffers: list[Bytes]


class DiskStore:
    """Segments of at most `capacity_bytes` together in `directory`, which is made if need be, and locked until `close`.

    Everything may run in several threads; `seal` and `remove` wait for what is being written to their segment. They
    raise OSError when the disk fails, ValueError when they are misused. `shape` says how the segments are laid out.
    """

    def __init__(
        self,
        directory: Path,
        namespace: Namespace,
        payload_bytes: int,
        capacity_bytes: int,
        files: Files | None = None,
    ) -> None:
        """Raises UserError when the directory cannot be used or the capacity does not fit, OSError when the directory
        cannot be listed. `files` are those of the directory."""
        self.shape = choose_shape(payload_bytes, capacity_bytes)
        self.directory = directory
        self.capacity_bytes = capacity_bytes
        self._namespace = namespace
        self._records = RecordFormat(namespace.digest, payload_bytes)
        self._scratch = ScratchPages()
        self._open: dict[int, _OpenSegment] = {}
        self._not_removed: set[int] = set()
        """Nobody asks for these again, but they take space until they are gone."""
        self._changing = threading.Lock()
        """Held while a file is made or removed, so that the sizes stay true."""
        self._users = threading.Condition()
        prepare_directory(directory)
        self._lock = DirectoryLock(directory)
        try:
            check_space(directory, capacity_bytes)
            self._files = files or DirectFiles(directory)
            self._sizes = self._list_sizes()
        except BaseException:
            self._lock.release()
            raise

    @property
    def used_bytes(self) -> int:
        """Bytes of all segment files in the directory, foreign ones too."""
        return sum(self._sizes.copy().values())

    def scan(self) -> Found:
        """Read what is in the directory; call it once, before the others. Raises OSError only when listing fails.

        What a crash left without a footer gets one that names the records which are there; worthless files are removed.
        """
        self._sizes = self._list_sizes()
        order = sorted(self._sizes)
        with ThreadPoolExecutor(_SCAN_THREADS, thread_name_prefix="elmas-disk-scan") as pool:
            scanned = list(pool.map(self._scan_file, order))
        segments: list[FoundSegment] = []
        foreign: list[int] = []
        n_sealed_now = n_removed = n_failed = 0
        for segment, file in zip(order, scanned, strict=True):
            try:
                if file.condition in (Condition.WORTHLESS, Condition.GONE):
                    self.remove(segment)
                    n_removed += file.condition is Condition.WORTHLESS
                elif file.blocks is None:
                    foreign.append(segment)
                    n_failed += file.condition is Condition.FAILED
                else:
                    segments.append(file.blocks)
                    n_sealed_now += self._seal_found(file)
            except OSError:
                n_failed += 1
                if file.blocks is None:
                    foreign.append(segment)
        return Found(segments, [(number, self._sizes[number]) for number in foreign], n_sealed_now, n_removed, n_failed)

    # Writing

    def create(self, segment: int) -> None:
        """Make an empty segment, with its space allocated, and keep it open for writing.

        Removes first what could not be removed before. Raises OSError (ENOSPC) when all segments together would exceed
        the capacity.
        """
        with self._changing:
            self._remove_left_over()
            n_bytes = self.shape.segment_bytes
            if self.used_bytes + n_bytes > self.capacity_bytes:
                raise OSError(errno.ENOSPC, f"segments would exceed the capacity of {self.capacity_bytes} bytes")
            try:
                fd = self._files.create(segment_name(segment), n_bytes)
            except OSError:
                with suppress(OSError):
                    self._sizes = self._list_sizes()
                raise
            self._sizes[segment] = n_bytes
            try:
                page = self._scratch.take(1)[0]
                checksum = encode_segment_header(page, self._namespace, self.shape, segment, time.time())
                self._files.pwritev(fd, [page], 0)
            except OSError:
                with suppress(OSError):
                    self._files.close(fd)
                with suppress(OSError):
                    self._unlink(segment)
                raise
            self._open[segment] = _OpenSegment(fd, checksum)

    def write(self, segment: int, first_slot: int, keys: Sequence[bytes], payloads: Sequence[Bytes]) -> None:
        """Write adjacent records to a segment that was created and is not sealed; payloads are rows of the host region.

        When it fails, any part of the records may be there.
        """
        with self._use(segment, alone=False) as segment_open:
            for batch in self._batches(first_slot, keys, payloads):
                self._records.encode(batch.pages, segment, batch.first_slot, batch.keys, batch.payloads)
                self._files.pwritev(segment_open.fd, batch.buffers, self.shape.offset_of(batch.first_slot))

    def seal(self, segment: int, keys: Bytes, present: NDArray[np.bool_]) -> None:
        """Write the footer, see to it that everything is on the disk, and close the segment for writing.

        `keys` is (n_slots, 32), `present` (n_slots,) says which slots hold a block. When the disk fails, the segment
        can still be sealed again, or removed.
        """
        with self._use(segment, alone=True) as segment_open:
            self._write_footer(segment_open, segment, keys, present)
            del self._open[segment]
            self._files.close(segment_open.fd)

    def remove(self, segment: int) -> None:
        """Delete a segment, sealed or not; one that is gone already is no error. Reads under way are not disturbed.

        When the disk fails, the next `create` tries again.
        """
        with self._changing:
            if segment in self._open:
                with self._use(segment, alone=True) as segment_open:
                    del self._open[segment]
                    with suppress(OSError):
                        self._files.close(segment_open.fd)
            self._not_removed.add(segment)
            self._unlink(segment)

    # Reading

    def read(self, segment: int, first_slot: int, keys: Sequence[bytes], payloads: Sequence[Bytes]) -> list[Verdict]:
        """Read adjacent records into rows of the host region, and verify them; returns one verdict per record.

        A row whose verdict is not GOOD holds garbage, all rows do when OSError is raised.
        """
        verdicts: list[Verdict] = []
        with opened(self._files, segment_name(segment)) as fd:
            for batch in self._batches(first_slot, keys, payloads):
                n_read = self._files.preadv(fd, batch.buffers, self.shape.offset_of(batch.first_slot))
                n = n_read // self.shape.record_bytes
                verdicts += self._records.check(
                    batch.pages[:n], segment, batch.first_slot, batch.keys[:n], batch.payloads[:n]
                )
                verdicts += [Verdict.TRUNCATED] * (len(batch.keys) - n)
        return verdicts

    def close(self) -> None:
        """Close everything and let others use the directory; what was not sealed is found by their scan.

        Should a writing operation hang, the directory stays locked until the process ends.
        """
        if not self._changing.acquire(blocking=False):
            return
        try:
            with self._users:
                if any(segment_open.n_users for segment_open in self._open.values()):
                    return
                for segment_open in self._open.values():
                    with suppress(OSError):
                        self._files.close(segment_open.fd)
                self._open.clear()
            self._lock.release()
        finally:
            self._changing.release()

    # Parts

    @contextmanager
    def _use(self, segment: int, alone: bool) -> Iterator[_OpenSegment]:
        """Use the descriptor of an open segment, `alone` after all others: a descriptor that is closed under a write
        could be another file's by then."""
        with self._users:
            segment_open = self._opened(segment)
            if alone:
                segment_open.is_ending = True
                self._users.wait_for(lambda: segment_open.n_users == 0)
            segment_open.n_users += 1
        try:
            yield segment_open
        finally:
            with self._users:
                segment_open.n_users -= 1
                if alone:
                    segment_open.is_ending = False
                self._users.notify_all()

    def _list_sizes(self) -> dict[int, int]:
        sizes = ((segment_of(name), n_bytes) for name, n_bytes in self._files.list_files())
        return {segment: n_bytes for segment, n_bytes in sizes if segment is not None}

    def _scan_file(self, segment: int) -> ScannedFile:
        return scan_file(self._files, self._scratch, segment, self._namespace.digest, self.shape)

    def _seal_found(self, file: ScannedFile) -> bool:
        """Write the footer of a segment that has none; returns whether it was written."""
        if file.condition is not Condition.UNSEALED or file.header is None or file.blocks is None:
            return False
        segment = file.blocks.segment
        if self._sizes[segment] < self.shape.segment_bytes:
            return False  # cut short from outside: with a footer it would grow, maybe beyond the capacity
        with opened(self._files, segment_name(segment), writable=True) as fd:
            found = file.blocks
            self._write_footer(_OpenSegment(fd, file.header.checksum), segment, found.keys, found.present)
        return True

    def _write_footer(self, to: _OpenSegment, segment: int, keys: Bytes, present: NDArray[np.bool_]) -> None:
        if keys.shape != (self.shape.n_slots, KEY_BYTES) or present.shape != (self.shape.n_slots,):
            raise ValueError(f"{keys.shape} keys and {present.shape} flags for {self.shape.n_slots} slots")
        footer = self._scratch.take(self.shape.footer_bytes // PAGE_BYTES).reshape(-1)
        encode_footer(footer, self._namespace.digest, segment, to.header_checksum, keys, present)
        self._files.pwritev(to.fd, [footer], self.shape.footer_offset)
        self._files.fdatasync(to.fd)

    def _opened(self, segment: int) -> _OpenSegment:
        segment_open = self._open.get(segment)
        if segment_open is None or segment_open.is_ending:
            # What goes on after a failed `create` fails too, like on a disk.
            raise OSError(errno.EBADF, f"segment {segment} is not open for writing")
        return segment_open

    def _unlink(self, segment: int) -> None:
        with suppress(FileNotFoundError):
            self._files.unlink(segment_name(segment))
        self._sizes.pop(segment, None)
        self._not_removed.discard(segment)

    def _remove_left_over(self) -> None:
        for segment in list(self._not_removed):
            with suppress(OSError):
                self._unlink(segment)

    def _batches(self, first_slot: int, keys: Sequence[bytes], payloads: Sequence[Bytes]) -> Iterator[_Batch]:
        if first_slot < 0 or first_slot + len(keys) > self.shape.n_slots:
            raise ValueError(f"slots {first_slot} to {first_slot + len(keys)} of {self.shape.n_slots}")
        if any(payload.nbytes != self.shape.payload_bytes for payload in payloads):
            raise ValueError(f"payloads must be {self.shape.payload_bytes} bytes")
        for start in range(0, len(keys), _RECORDS_AT_ONCE):
            some = slice(start, start + _RECORDS_AT_ONCE)
            pages = self._scratch.take(len(keys[some]))
            buffers = [part for record in zip(pages, payloads[some], strict=True) for part in record]
            yield _Batch(first_slot + start, keys[some], payloads[some], pages, buffers)
