"""Agents of a simulation that are called round after round: in a fixed order, shuffled, or coming and going.

All share a system prompt, and each has a history of its own that grows with every round. `n_sessions` are in the
simulation at any time.
"""

from collections.abc import Iterator

import numpy as np

from elmas.sim.conversations import Conversation, Maker
from elmas.sim.traces import Access

_N_ROUNDS = 12
_BETWEEN_CALLS_S = 0.05

_SYSTEM_BLOCKS = 6
_PERSONA_BLOCKS = 20
_NEW_BLOCKS = 3
_ANSWER_BLOCKS = 1

_SKIP_CHANCE = 0.10
_LEAVE_CHANCE = 0.03


def cyclic(n_sessions: int, maker: Maker) -> Iterator[Access]:
    """All agents in every round, always in the same order."""
    return _rounds(n_sessions, maker, is_shuffled=False)


def cyclic_shuffled(n_sessions: int, maker: Maker) -> Iterator[Access]:
    """All agents in every round, in a new order each time."""
    return _rounds(n_sessions, maker, is_shuffled=True)


def cyclic_churn(n_sessions: int, maker: Maker) -> Iterator[Access]:
    """Rounds in a fixed order in which 10% of the agents are skipped, and 3% leave for good and are replaced."""
    return _rounds(n_sessions, maker, is_shuffled=False, skip_chance=_SKIP_CHANCE, leave_chance=_LEAVE_CHANCE)


def _rounds(
    n_agents: int, maker: Maker, *, is_shuffled: bool, skip_chance: float = 0.0, leave_chance: float = 0.0
) -> Iterator[Access]:
    random = maker.random
    system = maker.new_blocks(_SYSTEM_BLOCKS)
    agents = [Conversation(f"agent-{number}", [system]) for number in range(n_agents)]
    n_ever = n_agents
    between_s = _BETWEEN_CALLS_S / maker.load
    for round_number in range(_N_ROUNDS):
        order = random.permutation(n_agents) if is_shuffled else np.arange(n_agents)
        is_skipped = random.random(n_agents) < skip_chance
        leaves = random.random(n_agents) < leave_chance
        for place, number in enumerate(order.tolist()):
            if leaves[number] and round_number:
                agents[number] = Conversation(f"agent-{n_ever}", [system])
                n_ever += 1
            if not is_skipped[number]:
                is_new = len(agents[number].parts) == 1
                arrival_s = (round_number * n_agents + place) * between_s
                n_new = _PERSONA_BLOCKS if is_new else _NEW_BLOCKS
                yield agents[number].turn(maker, arrival_s, n_new, _ANSWER_BLOCKS)
