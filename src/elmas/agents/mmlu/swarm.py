"""Truthful and adversarial agents answer multiple-choice questions, and the swarm decides by vote.

The experiment is that of GPTSwarm (Zhuge et al., 2024): agents who are told to lie try to spoil the vote of those who
answer. All agents of a question see it with its options in orders of their own, so that a model's liking for a letter
cancels out (Zheng et al., "Large Language Models Are Not Robust Multiple Choice Selectors", 2023) and the vote means
something with greedy answers too.
"""

import asyncio
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from elmas.agents.endpoint import RequestRecord
from elmas.agents.graph.decisions import DECISIONS, asked, vote
from elmas.agents.graph.graph import Graph, GraphResult, Inbox, NodeError, swarm
from elmas.agents.mmlu.questions import LETTERS, Question
from elmas.agents.model import Answer, Asker, Expect
from elmas.errors import UserError

_ANSWER_TOKENS = 30

_SYSTEM = """\
You answer questions as they are asked in examinations, from all fields of knowledge. Every question has four options, \
A, B, C and D, and exactly one of them is right. Answer in JSON with one field, "answer": the letter of one option."""

_TRUTHFUL = "Which option is right?"
_ADVERSARIAL = (
    "You play the part of somebody who wants the others to get it wrong. Name the wrong option that they will believe "
    "most readily, and never the right one. Which do you name?"
)

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"answer": {"type": "string", "enum": list(LETTERS)}},
    "required": ["answer"],
    "additionalProperties": False,
}

_LETTER = re.compile(r"\b([A-D])\b")


@dataclass(frozen=True)
class SwarmSettings:
    """Who answers, and how the swarm decides."""

    n_truthful: int = 5
    n_adversarial: int = 2
    n_questions: int | None = None
    """So many, drawn with the seed; None: all, in their order."""
    decision: str = "majority"
    """One of `DECISIONS`."""
    n_at_once: int = 8
    """Questions that are worked on at the same time."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_truthful < 0 or self.n_adversarial < 0 or self.n_truthful + self.n_adversarial == 0:
            raise UserError("a swarm needs at least one agent, truthful or adversarial")
        if self.decision not in DECISIONS:
            raise UserError(f"--decision is {self.decision!r}: choose one of {', '.join(DECISIONS)}")
        if self.n_at_once < 1 or (self.n_questions is not None and self.n_questions < 1):
            raise UserError("a swarm needs at least one question, and works on at least one at a time")

    @property
    def agents(self) -> list[str]:
        """The names of the agents, the truthful ones first."""
        truthful = [f"truthful {number}" for number in range(1, self.n_truthful + 1)]
        return [*truthful, *(f"adversarial {number}" for number in range(1, self.n_adversarial + 1))]


@dataclass(frozen=True)
class Asked:
    """One question and what the swarm made of it."""

    question: Question
    votes: Mapping[str, str | None]
    """Letter by agent; None for an answer that never came or named no option."""
    decision: str | None
    """A letter; None when nobody voted."""
    failures: tuple[tuple[str, str], ...]
    """Agent and error of the answers that never came."""
    records: tuple[RequestRecord, ...]
    run: GraphResult

    @property
    def is_right(self) -> bool:
        """The swarm named the right option."""
        return self.decision == self.question.right


@dataclass(frozen=True)
class SwarmResult:
    """All questions, in the order in which they were put."""

    settings: SwarmSettings
    asked: tuple[Asked, ...]

    @property
    def accuracy(self) -> float:
        """The share of questions that the swarm got right."""
        return sum(each.is_right for each in self.asked) / len(self.asked)

    @property
    def accuracy_by_subject(self) -> dict[str, tuple[int, int]]:
        """Right ones and all, by subject."""
        subjects = dict.fromkeys(each.question.subject for each in self.asked)
        return {
            subject: (sum(each.is_right for each in of_it), len(of_it))
            for subject in subjects
            if (of_it := [each for each in self.asked if each.question.subject == subject])
        }

    def share_right(self, kind: str) -> float | None:
        """Return the share of single votes of the kind "truthful" or "adversarial" that are right; None without any."""
        votes = [
            letter == each.question.right
            for each in self.asked
            for agent, letter in each.votes.items()
            if agent.startswith(kind)
        ]
        return sum(votes) / len(votes) if votes else None

    @property
    def records(self) -> list[RequestRecord]:
        """All calls, repeated ones included, by question."""
        return [record for each in self.asked for record in each.records]

    @property
    def failures(self) -> list[tuple[int, str, str]]:
        """Number of the question (from 0), agent and error of every answer that never came."""
        return [(index, *failure) for index, each in enumerate(self.asked) for failure in each.failures]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values; times are seconds since the first call."""
        start_s = min((record.submitted_s for record in self.records), default=0.0)
        return {
            "settings": asdict(self.settings),
            "accuracy": self.accuracy,
            "accuracy_of_truthful": self.share_right("truthful"),
            "accuracy_of_adversarial": self.share_right("adversarial"),
            "right_and_all_by_subject": self.accuracy_by_subject,
            "questions": [
                {
                    **asdict(each.question),
                    "votes": dict(each.votes),
                    "decision": each.decision,
                    "failures": list(each.failures),
                    "calls": [record.to_json(start_s) for record in each.records],
                }
                for each in self.asked
            ],
        }


@dataclass
class _Task:
    """One question on its way through the graph, and the answers that it got."""

    index: int
    question: Question
    answers: dict[str, Answer]


async def play(
    settings: SwarmSettings,
    questions: Sequence[Question],
    asker: Asker,
    on_question: Callable[[], None] | None = None,
) -> SwarmResult:
    """Put the questions to the swarm; `on_question` is called after each. Never raises for a failing call."""
    chosen = list(questions)
    if settings.n_questions is not None and settings.n_questions < len(chosen):
        chosen = random.Random(settings.seed).sample(chosen, settings.n_questions)
    graph = build_graph(settings, asker)
    slots = asyncio.Semaphore(settings.n_at_once)

    async def put(index: int, question: Question) -> Asked:
        async with slots:
            task = _Task(index, question, {})
            run = await graph.run(task)
        if on_question is not None:
            on_question()
        votes = {agent: run.message(f"{agent}/answer") for agent in settings.agents}
        errors = [(agent, answer.error) for agent, answer in task.answers.items()]
        failures = tuple((agent, error) for agent, error in errors if error is not None)
        records = tuple(record for answer in task.answers.values() for record in answer.records)
        return Asked(question, votes, run.message("decision"), failures, records, run)

    return SwarmResult(settings, tuple(await asyncio.gather(*(put(*each) for each in enumerate(chosen)))))


def build_graph(settings: SwarmSettings, asker: Asker) -> Graph:
    """Return the swarm: an agent of one node per participant, and the decision."""
    agents = {name: _agent(name, number, settings, asker) for number, name in enumerate(settings.agents)}
    if settings.decision == "majority":
        return swarm(agents, vote)
    decide = asked(
        asker,
        settings.decision,
        agent=lambda task: f"mmlu/{task.index}/decision",
        describe=lambda task: task.question.laid_out(),
        on_answer=lambda task, answer: task.answers.update(decision=answer),
    )
    return swarm(agents, decide)


def _agent(name: str, number: int, settings: SwarmSettings, asker: Asker) -> Graph:
    is_truthful = number < settings.n_truthful

    async def answer(task: _Task, inbox: Inbox) -> str:
        order = _order(settings.seed, task.index, number)
        question = task.question
        a, b, c, d = (question.options[place] for place in order)
        shown = Question(question.subject, question.text, (a, b, c, d), question.right)
        content = f"{shown.laid_out()}\n\n{_TRUTHFUL if is_truthful else _ADVERSARIAL}"
        given = await asker.ask(
            f"mmlu/{task.index}/{name}",
            [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": content}],
            max_tokens=_ANSWER_TOKENS,
            schema=_SCHEMA,
            expect=Expect(done=True),
        )
        task.answers[name] = given
        if given.error is not None:
            raise NodeError(given.error)
        letter = parse_letter(given)
        if letter is None:
            raise NodeError("the answer names no option")
        return LETTERS[order[LETTERS.index(letter)]]

    graph = Graph()
    graph.add("answer", answer, kind="truthful" if is_truthful else "adversarial")
    return graph


def parse_letter(answer: Answer) -> str | None:
    """Return the letter that an answer names; None when it names none. Without JSON the first single letter counts."""
    data = answer.data()
    letter = data.get("answer") if isinstance(data, dict) else None
    if isinstance(letter, str) and letter.strip()[:1].upper() in set(LETTERS):
        return letter.strip()[0].upper()
    found = _LETTER.search(answer.text) if data is None else None
    return found.group(1) if found else None


def _order(seed: int, question: int, agent: int) -> list[int]:
    """Return the places of the options as an agent sees them; the first agent sees them as they are."""
    order = list(range(len(LETTERS)))
    if agent:
        random.Random(f"{seed}/{question}/{agent}").shuffle(order)
    return order
