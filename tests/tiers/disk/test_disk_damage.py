"""Whatever happens to the files, a read returns the original payload or says that it does not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash
from conftest import CAPACITY_BYTES, N_SLOTS, SEGMENT_BYTES, Blocks
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from elmas.tiers.disk.directory import segment_name
from elmas.tiers.disk.format import PAGE_BYTES, Namespace, SegmentShape
from elmas.tiers.disk.scan import Found
from elmas.tiers.disk.store import DiskStore

SHAPE = SegmentShape(N_SLOTS, PAGE_BYTES)
NUMBERS = [10, 11, 12]
"""Three of four slots are in use."""

RELAXED = [HealthCheck.function_scoped_fixture]


def segment_file(directory: Path, segment: int = 0) -> Path:
    return directory / segment_name(segment)


@pytest.fixture
def original(store: DiskStore, blocks: Blocks, directory: Path) -> bytes:
    """The bytes of a sealed segment 0."""
    blocks.write_segment(store, 0, NUMBERS)
    return segment_file(directory).read_bytes()


def record(slot: int) -> slice:
    return slice(SHAPE.offset_of(slot), SHAPE.offset_of(slot + 1))


def keys_found(found: Found) -> list[tuple[int, list[bytes]]]:
    return [(segment.segment, [key.tobytes() for key in segment.keys[segment.present]]) for segment in found.segments]


def where_it_matters() -> st.SearchStrategy[int]:
    """Any byte, the few that mean something as often as the many that do not."""
    starts = [0, SHAPE.footer_offset, *(SHAPE.offset_of(slot) for slot in range(N_SLOTS))]
    near = st.builds(lambda start, offset: start + offset, st.sampled_from(starts), st.integers(0, 250))
    tails = st.builds(lambda start, offset: start + 4095 - offset, st.sampled_from(starts), st.integers(0, 20))
    return st.one_of(st.integers(0, SEGMENT_BYTES - 1), near, tails)


@settings(max_examples=250, suppress_health_check=RELAXED)
@given(place=where_it_matters(), flip=st.integers(1, 255))
@example(place=SHAPE.offset_of(1) + 3000, flip=1)  # a byte of a header page that means nothing
def test_any_damaged_byte_is_noticed(
    original: bytes, make_store: Callable[..., DiskStore], blocks: Blocks, directory: Path, place: int, flip: int
) -> None:
    damaged = bytearray(original)
    damaged[place] ^= flip
    segment_file(directory).write_bytes(damaged)
    store = make_store()
    verdicts = blocks.read(store, 0, 0, NUMBERS)
    hit = [slot for slot in range(3) if SHAPE.offset_of(slot) <= place < SHAPE.offset_of(slot + 1)]
    assert [slot for slot in range(3) if verdicts[slot] != "GOOD"] == hit
    found = store.scan()
    if place < PAGE_BYTES:
        assert (found.segments, found.n_removed) == ([], 1)
    elif place >= SHAPE.footer_offset:
        assert keys_found(found) == [(0, blocks.keys(NUMBERS))]
        assert found.n_sealed_now == 1
    else:
        assert (keys_found(found), found.n_sealed_now) == ([(0, blocks.keys(NUMBERS))], 0)


@settings(max_examples=60, suppress_health_check=RELAXED)
@given(n_bytes=st.one_of(st.integers(0, SEGMENT_BYTES), st.sampled_from(range(0, SEGMENT_BYTES + 1, 512))))
@example(n_bytes=SEGMENT_BYTES - 1)
@example(n_bytes=SHAPE.footer_offset)
def test_a_file_cut_short_anywhere_keeps_what_is_whole(
    original: bytes, make_store: Callable[..., DiskStore], blocks: Blocks, directory: Path, n_bytes: int
) -> None:
    segment_file(directory).write_bytes(original[:n_bytes])
    store = make_store()
    n_whole = min(3, max(0, n_bytes - PAGE_BYTES) // SHAPE.record_bytes)
    assert blocks.read(store, 0, 0, NUMBERS) == ["GOOD"] * n_whole + ["TRUNCATED"] * (3 - n_whole)
    found = store.scan()
    for _, keys in keys_found(found):
        assert keys == blocks.keys(NUMBERS)[: len(keys)]
        assert len(keys) in (n_whole, n_whole + 1)  # of the last record perhaps only the header is left
    if n_whole:
        assert len(found.segments) == 1
    left_bytes = sum(path.stat().st_size for path in directory.glob("*.kv"))
    assert store.used_bytes == left_bytes <= n_bytes
    if n_bytes == SEGMENT_BYTES:
        assert found.n_sealed_now == 0


@settings(max_examples=40, suppress_health_check=RELAXED)
@given(n_most=st.integers(0, CAPACITY_BYTES // SEGMENT_BYTES), noise=st.binary(max_size=300), seed=st.integers(0, 99))
def test_garbage_under_our_names_is_removed(
    make_store: Callable[..., DiskStore], directory: Path, n_most: int, noise: bytes, seed: int
) -> None:
    store = make_store()
    segment_file(directory, 1).write_bytes(noise)
    segment_file(directory, 2).write_bytes(np.random.default_rng(seed).bytes(n_most * 1000))
    found = store.scan()
    assert (found.segments, found.foreign, found.n_removed) == ([], [], 2)
    assert list(directory.glob("*.kv")) == []


def test_swapped_records_are_noticed(original: bytes, store: DiskStore, blocks: Blocks, directory: Path) -> None:
    swapped = bytearray(original)
    swapped[record(0)], swapped[record(1)] = original[record(1)], original[record(0)]
    segment_file(directory).write_bytes(swapped)
    assert blocks.read(store, 0, 0, NUMBERS) == ["MISPLACED", "MISPLACED", "GOOD"]


def test_a_duplicated_record_is_noticed(
    original: bytes, make_store: Callable[..., DiskStore], blocks: Blocks, directory: Path
) -> None:
    copied = bytearray(original)
    copied[record(3)] = original[record(1)]
    copied[SHAPE.footer_offset :] = bytes(SHAPE.footer_bytes)
    segment_file(directory).write_bytes(copied)
    store = make_store()
    assert keys_found(store.scan()) == [(0, blocks.keys(NUMBERS))]
    assert blocks.read(store, 0, 3, [11]) == ["MISPLACED"]


def test_swapped_payloads_and_swapped_headers_are_noticed(
    original: bytes, store: DiskStore, blocks: Blocks, directory: Path
) -> None:
    swapped = bytearray(original)
    first, second = (slice(SHAPE.offset_of(slot) + PAGE_BYTES, SHAPE.offset_of(slot + 1)) for slot in (0, 1))
    swapped[first], swapped[second] = original[second], original[first]
    segment_file(directory).write_bytes(swapped)
    assert blocks.read(store, 0, 0, NUMBERS) == ["CORRUPT", "CORRUPT", "GOOD"]


def test_asking_for_another_block_than_is_there_is_noticed(original: bytes, store: DiskStore, blocks: Blocks) -> None:
    assert blocks.read(store, 0, 0, [10, 99, 12]) == ["GOOD", "WRONG_KEY", "GOOD"]
    assert blocks.read(store, 0, 2, [12, 13]) == ["GOOD", "CORRUPT"]  # nothing was ever written there


def test_a_segment_under_another_ones_name_is_noticed_and_removed(
    original: bytes, make_store: Callable[..., DiskStore], blocks: Blocks, directory: Path
) -> None:
    segment_file(directory, 4).write_bytes(original)
    store = make_store()
    assert blocks.read(store, 4, 0, NUMBERS) == ["MISPLACED"] * 3
    found = store.scan()
    assert (keys_found(found), found.n_removed) == ([(0, blocks.keys(NUMBERS))], 1)
    assert not segment_file(directory, 4).exists()


def test_the_footer_of_an_older_life_of_the_same_segment_is_not_believed(
    original: bytes, make_store: Callable[..., DiskStore], blocks: Blocks, directory: Path
) -> None:
    store = make_store()
    store.remove(0)
    blocks.write_segment(store, 0, [20])
    newer = segment_file(directory).read_bytes()
    segment_file(directory).write_bytes(newer[: SHAPE.footer_offset] + original[SHAPE.footer_offset :])
    found = make_store().scan()
    assert (keys_found(found), found.n_sealed_now) == ([(0, blocks.keys([20]))], 1)


def test_records_of_an_older_life_are_the_right_blocks_or_nothing(
    original: bytes, make_store: Callable[..., DiskStore], blocks: Blocks, directory: Path
) -> None:
    store = make_store()
    store.remove(0)
    blocks.write_segment(store, 0, [20, 21])
    mixed = bytearray(segment_file(directory).read_bytes())
    mixed[record(0)] = original[record(0)]
    segment_file(directory).write_bytes(mixed)
    assert blocks.read(store, 0, 0, [20, 21]) == ["WRONG_KEY", "GOOD"]
    assert blocks.read(store, 0, 0, [10]) == ["GOOD"]


@pytest.mark.parametrize(
    "change",
    [
        {"namespace": Namespace({"model": "other"})},
        {"payload_bytes": 2 * PAGE_BYTES},
        {"capacity_bytes": 2 * CAPACITY_BYTES},
    ],
)
def test_segments_of_other_servers_are_foreign_and_never_read_as_ours(
    original: bytes, make_store: Callable[..., DiskStore], directory: Path, change: dict[str, object]
) -> None:
    found = make_store(**change).scan()
    assert (found.segments, found.foreign, found.n_removed) == ([], [(0, SEGMENT_BYTES)], 0)
    assert segment_file(directory).read_bytes() == original


def test_records_of_another_namespace_are_foreign(
    original: bytes, make_store: Callable[..., DiskStore], blocks: Blocks, directory: Path
) -> None:
    store = make_store(namespace=Namespace({"model": "other"}))
    assert blocks.read(store, 0, 0, NUMBERS) == ["FOREIGN"] * 3
    store.remove(0)
    blocks.write_segment(store, 0, [30])
    mixed = bytearray(segment_file(directory).read_bytes())
    mixed[record(1)] = original[record(1)]
    mixed[SHAPE.footer_offset :] = bytes(SHAPE.footer_bytes)
    segment_file(directory).write_bytes(mixed)
    store = make_store(namespace=Namespace({"model": "other"}))
    assert keys_found(store.scan()) == [(0, blocks.keys([30]))]
    assert blocks.read(store, 0, 1, [11]) == ["FOREIGN"]


def test_another_format_version_is_foreign(
    original: bytes, make_store: Callable[..., DiskStore], directory: Path
) -> None:
    newer = bytearray(original)
    newer[8] = 2
    newer[PAGE_BYTES - 16 : PAGE_BYTES] = xxhash.xxh3_128_digest(bytes(newer[: PAGE_BYTES - 16]))
    segment_file(directory).write_bytes(newer)
    found = make_store().scan()
    assert (found.segments, found.foreign) == ([], [(0, SEGMENT_BYTES)])
    assert segment_file(directory).stat().st_size == SEGMENT_BYTES
