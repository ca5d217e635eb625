"""Generated traces: families of agents by name, deterministic for a seed, yielded in the order of time.

A family is a function of its size and a random generator. It holds what its live sessions need, not the trace.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from elmas.errors import UserError
from elmas.sim.conversations import BlockNumbers
from elmas.sim.generate_arrivals import chats, scans, swarm, tool_agents
from elmas.sim.generate_rounds import cyclic, cyclic_churn, cyclic_shuffled
from elmas.sim.traces import DEFAULT_BLOCK_TOKENS, Access

FAMILIES: dict[str, Callable[[int, np.random.Generator, BlockNumbers, int], Iterator[Access]]] = {
    "cyclic": cyclic,
    "cyclic-shuffled": cyclic_shuffled,
    "cyclic-churn": cyclic_churn,
    "tool-agents": tool_agents,
    "chats": chats,
    "scans": scans,
    "swarm": swarm,
}
"""Families by name; each is called with the number of sessions, a random generator, the numbers of the blocks and the
tokens per block."""


@dataclass(frozen=True)
class TraceRecipe:
    """Everything that decides a generated trace."""

    family: str
    n_sessions: int
    seed: int = 0
    block_tokens: int = DEFAULT_BLOCK_TOKENS

    def __post_init__(self) -> None:
        """Raise UserError for a family that does not exist, or no session."""
        if self.family not in FAMILIES:
            raise UserError(f"there is no family {self.family!r}: choose one of {', '.join(FAMILIES)}")
        if self.n_sessions < 1:
            raise UserError(f"--sessions is {self.n_sessions}: give 1 or more")


def generate(recipe: TraceRecipe) -> Iterator[Access]:
    """Yield the requests of a recipe in the order of time."""
    random = np.random.default_rng(recipe.seed)
    return FAMILIES[recipe.family](recipe.n_sessions, random, BlockNumbers(), recipe.block_tokens)
