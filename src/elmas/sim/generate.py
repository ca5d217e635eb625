"""Generated traces: families of agents by name, the same for the same seed, yielded in the order of time.

The shapes follow what swarms of agents do; none is fitted to a recorded trace. Held is what live sessions need, not the
trace.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from elmas.errors import UserError
from elmas.sim.conversations import Maker
from elmas.sim.generate_arrivals import chats, scans, swarm, tool_agents
from elmas.sim.generate_rounds import cyclic, cyclic_churn, cyclic_shuffled
from elmas.sim.traces import DEFAULT_BLOCK_TOKENS, Access

FAMILIES: dict[str, Callable[[int, Maker], Iterator[Access]]] = {
    "cyclic": cyclic,
    "cyclic-shuffled": cyclic_shuffled,
    "cyclic-churn": cyclic_churn,
    "tool-agents": tool_agents,
    "chats": chats,
    "scans": scans,
    "swarm": swarm,
}
"""Families by name; each is called with the number of its sessions."""


@dataclass(frozen=True)
class TraceRecipe:
    """Everything that decides a generated trace. `load` says how many times as often sessions come as usual."""

    family: str
    n_sessions: int
    seed: int = 0
    block_tokens: int = DEFAULT_BLOCK_TOKENS
    load: float = 1.0

    def __post_init__(self) -> None:
        """Raise UserError for a family that does not exist, and for numbers that make no trace."""
        if self.family not in FAMILIES:
            raise UserError(f"there is no family {self.family!r}: choose one of {', '.join(FAMILIES)}")
        if self.n_sessions < 1 or self.seed < 0 or self.block_tokens < 1:
            raise UserError("a trace needs one session, a seed of 0 and one token per block at least")
        if not 0 < self.load < float("inf"):
            raise UserError(f"--load is {self.load}: give a factor of more than 0")


def generate(recipe: TraceRecipe) -> Iterator[Access]:
    """Yield the requests of a recipe in the order of time."""
    maker = Maker(np.random.default_rng(recipe.seed), recipe.block_tokens, recipe.load)
    return FAMILIES[recipe.family](recipe.n_sessions, maker)
