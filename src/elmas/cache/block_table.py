"""A bounded map from block hashes to row numbers, in a few arrays: millions of blocks at tens of bytes each.

Block hashes are SHA-256 and so uniformly distributed: words of the hash choose two candidate buckets of eight ways
each, as in a cuckoo table without moves. Deletion clears a way, so there are no tombstones and nothing is ever rebuilt.
With two choices and at most 70% load a key practically always finds a way; the rare one that does not is refused.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from elmas.cache.rows import NO_ROW, BlockHash, Rows

KEY_BYTES = 32
Keys = NDArray[np.uint8]
"""Block hashes, (n, 32)."""

_WAYS = 8
_LOAD = 0.7
_EMPTY = -1


class BlockTable:
    """Rows 0 .. n_rows - 1 by block hash. Everything is done for whole batches."""

    def __init__(self, n_rows: int) -> None:
        n_buckets = 1
        while n_buckets * _WAYS * _LOAD < n_rows:
            n_buckets *= 2
        self._mask = np.uint64(n_buckets - 1)
        self._words = np.zeros((n_rows, KEY_BYTES // 8), dtype=np.uint64)
        self._ways = np.full((n_buckets, _WAYS), _EMPTY, dtype=np.int32)
        self._marks = np.zeros((n_buckets, _WAYS), dtype=np.uint16)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self._words.nbytes + self._ways.nbytes + self._marks.nbytes

    def lookup(self, hashes: Sequence[BlockHash]) -> Rows:
        """Return the row of each block, NO_ROW where it is absent. ValueError for hashes that are not 32 bytes."""
        return self.lookup_keys(as_keys(hashes))

    def lookup_keys(self, keys: Keys) -> Rows:
        """See `lookup`."""
        words = _words_of(keys)
        rows = np.full(len(words), NO_ROW, dtype=np.int64)
        if self._n == 0 or len(words) == 0:
            return rows
        marks = _marks_of(words)
        # Both buckets of all keys at once: for the few keys of a request the number of calls is what counts.
        buckets = np.concatenate(self._buckets_of(words))
        matches = np.flatnonzero(self._marks[buckets] == np.concatenate((marks, marks))[:, None])
        if matches.size:
            lines, ways = np.divmod(matches, _WAYS)
            candidates = self._ways[buckets[lines], ways]
            places = lines % len(words)
            # A mark may be another key's, and the word that the buckets come from says little beside it.
            fits = (self._words[candidates] == words[places]).all(axis=1)
            rows[places[fits]] = candidates[fits]
        return rows

    def insert(self, keys: Keys, rows: Rows) -> NDArray[np.bool_]:
        """Enter keys that are absent, without repeats, for rows that are free; returns which found a place."""
        words, rows = _words_of(keys), np.asarray(rows, dtype=np.int64)
        self._words[rows] = words
        marks = _marks_of(words)
        first, second = self._buckets_of(words)
        left = np.arange(len(words))
        entered = np.zeros(len(words), dtype=np.bool_)
        while left.size:
            free_first = (self._ways[first[left]] == _EMPTY).sum(axis=1)
            free_second = (self._ways[second[left]] == _EMPTY).sum(axis=1)
            possible = (free_first > 0) | (free_second > 0)
            if not possible.all():
                left, free_first, free_second = left[possible], free_first[possible], free_second[possible]
                if left.size == 0:
                    break
            buckets = np.where(free_first >= free_second, first[left], second[left])
            # One key per bucket and round: the first of those that chose it.
            chosen_buckets, chosen = np.unique(buckets, return_index=True)
            ways = np.argmax(self._ways[chosen_buckets] == _EMPTY, axis=1)
            self._ways[chosen_buckets, ways] = rows[left[chosen]]
            self._marks[chosen_buckets, ways] = marks[left[chosen]]
            entered[left[chosen]] = True
            left = np.delete(left, chosen)
        self._n += int(np.count_nonzero(entered))
        self._words[rows[~entered]] = 0
        return entered

    def remove(self, rows: Rows) -> None:
        """Take out the keys of these rows, all of which must be entered (ValueError)."""
        words = self._words[rows]
        n_cleared = 0
        for buckets in self._buckets_of(words):
            places, ways = np.nonzero(self._ways[buckets] == np.asarray(rows)[:, None])
            self._ways[buckets[places], ways] = _EMPTY
            self._marks[buckets[places], ways] = 0
            n_cleared += places.size
        self._words[rows] = 0
        self._n -= n_cleared
        if n_cleared != len(rows):
            raise ValueError(f"{len(rows) - n_cleared} of {len(rows)} rows are not in the table")

    def keys_of(self, rows: Rows) -> Keys:
        """Return the keys of rows, (n, 32); zeros where a row has none."""
        return self._words[rows].view(np.uint8).reshape(len(rows), KEY_BYTES)

    def _buckets_of(self, words: NDArray[np.uint64]) -> tuple[Rows, Rows]:
        # Casts to signed: fancy indexing with unsigned 64-bit numbers is slower.
        first, second = words[:, 0] & self._mask, words[:, 1] & self._mask
        other = np.where(second == first, (second + np.uint64(1)) & self._mask, second)
        return first.astype(np.int64), other.astype(np.int64)


def as_keys(hashes: Sequence[BlockHash]) -> Keys:
    """Return hashes as an (n, 32) array. ValueError when they are not 32 bytes each."""
    joined = np.frombuffer(b"".join(hashes), dtype=np.uint8)
    if joined.size != KEY_BYTES * len(hashes):
        raise ValueError("the disk tier needs block hashes of 32 bytes: use a prefix caching hash such as sha256")
    return joined.reshape(len(hashes), KEY_BYTES)


def _words_of(keys: Keys) -> NDArray[np.uint64]:
    return np.ascontiguousarray(keys).view(np.uint64).reshape(len(keys), KEY_BYTES // 8)


def _marks_of(words: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """A non-zero fingerprint per key: zero stands for an empty way."""
    return (words[:, 2] & np.uint64(0xFFFF)).astype(np.uint16) | np.uint16(1)
