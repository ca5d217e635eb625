"""A small store in a temporary directory: blocks of one page, four to a segment, room for sixteen segments."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elmas.tiers.disk.files import aligned_pages
from elmas.tiers.disk.format import PAGE_BYTES, Bytes, Namespace
from elmas.tiers.disk.store import DiskStore

N_SLOTS = 4
SEGMENT_BYTES = 40960
CAPACITY_BYTES = 16 * SEGMENT_BYTES


def key_of(number: int) -> bytes:
    return number.to_bytes(4, "little") * 8


def payload_of(number: int) -> Bytes:
    return np.random.default_rng(number).integers(0, 256, PAGE_BYTES, dtype=np.uint8)


class Blocks:
    """Blocks by number, the host rows they lie in, and what they are to be."""

    def rows(self, numbers: list[int]) -> list[Bytes]:
        pages = aligned_pages(max(1, len(numbers)))
        for page, number in zip(pages, numbers, strict=False):
            page[:] = payload_of(number)
        return list(pages)[: len(numbers)]

    def keys(self, numbers: list[int]) -> list[bytes]:
        return [key_of(number) for number in numbers]

    def write(self, store: DiskStore, segment: int, first_slot: int, numbers: list[int]) -> None:
        store.write(segment, first_slot, self.keys(numbers), self.rows(numbers))

    def write_segment(self, store: DiskStore, segment: int, numbers: list[int], sealed: bool = True) -> None:
        store.create(segment)
        self.write(store, segment, 0, numbers)
        if sealed:
            self.seal(store, segment, numbers)

    def seal(self, store: DiskStore, segment: int, numbers: list[int]) -> None:
        keys = np.zeros((store.shape.n_slots, 32), dtype=np.uint8)
        keys[: len(numbers)] = np.frombuffer(b"".join(self.keys(numbers)), dtype=np.uint8).reshape(-1, 32)
        store.seal(segment, keys, np.arange(store.shape.n_slots) < len(numbers))

    def read(self, store: DiskStore, segment: int, first_slot: int, numbers: list[int]) -> list[str]:
        """Return the verdicts by name, and make sure that what is said to be good is what was written."""
        rows = list(aligned_pages(max(1, len(numbers))))[: len(numbers)]
        verdicts = store.read(segment, first_slot, self.keys(numbers), rows)
        assert len(verdicts) == len(numbers)
        for verdict, row, number in zip(verdicts, rows, numbers, strict=True):
            assert verdict.name != "GOOD" or np.array_equal(row, payload_of(number)), "wrong bytes were called good"
        return [verdict.name for verdict in verdicts]


@pytest.fixture
def blocks() -> Blocks:
    return Blocks()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "disk"


@pytest.fixture
def make_store(directory: Path) -> Iterator[Callable[..., DiskStore]]:
    """Open the store in `directory`, as often as wanted: the one before is closed first."""
    made: list[DiskStore] = []

    def make(**changes: Any) -> DiskStore:
        if made:
            made.pop().close()
        arguments = {
            "directory": directory,
            "namespace": Namespace({"model": "tiny", "block_size": 16}),
            "payload_bytes": PAGE_BYTES,
            "capacity_bytes": CAPACITY_BYTES,
        }
        made.append(DiskStore(**(arguments | changes)))
        return made[0]

    yield make
    for store in made:
        with suppress(OSError):
            store.close()


@pytest.fixture
def store(make_store: Callable[..., DiskStore]) -> DiskStore:
    return make_store()
