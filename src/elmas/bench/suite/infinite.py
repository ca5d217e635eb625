"""What a prefix cache without limits would have served of a run: the bound that hit rates are held to."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash


@dataclass(frozen=True)
class CachedRequest:
    """One request as the cache sees it; times in seconds of any clock."""

    submitted_s: float
    ended_s: float
    prompt: Sequence[int]
    """Token ids."""
    answer: Sequence[int]
    """Token ids; empty where they are not known."""


def infinite_hit_tokens(requests: Iterable[CachedRequest], block_size: int) -> int:
    """Return how many prompt tokens a cache that never forgets would have served, in whole blocks.

    A prompt's blocks are there for every request submitted after it, its answer's blocks for those submitted after it
    ended. At least one token of each prompt is computed, as vLLM does. No server can do better by more than one block
    per request: which of two waiting requests computes a common block depends on their order.
    """
    seen: set[bytes] = set()
    running: list[tuple[float, int, CachedRequest]] = []
    n_tokens = 0
    for number, request in enumerate(sorted(requests, key=lambda each: each.submitted_s)):
        while running and running[0][0] <= request.submitted_s:
            ended = heapq.heappop(running)[2]
            # The newest token of an answer has no KV yet.
            seen.update(_block_keys([*ended.prompt, *ended.answer[:-1]], block_size))
        keys = _block_keys(request.prompt, block_size)
        usable = keys[: max(0, len(request.prompt) - 1) // block_size]
        n_tokens += block_size * next((index for index, key in enumerate(usable) if key not in seen), len(usable))
        seen.update(keys)
        heapq.heappush(running, (request.ended_s, number, request))
    return n_tokens


def _block_keys(tokens: Sequence[int], block_size: int) -> list[bytes]:
    """Return a key per whole block, which depends on the block and all before it."""
    state = xxhash.xxh3_128()
    ids = np.asarray(tokens, dtype=np.int64)
    keys = []
    for end in range(block_size, len(ids) + 1, block_size):
        state.update(ids[end - block_size : end].tobytes())
        keys.append(state.digest())
    return keys
