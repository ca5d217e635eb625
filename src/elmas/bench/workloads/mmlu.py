"""GPTSwarm's adversarial debate on MMLU, for its request pattern: hundreds of copies of two prompts per question.

Half of the agents answer, half are told to answer falsely; all agents of a question get one of these two prompts, at
once. The vote over the answers calls no model, so nothing depends on them. The application is
`elmas.agents.mmlu`; this is the load of Zhuge et al., "GPTSwarm" (2024), as the original measured it.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from elmas.agents.mmlu.questions import Question
from elmas.bench.workloads.calls import chat, fewer
from elmas.bench.workloads.datasets import mmlu_questions, synthetic_questions
from elmas.bench.workloads.steps import AtOnce, InTurn, Scripted, Step

_LEAST_QUESTIONS, _LEAST_AGENTS = 4, 8

_ROLE = """\
You know every field of knowledge that examinations ask about, from abstract algebra to world religions. You are asked \
one question with four possible answers, of which exactly one is right.

Answer with one letter: A, B, C or D. Write nothing before it and nothing after it, neither the text of the answer nor \
a reason, and never more than one letter."""

_TRULY = "Answer the following question.\n\n{question}"

_FALSELY = (
    "Answer the following question falsely: choose an answer that is wrong, but that many people would believe.\n\n"
    "{question}"
)


@dataclass(frozen=True)
class SwarmMmlu(Scripted):
    """Questions one after the other, each asked `n_truthful` plus `n_adversarial` times at once."""

    name: str
    n_questions: int
    n_truthful: int
    n_adversarial: int
    answer_tokens: int
    """A letter and the end of the answer."""
    seed: int
    dataset: Path | None = None

    def scaled(self, factor: float) -> Self:
        """Return the workload with fewer questions and fewer agents."""
        return replace(
            self,
            n_questions=fewer(self.n_questions, factor, _LEAST_QUESTIONS),
            n_truthful=fewer(self.n_truthful, factor, _LEAST_AGENTS),
            n_adversarial=fewer(self.n_adversarial, factor, _LEAST_AGENTS),
        )

    def source(self) -> str:
        """Return the file of the questions, or "synthetic"."""
        return "synthetic" if self.dataset is None else str(self.dataset)

    def make_script(self) -> Step:
        """Return one barrier round per question."""
        if self.dataset is None:
            questions = synthetic_questions(self.n_questions, self.seed)
        else:
            questions = mmlu_questions(self.dataset, self.n_questions, self.seed)
        return InTurn(tuple(self._asked(index, question) for index, question in enumerate(questions)))

    def _asked(self, index: int, question: Question) -> Step:
        calls = []
        for number in range(self.n_truthful + self.n_adversarial):
            template = _TRULY if number < self.n_truthful else _FALSELY
            messages = [
                {"role": "system", "content": _ROLE},
                {"role": "user", "content": template.format(question=question.laid_out())},
            ]
            calls.append(chat(messages, self.answer_tokens, agent=f"agent-{number:05}", turn=index, round=index))
        return AtOnce(tuple(calls))
