"""A whole run over a set of questions: one agent per question, or a swarm of them with a decision at its end."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elmas.agents.gaia.agent import Attempt, attempt
from elmas.agents.gaia.questions import Question, read_questions
from elmas.agents.gaia.scorer import is_correct, normalized
from elmas.agents.graph.decisions import DECISIONS, asked, majority
from elmas.agents.graph.graph import Graph, Inbox, NodeError, Operation, swarm
from elmas.agents.model import Asker
from elmas.agents.tools.python_sandbox import PythonSandbox
from elmas.agents.tools.search import LocalSearch
from elmas.agents.tools.tool import Tool
from elmas.agents.tools.toolbox import make_tools
from elmas.errors import UserError

OWN = Path(__file__).with_name("data")
"""Own questions and documents on islands that do not exist: no model knows the answers without the tools."""

_SWARM_TEMPERATURE = 0.7
"""Agents of a swarm must not all say the same."""


@dataclass(frozen=True)
class GaiaSettings:
    """What is asked and how."""

    questions: Path | None = None
    """A folder in GAIA's format; None: the own questions, which need no network."""
    documents: Path | None = None
    """What the search finds; None: the documents of the own questions."""
    level: int | None = None
    """None: all."""
    max_steps: int = 8
    """Calls of one agent."""
    n_agents: int = 1
    """Per question."""
    decision: str = "majority"
    """One of `DECISIONS`: how a swarm comes to one answer."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_steps < 1 or self.n_agents < 1:
            raise UserError("--max-steps and --num-agents must be at least 1")
        if self.decision not in DECISIONS:
            raise UserError(f"--decision is {self.decision!r}: choose one of {', '.join(DECISIONS)}")


@dataclass(frozen=True)
class QuestionResult:
    """What became of one question."""

    question: Question
    attempts: tuple[Attempt, ...]
    answer: str | None
    error: str | None
    """Why there is no answer."""

    @property
    def correct(self) -> bool | None:
        """By GAIA's measure; None where the right answer is not published."""
        if self.question.right_answer is None:
            return None
        return self.answer is not None and is_correct(self.answer, self.question.right_answer)


@dataclass(frozen=True)
class GaiaResult:
    """What became of all, in the order of the questions."""

    settings: GaiaSettings
    results: tuple[QuestionResult, ...]
    confinement: str
    """What confined the Python tool."""

    def scores(self) -> dict[int, tuple[int, int]]:
        """Return right answers and questions with a published answer, by level."""
        found: defaultdict[int, list[bool]] = defaultdict(list)
        for result in self.results:
            if result.correct is not None:
                found[result.question.level].append(result.correct)
        return {level: (sum(found[level]), len(found[level])) for level in sorted(found)}

    @property
    def failures(self) -> list[str]:
        """The errors of all calls that never got an answer."""
        steps = (step for result in self.results for each in result.attempts for step in each.steps)
        return [step.answer.error for step in steps if step.answer.error is not None]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "max_steps": self.settings.max_steps,
            "n_agents": self.settings.n_agents,
            "decision": self.settings.decision,
            "seed": self.settings.seed,
            "python_sandbox": self.confinement,
            "scores": {str(level): {"right": n, "of": n_all} for level, (n, n_all) in self.scores().items()},
            "questions": [_question_json(result) for result in self.results],
        }


async def play(
    settings: GaiaSettings, asker: Asker, on_result: Callable[[QuestionResult], None] | None = None
) -> GaiaResult:
    """Answer all questions at once; `on_result` gets each when it is answered.

    Raises UserError for questions or documents that cannot be read; never for an answer of the model.
    """
    questions = read_questions(settings.questions or OWN / "questions", settings.level)
    search = await asyncio.to_thread(LocalSearch, settings.documents or OWN / "documents")
    sandbox = PythonSandbox()
    confinement = await sandbox.confinement()

    async def one(question: Question) -> QuestionResult:
        attachments = [] if question.file is None else [question.file]
        files = {**search.documents, **{path.name: path for path in attachments}}
        result = await _solve(question, make_tools(search, files, attachments, sandbox), asker, settings)
        if on_result is not None:
            on_result(result)
        return result

    results = await asyncio.gather(*map(one, questions))
    return GaiaResult(settings, tuple(results), str(confinement))


async def _solve(question: Question, tools: Mapping[str, Tool], asker: Asker, settings: GaiaSettings) -> QuestionResult:
    """Let the agents work on a question at the same time, and decide between their answers."""
    attempts: dict[str, Attempt] = {}
    temperature = 0.0 if settings.n_agents == 1 else _SWARM_TEMPERATURE

    def solver(number: int) -> Graph:
        async def solve(task: Question, inbox: Inbox) -> str:
            agent = f"gaia/{task.task_id}/{number}"
            done = await attempt(task, tools, asker, agent, max_steps=settings.max_steps, temperature=temperature)
            attempts[agent] = done
            if done.answer is None:
                raise NodeError(done.error or "")
            return done.answer

        graph = Graph()
        graph.add("solve", solve)
        return graph

    agents = {f"agent {number}": solver(number) for number in range(settings.n_agents)}
    run = await swarm(agents, _decision(settings, asker)).run(question)
    # By name, not as they ended: the dump of a run does not depend on the clock.
    ordered = tuple(attempts[agent] for agent in sorted(attempts))
    answer = run.message("decision")
    return QuestionResult(question, ordered, answer, None if answer is not None else run.failures[0][1])


def _decision(settings: GaiaSettings, asker: Asker) -> Operation:
    if settings.decision != "majority":
        return asked(
            asker,
            settings.decision,
            agent=lambda question: f"gaia/{question.task_id}/decision",
            describe=lambda question: question.text,
        )
    return _vote


async def _vote(question: Question, inbox: Inbox) -> str:
    """Operation: the answer that most agents gave, equal ones by GAIA's measure, as the first of them wrote it."""
    winner = majority(normalized(answer) for answer in inbox.values())
    return next(str(answer) for answer in inbox.values() if normalized(answer) == winner)


def _question_json(result: QuestionResult) -> dict[str, Any]:
    question = result.question
    return {
        "task_id": question.task_id,
        "level": question.level,
        "question": question.text,
        "file_name": "" if question.file is None else question.file.name,
        "right_answer": question.right_answer,
        "answer": result.answer,
        "correct": result.correct,
        "error": result.error,
        "attempts": [
            {"agent": each.agent, "answer": each.answer, "steps": _steps_json(each)} for each in result.attempts
        ],
    }


def _steps_json(done: Attempt) -> list[dict[str, Any]]:
    return [
        {
            "action": step.action,
            "thought": step.thought,
            "input": step.input,
            "observation": step.observation,
            "text": step.answer.text,
            "n_attempts": len(step.answer.records),
            "prompt_tokens": step.answer.record.prompt_tokens,
            "cached_tokens": step.answer.record.cached_tokens,
            "ttft_s": step.answer.record.ttft_s,
            "error": step.answer.error,
        }
        for step in done.steps
    ]
