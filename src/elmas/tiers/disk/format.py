"""What a segment file consists of, byte by byte. Works on memory alone; no file is touched here.

    header page      which segment this is, for whom, and its shape
    n_slots records  each a header page and the payload, which is one host row
    footer           which slots hold which blocks; written when the segment is sealed

Each of these begins with a magic number and the format version (except payloads) and ends with the xxh3_128 of all
its bytes before. That holds for every version, so that files of another version are told from damaged ones. Numbers
are little-endian.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from elmas.errors import UserError
from elmas.units import format_bytes

PAGE_BYTES = 4096
KEY_BYTES = 32
FORMAT_VERSION = 1

Bytes = NDArray[np.uint8]
"""Raw memory; "pages" are shaped (n, PAGE_BYTES) and contiguous."""

_CHECKSUM_BYTES = 16
_SEGMENT_MAGIC, _RECORD_MAGIC, _FOOTER_MAGIC = (
    int.from_bytes(text, "little") for text in (b"elmasSEG", b"elmasREC", b"elmasEND")
)
_TARGET_SEGMENT_BYTES = 128 << 20
_MIN_SEGMENTS = 16


def _layout(n_bytes: int, **fields: tuple[Any, int]) -> np.dtype[np.void]:
    """Return a structure of `n_bytes` with the common fields and others at fixed offsets."""
    common = {"magic": ("<u8", 0), "version": ("<u4", 8), "namespace": (("u1", 32), 16), "segment": ("<u8", 48)}
    every = common | fields
    formats, offsets = [form for form, _ in every.values()], [offset for _, offset in every.values()]
    return np.dtype({"names": list(every), "formats": formats, "offsets": offsets, "itemsize": n_bytes})


_TEXT_OFFSET = 88
_MAX_TEXT_BYTES = PAGE_BYTES - _TEXT_OFFSET - _CHECKSUM_BYTES
_SEGMENT = _layout(
    PAGE_BYTES,
    payload_bytes=("<u8", 56),
    n_slots=("<u8", 64),
    created_s=("<f8", 72),
    n_text=("<u8", 80),
    text=(("u1", _MAX_TEXT_BYTES), _TEXT_OFFSET),
)
_RECORD = _layout(
    PAGE_BYTES,
    slot=("<u8", 56),
    payload_bytes=("<u8", 64),
    key=(("u1", KEY_BYTES), 72),
    payload_checksum=(("u1", _CHECKSUM_BYTES), 104),
)
_FOOTER_KEYS_OFFSET = 80
_FOOTER = _layout(
    _FOOTER_KEYS_OFFSET,
    n_slots=("<u8", 56),
    header_checksum=(("u1", _CHECKSUM_BYTES), 64),
)


@dataclass(frozen=True)
class Namespace:
    """Facts such that blocks of equal keys are interchangeable exactly where the facts are equal.

    `description` holds JSON values only. `text` is its canonical JSON (sorted keys, no spaces, ASCII), `digest` the 32
    bytes of the text's SHA-256. Raises ValueError when the facts are no JSON or the text does not fit a header page.
    """

    description: Mapping[str, Any] = field(compare=False)
    text: str = field(init=False)
    digest: bytes = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        try:
            text = json.dumps(dict(self.description), sort_keys=True, separators=(",", ":"), allow_nan=False)
        except TypeError as error:
            raise ValueError(f"the namespace is no JSON: {error}") from None
        if len(text) > _MAX_TEXT_BYTES:
            raise ValueError(f"the namespace takes {len(text)} bytes as JSON: at most {_MAX_TEXT_BYTES} fit a header")
        object.__setattr__(self, "description", json.loads(text))  # a copy that nobody else can change
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "digest", hashlib.sha256(text.encode()).digest())


@dataclass(frozen=True)
class SegmentShape:
    """Sizes and offsets of a segment of `n_slots` records with `payload_bytes` (whole pages) each; ValueError else."""

    n_slots: int
    payload_bytes: int

    def __post_init__(self) -> None:
        if self.n_slots < 1 or self.payload_bytes < 1 or self.payload_bytes % PAGE_BYTES:
            raise ValueError(
                f"{self.n_slots} slots of {self.payload_bytes} bytes: payloads must be multiples of {PAGE_BYTES}"
            )

    @property
    def record_bytes(self) -> int:
        """Bytes of a record: header page and payload."""
        return PAGE_BYTES + self.payload_bytes

    @property
    def footer_bytes(self) -> int:
        """Bytes of the footer, whole pages."""
        n_bytes = _FOOTER_KEYS_OFFSET + self.n_slots * (KEY_BYTES + 1) + _CHECKSUM_BYTES
        return -(-n_bytes // PAGE_BYTES) * PAGE_BYTES

    @property
    def footer_offset(self) -> int:
        """Where the footer begins in the file."""
        return self.offset_of(self.n_slots)

    @property
    def segment_bytes(self) -> int:
        """Bytes of the whole file."""
        return self.footer_offset + self.footer_bytes

    def offset_of(self, slot: int) -> int:
        """Return where the record in `slot` begins in the file."""
        return PAGE_BYTES + slot * self.record_bytes


def choose_shape(payload_bytes: int, capacity_bytes: int) -> SegmentShape:
    """Return the shape of segments for a disk tier: about 128 MiB, at least 16 in the capacity, at least one slot.

    Raises UserError when the capacity is below two segments of one slot.
    """
    least = SegmentShape(1, payload_bytes)
    if capacity_bytes < 2 * least.segment_bytes:
        n_least = 2 * least.segment_bytes
        raise UserError(
            f"a disk capacity of {format_bytes(capacity_bytes)} holds no two segments of a block of "
            f"{format_bytes(payload_bytes)}: raise --disk-capacity to at least {n_least} ({format_bytes(n_least)})"
        )
    target_bytes = min(_TARGET_SEGMENT_BYTES, capacity_bytes // _MIN_SEGMENTS)
    # The most slots that could fit; the footer's rounding to pages takes at most one of them.
    n_slots = max(1, (target_bytes - PAGE_BYTES) // (least.record_bytes + KEY_BYTES + 1))
    if SegmentShape(n_slots, payload_bytes).segment_bytes > target_bytes:
        n_slots = max(1, n_slots - 1)
    return SegmentShape(n_slots, payload_bytes)


class Verdict(Enum):
    """What was found where a record was expected. The payload means something only with GOOD."""

    GOOD = "good"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    FOREIGN = "foreign"
    MISPLACED = "misplaced"
    WRONG_KEY = "wrong key"


@dataclass(frozen=True)
class SegmentHeader:
    """What a header page says. `checksum` tells this file from any other that had the same number."""

    namespace_text: str
    namespace_digest: bytes
    shape: SegmentShape
    segment: int
    created_s: float
    checksum: bytes


def checksum_of(data: Bytes) -> bytes:
    """Return the xxh3_128 of contiguous memory, 16 bytes. Large inputs are hashed without the interpreter lock."""
    return xxhash.xxh3_128_digest(data.data)


def _finish(data: Bytes) -> bytes:
    checksum = checksum_of(data[:-_CHECKSUM_BYTES])
    data[-_CHECKSUM_BYTES:] = np.frombuffer(checksum, dtype=np.uint8)
    return checksum


def _is_intact(data: Bytes) -> bool:
    return checksum_of(data[:-_CHECKSUM_BYTES]) == data[-_CHECKSUM_BYTES:].tobytes()


# Segment headers


def encode_segment_header(
    page: Bytes, namespace: Namespace, shape: SegmentShape, segment: int, created_s: float
) -> bytes:
    """Fill a header page, (PAGE_BYTES,); returns its checksum. `created_s` is in seconds since 1970."""
    text = np.frombuffer(namespace.text.encode(), dtype=np.uint8)
    page[:] = 0
    header = page.view(_SEGMENT)
    header["magic"], header["version"] = _SEGMENT_MAGIC, FORMAT_VERSION
    header["namespace"] = np.frombuffer(namespace.digest, dtype=np.uint8)
    header["segment"], header["created_s"] = segment, created_s
    header["payload_bytes"], header["n_slots"] = shape.payload_bytes, shape.n_slots
    header["n_text"] = text.size
    page[_TEXT_OFFSET : _TEXT_OFFSET + text.size] = text
    return _finish(page)


def header_version(page: Bytes) -> int | None:
    """Return the format version of a segment's header page, None when it is damaged or something else."""
    header = page.view(_SEGMENT)[0]
    return int(header["version"]) if header["magic"] == _SEGMENT_MAGIC and _is_intact(page) else None


def decode_segment_header(page: Bytes) -> SegmentHeader | None:
    """Return what a header page says for which `header_version` is FORMAT_VERSION, None when it makes no sense."""
    header = page.view(_SEGMENT)[0]
    text, digest = header["text"][: int(header["n_text"])].tobytes(), header["namespace"].tobytes()
    if hashlib.sha256(text).digest() != digest:
        return None
    try:
        shape = SegmentShape(int(header["n_slots"]), int(header["payload_bytes"]))
    except ValueError:
        return None
    checksum = page[-_CHECKSUM_BYTES:].tobytes()
    return SegmentHeader(
        text.decode(errors="replace"), digest, shape, int(header["segment"]), float(header["created_s"]), checksum
    )


# Records


def join_keys(keys: Sequence[bytes]) -> Bytes:
    """Return keys as (n, KEY_BYTES). Raises ValueError when one has another length."""
    if any(len(key) != KEY_BYTES for key in keys):
        raise ValueError(f"keys must be {KEY_BYTES} bytes")
    return np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), KEY_BYTES)


@dataclass(frozen=True)
class RecordFormat:
    """What all records of a store have in common: whose they are, and the bytes of a payload."""

    namespace_digest: bytes
    payload_bytes: int

    def encode(
        self, pages: Bytes, segment: int, first_slot: int, keys: Sequence[bytes], payloads: Sequence[Bytes]
    ) -> None:
        """Fill the header pages, (n, PAGE_BYTES), of adjacent records."""
        pages[:] = 0
        headers = pages.reshape(-1).view(_RECORD)
        headers["magic"], headers["version"] = _RECORD_MAGIC, FORMAT_VERSION
        headers["namespace"] = np.frombuffer(self.namespace_digest, dtype=np.uint8)
        headers["segment"], headers["payload_bytes"] = segment, self.payload_bytes
        headers["slot"] = np.arange(first_slot, first_slot + len(keys))
        headers["key"] = join_keys(keys)
        checksums = b"".join(map(checksum_of, payloads))
        headers["payload_checksum"] = np.frombuffer(checksums, dtype=np.uint8).reshape(len(keys), _CHECKSUM_BYTES)
        for page in pages:
            _finish(page)

    def check_headers(self, pages: Bytes, segment: int, first_slot: int) -> tuple[list[Verdict], Bytes]:
        """Return a verdict on each header page of adjacent records, and the keys they name, (n, KEY_BYTES)."""
        headers = pages.reshape(-1).view(_RECORD)
        foreign = (headers["version"] != FORMAT_VERSION) | (headers["payload_bytes"] != self.payload_bytes)
        foreign |= (headers["namespace"] != np.frombuffer(self.namespace_digest, dtype=np.uint8)).any(axis=1)
        slots = np.arange(first_slot, first_slot + len(pages), dtype=np.uint64)
        misplaced = (headers["segment"] != segment) | (headers["slot"] != slots)
        is_record = headers["magic"] == _RECORD_MAGIC
        verdicts = []
        for place, page in enumerate(pages):
            if not is_record[place] or not _is_intact(page):
                verdicts.append(Verdict.CORRUPT)
            elif foreign[place]:
                verdicts.append(Verdict.FOREIGN)
            else:
                verdicts.append(Verdict.MISPLACED if misplaced[place] else Verdict.GOOD)
        return verdicts, headers["key"]

    def check(
        self, pages: Bytes, segment: int, first_slot: int, keys: Sequence[bytes], payloads: Sequence[Bytes]
    ) -> list[Verdict]:
        """Return a verdict on each of adjacent records: its header page, its key, its payload."""
        verdicts, found = self.check_headers(pages, segment, first_slot)
        has_key = (found == join_keys(keys)).all(axis=1)
        checksums = pages.reshape(-1).view(_RECORD)["payload_checksum"]
        for place, verdict in enumerate(verdicts):
            if verdict is not Verdict.GOOD:
                continue
            if not has_key[place]:
                verdicts[place] = Verdict.WRONG_KEY
            elif checksum_of(payloads[place]) != checksums[place].tobytes():
                verdicts[place] = Verdict.CORRUPT
        return verdicts


# Footers


def encode_footer(
    data: Bytes, namespace_digest: bytes, segment: int, header_checksum: bytes, keys: Bytes, present: NDArray[np.bool_]
) -> None:
    """Fill a footer, (footer_bytes,). `keys` is (n_slots, KEY_BYTES), `present` (n_slots,)."""
    n_slots = len(present)
    data[:] = 0
    footer = data[:_FOOTER_KEYS_OFFSET].view(_FOOTER)
    footer["magic"], footer["version"] = _FOOTER_MAGIC, FORMAT_VERSION
    footer["namespace"] = np.frombuffer(namespace_digest, dtype=np.uint8)
    footer["segment"], footer["n_slots"] = segment, n_slots
    footer["header_checksum"] = np.frombuffer(header_checksum, dtype=np.uint8)
    end_of_keys = _FOOTER_KEYS_OFFSET + n_slots * KEY_BYTES
    data[_FOOTER_KEYS_OFFSET:end_of_keys] = keys.reshape(-1)
    data[end_of_keys : end_of_keys + n_slots] = present
    _finish(data)


def decode_footer(data: Bytes, header: SegmentHeader) -> tuple[Bytes, NDArray[np.bool_]] | None:
    """Return copies of the keys and of which slots are present; None when this is no footer of that very segment."""
    n_slots = header.shape.n_slots
    footer = data[:_FOOTER_KEYS_OFFSET].view(_FOOTER)[0]
    expected = (_FOOTER_MAGIC, FORMAT_VERSION, header.segment, n_slots)
    if (footer["magic"], footer["version"], footer["segment"], footer["n_slots"]) != expected:
        return None
    is_of_header = footer["header_checksum"].tobytes() == header.checksum
    if not is_of_header or footer["namespace"].tobytes() != header.namespace_digest or not _is_intact(data):
        return None
    end_of_keys = _FOOTER_KEYS_OFFSET + n_slots * KEY_BYTES
    keys = data[_FOOTER_KEYS_OFFSET:end_of_keys].reshape(n_slots, KEY_BYTES).copy()
    return keys, data[end_of_keys : end_of_keys + n_slots].astype(bool)
