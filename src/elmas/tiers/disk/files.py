"""The few operations the disk store needs on the files of one directory, and the memory they work on.

Knows nothing of what the files hold.
"""

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import numpy as np

from elmas.tiers.disk.format import PAGE_BYTES, Bytes

_IOV_MAX = 1024
"""Linux's limit on buffers of one call (UIO_MAXIOV)."""

_MIN_SCRATCH_PAGES = 64


class Files(Protocol):
    """The regular files of one directory, by name. Everything raises OSError only, and may run in several threads.

    Buffers are contiguous and start on page boundaries; they, and the offsets, are whole pages.
    """

    @property
    def is_direct(self) -> bool:
        """Whether transfers go past the page cache."""

    def list_files(self) -> list[tuple[str, int]]:
        """Return names and sizes in bytes, in any order; other things than regular files are left out."""

    def create(self, name: str, n_bytes: int) -> int:
        """Make a file that did not exist, with all its space allocated; returns a descriptor for reading and writing.

        When it fails, there is no file.
        """

    def open(self, name: str, writable: bool) -> int:
        """Return a descriptor of an existing file."""

    def preadv(self, fd: int, buffers: Sequence[Bytes], offset: int) -> int:
        """Fill the buffers from `offset` on; returns the bytes read, which are fewer only where the file ends."""

    def pwritev(self, fd: int, buffers: Sequence[Bytes], offset: int) -> None:
        """Write all of the buffers from `offset` on."""

    def fdatasync(self, fd: int) -> None:
        """Return when what was written is on the disk."""

    def close(self, fd: int) -> None:
        """Close a descriptor; it is closed also when this raises."""

    def unlink(self, name: str) -> None:
        """Remove a file; whoever has it open keeps it."""


@contextmanager
def opened(files: Files, name: str, writable: bool = False) -> Iterator[int]:
    """Open a file for the length of a with statement, which gets the descriptor."""
    fd = files.open(name, writable)
    try:
        yield fd
    finally:
        files.close(fd)


class DirectFiles:
    """Files with direct I/O (O_DIRECT), or buffered where the file system has none: then what was moved is dropped
    from the page cache at once, so that the cache does not compete with the host tier for memory.

    Which of the two is found out when this is made, and once more should direct I/O be refused later (EINVAL).
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._is_direct = _takes_direct_io(directory)

    @property
    def is_direct(self) -> bool:
        """See Files."""
        return self._is_direct

    def list_files(self) -> list[tuple[str, int]]:
        """See Files."""
        found = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # removed meanwhile
                    if entry.is_file(follow_symlinks=False):
                        found.append((entry.name, entry.stat(follow_symlinks=False).st_size))
        return found

    def create(self, name: str, n_bytes: int) -> int:
        """See Files. The file is readable and writable for its owner alone."""
        path = self._directory / name
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # Before direct I/O is set: where the file system cannot allocate, the C library writes single bytes.
            os.posix_fallocate(fd, 0, n_bytes)
            if self._is_direct:
                self._set_direct(fd)
        except BaseException:
            os.close(fd)
            path.unlink()
            raise
        return fd

    def open(self, name: str, writable: bool) -> int:
        """See Files."""
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW
        path = self._directory / name
        if self._is_direct:
            try:
                return os.open(path, flags | os.O_DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._is_direct = False
        return os.open(path, flags)

    def preadv(self, fd: int, buffers: Sequence[Bytes], offset: int) -> int:
        """See Files."""
        n_read = self._transfer(os.preadv, fd, buffers, offset)
        if not self._is_direct:
            _drop_cached(fd, offset, n_read)
        return n_read

    def pwritev(self, fd: int, buffers: Sequence[Bytes], offset: int) -> None:
        """See Files."""
        if self._transfer(os.pwritev, fd, buffers, offset) != sum(buffer.nbytes for buffer in buffers):
            raise OSError(errno.EIO, "the disk took only a part of what was written")

    def fdatasync(self, fd: int) -> None:
        """See Files."""
        os.fdatasync(fd)
        if not self._is_direct:
            _drop_cached(fd, 0, 0)

    def close(self, fd: int) -> None:
        """See Files."""
        os.close(fd)

    def unlink(self, name: str) -> None:
        """See Files."""
        (self._directory / name).unlink()

    def _transfer(
        self,
        operation: Callable[[int, Sequence[memoryview], int], int],
        fd: int,
        buffers: Sequence[Bytes],
        offset: int,
    ) -> int:
        left = [buffer.data.cast("B") for buffer in buffers]
        done = 0
        while left:
            try:
                n_moved = operation(fd, left[:_IOV_MAX], offset + done)
            except OSError as error:
                # Direct I/O of odd pieces is refused anywhere; that is no reason to give it up.
                is_odd = (offset + done) % PAGE_BYTES or not _are_pages(buffers)
                if error.errno != errno.EINVAL or is_odd or not self._give_up_direct(fd):
                    raise
                continue
            done += n_moved
            if n_moved == 0 or (done % PAGE_BYTES and operation is os.preadv and self._is_direct):
                break  # the end of the file
            left = _after(left, n_moved)
        return done

    def _set_direct(self, fd: int) -> None:
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._is_direct = False

    def _give_up_direct(self, fd: int) -> bool:
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        if not flags & os.O_DIRECT:
            return False
        fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        self._is_direct = False
        return True


def aligned_pages(n_pages: int) -> Bytes:
    """Return zeroed memory that starts on a page boundary, shaped (n_pages, PAGE_BYTES)."""
    return np.frombuffer(mmap.mmap(-1, n_pages * PAGE_BYTES), dtype=np.uint8).reshape(n_pages, PAGE_BYTES)


class ScratchPages(threading.local):
    """Aligned pages of each thread, which it uses again for every operation."""

    def __init__(self) -> None:
        self._pages = aligned_pages(_MIN_SCRATCH_PAGES)

    def take(self, n_pages: int) -> Bytes:
        """Return pages with any content, (n_pages, PAGE_BYTES), valid until this thread's next call."""
        if len(self._pages) < n_pages:
            self._pages = aligned_pages(n_pages)
        return self._pages[:n_pages]


def _are_pages(buffers: Sequence[Bytes]) -> bool:
    return not any(buffer.ctypes.data % PAGE_BYTES or buffer.nbytes % PAGE_BYTES for buffer in buffers)


def _after(views: list[memoryview], n_bytes: int) -> list[memoryview]:
    """Return what is left of the buffers after their first `n_bytes`."""
    for place, view in enumerate(views):
        if n_bytes < view.nbytes:
            return [view[n_bytes:], *views[place + 1 :]]
        n_bytes -= view.nbytes
    return []


def _drop_cached(fd: int, offset: int, n_bytes: int) -> None:
    with suppress(OSError):  # an advice; not every file system takes it
        os.posix_fadvise(fd, offset, n_bytes, os.POSIX_FADV_DONTNEED)


def _takes_direct_io(directory: Path) -> bool:
    """Try direct I/O on a file without a name; where that cannot be tried, the first transfers will tell."""
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC, 0o600)
        try:
            page = aligned_pages(1)
            os.pwritev(fd, [page.data], 0)
            os.preadv(fd, [page.data], 0)
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno != errno.EINVAL
    return True
