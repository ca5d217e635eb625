"""Agents that pause for tools: many turns, and between them pauses of random length, a few of them long.

Agents come at random times. Each is of one of a few kinds, which share the description of their tools; its history
grows by what a tool returned and by its own answers. While a tool runs, others use the memory: an agent's return is
what a tier is for.
"""

from dataclasses import dataclass, replace
from typing import Self

from elmas.bench.workloads.calls import Tokens, arrival_times_s, completion, fewer
from elmas.bench.workloads.steps import AtOnce, Due, InTurn, Pause, Scripted, Step
from elmas.bench.workloads.workload import Vocabulary

_ARRIVAL, _LENGTHS, _TOOLS, _TASK, _OBSERVATION, _ANSWER = range(6)
_LEAST_AGENTS = 6


@dataclass(frozen=True)
class PauseClass:
    """How often a tool is of this class, and how long it takes (uniform)."""

    share: float
    least_s: float
    most_s: float


@dataclass(frozen=True)
class ToolAgents(Scripted):
    """Agents with tools; lengths in tokens, least and most, uniform."""

    name: str
    n_agents: int
    n_kinds: int
    agents_per_s: float
    n_turns: tuple[int, int]
    tools_tokens: int
    """Description of a kind's tools, the same for all agents of the kind."""
    task_tokens: tuple[int, int]
    observation_tokens: tuple[int, int]
    answer_tokens: tuple[int, int]
    pauses: tuple[PauseClass, ...]
    seed: int
    vocabulary: Vocabulary

    def scaled(self, factor: float) -> Self:
        """Return the workload with fewer agents, which come at the same rate."""
        return replace(self, n_agents=fewer(self.n_agents, factor, _LEAST_AGENTS))

    def make_script(self) -> Step:
        """Return the agents with the times at which they come."""
        draw = Tokens(self.seed, self.vocabulary).random(_ARRIVAL)
        arrivals_s = arrival_times_s(draw, self.n_agents, self.agents_per_s)
        return AtOnce(tuple(Due(float(due_s), self._agent(index)) for index, due_s in enumerate(arrivals_s)))

    def _agent(self, index: int) -> Step:
        tokens = Tokens(self.seed, self.vocabulary)
        draw = tokens.random(_LENGTHS, index)

        def between(bounds: tuple[int, int]) -> int:
            return int(draw.integers(*bounds, endpoint=True))

        history = tokens.draw(self.tools_tokens, _TOOLS, index % self.n_kinds)
        history += tokens.draw(between(self.task_tokens), _TASK, index)
        steps: list[Step] = []
        for turn in range(between(self.n_turns)):
            if turn:
                kind = self.pauses[int(draw.choice(len(self.pauses), p=[each.share for each in self.pauses]))]
                steps.append(Pause(float(draw.uniform(kind.least_s, kind.most_s))))
                history += tokens.draw(between(self.observation_tokens), _OBSERVATION, index, turn)
            n_answer = between(self.answer_tokens)
            steps.append(completion(history, n_answer, agent=f"agent-{index:05}", turn=turn, round=turn))
            history += tokens.draw(n_answer, _ANSWER, index, turn)
        return InTurn(tuple(steps))
