"""The disk tier's index against a plain dictionary, and its bounds."""

import random

import numpy as np
import pytest

from elmas.cache.block_table import BlockTable, as_keys
from elmas.cache.rows import NO_ROW
from elmas.cache.seen import SeenBlocks
from elmas.cache.segments import SegmentIndex


def block(number: int) -> bytes:
    """Return a hash that differs in all its words, as SHA-256 does."""
    return random.Random(number).randbytes(32)


def test_a_table_finds_what_was_entered_and_not_removed() -> None:
    table, model = BlockTable(500), {}
    rng = random.Random(0)
    free = list(range(500))
    for _ in range(300):
        if rng.random() < 0.6 and free:
            some = [block(number) for number in rng.sample(range(10**6), min(len(free), rng.randint(1, 20)))]
            some = [hash_ for hash_ in some if hash_ not in model]
            rows = [free.pop() for _ in some]
            assert table.insert(as_keys(some), np.array(rows, dtype=np.int64)).all()
            model.update(zip(some, rows, strict=True))
        elif model:
            gone = rng.sample(sorted(model), rng.randint(1, min(20, len(model))))
            table.remove(np.array([model[hash_] for hash_ in gone]))
            free += [model.pop(hash_) for hash_ in gone]
        asked = [*model, *(block(-number) for number in range(1, 20))]
        assert table.lookup(asked).tolist() == [model.get(hash_, NO_ROW) for hash_ in asked]
        assert len(table) == len(model)


def test_a_full_table_refuses_no_key() -> None:
    keys = np.random.default_rng(0).integers(0, 256, (100_000, 32), dtype=np.uint8)
    table = BlockTable(100_000)
    assert table.insert(keys, np.arange(100_000)).all()
    assert np.array_equal(table.lookup_keys(keys), np.arange(100_000))


def test_a_key_whose_buckets_are_full_is_refused_and_not_found() -> None:
    table = BlockTable(40)
    keys = np.tile(np.arange(32, dtype=np.uint8), (40, 1))
    keys[:, 24] = np.arange(40)  # all other words are the same: two buckets of eight
    entered = table.insert(keys, np.arange(40))
    assert np.count_nonzero(entered) == 16
    assert np.array_equal(table.lookup_keys(keys) >= 0, entered)


def test_hashes_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        BlockTable(8).lookup([b"short"])


def test_seen_blocks_are_remembered_until_newer_ones_take_their_place() -> None:
    seen = SeenBlocks(1024)
    first = [block(number) for number in range(50)]
    assert not seen.observe(first).any()
    assert seen.observe(first).all()
    for start in range(100, 20_000, 100):
        seen.mark([block(number) for number in range(start, start + 100)])
    assert np.count_nonzero(seen.seen(first)) < 10


class Model:
    """What should be found, and which segments there are."""

    def __init__(self) -> None:
        self.where: dict[bytes, tuple[int, int]] = {}

    def forget(self, segments: tuple[int, ...]) -> None:
        self.where = {hash_: place for hash_, place in self.where.items() if place[0] not in segments}


@pytest.mark.parametrize("seed", range(20))
def test_the_index_finds_exactly_what_was_committed_and_not_given_up(seed: int) -> None:
    rng, model = random.Random(seed), Model()
    n_slots, segment_bytes = 6, 1000
    index = SegmentIndex(n_slots, segment_bytes, 5 * segment_bytes + rng.randrange(segment_bytes))
    if seed % 2:
        index.restore_foreign(0, 700)
        index.restore_foreign(1, 900)
    live: set[int] = set()
    n_bytes, foreign = 0, {0: 700, 1: 900} if seed % 2 else {}
    now_s = 0.0
    for _ in range(300):
        now_s += rng.random()
        action = rng.random()
        if not index.is_open:
            opening = index.open_next()
            assert opening is not None
            model.forget(opening.removed)
            if foreign:
                assert opening.removed == () or min(foreign) in opening.removed, "foreign segments go first"
            for segment in opening.removed:
                foreign.pop(segment, None)
                live.discard(segment)
            live.add(opening.segment)
            n_bytes = len(live) * segment_bytes + sum(foreign.values())
            assert n_bytes <= index.capacity_bytes
        elif index.n_left == 0:
            closing = index.close_open()
            for slot in range(n_slots):
                key = closing.keys[slot].tobytes()
                expected = model.where.get(key) == (closing.segment, slot)
                assert bool(closing.present[slot]) == expected
        elif action < 0.6:
            slots = index.reserve(rng.randint(1, 4))
            blocks = rng.sample([block(number) for number in range(60)], slots.rows.size)
            if rng.random() < 0.2:
                index.abort(slots.rows)
            else:
                index.commit(slots.rows, blocks, now_s)
                for place, hash_ in enumerate(blocks):
                    model.where.setdefault(hash_, (slots.segment, slots.first_slot + place))
        elif model.where and action < 0.8:
            index.use(index.lookup([rng.choice(sorted(model.where))]), now_s)
        elif model.where:
            gone = rng.choice(sorted(model.where))
            index.drop(index.lookup([gone]))
            del model.where[gone]
        asked = [block(number) for number in range(60)]
        found = [None if row < 0 else index.place_of(row) for row in index.lookup(asked).tolist()]
        assert found == [model.where.get(hash_) for hash_ in asked]
        index.check_integrity()


def fill(index: SegmentIndex, first: int, now_s: float) -> tuple[int, ...]:
    """Write one whole segment of blocks numbered from `first` on; returns what was removed for it."""
    opening = index.open_next()
    assert opening is not None
    slots = index.reserve(index.n_slots)
    index.commit(slots.rows, [block(first + slot) for slot in range(index.n_slots)], now_s)
    index.close_open()
    return opening.removed


def test_the_segment_of_least_value_goes_first() -> None:
    index = SegmentIndex(4, 1000, 3000)
    for number in range(3):
        fill(index, 10 * number, now_s=float(number))
    index.use(index.lookup([block(0), block(1)]), now_s=5.0)
    assert fill(index, 30, now_s=6.0) == (1,)
    assert (index.lookup([block(0)]) >= 0).all()
    assert fill(index, 40, now_s=7.0) == (0,), "half of it is older than all of the others"


def test_a_restart_finds_the_newest_place_of_a_block() -> None:
    index = SegmentIndex(2, 1000, 2500)
    keys = [as_keys([block(0), block(1)]), as_keys([block(1), block(2)])]
    assert index.restore(3, keys[0], np.array([True, True]))
    assert index.restore(7, keys[1], np.array([True, False]))
    assert not index.restore(9, keys[1], np.array([True, True])), "there is no place for a third one"
    assert index.place_of(int(index.lookup([block(1)])[0])) == (7, 0)
    assert index.lookup([block(2)])[0] == NO_ROW
    opening = index.open_next()
    assert opening is not None
    assert opening.segment == 10
    index.check_integrity()


def test_runs_end_where_records_are_not_adjacent() -> None:
    index = SegmentIndex(4, 1000, 4000)
    rows = np.array([0, 1, 2, 3, 4, 5, 9, 10, 8])
    # Rows 3 and 4 are adjacent numbers in different segments.
    assert index.run_ends(rows).tolist() == [4, 4, 4, 4, 6, 6, 8, 8, 9]
    assert index.run_ends(rows[:0]).tolist() == []


def test_memory_and_clearing() -> None:
    index = SegmentIndex(100, 1000, 1000 * 1000)
    assert index.nbytes / (1000 * 100) <= 160
    fill(index, 0, 0.0)
    assert index.clear() == (0,)
    assert (index.lookup([block(0)]) < 0).all()
    assert index.n_bytes_used == 0
