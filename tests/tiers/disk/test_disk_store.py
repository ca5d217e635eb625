"""What is written comes back, across restarts; the directory stays within its capacity and belongs to one user."""

import errno
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import CAPACITY_BYTES, N_SLOTS, SEGMENT_BYTES, Blocks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elmas.tiers.disk.directory import prepare_directory, segment_name
from elmas.tiers.disk.faulty import Fault, FaultyFiles
from elmas.tiers.disk.files import DirectFiles, aligned_pages
from elmas.tiers.disk.format import Namespace
from elmas.tiers.disk.store import DiskStore

GOOD = "GOOD"


def test_the_small_store_of_these_tests_has_the_shape_they_expect(store: DiskStore) -> None:
    assert (store.shape.n_slots, store.shape.segment_bytes) == (N_SLOTS, SEGMENT_BYTES)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=6), sealed=st.booleans())
def test_runs_come_back_as_they_were_written(
    make_store: Callable[..., DiskStore], blocks: Blocks, lengths: list[int], sealed: bool
) -> None:
    store = make_store()
    numbers = list(range(sum(lengths)))
    segments = [numbers[first : first + N_SLOTS] for first in range(0, len(numbers), N_SLOTS)]
    for segment, some in enumerate(segments):
        store.create(segment)
        for slot in range(0, len(some), lengths[0]):
            blocks.write(store, segment, slot, some[slot : slot + lengths[0]])
        if sealed:
            blocks.seal(store, segment, some)
    for segment, some in enumerate(segments):
        assert blocks.read(store, segment, 0, some) == [GOOD] * len(some)
        assert blocks.read(store, segment, len(some) - 1, some[-1:]) == [GOOD]
        store.remove(segment)
    assert store.used_bytes == 0


def test_one_operation_may_move_more_records_than_one_call_takes_buffers(
    make_store: Callable[..., DiskStore], blocks: Blocks
) -> None:
    store = make_store(capacity_bytes=400 << 20)
    numbers = list(range(1200))
    blocks.write_segment(store, 0, numbers)
    assert blocks.read(store, 0, 0, numbers) == [GOOD] * 1200
    assert blocks.read(store, 0, 700, numbers[700:]) == [GOOD] * 500


def test_sealed_segments_are_found_oldest_first_after_a_restart(
    make_store: Callable[..., DiskStore], blocks: Blocks
) -> None:
    store = make_store()
    for segment in (3, 1, 2):
        blocks.write_segment(store, segment, [segment * 10, segment * 10 + 1])
    found = make_store().scan()
    assert [segment.segment for segment in found.segments] == [1, 2, 3]
    for segment in found.segments:
        assert segment.present.tolist() == [True, True, False, False]
        numbers = [segment.segment * 10, segment.segment * 10 + 1]
        assert [key.tobytes() for key in segment.keys[:2]] == blocks.keys(numbers)
    assert (found.foreign, found.n_sealed_now, found.n_removed, found.n_failed) == ([], 0, 0, 0)


def test_what_a_crash_left_unsealed_is_found_and_sealed(make_store: Callable[..., DiskStore], blocks: Blocks) -> None:
    store = make_store()
    store.create(5)
    blocks.write(store, 5, 0, [50])
    blocks.write(store, 5, 2, [52, 53])
    store.create(6)  # nothing was written to it
    found = make_store().scan()
    (segment,) = found.segments
    assert (segment.segment, segment.present.tolist()) == (5, [True, False, True, True])
    assert [key.tobytes() for key in segment.keys[segment.present]] == blocks.keys([50, 52, 53])
    assert (found.n_sealed_now, found.n_removed) == (1, 1)
    again = make_store().scan()
    assert (again.n_sealed_now, again.n_removed) == (0, 0)
    assert np.array_equal(again.segments[0].keys, segment.keys)
    assert np.array_equal(again.segments[0].present, segment.present)


def test_segments_together_stay_within_the_capacity(
    make_store: Callable[..., DiskStore], blocks: Blocks, directory: Path
) -> None:
    store = make_store()
    for segment in range(16):
        store.create(segment)
    with pytest.raises(OSError, match="capacity") as refused:
        store.create(16)
    assert refused.value.errno == errno.ENOSPC
    blocks.write(store, 15, 0, [1, 2, 3, 4])
    assert sum(path.stat().st_size for path in directory.glob("*.kv")) == store.used_bytes == CAPACITY_BYTES
    store.remove(3)
    store.create(16)
    store = make_store()
    with pytest.raises(OSError, match="capacity"):  # what is there counts also before and after a scan
        store.create(17)
    assert store.scan().n_removed == 15
    store.create(17)


def test_segments_of_others_count_until_they_are_removed(make_store: Callable[..., DiskStore], blocks: Blocks) -> None:
    store = make_store()
    for segment in range(16):
        blocks.write_segment(store, segment, [segment])
    store = make_store(namespace=Namespace({"model": "other"}))
    assert store.scan().foreign == [(segment, SEGMENT_BYTES) for segment in range(16)]
    with pytest.raises(OSError, match="capacity"):
        store.create(16)
    store.remove(0)
    store.create(16)


def test_files_are_private(make_store: Callable[..., DiskStore], blocks: Blocks, directory: Path) -> None:
    mask = os.umask(0)
    try:
        blocks.write_segment(make_store(), 0, [1])
    finally:
        os.umask(mask)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()} == {
        "lock": 0o600,
        segment_name(0): 0o600,
    }


def test_segment_numbers_are_never_confused_with_others_files(store: DiskStore, directory: Path) -> None:
    others = ["segment-1.kv", f"{segment_name(1)}.bak", "notes.txt", segment_name(0xA).upper()]
    for name in others:
        (directory / name).write_bytes(b"mine")
    (directory / segment_name(7)).mkdir()
    found = store.scan()
    assert (found.segments, found.foreign, found.n_removed) == ([], [], 0)
    assert {path.name for path in directory.iterdir()} == {*others, segment_name(7), "lock"}


def test_a_removed_segment_is_an_ordinary_error_to_its_readers(store: DiskStore, blocks: Blocks) -> None:
    blocks.write_segment(store, 0, [1])
    store.remove(0)
    store.remove(0)
    with pytest.raises(FileNotFoundError):
        blocks.read(store, 0, 0, [1])


def test_writing_to_a_segment_that_is_not_open_fails_as_a_disk_does(store: DiskStore, blocks: Blocks) -> None:
    blocks.write_segment(store, 0, [1])
    for segment in (0, 1):
        with pytest.raises(OSError, match="not open"):
            blocks.write(store, segment, 1, [2])
        with pytest.raises(OSError, match="not open"):
            blocks.seal(store, segment, [2])
    with pytest.raises(FileExistsError):
        store.create(0)
    assert blocks.read(store, 0, 0, [1]) == [GOOD]


def test_misuse_is_refused(store: DiskStore, blocks: Blocks) -> None:
    store.create(0)
    with pytest.raises(ValueError, match="slots 3 to 5"):
        blocks.write(store, 0, 3, [1, 2])
    with pytest.raises(ValueError, match="payloads must be 4096"):
        store.read(0, 0, blocks.keys([1]), [aligned_pages(2).reshape(-1)])
    with pytest.raises(ValueError, match="32 bytes"):
        store.write(0, 0, [b"short"], blocks.rows([1]))
    with pytest.raises(ValueError, match="slots"):
        store.seal(0, np.zeros((2, 32), dtype=np.uint8), np.ones(2, dtype=bool))


def test_many_threads_read_while_segments_come_and_go(store: DiskStore, blocks: Blocks) -> None:
    for segment in range(4):
        blocks.write_segment(store, segment, [segment * 4 + slot for slot in range(4)])

    def read(number: int) -> int:
        segment = number % 4
        return blocks.read(store, segment, 0, [segment * 4 + slot for slot in range(4)]).count(GOOD)

    with ThreadPoolExecutor(8) as pool:
        results = pool.map(read, range(200))
        for segment in range(4, 14):
            blocks.write_segment(store, segment, [100 + segment])
            store.remove(segment)
        assert set(results) == {4}


def test_records_of_one_segment_are_written_in_several_threads(store: DiskStore, blocks: Blocks) -> None:
    for segment in range(8):
        store.create(segment)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda slot, segment=segment: blocks.write(store, segment, slot, [slot]), range(4)))
            pool.submit(blocks.seal, store, segment, [0, 1, 2, 3]).result()
        assert blocks.read(store, segment, 0, [0, 1, 2, 3]) == [GOOD] * 4


def test_a_segment_is_sealed_and_removed_only_when_the_writes_to_it_have_ended(
    make_store: Callable[..., DiskStore], directory: Path, blocks: Blocks
) -> None:
    prepare_directory(directory)
    files = FaultyFiles(DirectFiles(directory), [Fault("pwritev", nth=2, latency_s=0.2)])
    store = make_store(files=files)
    store.create(0)
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(blocks.write, store, 0, 0, [7])
        while files.calls["pwritev"] < 2:
            time.sleep(0.001)
        pool.submit(store.remove, 0).result()
        assert writing.done()
        writing.result()


def test_closing_does_not_wait_for_a_write_that_hangs_and_keeps_the_directory(
    make_store: Callable[..., DiskStore], directory: Path, blocks: Blocks
) -> None:
    prepare_directory(directory)
    files = FaultyFiles(DirectFiles(directory), [Fault("pwritev", nth=2, latency_s=1.0)])
    store = make_store(files=files)
    store.create(0)  # its header is the first page written
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(blocks.write, store, 0, 0, [1])
        while files.calls["pwritev"] < 2:
            time.sleep(0.001)
        begin_s = time.monotonic()
        store.close()
        assert time.monotonic() - begin_s < 0.5
        with pytest.raises(Exception, match="in use by another server"):
            DiskStore(store.directory, Namespace({}), 4096, CAPACITY_BYTES)
        hanging.result()
    store.close()
    store.close()
