"""Where simulated requests come from: a trace at its own times, or rounds of agents that wait for each other."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import cast

import numpy as np

from elmas.cache.hints import NO_HINTS
from elmas.cache.rows import BlockHash
from elmas.sim.requests import Job
from elmas.sim.traces import Access
from elmas.sim.workloads import Rounds

_KEY_BYTES = 32
_MIX = tuple(np.uint64(odd) for odd in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93))


Keys = Callable[[Sequence[int]], Sequence[BlockHash]]
"""How numbers of blocks become keys."""


def plain_keys(ids: Sequence[int]) -> Sequence[BlockHash]:
    """Return the numbers themselves: whatever is not on disk asks of a key only that it can be hashed."""
    return cast(Sequence[BlockHash], ids)


def block_keys(ids: Sequence[int]) -> list[BlockHash]:
    """Return a key of 32 bytes for each number of a block, spread as a hash would (SplitMix64, Steele et al. 2014)."""
    if not ids:
        return []
    words = np.multiply.outer(np.array(ids, dtype=np.int64).astype(np.uint64) + np.uint64(1), np.array(_MIX))
    words ^= words >> np.uint64(31)
    words *= _MIX[2]
    words ^= words >> np.uint64(29)
    joined = words.tobytes()
    return [joined[first : first + _KEY_BYTES] for first in range(0, len(joined), _KEY_BYTES)]


class TraceSource:
    """An open loop: each request of a trace arrives at its time, whatever the server does. Holds one at a time."""

    def __init__(self, accesses: Iterable[Access], block_tokens: int, keys: Keys = block_keys) -> None:
        self._accesses = iter(accesses)
        self._keys = keys
        self._block_tokens = block_tokens
        self._next = next(self._accesses, None)

    def next_arrival_s(self) -> float:
        """Return when the next request arrives."""
        return math.inf if self._next is None else self._next.arrival_s

    def take(self) -> Job:
        """Return the next request. An answer of no token is taken for one of one."""
        access = self._next
        assert access is not None
        self._next = next(self._accesses, None)
        # A partial last block has a number in some traces; nothing ever finds it.
        ids = (*access.hash_ids[: access.input_tokens // self._block_tokens], *access.out_hash_ids)
        n_answer = max(1, access.output_tokens)
        n_complete = (access.input_tokens + n_answer) // self._block_tokens
        return Job(
            arrival_s=access.arrival_s,
            n_prompt_tokens=access.input_tokens,
            n_answer_tokens=n_answer,
            blocks=self._keys(ids[:n_complete]),
            session_id=access.session_id,
            hints=access.hints or NO_HINTS,
        )

    def ended(self, job: Job, now_s: float) -> None:
        """Nothing follows from an end."""


class RoundsSource:
    """A closed loop: a round's requests arrive at once, the next round's when all of them have ended.

    `gap_s` is the time between the rounds.
    """

    def __init__(self, rounds: Rounds, block_tokens: int, keys: Keys = block_keys, gap_s: float = 0.0) -> None:
        self.seconds_per_round: list[float] = []
        self._rounds = rounds
        self._block_tokens = block_tokens
        self._keys = keys
        self._gap_s = gap_s
        self._index = 0
        self._begin_s = 0.0
        self._agents: Iterator[int] = iter(rounds.sending_order(0))
        self._n_left_to_send = self._n_left_to_end = rounds.n_agents

    def next_arrival_s(self) -> float:
        """Return when the round began, infinite when all of it was sent."""
        return self._begin_s if self._n_left_to_send else math.inf

    def take(self) -> Job:
        """Return the next request of the round."""
        self._n_left_to_send -= 1
        agent = next(self._agents)
        rounds = self._rounds
        return Job(
            arrival_s=self._begin_s,
            n_prompt_tokens=rounds.prompt_tokens(self._index),
            n_answer_tokens=rounds.answer_tokens,
            blocks=self._keys(rounds.block_ids(agent, self._index, self._block_tokens)),
            tag=agent,
        )

    def ended(self, job: Job, now_s: float) -> None:
        """Count; with the last end of a round the next one begins."""
        self._n_left_to_end -= 1
        if self._n_left_to_end:
            return
        self.seconds_per_round.append(now_s - self._begin_s)
        self._index += 1
        if self._index < self._rounds.n_rounds:
            self._begin_s = now_s + self._gap_s
            self._agents = iter(self._rounds.sending_order(self._index))
            self._n_left_to_send = self._n_left_to_end = self._rounds.n_agents


def rounds_accesses(rounds: Rounds, block_tokens: int) -> Iterator[Access]:
    """Yield the requests of all rounds as those of a trace, at the times of their rounds' numbers."""
    for index in range(rounds.n_rounds):
        n_prompt = rounds.prompt_tokens(index)
        n_prompt_blocks = n_prompt // block_tokens
        for agent in rounds.sending_order(index):
            ids = rounds.block_ids(agent, index, block_tokens)
            prompt, answer = tuple(ids[:n_prompt_blocks]), tuple(islice(ids, n_prompt_blocks, None))
            yield Access(float(index), n_prompt, rounds.answer_tokens, prompt, answer)
