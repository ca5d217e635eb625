"""The closed-loop round workload: many agents, a growing history each, one barrier per round.

All agents share a system prompt; each has a persona and a history. In every round all of them send history plus a new
observation at once and generate exactly `answer_tokens` tokens; the next round starts when the last answer is complete.

The history takes *seeded* tokens of the answer's length in the place of the model's own answer. Two logits that nearly
tie can flip one token between two servers; with real answers every later prompt of that agent would differ, and the
servers would no longer do the same work. So every server gets byte-identical requests. The price: what the model
generated is not reused, and a round computes `answer_tokens + observation_tokens` new tokens per agent even when
everything else is cached.

Nothing here knows what server is at the other end.
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np

from elmas.bench.workloads.calls import completion, fewer
from elmas.bench.workloads.steps import AtOnce, InTurn, Scripted, Step

_SYSTEM, _PERSONA, _OBSERVATION, _ANSWER, _UNIQUE, _ORDER = range(6)
"""What a stream of random tokens is for; part of its seed, so that no two parts of a workload repeat each other."""


_LEAST_AGENTS = 4


@dataclass(frozen=True)
class RoundsWorkload(Scripted):
    """Shape and seed of a workload: two equal values send the same bytes in the same order."""

    name: str
    n_agents: int
    n_rounds: int
    system_tokens: int
    persona_tokens: int
    observation_tokens: int
    answer_tokens: int
    first_token_id: int = 300
    last_token_id: int = 2047
    """Prompt tokens are drawn from these two and what is between: no special tokens, and known to every tokenizer."""
    seed: int = 0
    order: Literal["fixed", "shuffled"] = "fixed"
    """Whether agents send in the same order every round or in a new seeded one."""
    reuse: bool = True
    """False: prompts of the same lengths, of which no two share a beginning."""

    def prompt_tokens(self, round_index: int) -> int:
        """Return the prompt length of every agent in a round."""
        grown = round_index * (self.observation_tokens + self.answer_tokens)
        return self.system_tokens + self.persona_tokens + grown + self.observation_tokens

    @property
    def longest_request_tokens(self) -> int:
        """Tokens of the longest request with its answer: the least `--max-model-len`."""
        return self.prompt_tokens(self.n_rounds - 1) + self.answer_tokens

    @property
    def working_set_tokens(self) -> int:
        """Tokens whose KV would serve the last round entirely: the system prompt once, the rest per agent.

        0 without reuse.
        """
        if not self.reuse:
            return 0
        own = self.prompt_tokens(self.n_rounds - 1) - self.system_tokens
        return self.system_tokens + self.n_agents * own

    @property
    def total_prompt_tokens(self) -> int:
        """Tokens of all prompts of all rounds."""
        return self.n_agents * sum(self.prompt_tokens(index) for index in range(self.n_rounds))

    def prompt(self, agent: int, round_index: int) -> list[int]:
        """Return the token ids that `agent` sends in a round."""
        if not self.reuse:
            return self._tokens(self.prompt_tokens(round_index), _UNIQUE, agent, round_index)
        ids = self._tokens(self.system_tokens, _SYSTEM)
        ids += self._tokens(self.persona_tokens, _PERSONA, agent)
        for past in range(round_index):
            ids += self._tokens(self.observation_tokens, _OBSERVATION, agent, past)
            ids += self._tokens(self.answer_tokens, _ANSWER, agent, past)
        return ids + self._tokens(self.observation_tokens, _OBSERVATION, agent, round_index)

    def sending_order(self, round_index: int) -> list[int]:
        """Return the agents in the order in which they send."""
        if self.order == "fixed":
            return list(range(self.n_agents))
        return [int(agent) for agent in self._random(_ORDER, round_index).permutation(self.n_agents)]

    def scaled(self, factor: float) -> Self:
        """Return the workload with fewer agents, of the same lengths."""
        return replace(self, n_agents=fewer(self.n_agents, factor, _LEAST_AGENTS))

    def make_script(self) -> Step:
        """Return the rounds with a barrier after each."""
        return InTurn(
            tuple(
                AtOnce(
                    tuple(
                        completion(
                            self.prompt(agent, index),
                            self.answer_tokens,
                            agent=f"agent-{agent:05}",
                            turn=index,
                            round=index,
                        )
                        for agent in self.sending_order(index)
                    )
                )
                for index in range(self.n_rounds)
            )
        )

    def _random(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *purpose])

    def _tokens(self, n_tokens: int, *purpose: int) -> list[int]:
        drawn = self._random(*purpose).integers(self.first_token_id, self.last_token_id + 1, n_tokens)
        return [int(token) for token in drawn]
