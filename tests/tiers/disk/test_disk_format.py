"""The bytes of the format are fixed, sizes follow the capacity, and a namespace is its facts."""

import re
import struct

import numpy as np
import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from elmas.errors import UserError
from elmas.tiers.disk.files import aligned_pages
from elmas.tiers.disk.format import (
    PAGE_BYTES,
    Namespace,
    RecordFormat,
    SegmentShape,
    choose_shape,
    decode_footer,
    decode_segment_header,
    encode_footer,
    encode_segment_header,
    header_version,
)

NAMESPACE = Namespace({"model": "tiny", "dtype": "bfloat16"})
MIB = 1 << 20


@given(payload_pages=st.integers(1, 200_000), capacity_bytes=st.integers(1, 1 << 44))
@example(payload_pages=1, capacity_bytes=32 * 1024)
@example(payload_pages=256, capacity_bytes=1 << 40)
def test_a_segment_is_as_large_as_the_aims_allow(payload_pages: int, capacity_bytes: int) -> None:
    payload_bytes = payload_pages * PAGE_BYTES
    least_bytes = 2 * SegmentShape(1, payload_bytes).segment_bytes
    if capacity_bytes < least_bytes:
        with pytest.raises(UserError, match="raise --disk-capacity to at least") as refused:
            choose_shape(payload_bytes, capacity_bytes)
        stated = int(re.search(r"at least (\d+) \(", str(refused.value)).group(1))
        assert stated == least_bytes
        assert choose_shape(payload_bytes, stated).n_slots == 1
        return
    shape = choose_shape(payload_bytes, capacity_bytes)
    aim_bytes = min(128 * MIB, capacity_bytes // 16)
    assert shape.segment_bytes <= aim_bytes or shape.n_slots == 1
    assert SegmentShape(shape.n_slots + 1, payload_bytes).segment_bytes > aim_bytes - PAGE_BYTES
    assert capacity_bytes // shape.segment_bytes >= 2


def test_records_and_footer_lie_one_behind_the_other_on_page_boundaries() -> None:
    shape = SegmentShape(n_slots=122, payload_bytes=MIB)
    assert shape.record_bytes == MIB + PAGE_BYTES
    assert shape.offset_of(0) == PAGE_BYTES
    assert shape.offset_of(3) == PAGE_BYTES + 3 * shape.record_bytes
    assert shape.footer_offset == shape.offset_of(122)
    assert shape.footer_bytes == 2 * PAGE_BYTES
    assert shape.segment_bytes == PAGE_BYTES + 122 * (MIB + PAGE_BYTES) + 2 * PAGE_BYTES
    for n_slots, payload_bytes in ((0, 4096), (1, 0), (1, 4097)):
        with pytest.raises(ValueError, match="multiples"):
            SegmentShape(n_slots, payload_bytes)


def test_a_namespace_is_its_facts_in_any_order() -> None:
    same = Namespace({"dtype": "bfloat16", "model": "tiny"})
    assert (same, same.digest, hash(same)) == (NAMESPACE, NAMESPACE.digest, hash(NAMESPACE))
    assert Namespace({"model": "tiny", "dtype": "float16"}).digest != NAMESPACE.digest
    assert NAMESPACE.text == '{"dtype":"bfloat16","model":"tiny"}'
    assert len(NAMESPACE.digest) == 32


def test_a_namespace_cannot_be_changed_through_the_facts_it_was_made_from() -> None:
    facts = {"layout": [1, 2]}
    namespace = Namespace(facts)
    facts["layout"].append(3)
    assert namespace.description == {"layout": [1, 2]}


@pytest.mark.parametrize("facts", [{"a": "x" * 4000}, {"a": {1, 2}}, {"a": float("nan")}])
def test_facts_that_do_not_fit_a_header_page_are_refused(facts: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"namespace|JSON"):
        Namespace(facts)


def test_the_largest_namespace_that_is_taken_survives_the_header_page() -> None:
    page = aligned_pages(1)[0]
    largest = Namespace({"a": "x" * (3992 - len('{"a":""}'))})
    encode_segment_header(page, largest, SegmentShape(1, 4096), 7, 0.0)
    assert decode_segment_header(page).namespace_text == largest.text
    with pytest.raises(ValueError, match="at most 3992"):
        Namespace({"a": "x" * (3993 - len('{"a":""}'))})


def test_the_bytes_of_a_segment_header() -> None:
    page = aligned_pages(1)[0]
    checksum = encode_segment_header(page, NAMESPACE, SegmentShape(5, 8192), 0x1234, 1.5e9)
    raw = page.tobytes()
    assert raw[:8] == b"elmasSEG"
    assert struct.unpack_from("<I", raw, 8) == (1,)
    assert raw[16:48] == NAMESPACE.digest
    assert struct.unpack_from("<QQQdQ", raw, 48) == (0x1234, 8192, 5, 1.5e9, len(NAMESPACE.text))
    assert raw[88 : 88 + len(NAMESPACE.text)] == NAMESPACE.text.encode()
    assert raw[-16:] == checksum == xxhash.xxh3_128_digest(raw[:-16])
    header = decode_segment_header(page)
    assert (header.shape, header.segment, header.created_s) == (SegmentShape(5, 8192), 0x1234, 1.5e9)
    assert (header.namespace_digest, header.checksum) == (NAMESPACE.digest, checksum)


def test_another_format_version_is_told_from_damage() -> None:
    page = aligned_pages(1)[0]
    encode_segment_header(page, NAMESPACE, SegmentShape(5, 8192), 1, 0.0)
    page[8] = 9
    assert header_version(page) is None
    page[-16:] = np.frombuffer(xxhash.xxh3_128_digest(page[:-16].tobytes()), dtype=np.uint8)
    assert header_version(page) == 9


def test_the_bytes_of_record_headers() -> None:
    pages, payloads = aligned_pages(2), list(aligned_pages(4).reshape(2, 8192))
    payloads[1][:] = 3
    keys = [bytes([1]) * 32, bytes(31) + b"\x02"]
    RecordFormat(NAMESPACE.digest, 8192).encode(pages, 77, 10, keys, payloads)
    raw = pages[1].tobytes()
    assert raw[:8] == b"elmasREC"
    assert struct.unpack_from("<I", raw, 8) == (1,)
    assert raw[16:48] == NAMESPACE.digest
    assert struct.unpack_from("<QQQ", raw, 48) == (77, 11, 8192)
    assert raw[72:104] == keys[1]
    assert raw[104:120] == xxhash.xxh3_128_digest(bytes([3]) * 8192)
    assert raw[-16:] == xxhash.xxh3_128_digest(raw[:-16])


def test_the_bytes_of_a_footer_and_that_it_belongs_to_one_header() -> None:
    page, shape = aligned_pages(1)[0], SegmentShape(3, 8192)
    encode_segment_header(page, NAMESPACE, shape, 9, 1.0)
    header = decode_segment_header(page)
    keys = np.arange(96, dtype=np.uint8).reshape(3, 32)
    data = aligned_pages(1)[0]
    encode_footer(data, NAMESPACE.digest, 9, header.checksum, keys, np.array([True, False, True]))
    raw = data.tobytes()
    assert raw[:8] == b"elmasEND"
    assert struct.unpack_from("<QQ", raw, 48) == (9, 3)
    assert raw[64:80] == header.checksum
    assert raw[80:176] == keys.tobytes()
    assert raw[176:179] == b"\x01\x00\x01"
    assert raw[-16:] == xxhash.xxh3_128_digest(raw[:-16])
    found_keys, present = decode_footer(data, header)
    assert np.array_equal(found_keys, keys)
    assert present.tolist() == [True, False, True]
    encode_segment_header(page, NAMESPACE, shape, 9, 2.0)
    assert decode_footer(data, decode_segment_header(page)) is None
