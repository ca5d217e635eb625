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

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np

from elmas.agents.endpoint import Endpoint, RequestRecord
from elmas.bench.client import Progress, encode_completion, send_all
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


@dataclass(frozen=True)
class RoundsResult:
    """The records of a run, per round in agent order."""

    workload: RoundsWorkload
    rounds: tuple[tuple[RequestRecord, ...], ...]

    @property
    def records(self) -> list[RequestRecord]:
        """All records, round by round."""
        return [record for records in self.rounds for record in records]

    @property
    def seconds_per_round(self) -> list[float]:
        """Seconds of each round, from its first submission to its last end."""
        return [max(r.ended_s for r in records) - min(r.submitted_s for r in records) for records in self.rounds]

    @property
    def outputs(self) -> list[list[list[int]]]:
        """Output token ids by round and agent; a failed request has whatever arrived."""
        return [[list(record.token_ids or ()) for record in records] for records in self.rounds]


async def play_rounds(
    endpoint: Endpoint,
    workload: RoundsWorkload,
    on_round: Callable[[int], None] | None = None,
    on_request: Progress | None = None,
    rounds: Sequence[int] | None = None,
) -> RoundsResult:
    """Play the workload against the endpoint. `on_round` gets the index of the round that starts.

    `rounds` are the indices of the rounds to play, all of them by default.

    A failed request is a record with its error; its agent goes on with the next round like the others.
    """
    # All bodies are made before the clock runs: otherwise the client's own work would be part of every round.
    indices = range(workload.n_rounds) if rounds is None else rounds
    schedule = [_encoded_round(endpoint, workload, index) for index in indices]
    played = []
    for index, (agents, bodies) in zip(indices, schedule, strict=True):
        if on_round is not None:
            on_round(index)
        sent = await send_all(endpoint, bodies, on_request)
        played.append(tuple(record for _, record in sorted(zip(agents, sent, strict=True), key=lambda pair: pair[0])))
    return RoundsResult(workload, tuple(played))


def _encoded_round(endpoint: Endpoint, workload: RoundsWorkload, index: int) -> tuple[list[int], list[bytes]]:
    """Return agents and request bodies of a round, in sending order."""
    agents = workload.sending_order(index)
    prompts = (workload.prompt(agent, index) for agent in agents)
    return agents, [encode_completion(endpoint, prompt, workload.answer_tokens) for prompt in prompts]


Outputs = Sequence[Sequence[Sequence[int]]]
"""Output token ids by round, agent and position."""


def digest(outputs: Outputs) -> str:
    """Return the SHA-256 of all output token ids with their lengths: equal digests mean equal answers everywhere."""
    sha = hashlib.sha256()
    for answers in outputs:
        sha.update(struct.pack("<i", len(answers)))
        for ids in answers:
            sha.update(struct.pack(f"<{len(ids) + 1}i", len(ids), *ids))
    return sha.hexdigest()


@dataclass(frozen=True)
class FirstDifference:
    """Where two runs of one workload part; a token is None where that answer was already over."""

    round_index: int
    agent: int
    position: int
    left: int | None
    right: int | None
    n_answers: int
    """How many answers differ in all."""

    def __str__(self) -> str:
        where = f"round {self.round_index + 1}, agent {self.agent}, output token {self.position}"
        return f"{self.n_answers} answers differ, first {where}: {self.left} and {self.right}"


def first_difference(left: Outputs, right: Outputs) -> FirstDifference | None:
    """Return where two runs first differ, None when nowhere; raises ValueError for runs of different shape."""
    first: tuple[int, int, int, int | None, int | None] | None = None
    n_answers = 0
    for round_index, (left_answers, right_answers) in enumerate(zip(left, right, strict=True)):
        for agent, (mine, yours) in enumerate(zip(left_answers, right_answers, strict=True)):
            if list(mine) == list(yours):
                continue
            n_answers += 1
            if first is None:
                same = next((i for i, (a, b) in enumerate(zip(mine, yours, strict=False)) if a != b), None)
                at = min(len(mine), len(yours)) if same is None else same
                first = (
                    round_index,
                    agent,
                    at,
                    mine[at] if at < len(mine) else None,
                    yours[at] if at < len(yours) else None,
                )
    return None if first is None else FirstDifference(*first, n_answers)
