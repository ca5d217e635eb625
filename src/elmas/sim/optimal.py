"""What could be had of a trace: the most that any retention hits in a tier of N blocks, and in one without limit.

A block that a request leaves behind can be hit at its next use in a prompt. Keeping it from one to the other takes one
place of the tier during the time between; so the question is which of these intervals to keep, at most N at any time,
to keep the most. All are worth the same, one block. Whenever more than N have begun, drop those that end last: this is
optimal (Belady 1966, with bypass; as the largest N-colourable set of intervals: Carlisle and Lloyd 1995, Faigle and
Nawijn 1995).

It stays optimal with prefixes, where a block is only hit together with all before it. Whoever asks for a block asks for
all before it: a parent's next use is never later than its child's, and it was last used no earlier. Among intervals
that end at the same request the deeper block is dropped first, so a parent is never dropped before its child, and every
block that is kept until its next use is hit there.

It follows that what is kept for one request is always an unbroken part of its prompt, and that counting suffices: each
request's kept blocks are one number. A block that an answer makes anew is not worth keeping until then.

Exact where the blocks of a trace are chained (a block always has the same blocks before it) and hits are counted in
blocks; a partial last block counts as a whole one in the choice.
"""

import heapq
from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elmas.sim.packed import PackedTrace

NEVER = -1
"""Stands where a block is not asked for again."""


@dataclass(frozen=True)
class Future:
    """What each request leaves behind for which later ones.

    Request `k` leaves `counts[i]` blocks that are next asked for by request `targets[i]`, for each `i` in
    `starts[k] .. starts[k + 1] - 1`. `deepest_next[k]` is the request that next asks for the last block of request `k`,
    prompt and answer, or NEVER. `peak_live_blocks` is the working set: the most blocks at one time that have been seen
    and will be asked for again.
    """

    starts: NDArray[np.int64]
    targets: NDArray[np.int32]
    counts: NDArray[np.int32]
    deepest_next: NDArray[np.int32]
    peak_live_blocks: int

    def infinite_hit_blocks(self) -> NDArray[np.int64]:
        """Return the blocks that each request hits in a tier without limit."""
        hits = np.bincount(self.targets, weights=self.counts, minlength=self.deepest_next.size)
        return hits.astype(np.int64)

    def optimal_hit_blocks(self, n_blocks: int) -> NDArray[np.int64]:
        """Return the blocks that each request hits in a tier of `n_blocks` blocks with optimal retention.

        O(log requests) for each pair of requests of which the first leaves something for the second.
        """
        kept = array("i", bytes(4 * self.deepest_next.size))
        hits = np.zeros(len(kept), dtype=np.int64)
        farthest: list[int] = []
        n_kept = 0
        targets, counts, starts = self.targets.data, self.counts.data, self.starts.data
        for request in range(len(kept)):
            hits[request] = kept[request]
            n_kept -= kept[request]
            kept[request] = 0
            for i in range(starts[request], starts[request + 1]):
                target = targets[i]
                if kept[target] == 0:
                    heapq.heappush(farthest, -target)
                kept[target] += counts[i]
                n_kept += counts[i]
            while n_kept > n_blocks:
                target = -farthest[0]
                dropped = min(kept[target], n_kept - n_blocks)
                kept[target] -= dropped
                n_kept -= dropped
                if kept[target] == 0:
                    heapq.heappop(farthest)
        return hits


def look_ahead(trace: PackedTrace) -> Future:
    """Return what each request of a trace leaves for later ones: one pass from the end to the beginning."""
    n = trace.n_requests
    next_use = np.full(int(trace.blocks.max()) + 1 if trace.blocks.size else 0, NEVER, dtype=np.int32)
    deepest_next = np.full(n, NEVER, dtype=np.int32)
    targets, counts = array("i"), array("i")
    n_runs = np.zeros(n + 1, dtype=np.int64)
    starts, n_prompt = trace.starts.data, trace.n_prompt.data
    for request in range(n - 1, -1, -1):
        start, end = starts[request], starts[request + 1]
        if start == end:
            continue
        blocks = trace.blocks[start:end]
        uses = next_use[blocks]
        next_use[blocks[n_prompt[request] :]] = NEVER
        next_use[blocks[: n_prompt[request]]] = request
        deepest_next[request] = uses[-1]
        # Runs of one next use, from the last to the first: all is reversed at the end.
        edges = np.flatnonzero(np.diff(uses)) + 1
        bounds = [0, *edges.tolist(), end - start]
        found = uses[bounds[:-1]].tolist()
        for run in range(len(found) - 1, -1, -1):
            if found[run] != NEVER:
                targets.append(found[run])
                counts.append(bounds[run + 1] - bounds[run])
                n_runs[request + 1] += 1
    run_targets = np.frombuffer(targets, dtype=np.int32)[::-1].copy()
    run_counts = np.frombuffer(counts, dtype=np.int32)[::-1].copy()
    run_starts = np.cumsum(n_runs)
    return Future(run_starts, run_targets, run_counts, deepest_next, _peak(run_starts, run_targets, run_counts, n))


def _peak(starts: NDArray[np.int64], targets: NDArray[np.int32], counts: NDArray[np.int32], n: int) -> int:
    left = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))[starts]
    begun = np.diff(left)
    ended = np.bincount(targets, weights=counts, minlength=n).astype(np.int64)
    return int(np.cumsum(begun - ended).max(initial=0))
