"""The closed-loop rounds of the benchmark suite, as data: the same shapes, without tokens."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from elmas.errors import UserError

_AGENT_BITS, _VARIANT_BITS = 32, 24


@dataclass(frozen=True)
class Rounds:
    """Agents that share a system prompt, and send their history and a new observation once per round, all at once."""

    name: str
    n_agents: int
    n_rounds: int
    system_tokens: int
    persona_tokens: int
    observation_tokens: int
    answer_tokens: int
    keeps_answers: bool = False
    """True: the history has the model's own answers, so what was generated is used again; False: other tokens of the
    same length, as the benchmark sends."""
    order: Literal["fixed", "shuffled"] = "fixed"
    seed: int = 0

    def prompt_tokens(self, index: int) -> int:
        """Return the prompt length of every agent in a round."""
        grown = index * (self.observation_tokens + self.answer_tokens)
        return self.system_tokens + self.persona_tokens + grown + self.observation_tokens

    def sending_order(self, index: int) -> list[int]:
        """Return the agents in the order in which they send in a round."""
        if self.order == "fixed":
            return list(range(self.n_agents))
        return [int(agent) for agent in np.random.default_rng([self.seed, index]).permutation(self.n_agents)]

    def block_ids(self, agent: int, index: int, block_tokens: int) -> list[int]:
        """Return a number for each complete block of a prompt and its answer; equal numbers are the same block."""
        n_prompt = self.prompt_tokens(index)
        n_blocks = (n_prompt + self.answer_tokens) // block_tokens
        n_shared = min(n_blocks, self.system_tokens // block_tokens)
        n_lasting = n_blocks if self.keeps_answers else n_prompt // block_tokens
        own = (agent + 1) << _AGENT_BITS
        passing = own | (index + 1) << _VARIANT_BITS
        return [
            *range(n_shared),
            *range(own + n_shared, own + n_lasting),
            *range(passing + n_lasting, passing + n_blocks),
        ]


WORKLOADS = {
    rounds.name: rounds
    for rounds in (
        Rounds("small", 54, 5, system_tokens=512, persona_tokens=512, observation_tokens=64, answer_tokens=16),
        Rounds("A", 160, 5, system_tokens=1024, persona_tokens=256, observation_tokens=256, answer_tokens=32),
        Rounds("B", 320, 5, system_tokens=1024, persona_tokens=256, observation_tokens=256, answer_tokens=32),
        Rounds("C", 96, 4, system_tokens=1024, persona_tokens=512, observation_tokens=1536, answer_tokens=32),
    )
}
"""By name. In A the histories of 160 agents grow to 35 GB of Llama 3 8B's KV, in B to 70, in C to 85."""


def find_rounds(name: str) -> Rounds:
    """Return the workload of this name; raises UserError that lists them for an unknown one."""
    try:
        return WORKLOADS[name]
    except KeyError:
        raise UserError(f"unknown workload {name!r}: choose from {', '.join(WORKLOADS)}, or give a trace") from None
