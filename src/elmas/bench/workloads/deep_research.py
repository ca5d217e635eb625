"""Deep research: an orchestrator plans, sub-agents work in parallel on one long document, the orchestrator concludes.

All prompts of an investigation begin with the same instructions and document, so the document is computed once if it is
still there for the last sub-agent, and when the orchestrator comes back after the slowest of them.
"""

from dataclasses import dataclass, replace
from typing import Self

from elmas.bench.workloads.calls import Tokens, arrival_times_s, completion, fewer
from elmas.bench.workloads.steps import AtOnce, Due, InTurn, Pause, Scripted, Step
from elmas.bench.workloads.workload import Vocabulary

_ARRIVAL, _LENGTHS, _SYSTEM, _DOCUMENT, _PLANNING, _PLAN, _ROLE, _NOTES, _FOUND, _REPORT, _CONCLUDING = range(11)
_LEAST_INVESTIGATIONS, _LEAST_SUB_AGENTS = 2, 3
_PLAN_ROUND, _WORK_ROUND, _CONCLUSION_ROUND = range(3)


@dataclass(frozen=True)
class DeepResearch(Scripted):
    """Investigations that begin at random times; lengths in tokens, pairs are least and most, uniform."""

    name: str
    n_investigations: int
    investigations_per_s: float
    n_sub_agents: int
    n_turns: int
    """Of each sub-agent; the last one is its report."""
    system_tokens: int
    document_tokens: int
    instruction_tokens: int
    plan_tokens: int
    notes_tokens: tuple[int, int]
    found_tokens: tuple[int, int]
    """What a search returns."""
    search_s: tuple[float, float]
    report_tokens: int
    conclusion_tokens: int
    seed: int
    vocabulary: Vocabulary

    def scaled(self, factor: float) -> Self:
        """Return the workload with fewer investigations and sub-agents."""
        return replace(
            self,
            n_investigations=fewer(self.n_investigations, factor, _LEAST_INVESTIGATIONS),
            n_sub_agents=fewer(self.n_sub_agents, factor, _LEAST_SUB_AGENTS),
        )

    def make_script(self) -> Step:
        """Return the investigations with the times at which they begin."""
        draw = Tokens(self.seed, self.vocabulary).random(_ARRIVAL)
        begin_s = arrival_times_s(draw, self.n_investigations, self.investigations_per_s)
        return AtOnce(tuple(Due(float(due_s), self._investigation(index)) for index, due_s in enumerate(begin_s)))

    def _investigation(self, index: int) -> Step:
        tokens = Tokens(self.seed, self.vocabulary)
        shared = tokens.draw(self.system_tokens, _SYSTEM) + tokens.draw(self.document_tokens, _DOCUMENT, index)
        planning = shared + tokens.draw(self.instruction_tokens, _PLANNING, index)
        agent = f"research-{index:04}"
        plan = completion(planning, self.plan_tokens, agent=agent, turn=0, round=_PLAN_ROUND)
        workers = AtOnce(tuple(self._sub_agent(tokens, index, number, shared) for number in range(self.n_sub_agents)))
        concluding = planning + tokens.draw(self.plan_tokens, _PLAN, index)
        for number in range(self.n_sub_agents):
            concluding += tokens.draw(self.report_tokens, _REPORT, index, number)
        concluding += tokens.draw(self.instruction_tokens, _CONCLUDING, index)
        conclusion = completion(concluding, self.conclusion_tokens, agent=agent, turn=1, round=_CONCLUSION_ROUND)
        return InTurn((plan, workers, conclusion))

    def _sub_agent(self, tokens: Tokens, index: int, number: int, shared: list[int]) -> Step:
        draw = tokens.random(_LENGTHS, index, number)
        history = shared + tokens.draw(self.instruction_tokens, _ROLE, index, number)
        steps: list[Step] = []
        for turn in range(self.n_turns):
            is_last = turn == self.n_turns - 1
            n_answer = self.report_tokens if is_last else int(draw.integers(*self.notes_tokens, endpoint=True))
            agent = f"research-{index:04}/{number:03}"
            steps.append(completion(history, n_answer, agent=agent, turn=turn, round=_WORK_ROUND))
            history += tokens.draw(n_answer, _NOTES, index, number, turn)
            history += tokens.draw(int(draw.integers(*self.found_tokens, endpoint=True)), _FOUND, index, number, turn)
            if not is_last:
                steps.append(Pause(float(draw.uniform(*self.search_s))))
        return InTurn(tuple(steps))
