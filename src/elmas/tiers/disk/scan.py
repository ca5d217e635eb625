"""What a server finds in its directory when it starts: reading one segment file. Decides nothing about its future."""

from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from elmas.tiers.disk.directory import segment_name
from elmas.tiers.disk.files import Files, ScratchPages, opened
from elmas.tiers.disk.format import (
    FORMAT_VERSION,
    KEY_BYTES,
    PAGE_BYTES,
    Bytes,
    RecordFormat,
    SegmentHeader,
    SegmentShape,
    Verdict,
    decode_footer,
    decode_segment_header,
    header_version,
)

_HEADERS_AT_ONCE = 256


@dataclass(frozen=True)
class FoundSegment:
    """The blocks of a segment: `keys` is (n_slots, 32), `present` (n_slots,) says which slots hold a block."""

    segment: int
    keys: Bytes
    present: NDArray[np.bool_]


@dataclass(frozen=True)
class Found:
    """What is in the directory, oldest first. The numbers of new segments must be above all of both lists.

    `foreign` are segments, with the bytes of their files, that this server cannot use but may remove: those of another
    namespace, block size, segment size or format version, and those that could not be read or removed
    (`n_failed` of them). `n_sealed_now` had no valid footer and have one now, `n_removed` were worthless.
    """

    segments: list[FoundSegment]
    foreign: list[tuple[int, int]]
    n_sealed_now: int
    n_removed: int
    n_failed: int


class Condition(Enum):
    """What a segment file is worth to a store."""

    SEALED = auto()
    UNSEALED = auto()
    FOREIGN = auto()
    WORTHLESS = auto()
    FAILED = auto()
    GONE = auto()


@dataclass(frozen=True)
class ScannedFile:
    """One file. `header` and `blocks` are there when it is SEALED or UNSEALED."""

    condition: Condition
    header: SegmentHeader | None = None
    blocks: FoundSegment | None = None


def scan_file(
    files: Files, scratch: ScratchPages, segment: int, namespace_digest: bytes, shape: SegmentShape
) -> ScannedFile:
    """Read what a store with this namespace and shape has to know about one of its files. Never raises."""
    try:
        with opened(files, segment_name(segment)) as fd:
            header = read_header(files, fd, scratch)
            if isinstance(header, Condition):
                return ScannedFile(header)
            if header.segment != segment:
                return ScannedFile(Condition.WORTHLESS)
            if header.namespace_digest != namespace_digest or header.shape != shape:
                return ScannedFile(Condition.FOREIGN)
            blocks = read_footer(files, fd, scratch, header)
            condition = Condition.SEALED if blocks else Condition.UNSEALED
            keys, present = blocks or read_record_headers(files, fd, scratch, header)
    except FileNotFoundError:
        return ScannedFile(Condition.GONE)
    except OSError:
        return ScannedFile(Condition.FAILED)
    if not present.any():
        return ScannedFile(Condition.WORTHLESS)
    return ScannedFile(condition, header, FoundSegment(segment, keys, present))


def read_header(files: Files, fd: int, scratch: ScratchPages) -> SegmentHeader | Condition:
    """Return what the header page of an open file says; WORTHLESS when it is damaged, FOREIGN for another version.

    Raises OSError.
    """
    pages = scratch.take(1)
    version = header_version(pages[0]) if files.preadv(fd, list(pages), 0) == PAGE_BYTES else None
    if version is None:
        return Condition.WORTHLESS
    if version != FORMAT_VERSION:
        return Condition.FOREIGN
    return decode_segment_header(pages[0]) or Condition.WORTHLESS


def read_footer(
    files: Files, fd: int, scratch: ScratchPages, header: SegmentHeader
) -> tuple[Bytes, NDArray[np.bool_]] | None:
    """Return the keys, (n_slots, 32), and which slots are present, as the footer says; None without a valid one.

    Raises OSError.
    """
    footer = scratch.take(header.shape.footer_bytes // PAGE_BYTES).reshape(-1)
    if files.preadv(fd, [footer], header.shape.footer_offset) < footer.size:
        return None
    return decode_footer(footer, header)


def read_record_headers(
    files: Files, fd: int, scratch: ScratchPages, header: SegmentHeader
) -> tuple[Bytes, NDArray[np.bool_]]:
    """Return the keys, (n_slots, 32), and which slots are present, as the headers of the records say. Raises OSError.

    Payloads are not looked at: whoever reads a record verifies it.
    """
    shape = header.shape
    record_format = RecordFormat(header.namespace_digest, shape.payload_bytes)
    keys = np.zeros((shape.n_slots, KEY_BYTES), dtype=np.uint8)
    present = np.zeros(shape.n_slots, dtype=bool)
    for first in range(0, shape.n_slots, _HEADERS_AT_ONCE):
        n_pages = min(_HEADERS_AT_ONCE, shape.n_slots - first)
        pages = scratch.take(n_pages)
        for place, page in enumerate(pages):
            if files.preadv(fd, [page], shape.offset_of(first + place)) < PAGE_BYTES:
                pages[place:] = 0  # the file ends here
                break
        verdicts, found = record_format.check_headers(pages, header.segment, first)
        is_good = np.array([verdict is Verdict.GOOD for verdict in verdicts])
        keys[first : first + n_pages][is_good] = found[is_good]
        present[first : first + n_pages] = is_good
    return keys, present
