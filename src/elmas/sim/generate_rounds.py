"""Agents of a simulation that are called round after round: in a fixed order, shuffled, or coming and going.

All share a system prompt, each has a history of its own that grows with every round.
"""

from collections.abc import Iterator

import numpy as np

from elmas.sim.conversations import BlockNumbers, Conversation
from elmas.sim.traces import Access

_N_ROUNDS = 12
_BETWEEN_CALLS_S = 0.05
_N_SYSTEM = 6
_N_PERSONA = 10
_N_NEW = 3
_N_ANSWER = 1
_SKIP_CHANCE = 0.10
_LEAVE_CHANCE = 0.03


def cyclic(n_sessions: int, random: np.random.Generator, numbers: BlockNumbers, block_tokens: int) -> Iterator[Access]:
    """All agents in every round, always in the same order."""
    return _rounds(n_sessions, random, numbers, block_tokens, is_shuffled=False, skip_chance=0, leave_chance=0)


def cyclic_shuffled(
    n_sessions: int, random: np.random.Generator, numbers: BlockNumbers, block_tokens: int
) -> Iterator[Access]:
    """All agents in every round, in a new order each time."""
    return _rounds(n_sessions, random, numbers, block_tokens, is_shuffled=True, skip_chance=0, leave_chance=0)


def cyclic_churn(
    n_sessions: int, random: np.random.Generator, numbers: BlockNumbers, block_tokens: int
) -> Iterator[Access]:
    """Shuffled rounds in which a tenth of the agents is not called, and 3% leave for good and are replaced.

    `n_sessions` are in the simulation at any time.
    """
    return _rounds(
        n_sessions,
        random,
        numbers,
        block_tokens,
        is_shuffled=True,
        skip_chance=_SKIP_CHANCE,
        leave_chance=_LEAVE_CHANCE,
    )


def _rounds(
    n_agents: int,
    random: np.random.Generator,
    numbers: BlockNumbers,
    block_tokens: int,
    *,
    is_shuffled: bool,
    skip_chance: float,
    leave_chance: float,
) -> Iterator[Access]:
    system = numbers.take(_N_SYSTEM)
    agents = [Conversation(f"agent-{i}", [system]) for i in range(n_agents)]
    n_ever = n_agents
    round_s = n_agents * _BETWEEN_CALLS_S
    for number in range(_N_ROUNDS):
        order = random.permutation(n_agents) if is_shuffled else np.arange(n_agents)
        is_skipped = random.random(n_agents) < skip_chance
        leaves = random.random(n_agents) < leave_chance
        for place, i in enumerate(order.tolist()):
            if leaves[i] and number:
                agents[i] = Conversation(f"agent-{n_ever}", [system])
                n_ever += 1
            if is_skipped[i]:
                continue
            is_first = len(agents[i].parts) == 1
            arrival_s = number * round_s + place * _BETWEEN_CALLS_S
            n_new = _N_PERSONA if is_first else _N_NEW
            yield agents[i].turn(arrival_s, n_new, _N_ANSWER, numbers, block_tokens)
