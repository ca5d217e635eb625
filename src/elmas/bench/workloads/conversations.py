"""Conversations that only grow: every turn's prompt is the last one, its answer and a new question."""

from dataclasses import dataclass, replace
from typing import Self

from elmas.bench.workloads.calls import Tokens, completion, fewer
from elmas.bench.workloads.steps import AtOnce, InTurn, Scripted, Step
from elmas.bench.workloads.workload import Vocabulary

_QUESTION, _ANSWER, _LENGTHS = range(3)
_LEAST_CONVERSATIONS = 4


@dataclass(frozen=True)
class MultiTurn(Scripted):
    """All conversations at once; a turn follows the last one's end immediately. No two share anything.

    Seeded tokens take the place of the answers in the history, of the same length (see `elmas.bench.rounds`).
    """

    name: str
    n_conversations: int
    n_turns: int
    question_tokens: tuple[int, int]
    """Least and most, uniform."""
    answer_tokens: tuple[int, int]
    seed: int
    vocabulary: Vocabulary

    def scaled(self, factor: float) -> Self:
        """Return the workload with fewer conversations."""
        return replace(self, n_conversations=fewer(self.n_conversations, factor, _LEAST_CONVERSATIONS))

    def make_script(self) -> Step:
        """Return the conversations, all at once."""
        return AtOnce(tuple(self._conversation(index) for index in range(self.n_conversations)))

    def _conversation(self, index: int) -> Step:
        tokens = Tokens(self.seed, self.vocabulary)
        lengths = tokens.random(_LENGTHS, index)
        history: list[int] = []
        turns = []
        for turn in range(self.n_turns):
            history += tokens.draw(int(lengths.integers(*self.question_tokens, endpoint=True)), _QUESTION, index, turn)
            n_answer = int(lengths.integers(*self.answer_tokens, endpoint=True))
            turns.append(completion(history, n_answer, agent=f"conversation-{index:05}", turn=turn, round=turn))
            history += tokens.draw(n_answer, _ANSWER, index, turn)
        return InTurn(tuple(turns))
