"""A host tier and a disk index with blocks in them, for the tests of what moves between the two."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from elmas.cache.index import TierIndex
from elmas.cache.lru import Lru
from elmas.cache.rows import BlockHash, Rows
from elmas.cache.segments import SegmentIndex
from elmas.movement.host_tier import HostTier

SEGMENT_BYTES = 1000


def chain(prompt: Iterable[object]) -> list[BlockHash]:
    """Return the chained hashes of a prompt of one token per block: equal beginnings give equal hashes."""
    hashes, before = [], b""
    for token in prompt:
        before = hashlib.sha256(before + repr(token).encode()).digest()
        hashes.append(before)
    return hashes


def make_host(n_rows: int) -> HostTier:
    return HostTier(TierIndex(n_rows, Lru(n_rows)), n_ranks=1, max_store_blocks=n_rows)


def make_disk(n_slots: int, n_segments: int) -> SegmentIndex:
    return SegmentIndex(n_slots, SEGMENT_BYTES, n_segments * SEGMENT_BYTES)


def write_to_disk(index: SegmentIndex, blocks: Sequence[BlockHash], now_s: float = 0.0) -> None:
    """Write blocks to consecutive slots, opening and closing segments as needed."""
    left = list(blocks)
    while left:
        if index.n_left == 0:
            if index.is_open:
                index.close_open()
            assert index.open_next() is not None
        slots = index.reserve(len(left))
        index.commit(slots.rows, left[: slots.rows.size], now_s)
        del left[: slots.rows.size]


def disk_with(*prompts: Sequence[BlockHash], n_slots: int = 8) -> SegmentIndex:
    """Return a disk that holds these blocks, one after the other, with room for no more segments than they need."""
    blocks = list(dict.fromkeys(block for prompt in prompts for block in prompt))
    index = make_disk(n_slots, max(2, -(-len(blocks) // n_slots)))
    write_to_disk(index, blocks)
    return index


def give_up_a_segment(index: SegmentIndex, new: Sequence[BlockHash]) -> tuple[int, ...]:
    """Write new blocks, of one segment at most, to a segment of their own on a full disk; returns what was given up."""
    if index.is_open:
        index.close_open()
    opening = index.open_next()
    assert opening is not None
    index.commit(index.reserve(len(new)).rows, new, 0.0)
    index.close_open()
    return opening.removed


def put_in_host(host: HostTier, blocks: Sequence[BlockHash], now_s: float = 0.0) -> Rows:
    """Make blocks resident, evicting what is not pinned; returns the rows of those that found one."""
    rows = host.index.reserve(blocks, [])
    host.index.commit(rows, now_s)
    return rows


def wanted_of(hashes: list[BlockHash], index: SegmentIndex, host: HostTier, request: str) -> list[BlockHash]:
    """What the disk tier asks for: what host memory lacks up to the first block that is nowhere. Pins the rest."""
    host_rows, disk_rows = host.index.lookup(hashes), index.lookup(hashes)
    nowhere = np.flatnonzero((host_rows < 0) & (disk_rows < 0))
    end = int(nowhere[0]) if nowhere.size else len(hashes)
    host.expect(request, host_rows[:end][host_rows[:end] >= 0], 0.0)
    return [hashes[place] for place in range(end) if host_rows[place] < 0]


def is_part(part: list[BlockHash], whole: list[BlockHash]) -> bool:
    """Return whether the blocks of `part` follow one another in `whole`."""
    return part[0] in whole and whole[whole.index(part[0]) :][: len(part)] == part
