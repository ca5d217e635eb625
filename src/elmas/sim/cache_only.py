"""Replay of the accesses of a trace, in order, against one tier: no time passes, nothing is computed or copied.

The tier is the server's own index with its retention policy, and sessions are told apart as in the server.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from elmas.cache.hints import Hints
from elmas.cache.index import TierIndex, resident_run
from elmas.cache.retention import POLICIES
from elmas.cache.rows import BlockHash
from elmas.cache.sessions import Sessions
from elmas.errors import UserError
from elmas.sim.optimal import Future
from elmas.sim.packed import PackedTrace


@dataclass(frozen=True)
class ReplayResult:
    """What a replay hit, and what could have been hit; tokens of prompts."""

    policy: str
    host_blocks: int
    n_requests: int
    n_sessions: int
    prompt_tokens: int
    host_hit_tokens: int
    optimal_hit_tokens: int
    infinite_hit_tokens: int
    working_set_blocks: int
    evicted_blocks: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the result as `elmas simulate --json` prints it."""
        return {
            "policy": self.policy,
            "host_blocks": self.host_blocks,
            "n_requests": self.n_requests,
            "n_sessions": self.n_sessions,
            "prompt_tokens": self.prompt_tokens,
            "hit_tokens": {"total": self.host_hit_tokens, "host": self.host_hit_tokens},
            "optimal_hit_tokens": self.optimal_hit_tokens,
            "infinite_hit_tokens": self.infinite_hit_tokens,
            "working_set_blocks": self.working_set_blocks,
            "evicted_blocks": self.evicted_blocks,
            "seconds": round(self.seconds, 3),
        }


def parse_host_blocks(text: str, working_set_blocks: int) -> int:
    """Return the number of blocks that `text` stands for: a number, or a share of the working set such as "0.25w".

    UserError for anything else, or less than one block.
    """
    try:
        n_blocks = int(float(text[:-1]) * working_set_blocks) if text.endswith("w") else int(text)
    except (ValueError, OverflowError):
        n_blocks = 0
    if n_blocks < 1:
        raise UserError(f"--host-blocks is {text!r}: give 1 block or more, or a share of the working set such as 0.25w")
    return n_blocks


def replay_cache_only(
    trace: PackedTrace, future: Future, policy: str, host_blocks: int, hints: Sequence[Hints]
) -> ReplayResult:
    """Replay a trace against a tier of `host_blocks` blocks. UserError for an unknown policy or a tier without room."""
    if policy not in POLICIES:
        raise UserError(f"--policy is {policy!r}: choose one of {', '.join(POLICIES)}")
    if host_blocks < 1:
        raise UserError(f"--host-blocks is {host_blocks}: a tier needs at least one block")
    start = time.perf_counter()
    hit_blocks, evicted_blocks = _replay(trace, policy, host_blocks, hints)
    return ReplayResult(
        policy=policy,
        host_blocks=host_blocks,
        n_requests=trace.n_requests,
        n_sessions=trace.n_sessions,
        prompt_tokens=trace.prompt_tokens,
        host_hit_tokens=trace.hit_tokens(hit_blocks),
        optimal_hit_tokens=trace.hit_tokens(future.optimal_hit_blocks(host_blocks)),
        infinite_hit_tokens=trace.hit_tokens(future.infinite_hit_blocks()),
        working_set_blocks=future.peak_live_blocks,
        evicted_blocks=evicted_blocks,
        seconds=time.perf_counter() - start,
    )


def _replay(trace: PackedTrace, policy: str, host_blocks: int, hints: Sequence[Hints]) -> tuple[NDArray[np.int64], int]:
    """Return the blocks that each request hits, and the number of evictions."""
    sessions = Sessions(block_tokens=trace.block_tokens)
    index = TierIndex(host_blocks, POLICIES[policy](host_blocks, sessions))
    hit_blocks = np.zeros(trace.n_requests, dtype=np.int64)
    # Views, not lists: millions of Python numbers would take more memory than the blocks.
    starts, n_prompts = trace.starts.data, trace.n_prompt.data
    arrivals_s, numbers = trace.arrival_s.data, trace.session.data
    for request, n_prompt in enumerate(n_prompts):
        now_s = arrivals_s[request]
        name = trace.session_names[numbers[request]] if numbers[request] >= 0 else None
        # The index asks of its keys only that they can be hashed: a trace's numbers do for vLLM's hashes.
        blocks = cast(list[BlockHash], trace.blocks[starts[request] : starts[request + 1]].tolist())
        prompt = blocks[:n_prompt]
        session = sessions.arrive(prompt, now_s, session_id=name, hints=hints[request])
        rows = index.lookup(blocks)
        prompt_rows = rows[:n_prompt]
        hit_blocks[request] = resident_run(prompt_rows, 0).size
        index.use(prompt_rows[prompt_rows >= 0], now_s, session)
        missing = np.flatnonzero(rows < 0).tolist()
        if missing:
            # The policy may refuse: then there are rows for the first of them only, or none.
            reserved = index.reserve([blocks[place] for place in missing], prompt, session)
            index.commit(reserved, now_s)
        sessions.end(session, n_prompt, blocks, now_s)
    return hit_blocks, index.n_evicted
