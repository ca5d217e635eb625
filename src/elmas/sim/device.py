"""The device's prefix cache as vLLM's block pool keeps it: reference counts, and a queue of free blocks by last use.

Follows vLLM's `BlockPool` and `FreeKVCacheBlockQueue`: a free block keeps its content, and can be found, until it is
taken for something else; blocks are taken from the front of the queue. Blocks that hold a complete block of tokens are
freed to the end of the queue, others to its front. Two blocks may hold the same tokens: the first is found.

The queue is kept in batches, as in `elmas.cache.lru`: an entry counts only with its block's newest stamp.
"""

from collections import deque
from collections.abc import Sequence
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from elmas.cache.rows import BlockHash

DeviceBlocks = NDArray[np.int64]
"""Numbers of device blocks, in prefix order."""

_NOT_FREE = -1
_BATCH = 256
_COMPACT_FACTOR = 4


class DeviceCache:
    """The blocks of one device. vLLM never hands out one of its `n_blocks`, and neither does this."""

    def __init__(self, n_blocks: int) -> None:
        if n_blocks < 2:
            raise ValueError(f"a device needs at least two blocks, of which one is never used, not {n_blocks}")
        self.n_blocks = n_blocks - 1
        self.n_free = self.n_blocks
        self._n_references: NDArray[np.int32] = np.zeros(self.n_blocks, dtype=np.int32)
        self._stamp: NDArray[np.int64] = np.zeros(self.n_blocks, dtype=np.int64)
        self._found: dict[BlockHash, int] = {}
        self._doubles: dict[BlockHash, list[int]] = {}
        self._hash_of: list[BlockHash | None] = [None] * self.n_blocks
        self._clock = 0
        self._queue: deque[tuple[int, DeviceBlocks]] = deque()
        self._n_queued = 0
        for first in range(0, self.n_blocks, _BATCH):
            self._append(np.arange(first, min(first + _BATCH, self.n_blocks), dtype=np.int64))

    def n_resident(self, hashes: Sequence[BlockHash]) -> int:
        """Return how many of the first blocks are on the device, without a gap."""
        return len(list(takewhile(self._found.__contains__, hashes)))

    def holds(self, block: BlockHash) -> bool:
        """Return whether the block is on the device."""
        return block in self._found

    def find(self, hashes: Sequence[BlockHash]) -> DeviceBlocks:
        """Return the blocks of a resident run; KeyError where one is not on the device."""
        return np.fromiter(map(self._found.__getitem__, hashes), dtype=np.int64, count=len(hashes))

    def n_unused(self, blocks: DeviceBlocks) -> int:
        """Return how many of these blocks are free now, though they hold something."""
        return blocks.size - int(np.count_nonzero(self._n_references[blocks]))

    def touch(self, blocks: DeviceBlocks) -> None:
        """Add a reference to each of the blocks, so that none is taken for something else."""
        counts = self._n_references[blocks]
        if np.count_nonzero(counts) < counts.size:
            free = blocks[counts == 0]
            self._stamp[free] = _NOT_FREE
            self.n_free -= free.size
        self._n_references[blocks] = counts + 1

    def allocate(self, n: int) -> DeviceBlocks:
        """Take `n` free blocks with a reference each; what they held can be found no more. ValueError if too many."""
        if n > self.n_free:
            raise ValueError(f"{n} blocks are more than the {self.n_free} free ones")
        taken: list[DeviceBlocks] = []
        left = n
        while left > 0:
            stamp, batch = self._queue.popleft()
            self._n_queued -= batch.size
            free = batch[self._stamp[batch] == stamp]
            if free.size > left:
                rest = free[left:]
                free = free[:left]
                self._queue.appendleft((stamp, rest))
                self._n_queued += rest.size
            if free.size:
                taken.append(free)
                left -= free.size
        blocks = taken[0] if len(taken) == 1 else np.concatenate(taken) if taken else np.empty(0, dtype=np.int64)
        self._stamp[blocks] = _NOT_FREE
        self._n_references[blocks] = 1
        self.n_free -= n
        self._forget(blocks)
        return blocks

    def register(self, hashes: Sequence[BlockHash], blocks: DeviceBlocks) -> None:
        """These blocks, which hold nothing that could be found, hold these complete blocks of tokens now."""
        found, hash_of = self._found, self._hash_of
        for key, block in zip(hashes, blocks.tolist(), strict=True):
            hash_of[block] = key
            if found.setdefault(key, block) != block:
                self._doubles.setdefault(key, []).append(block)

    def release(self, blocks: DeviceBlocks) -> None:
        """Drop a reference of each block; those without one are free, the last of the prefix first to go."""
        counts = self._n_references[blocks] - 1
        self._n_references[blocks] = counts
        if np.count_nonzero(counts) == counts.size:
            return
        free = blocks[counts == 0][::-1]
        self.n_free += free.size
        hash_of = self._hash_of
        # Only the newest block of a request can be incomplete, and it comes first now.
        n_empty = 0
        for block in free.tolist():
            if hash_of[block] is not None:
                break
            n_empty += 1
        if n_empty:
            self._prepend(free[:n_empty])
        if n_empty < free.size:
            self._append(free[n_empty:])

    def check_integrity(self) -> None:
        """Raise AssertionError if the books do not balance. For tests: O(blocks)."""
        n_free = int(np.count_nonzero(self._n_references == 0))
        assert n_free == self.n_free, f"{n_free} blocks have no reference, {self.n_free} count as free"
        queued = [batch[self._stamp[batch] == stamp] for stamp, batch in self._queue]
        free = np.concatenate(queued) if queued else np.empty(0, dtype=np.int64)
        assert free.size == n_free == np.unique(free).size, "the queue does not hold each free block once"
        assert (self._n_references >= 0).all(), "a block was released more often than touched"
        for key, block in self._found.items():
            assert self._hash_of[block] == key, "a block is found under another block's hash"
        n_held = sum(key is not None for key in self._hash_of)
        assert n_held == len(self._found) + sum(map(len, self._doubles.values())), "a block's hash cannot be found"

    def _append(self, blocks: DeviceBlocks) -> None:
        self._clock += 1
        self._stamp[blocks] = self._clock
        self._queue.append((self._clock, blocks))
        self._n_queued += blocks.size
        if self._n_queued > _COMPACT_FACTOR * self.n_blocks:
            self._compact()

    def _prepend(self, blocks: DeviceBlocks) -> None:
        self._clock += 1
        self._stamp[blocks] = self._clock
        self._queue.appendleft((self._clock, blocks))
        self._n_queued += blocks.size

    def _compact(self) -> None:
        kept = [(stamp, batch[self._stamp[batch] == stamp]) for stamp, batch in self._queue]
        self._queue = deque((stamp, batch) for stamp, batch in kept if batch.size)
        self._n_queued = sum(batch.size for _, batch in self._queue)

    def _forget(self, blocks: DeviceBlocks) -> None:
        found, hash_of, doubles = self._found, self._hash_of, self._doubles
        for block in blocks.tolist():
            key = hash_of[block]
            if key is None:
                continue
            hash_of[block] = None
            if key not in doubles:
                del found[key]
                continue
            others = doubles[key]
            if found[key] == block:
                found[key] = others.pop(0)
            else:
                others.remove(block)
            if not others:
                del doubles[key]
