"""A look into any disk directory, whatever wrote it, and its removal. See verify.py for the check of the contents.

Everything needed is in the segments' headers. Looking takes no lock, so a server may be using the directory: segments
that vanish meanwhile are left out.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elmas.errors import UserError
from elmas.tiers.disk.directory import LOCK_NAME, DirectoryLock, lock_holder, segment_of
from elmas.tiers.disk.files import DirectFiles, Files, ScratchPages
from elmas.tiers.disk.format import KEY_BYTES, PAGE_BYTES, Bytes, SegmentHeader, SegmentShape
from elmas.tiers.disk.scan import Condition, read_footer, read_header, read_record_headers

_SETTLE_S = 0.05
"""A segment that a server is just creating has its header after this time."""


@dataclass(frozen=True)
class Listing:
    """The names and bytes of the files of a directory.

    `server` is the process that uses it, 0 when it is not known which, None when there is none.
    """

    files: Files
    server: int | None
    segments: list[tuple[str, int]]
    unknown: list[tuple[str, int]]


@dataclass(frozen=True)
class Contents:
    """A readable segment: `keys` (n, 32) and `present` (n,) are of those slots that lie in the file, all of them unless
    it was cut short; then `n_slots_lost` are missing. They are by the footer when it is sealed, else by the records'
    headers."""

    header: SegmentHeader
    is_sealed: bool
    keys: Bytes
    present: NDArray[np.bool_]

    @property
    def n_slots_lost(self) -> int:
        """How many slots do not lie in the file."""
        return self.header.shape.n_slots - len(self.present)


@dataclass(frozen=True)
class OpenedSegment:
    """One segment file while it is open; instead of contents, the reason why it has none."""

    name: str
    n_bytes: int
    fd: int
    contents: Contents | Condition


@dataclass(frozen=True)
class SegmentSummary:
    """A segment that could be read."""

    name: str
    n_bytes: int
    header: SegmentHeader
    is_sealed: bool
    n_blocks: int


@dataclass(frozen=True)
class DirectorySummary:
    """What is in a directory; files are given with their bytes, `server` as in Listing.

    `damaged` have no usable header, `other_versions` are of a format this version of elmas does not know, `unknown` are
    not ours.
    """

    directory: Path
    server: int | None
    segments: list[SegmentSummary]
    damaged: list[tuple[str, int]]
    other_versions: list[tuple[str, int]]
    unknown: list[tuple[str, int]]

    def by_namespace(self) -> list[list[SegmentSummary]]:
        """Return the segments in groups of one namespace and block size, in the order of first appearance."""
        groups: dict[tuple[bytes, int], list[SegmentSummary]] = {}
        for segment in self.segments:
            key = segment.header.namespace_digest, segment.header.shape.payload_bytes
            groups.setdefault(key, []).append(segment)
        return list(groups.values())


def list_directory(directory: Path) -> Listing:
    """Return what a directory holds. Raises UserError when it cannot be read."""
    try:
        files = DirectFiles(directory)
        listed = sorted(files.list_files())
        server = lock_holder(directory)
    except OSError as error:
        raise UserError(f"cannot read {directory} ({error.strerror}): name the directory given to --disk") from None
    segments = [(name, n_bytes) for name, n_bytes in listed if segment_of(name) is not None]
    unknown = [(name, n_bytes) for name, n_bytes in listed if segment_of(name) is None and name != LOCK_NAME]
    return Listing(files, server, segments, unknown)


def open_segments(listing: Listing, scratch: ScratchPages) -> Iterator[OpenedSegment]:
    """Go through the segments, oldest first; each is open until the next is asked for."""
    for name, n_bytes in listing.segments:
        try:
            fd = listing.files.open(name, writable=False)
        except FileNotFoundError:
            continue
        except OSError:
            yield OpenedSegment(name, n_bytes, -1, Condition.FAILED)
            continue
        try:
            yield OpenedSegment(name, n_bytes, fd, _read_contents(listing, scratch, fd, name, n_bytes))
        finally:
            listing.files.close(fd)


def inspect_directory(directory: Path) -> DirectorySummary:
    """Look at every file. Raises UserError when the directory cannot be read."""
    listing = list_directory(directory)
    summary = DirectorySummary(directory, listing.server, [], [], [], listing.unknown)
    for segment in open_segments(listing, ScratchPages()):
        contents, file = segment.contents, (segment.name, segment.n_bytes)
        if contents is Condition.FOREIGN:
            summary.other_versions.append(file)
        elif isinstance(contents, Condition):
            summary.damaged.append(file)
        else:
            n_blocks = int(np.count_nonzero(contents.present))
            summary.segments.append(SegmentSummary(*file, contents.header, contents.is_sealed, n_blocks))
    return summary


def clearable(summary: DirectorySummary, namespace: str | None) -> list[tuple[str, int]]:
    """Return names and bytes of the segments to remove: all, or those of the one namespace whose digest begins with the
    hexadecimal digits `namespace`. Raises UserError when that is not exactly one."""
    if namespace is None:
        readable = [(segment.name, segment.n_bytes) for segment in summary.segments]
        return sorted([*readable, *summary.damaged, *summary.other_versions])
    digests = {segment.header.namespace_digest.hex() for segment in summary.segments}
    matching = [digest for digest in digests if digest.startswith(namespace.lower())]
    if len(matching) != 1:
        known = ", ".join(sorted(digest[:12] for digest in digests)) or "none"
        raise UserError(
            f"--namespace {namespace} stands for {len(matching)} namespaces in {summary.directory}: "
            f"give the first digits of one of {known}"
        )
    return [(s.name, s.n_bytes) for s in summary.segments if s.header.namespace_digest.hex() == matching[0]]


def clear_directory(directory: Path, names: list[str]) -> None:
    """Remove these segments, with the directory locked. The lock file stays: it is what keeps two servers apart.

    Raises UserError when a server uses the directory or a file cannot be removed.
    """
    lock = DirectoryLock(directory)
    try:
        for name in names:
            with suppress(FileNotFoundError):
                (directory / name).unlink()
    except OSError as error:
        raise UserError(f"cannot remove {name} in {directory} ({error.strerror}): make it writable") from None
    finally:
        lock.release()


def _read_contents(listing: Listing, scratch: ScratchPages, fd: int, name: str, n_bytes: int) -> Contents | Condition:
    files = listing.files
    try:
        header = read_header(files, fd, scratch)
        if header is Condition.WORTHLESS and listing.server is not None:
            time.sleep(_SETTLE_S)
            header = read_header(files, fd, scratch)
        if isinstance(header, Condition):
            return header
        if header.segment != segment_of(name):
            return Condition.WORTHLESS
        shape = header.shape
        if n_bytes >= shape.segment_bytes and (blocks := read_footer(files, fd, scratch, header)) is not None:
            return Contents(header, True, *blocks)
        n_slots = min(shape.n_slots, max(0, n_bytes - PAGE_BYTES) // shape.record_bytes)
        if n_slots == 0:
            return Contents(header, False, np.empty((0, KEY_BYTES), dtype=np.uint8), np.empty(0, dtype=bool))
        in_file = replace(header, shape=SegmentShape(n_slots, shape.payload_bytes))
        return Contents(header, False, *read_record_headers(files, fd, scratch, in_file))
    except OSError:
        return Condition.FAILED
