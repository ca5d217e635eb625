"""Whatever the disk refuses, only OSError comes out, and nothing wrong is called good."""

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import CAPACITY_BYTES, SEGMENT_BYTES, Blocks

from elmas.tiers.disk.directory import segment_name
from elmas.tiers.disk.faulty import Fault, FaultyFiles
from elmas.tiers.disk.files import DirectFiles
from elmas.tiers.disk.format import PAGE_BYTES
from elmas.tiers.disk.store import DiskStore

OPERATIONS = ["list_files", "create", "open", "preadv", "pwritev", "fdatasync", "close", "unlink"]
Faulty = Callable[..., DiskStore]


@pytest.fixture
def make_faulty(make_store: Callable[..., DiskStore], directory: Path) -> Faulty:
    def make(*faults: Fault) -> DiskStore:
        return make_store(files=FaultyFiles(DirectFiles(directory), faults))

    return make


@pytest.mark.parametrize("error_number", [errno.EIO, errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("nth", [None, 1, 2, 3, 5])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_only_os_errors_come_out_of_a_failing_disk(
    make_store: Callable[..., DiskStore],
    make_faulty: Faulty,
    blocks: Blocks,
    directory: Path,
    operation: str,
    nth: int | None,
    error_number: int,
) -> None:
    store = make_store()
    blocks.write_segment(store, 0, [1, 2])
    blocks.write_segment(store, 1, [3, 4], sealed=False)
    store.close()
    fault = Fault(operation, nth, error_number)
    try:
        store = make_faulty(fault)
    except OSError:
        assert operation == "list_files"
        make_store()  # the lock was released
        return
    steps: list[Callable[[], object]] = [
        store.scan,
        lambda: store.create(2),
        lambda: blocks.write(store, 2, 0, [5, 6]),
        lambda: blocks.write(store, 2, 2, [7]),
        lambda: blocks.read(store, 2, 0, [5, 6, 7]),
        lambda: blocks.seal(store, 2, [5, 6, 7]),
        lambda: blocks.read(store, 0, 0, [1, 2]),
        lambda: blocks.read(store, 1, 0, [3, 4]),
        lambda: store.remove(0),
        lambda: store.remove(2),
        lambda: store.create(3),
    ]
    n_failed = 0
    for step in steps:
        try:
            step()
        except OSError:
            n_failed += 1
        assert sum(path.stat().st_size for path in directory.glob("*.kv")) <= store.used_bytes <= CAPACITY_BYTES
    if nth is None and operation != "list_files":
        assert n_failed or operation == "close"
    store = make_store()
    found = store.scan()
    for segment in found.segments:
        numbers = {0: [1, 2], 1: [3, 4], 2: [5, 6, 7]}[segment.segment]
        assert set(blocks.read(store, segment.segment, 0, numbers)) <= {"GOOD", "CORRUPT"}


@pytest.mark.parametrize("operation", ["open", "preadv"])
def test_segments_that_cannot_be_read_are_kept_and_reported(
    make_store: Callable[..., DiskStore], make_faulty: Faulty, blocks: Blocks, operation: str
) -> None:
    blocks.write_segment(make_store(), 0, [1])
    found = make_faulty(Fault(operation, error_number=errno.EIO)).scan()
    assert (found.segments, found.foreign, found.n_failed, found.n_removed) == ([], [(0, SEGMENT_BYTES)], 1, 0)
    assert len(make_store().scan().segments) == 1


@pytest.mark.parametrize("operation", ["pwritev", "fdatasync"])
def test_on_a_read_only_disk_unsealed_blocks_are_found_all_the_same(
    make_store: Callable[..., DiskStore], make_faulty: Faulty, blocks: Blocks, operation: str
) -> None:
    blocks.write_segment(make_store(), 0, [1, 2], sealed=False)
    found = make_faulty(Fault(operation, error_number=errno.EROFS)).scan()
    assert ([segment.segment for segment in found.segments], found.n_failed) == ([0], 1)


def test_worthless_files_that_cannot_be_removed_are_reported(
    make_store: Callable[..., DiskStore], make_faulty: Faulty
) -> None:
    make_store().create(0)
    found = make_faulty(Fault("unlink", error_number=errno.EROFS)).scan()
    assert (found.foreign, found.n_failed, found.n_removed) == ([(0, SEGMENT_BYTES)], 1, 0)


def test_a_segment_that_could_not_be_removed_gives_its_space_back_later(
    make_faulty: Faulty, blocks: Blocks, directory: Path
) -> None:
    """Else its space is missing for good: whoever ordered the removal has forgotten the segment."""
    store = make_faulty(Fault("unlink", 1, errno.EIO))
    n_segments = CAPACITY_BYTES // store.shape.segment_bytes
    for segment in range(n_segments):
        blocks.write_segment(store, segment, [segment])
    with pytest.raises(OSError, match="Input/output"):
        store.remove(0)
    assert store.used_bytes == n_segments * store.shape.segment_bytes
    store.create(n_segments)
    assert not (directory / segment_name(0)).exists()
    assert store.used_bytes == n_segments * store.shape.segment_bytes


def test_a_segment_without_its_header_is_not_left_behind(make_faulty: Faulty, directory: Path) -> None:
    store = make_faulty(Fault("pwritev", error_number=errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        store.create(0)
    assert list(directory.glob("*.kv")) == []
    assert store.used_bytes == 0


def test_a_seal_that_failed_can_be_tried_again(make_faulty: Faulty, blocks: Blocks) -> None:
    store = make_faulty(Fault("fdatasync", nth=1, error_number=errno.EIO))
    blocks.write_segment(store, 0, [1, 2], sealed=False)
    with pytest.raises(OSError, match="Input/output"):
        blocks.seal(store, 0, [1, 2])
    blocks.seal(store, 0, [1, 2])
    assert store.scan().n_sealed_now == 0


@pytest.mark.parametrize("n_most", [0, PAGE_BYTES, 2 * PAGE_BYTES, 3 * PAGE_BYTES])
def test_a_torn_write_is_noticed(make_faulty: Faulty, blocks: Blocks, n_most: int) -> None:
    store = make_faulty(Fault("pwritev", nth=2, n_most=n_most))
    blocks.write_segment(store, 0, [1, 2])
    n_whole = n_most // (2 * PAGE_BYTES)
    assert blocks.read(store, 0, 0, [1, 2]) == ["GOOD"] * n_whole + ["CORRUPT"] * (2 - n_whole)


@pytest.mark.parametrize("flip_at", [0, 100, 4000, PAGE_BYTES, 2 * PAGE_BYTES - 1])
def test_bytes_that_change_on_the_way_are_noticed(make_faulty: Faulty, blocks: Blocks, flip_at: int) -> None:
    store = make_faulty(Fault("preadv", nth=1, flip_at=flip_at))
    blocks.write_segment(store, 0, [1, 2])
    assert blocks.read(store, 0, 0, [1, 2]) == ["CORRUPT", "GOOD"]
    assert blocks.read(store, 0, 0, [1, 2]) == ["GOOD", "GOOD"]


def test_a_read_that_ends_early_is_noticed(make_faulty: Faulty, blocks: Blocks) -> None:
    store = make_faulty(Fault("preadv", nth=1, n_most=3 * PAGE_BYTES))
    blocks.write_segment(store, 0, [1, 2])
    assert blocks.read(store, 0, 0, [1, 2]) == ["GOOD", "TRUNCATED"]


def test_descriptors_do_not_leak(make_faulty: Faulty, blocks: Blocks) -> None:
    def n_open() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    store = make_faulty(Fault("preadv", error_number=errno.EIO), Fault("pwritev", error_number=errno.EIO))
    before = n_open()
    for segment in range(20):
        with suppress(OSError):
            store.create(segment)
        with suppress(OSError):
            blocks.read(store, segment, 0, [1])
    assert n_open() == before
